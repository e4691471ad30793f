"""Residues chosen by a text: "interface:A/B:8 + A10-20 - chain:C".

A selection is lists of items joined by "+" (as well) and "-" (but not), read from left to right;
the two stand between spaces, for "A10-20" is a range and "A-5" a residue. Items of a list are
divided by commas or spaces: "all - A1,A2" takes both away. An item is a label or a range
(`labels.py`), or

    all                   every residue
    chain:A, chain:A/B    the residues of chains
    interface:A/B:8       of the chains A and B, residues within 8 Å of the other one; more chains
                          may follow, "interface:A" has A against all others, and "interface" all
    near:HEM:6            residues within 6 Å of what surrounds the protein under that name;
                          "near:ligand" is any such atom
    surface, core         residues with few or many others around

Distances are between the atoms N, CA, C, O and a virtual CB (of a trace, CA), whatever side chains
there are, for those are what is designed; they may be left out, and are then `CONTACT` or `POCKET`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import CA, VIRTUAL_CB, C, N
from mpnn_core.sampling.labels import ConstraintError, Positions, positions
from mpnn_core.structures.structure import Structure, shown_chain

CONTACT = 8.0
"""Å, between chains, where `interface` names no distance."""

POCKET = 6.0
"""Å, from what surrounds the protein, where `near` names no distance."""

NEAREST, FARTHEST = 0.1, 1000.0
"""Å, the distances that may be named."""

NEIGHBOURHOOD = 10.0
"""Å. The neighbours of a residue are the others whose virtual CB is this near to its own."""

FEWEST_OF_CORE, MOST_OF_SURFACE = 20, 15
"""Neighbours of a residue of the core, at least, and of the surface, at most: the definition of
AttnPacker (McPartlon and Xu, PNAS 2023), with which side-chain packers are evaluated. Of a trace of
CA atoms, the CA count."""

Selection = str | int | Sequence[Positions]

ANY_LIGAND = "ligand"
_WORDS = ("all", "surface", "core", "interface")
_PREFIXES = ("chain", "interface", "near")
_ITEM = re.compile(r"[^,\s]+")
_FORMS = (
    "expected labels such as A52 or A10-20, all, surface, core, chain:A, interface:A/B:8 or "
    "near:HEM:6, joined by + and - between spaces"
)


class SelectionError(ConstraintError):
    """A selection that cannot be read, or names what its structure does not have.

    Attributes
    ----------
    text : the selection
    place : the character where it is wrong, from 0
    """

    def __init__(self, text: str, place: int, why: str) -> None:
        self.text, self.place = text, place
        super().__init__(f"selection {text!r}, character {place + 1}: {why}")


class _Item(NamedTuple):
    text: str
    place: int


class _Term(NamedTuple):
    """A list of items, and whether it is taken away."""

    minus: bool
    items: list[_Item]


def select(structure: Structure, selection: Selection) -> NDArray[np.bool_]:
    """The residues that a selection chooses.

    Parameters
    ----------
    structure : its labels, chains, coordinates and context are what a selection speaks of
    selection : a text, as "interface:A/B:8 + A10-20 - chain:C"; a 0-based position; or a list of
        such, of which each chooses more

    Returns
    -------
    (L,) bool

    Raises
    ------
    SelectionError
        It cannot be read, or a residue, chain or ligand is not there; the message points at the
        character. Where nothing is near, nothing is chosen: that is no error.
    """
    chosen = np.zeros(len(structure), bool)
    if isinstance(selection, str):
        for minus, items in _terms(selection):
            for item in items:
                chosen[_item(structure, selection, item)] = not minus
    elif isinstance(selection, int | np.integer):
        chosen[positions(structure, int(selection))] = True
    else:
        for part in selection:
            chosen |= select(structure, part)
    return chosen


def rows(structure: Structure, selection: Selection) -> list[int]:
    """The 0-based positions that a selection chooses, in their order; raises as `select`."""
    return [int(row) for row in np.flatnonzero(select(structure, selection))]


def has_words(selection: str) -> bool:
    """Whether it says more than labels and ranges, as in "surface" or "A10-20 - A15"."""
    items = _ITEM.findall(selection)
    return any(
        item in ("+", "-", *_WORDS) or (item.partition(":")[0] in _PREFIXES and ":" in item)
        for item in items
    )


def rows_or_labels(
    structure: Structure, selection: Positions | Sequence[Positions] | None
) -> list[Positions] | None:
    """Labels as they are, and positions in place of selections with words; None stays None.

    Raises SelectionError as `select`.
    """
    if selection is None:
        return None
    parts = [selection] if isinstance(selection, str | int | np.integer) else selection
    chosen: list[Positions] = []
    for part in parts:
        if isinstance(part, str) and has_words(part):
            chosen += rows(structure, part)
        else:
            chosen.append(part)
    return chosen


def _terms(text: str) -> Iterator[_Term]:
    """The lists of a selection; "A1 + B1" is two, "A1,B1" is one."""
    term = _Term(False, [])
    operator: _Item | None = None
    for match in _ITEM.finditer(text):
        item = _Item(match[0], match.start())
        if item.text not in ("+", "-"):
            term.items.append(item)
            continue
        if not term.items:
            raise SelectionError(
                text, item.place,
                f"nothing stands before {item.text}; a selection begins with what it chooses, as "
                f"in all {item.text} A52",
            )  # fmt: skip
        yield term
        term, operator = _Term(item.text == "-", []), item
    if operator is not None and not term.items:
        raise SelectionError(text, operator.place, f"nothing follows {operator.text}; {_FORMS}")
    if term.items:
        yield term
    elif operator is None:
        raise SelectionError(text, 0, f"nothing is selected; {_FORMS}")


def _item(structure: Structure, text: str, item: _Item) -> NDArray[np.bool_] | list[int]:
    """The rows of one item: a mask, or positions."""
    name, colon, _ = item.text.partition(":")
    is_word = item.text in _WORDS or (bool(colon) and name in _PREFIXES)
    if not is_word:
        return _label(structure, text, item)
    if colon and name in {chain.strip() for chain in structure.chains}:
        raise SelectionError(
            text, item.place,
            f"{item.text!r} may be a residue of chain {name} or what it says; name the residue "
            f"without a colon, as in {name}52, or rename the chain",
        )  # fmt: skip
    what = _Words(structure, text, item)
    of_name: dict[str, Callable[[], NDArray[np.bool_]]] = {
        "all": what.all,
        "surface": what.surface,
        "core": what.core,
        "chain": what.chain,
        "interface": what.interface,
        "near": what.near,
    }
    return of_name[name]()


def _label(structure: Structure, text: str, item: _Item) -> list[int]:
    try:
        return positions(structure, item.text)
    except ConstraintError as error:
        glued = len(item.text) > 1 and (
            "+" in item.text or item.text.startswith((*_WORDS, *_PREFIXES))
        )
        hint = "; + and - stand between spaces" if glued else ""
        raise SelectionError(text, item.place, f"{error}{hint}") from None


class _Words:
    """What the words of a selection mean in a structure."""

    def __init__(self, structure: Structure, text: str, item: _Item) -> None:
        self.structure, self.text, self.item = structure, text, item
        # (word, its place in the text) between colons
        self.parts: list[_Item] = []
        place = item.place
        for part in item.text.split(":"):
            self.parts.append(_Item(part, place))
            place += len(part) + 1

    def all(self) -> NDArray[np.bool_]:
        return np.ones(len(self.structure), bool)

    def surface(self) -> NDArray[np.bool_]:
        counts = neighbours(self.structure)
        return (counts >= 0) & (counts <= MOST_OF_SURFACE)

    def core(self) -> NDArray[np.bool_]:
        return neighbours(self.structure) >= FEWEST_OF_CORE

    def chain(self) -> NDArray[np.bool_]:
        self._expect(2, "chain:A or chain:A/B")
        return np.isin(self.structure.chain_ids, self._chains(self.parts[1]))

    def interface(self) -> NDArray[np.bool_]:
        self._expect(3, "interface:A/B:8, the distance in Å")
        far = self._distance(2, CONTACT)
        every = list(self.structure.chains)
        named = self._chains(self.parts[1]) if len(self.parts) > 1 else every
        if len(every) == 1:
            raise self._wrong(
                self.item,
                f"{self.structure.name} has the chain {shown_chain(every[0])} alone; an interface "
                "is between two",
            )
        sides = named if len(named) > 1 else [named[0], *(c for c in every if c != named[0])]
        chosen = np.zeros(len(self.structure), bool)
        atoms = atoms_of(self.structure)
        of = {chain: np.flatnonzero(self.structure.chain_ids == chain) for chain in sides}
        for one in sides:
            against = [sides[0]] if len(named) == 1 and one != named[0] else sides
            others = np.concatenate([of[c] for c in against if c != one])
            chosen[of[one]] = within(atoms[of[one]], atoms[others].reshape(-1, 3), far)
        return chosen

    def near(self) -> NDArray[np.bool_]:
        self._expect(3, "near:HEM:6, the distance in Å; near:ligand is anything")
        far = self._distance(2, POCKET)
        context, name = self.structure.context, self.parts[1]
        there = sorted({str(n) for n in context.residue_names})
        keep = np.ones(len(context), bool)
        if name.text.lower() != ANY_LIGAND:
            keep = np.char.upper(context.residue_names.astype(np.str_)) == name.text.upper()
        if not keep.any():
            said = f"{self.structure.name} has no {name.text!r} around the protein"
            raise self._wrong(name, f"{said}; it has {', '.join(there) or 'nothing there'}")
        return within(atoms_of(self.structure), context.coords[keep], far)

    def _expect(self, most: int, form: str) -> None:
        if len(self.parts) > most or any(not part.text for part in self.parts[2:]):
            raise self._wrong(self.item, f"{self.item.text!r} is not read; expected {form}")
        if (
            len(self.parts) > 1
            and not self.parts[1].text
            and "" not in map(str.strip, self.structure.chains)
        ):
            raise self._wrong(self.parts[1], f"a name is missing; expected {form}")

    def _distance(self, part: int, default: float) -> float:
        if len(self.parts) <= part:
            return default
        text = self.parts[part].text
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not NEAREST <= value <= FARTHEST:
            raise self._wrong(
                self.parts[part],
                f"{text!r} is no distance; expected Å, {NEAREST:g} to {FARTHEST:g}",
            )
        return value

    def _chains(self, part: _Item) -> list[str]:
        by_name = {chain.strip(): chain for chain in self.structure.chains}
        place = part.place
        chains: list[str] = []
        for name in part.text.split("/"):
            if name not in by_name:
                raise self._wrong(
                    _Item(name, place),
                    f"{self.structure.name} has no chain {name!r}; it has "
                    f"{', '.join(map(shown_chain, self.structure.chains))}",
                )
            if by_name[name] in chains:
                raise self._wrong(_Item(name, place), f"chain {name} comes twice; expected once")
            chains.append(by_name[name])
            place += len(name) + 1
        return chains

    def _wrong(self, item: _Item, why: str) -> SelectionError:
        return SelectionError(self.text, item.place, why)


def atoms_of(structure: Structure) -> NDArray[np.float64]:
    """N, CA, C, O and a virtual CB of each residue, (L, 5, 3) in Å; of a trace CA, (L, 1, 3)."""
    coords = structure.coords.astype(np.float64)
    if structure.ca_only:
        return coords[:, [CA]]
    return np.concatenate([coords, _virtual_cb(coords)[:, None]], axis=1)


def _virtual_cb(coords: NDArray[np.float64]) -> NDArray[np.float64]:
    b, c = coords[:, CA] - coords[:, N], coords[:, C] - coords[:, CA]
    u, v, w = VIRTUAL_CB
    cb: NDArray[np.float64] = coords[:, CA] + u * np.cross(b, c) + v * b + w * c
    return cb


def neighbours(structure: Structure) -> NDArray[np.int64]:
    """How many other residues have their virtual CB within `NEIGHBOURHOOD`: (L,) int64.

    -1 where a residue has none itself.
    """
    cb = atoms_of(structure)[:, -1]
    known = np.flatnonzero(np.isfinite(cb).all(1))
    counts = np.full(len(structure), -1)
    at = cb[known]
    for some in np.array_split(np.arange(len(at)), 1 + len(at) // 512):
        squares = ((at[some, None] - at[None]) ** 2).sum(-1)
        counts[known[some]] = (squares <= NEIGHBOURHOOD**2).sum(1) - 1  # itself
    return counts


def within(
    atoms: NDArray[np.float64], points: NDArray[np.floating], distance: float
) -> NDArray[np.bool_]:
    """Which of n groups of atoms, (n, a, 3), come within a distance of any of some points, (m, 3).

    Atoms and points that are not known, NaN, are near nothing.
    """
    points = points[np.isfinite(points).all(-1)].astype(np.float64)
    found = np.zeros(len(atoms), bool)
    if not len(points):
        return found
    # Groups are compared in boxes as wide as the distance: only those around one matter.
    boxes = np.floor(points / distance).astype(np.int64)
    inside: dict[tuple[int, ...], list[int]] = {}
    for i, box in enumerate(boxes.tolist()):
        inside.setdefault(tuple(box), []).append(i)
    around = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    for g, group in enumerate(atoms):
        for atom in group[np.isfinite(group).all(-1)]:
            x, y, z = np.floor(atom / distance).astype(np.int64).tolist()
            rows = [i for dx, dy, dz in around for i in inside.get((x + dx, y + dy, z + dz), ())]
            if rows and ((points[rows] - atom) ** 2).sum(-1).min() <= distance**2:
                found[g] = True
                break
    return found
