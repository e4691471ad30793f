"""Protein backbones as plain data, one row per residue.

`read_structure` (readers.py) makes a `Structure` from a file, `Structure.from_backbone` from
coordinates. An unusable structure is a `StructureError` that names the file, the chain and the
residue.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpnn_core.constants import ALPHABET, BACKBONE, CA, CHAIN_GAP
from mpnn_core.structures.context import NO_CONTEXT, SIDE_CHAIN_ATOMS, ContextAtoms
from mpnn_core.structures.errors import StructureError as StructureError
from mpnn_core.structures.errors import shown_chain as shown_chain
from mpnn_core.structures.shown import html_table

if TYPE_CHECKING:  # a structure takes tensors, and needs no torch
    from torch import Tensor

# The network sees differences of residue indices alone; those of larger ones are not in 64 bits.
MOST_RESIDUE_INDEX = 2**61
_TOKENS = np.zeros(128, np.int64)  # by the code of a letter
_TOKENS[np.frombuffer(ALPHABET.encode("ascii"), np.uint8)] = np.arange(len(ALPHABET))


class StructureWarning(UserWarning):
    """What was left out of a structure or changed in it, in one sentence that names the file."""


SHOWN = 8
"""How many items a sentence lists, before it counts the others."""


def shown_items(items: Sequence[str]) -> str:
    """ "1, 2, 3", and how many more there are."""
    shown = ", ".join(items[:SHOWN])
    return shown if len(items) <= SHOWN else f"{shown} and {len(items) - SHOWN} more"


@dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """The backbone of L residues in one or more chains. Its arrays are read-only.

    A residue number that is missing from a chain has no row; it only advances `residue_index`. A
    residue with an incomplete backbone has a row, with `mask` False.

    Attributes
    ----------
    name : the name of outputs: NAME.fa, and the FASTA header
    coords : (L, 4, 3) float32, Å: the atoms N, CA, C, O; NaN where missing
    sequence : L letters of `ALPHABET`
    chain_ids : (L,) str
    residue_index : (L,) int64, the `residue_idx` of the original's `tied_featurize`: it counts
        residues through all chains, missing numbers included, and jumps by 100 between chains
    residue_numbers : (L,) str, the author's residue numbers with insertion codes, such as "52A"
    context : the atoms around the protein that are neither protein nor water, nor hydrogen
    side_chains : (L, 32, 3) float32, Å: the atoms `SIDE_CHAIN_ATOMS`, NaN where there is none; None
        where no side chain is known
    membrane : (L,) int64, 0 other, 1 interface, 2 buried; None where nothing is said
    ca_only : whether it is read as a trace, by its CA atoms alone
    cyclic : chains that are rings: along them residue offsets are counted the shorter way
    states : the structures that it joins, whose residues follow each other in it and do not see
        those of another (design/states.py); empty for one that is by itself
    cb : (L, 3) float32, Å: the atom CB of the side chains, from which chi angles are measured; NaN
        where there is none; None where none is known. Networks take a virtual one
    mask : (L,) bool, True where all of N, CA, C, O are known, or where CA is if `ca_only`; follows
        from `coords`

    Raises
    ------
    StructureError
        No residue, none with a complete backbone (of a trace, with a CA), an infinite coordinate, a
        letter that is not in `ALPHABET`, a membrane label that is not 0, 1 or 2, a cyclic chain
        that is not there, or arrays of different lengths.
    """

    name: str
    coords: NDArray[np.float32]
    sequence: str
    chain_ids: NDArray[np.str_]
    residue_index: NDArray[np.int64]
    residue_numbers: NDArray[np.str_]
    context: ContextAtoms = NO_CONTEXT
    side_chains: NDArray[np.float32] | None = None
    membrane: NDArray[np.int64] | None = None
    ca_only: bool = False
    cyclic: tuple[str, ...] = ()
    states: tuple[Structure, ...] = ()
    cb: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
            coords = np.array(self.coords, dtype=np.float32)
        if coords.ndim != 3 or coords.shape[1:] != (4, 3):
            raise StructureError(
                f"coordinates must be (L, 4, 3), the atoms N, CA, C, O in Å; got {coords.shape}"
            )
        L = len(coords)
        arrays = {
            "coords": coords,
            "chain_ids": np.array(self.chain_ids, dtype=np.str_),
            "residue_index": _residue_index(self.residue_index),
            "residue_numbers": np.array(self.residue_numbers, dtype=np.str_),
            "mask": np.isfinite(coords[:, [CA]] if self.ca_only else coords).all((1, 2)),
        }
        if self.membrane is not None:
            arrays["membrane"] = _membrane_labels(self.membrane)
        if not isinstance(self.context, ContextAtoms):
            raise StructureError(
                f"context must be ContextAtoms; got {type(self.context).__name__}; "
                "ContextAtoms.of(coords, elements) makes them"
            )
        if L == 0:
            raise StructureError("no residue: expected at least one")
        if len(self.sequence) != L:
            raise StructureError(
                f"the sequence has {len(self.sequence)} letters for {L} residues of coordinates"
            )
        for i, letter in enumerate(self.sequence):
            if letter not in ALPHABET:
                raise StructureError(
                    f"letter {letter!r} at position {i + 1} of the sequence; expected one of "
                    f"{ALPHABET} (X for unknown)"
                )
        for array, values in arrays.items():
            if array != "coords" and values.shape != (L,):
                raise StructureError(f"{array} must be ({L},), one per residue; got {values.shape}")
            values.flags.writeable = False
            object.__setattr__(self, array, values)
        if self.side_chains is not None:
            object.__setattr__(self, "side_chains", self._checked_side_chains(L))
        for name in self.cyclic:
            if name not in self.chains:
                raise StructureError(
                    f"{self.name} has no chain {name!r} to be cyclic; it has "
                    f"{', '.join(map(shown_chain, self.chains))}"
                )
        if self.cb is not None:
            with np.errstate(over="ignore"):
                cb = np.array(self.cb, dtype=np.float32)
            if cb.shape != (L, 3) or np.isinf(cb).any():
                raise StructureError(f"cb must be ({L}, 3), Å, none infinite; got {cb.shape}")
            cb.flags.writeable = False
            object.__setattr__(self, "cb", cb)

        infinite = np.isinf(coords).any((1, 2))
        if infinite.any():
            i = int(infinite.argmax())
            raise StructureError(
                "infinite coordinate",
                chain=str(self.chain_ids[i]),
                residue=str(self.residue_numbers[i]),
            )
        if not self.mask.any():
            if self.ca_only:
                raise StructureError(f"none of the {L} residues has a CA")
            missing = [atom for a, atom in enumerate(BACKBONE) if np.isnan(coords[:, a]).any()]
            trace = "; a trace of CA atoms is read with ca_only=True, by a CA-only model"
            raise StructureError(
                f"none of the {L} residues has a complete backbone (N, CA, C, O); "
                f"missing: {', '.join(missing)}"
                + (trace if np.isfinite(coords[:, CA]).any() else "")
            )

    def _checked_side_chains(self, L: int) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            side_chains = np.array(self.side_chains, dtype=np.float32)
        shape = (L, len(SIDE_CHAIN_ATOMS), 3)
        if side_chains.shape != shape:
            raise StructureError(
                f"side_chains must be {shape}, the atoms SIDE_CHAIN_ATOMS in Å; "
                f"got {side_chains.shape}"
            )
        if np.isinf(side_chains).any():
            i, atom = np.argwhere(np.isinf(side_chains).any(2))[0].tolist()
            raise StructureError(
                f"infinite coordinate of {SIDE_CHAIN_ATOMS[atom]}",
                chain=str(self.chain_ids[i]),
                residue=str(self.residue_numbers[i]),
            )
        side_chains.flags.writeable = False
        return side_chains

    def with_membrane(self, labels: ArrayLike | bool) -> Structure:
        """The same structure with labels of the membrane.

        Parameters
        ----------
        labels : (L,) integers, 0 other, 1 interface, 2 buried, for a model of labels per residue;
            or one bool for a model of one label, whether the protein is of a membrane: 1 or 0
            everywhere, as the original's `global_transmembrane_label`

        Raises
        ------
        StructureError
            A label that is not 0, 1 or 2, or not one label per residue.
        """
        if isinstance(labels, (bool, np.bool_)):
            labels = np.full(len(self), int(labels))
        return replace(self, membrane=np.asarray(labels))

    def with_ligands(self, names: str | Iterable[str]) -> Structure:
        """The same structure with the context atoms of some residues only.

        Parameters
        ----------
        names : residue names, "HEM,ZN" or ["HEM", "ZN"], in any case; none of them leaves no
            context. A name that is not there keeps nothing: `context.residue_names` has all.
        """
        wanted = names.split(",") if isinstance(names, str) else names
        upper = [name.strip().upper() for name in wanted]
        keep = np.isin(np.char.upper(self.context.residue_names), upper)
        return replace(self, context=self.context.rows(keep))

    def with_cyclic(self, chains: str | Sequence[str]) -> Structure:
        """The same structure with some chains as rings, whose ends a peptide bond joins.

        Parameters
        ----------
        chains : "A", "A,B" or ["A", "B"]; none of them opens all rings

        Raises
        ------
        StructureError
            There is no such chain.
        """
        names = chains.split(",") if isinstance(chains, str) else chains
        wanted = tuple(dict.fromkeys(name.strip() for name in names if name))
        known = {chain.strip(): chain for chain in self.chains}
        return replace(self, cyclic=tuple(known.get(name, name) for name in wanted))

    def of_chains(self, chains: Sequence[str]) -> Structure:
        """Some chains by themselves: without the others, and without what is around those.

        Their residues keep chain, author number and residue index. Of the context stays what is not
        under the id of a chain that is left out.

        Raises
        ------
        StructureError
            There is no such chain.
        """
        for name in chains:
            if name not in self.chains:
                raise StructureError(
                    f"{self.name} has no chain {name!r}; it has "
                    f"{', '.join(map(shown_chain, self.chains))}"
                )
        left_out = [name for name in self.chains if name not in chains]
        keep = np.isin(self.chain_ids, chains)
        per_residue = (
            "coords",
            "chain_ids",
            "residue_index",
            "residue_numbers",
            "side_chains",
            "cb",
            "membrane",
        )
        values = {name: getattr(self, name) for name in per_residue}
        return replace(
            self,
            sequence="".join(np.array(list(self.sequence))[keep]),
            context=self.context.rows(~np.isin(self.context.chain_ids, left_out)),
            cyclic=tuple(name for name in self.cyclic if name in chains),
            **{name: value[keep] for name, value in values.items() if value is not None},
        )

    @cached_property
    def rings(self) -> NDArray[np.int64]:
        """(L,) int64: how many residues the ring of each residue has, missing numbers included; 0
        for a residue of an open chain."""
        if self.states:
            return np.concatenate([state.rings for state in self.states])
        rings = np.zeros(len(self), np.int64)
        for chain in self.cyclic:
            index = self.residue_index[self.chain_ids == chain]
            rings[self.chain_ids == chain] = index.max() - index.min() + 1
        rings.flags.writeable = False
        return rings

    @property
    def parts(self) -> tuple[Structure, ...]:
        """What the network reads as structures of their own: its states, or itself."""
        return self.states or (self,)

    @cached_property
    def chain_numbers(self) -> NDArray[np.int64]:
        """(L,) int64: the chain of each residue, numbered from 0 in the order of the ids."""
        numbers = np.unique(self.chain_ids, return_inverse=True)[1]
        numbers.flags.writeable = False
        return numbers

    @classmethod
    def from_backbone(
        cls,
        coords: ArrayLike | Tensor,
        sequence: str,
        chain_ids: str | Sequence[str] | NDArray[np.str_] | None = None,
        residue_index: ArrayLike | Tensor | None = None,
        name: str = "backbone",
        ca_only: bool = False,
        context: ContextAtoms | None = None,
    ) -> Structure:
        """A structure from coordinates.

        Parameters
        ----------
        coords : (L, 4, 3), Å: the atoms N, CA, C, O; NaN where missing
        sequence : L letters of `ALPHABET`; "X" * L where it is unknown
        chain_ids : L ids, or L letters; None is one chain, "A"
        residue_index : (L,) integers, such as PDB residue numbers: the network sees only their
            differences within a chain. None is 0, 1, 2, ... with a jump of 100 between chains
        name : the name of outputs: NAME.fa, and the FASTA header
        ca_only : whether it is a trace of CA atoms, of which N, C and O may be NaN
        context : the atoms around the protein, `ContextAtoms.of(coords, elements)`; None is none

        Raises
        ------
        StructureError
            As `Structure`, and for coordinates that are no numbers, a sequence that is no str and
            a residue index that is not of integers.
        """
        if hasattr(coords, "detach"):  # a tensor
            coords = coords.detach().cpu().float().numpy()
        if residue_index is not None and hasattr(residue_index, "detach"):
            residue_index = residue_index.detach().cpu().numpy()
        try:
            coords = np.asarray(coords, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise StructureError(f"coordinates must be (L, 4, 3) numbers in Å: {error}") from None
        if not isinstance(sequence, str):
            raise StructureError(f"the sequence must be a str; got {type(sequence).__name__}")
        L = len(coords) if coords.ndim else 0
        ids = np.array(["A"] * L if chain_ids is None else list(chain_ids), dtype=np.str_)
        if ids.shape != (L,):
            raise StructureError(f"chain_ids must be ({L},), one per residue; got {ids.shape}")
        if residue_index is None:
            rank = {chain: c for c, chain in enumerate(dict.fromkeys(ids.tolist()))}
            index = np.array([i + CHAIN_GAP * rank[c] for i, c in enumerate(ids.tolist())])
            position: dict[str, Iterator[int]] = defaultdict(lambda: count(1))
            numbers = [str(next(position[chain])) for chain in ids.tolist()]
        else:
            index = np.asarray(residue_index)
            if index.dtype.kind not in "iu":
                raise StructureError(f"residue_index must be integers; got {index.dtype}")
            numbers = [str(i) for i in index.tolist()]
        around = NO_CONTEXT if context is None else context
        labels = np.array(numbers, dtype=np.str_)
        return cls(name, coords, sequence, ids, index, labels, around, ca_only=ca_only)

    @classmethod
    def from_biopython(cls, entity: Any, name: str = "", **reading: Any) -> Structure:
        """A structure from one of Biopython's: a Structure, Model or Chain.

        It is read by the rules of files. `reading` are options of `read_structure`, which also says
        what is raised and warned of; `name` is the entity's id unless it is given.
        """
        structure: Structure = _foreign().from_biopython(entity, name, **reading)
        return structure

    @classmethod
    def from_biotite(cls, array: Any, name: str = "biotite", **reading: Any) -> Structure:
        """A structure from biotite's AtomArray, or from the first of an AtomArrayStack.

        It is read by the rules of files, as `from_biopython`.
        """
        structure: Structure = _foreign().from_biotite(array, name, **reading)
        return structure

    def to_biopython(self) -> Any:
        """Biopython's Structure of the backbone and of the atoms around it; no side chains."""
        return _foreign().to_biopython(self)

    def to_biotite(self) -> Any:
        """biotite's AtomArray of the backbone and of the atoms around it; no side chains."""
        return _foreign().to_biotite(self)

    def _repr_html_(self) -> str:
        rows = [
            (chain.strip() or "(blank)", int(of.sum()), int((of & ~self.mask).sum()),
             f"{self.residue_numbers[of][0]} to {self.residue_numbers[of][-1]}")
            for chain in self.chains
            if (of := self.chain_ids == chain).any()
        ]  # fmt: skip
        around = f", {len(self.context)} atoms around it" if len(self.context) else ""
        headings = "chain", "residues", "incomplete", "numbers"
        return html_table(f"{self.name}: {len(self)} residues{around}", headings, rows)

    def as_trace(self) -> Structure:
        """The same structure, read by its CA atoms alone."""
        states = tuple(state.as_trace() for state in self.states)
        return self if self.ca_only else replace(self, ca_only=True, states=states)

    def __len__(self) -> int:
        return len(self.sequence)

    def __repr__(self) -> str:
        chains = ", ".join(f"{chain}: {n}" for chain, n in Counter(self.chain_ids.tolist()).items())
        masked = f", {int((~self.mask).sum())} masked" if not self.mask.all() else ""
        return f"Structure({self.name!r}, {len(self)} residues in chains {chains}{masked})"

    @cached_property
    def chains(self) -> tuple[str, ...]:
        """The chain ids, each once, in order of appearance."""
        return tuple(dict.fromkeys(self.chain_ids.tolist()))

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """(L,) int64, the sequence as indices into `ALPHABET`."""
        tokens = _TOKENS[np.frombuffer(self.sequence.encode("ascii"), np.uint8)]
        tokens.flags.writeable = False
        return tokens


def _foreign() -> Any:
    """`structures.foreign`; it reads by the rules of files, and so imports this module."""
    return import_module("mpnn_core.structures.foreign")


def _membrane_labels(values: ArrayLike) -> NDArray[np.int64]:
    """Labels of the membrane as int64."""
    labels = np.array(values)
    if labels.dtype.kind not in "iu":
        raise StructureError(
            f"membrane must be integers: 0 other, 1 interface, 2 buried; got {labels.dtype}"
        )
    wrong = labels[(labels < 0) | (labels > 2)]
    if wrong.size:
        raise StructureError(f"membrane must be 0 other, 1 interface or 2 buried; got {wrong[0]}")
    return labels.astype(np.int64)


def _residue_index(values: ArrayLike) -> NDArray[np.int64]:
    """Residue indices as int64, of a size that can be subtracted."""
    try:
        index = np.array(values, dtype=np.int64)
    except OverflowError:
        index = np.array([-MOST_RESIDUE_INDEX - 1])
    if (index < -MOST_RESIDUE_INDEX).any() or (index > MOST_RESIDUE_INDEX).any():
        raise StructureError(
            "a residue_index is beyond 2**61; the network sees differences between residues of a "
            "chain alone, so subtract the first one from all"
        )
    return index
