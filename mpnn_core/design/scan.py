"""Mutations, one or several at once: by how much less or more likely the network finds them.

A *logit difference* is log p(mutant letter) - log p(present letter): above 0 the network prefers
the mutation. It is no energy: it has no unit of one, and no experiment calibrates it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET
from mpnn_core.design.arguments import digests_of
from mpnn_core.design.results import MOST_SHOWN
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.sampling.labels import ConstraintError, label, positions
from mpnn_core.sampling.orders import drawn_orders
from mpnn_core.structures.shown import html_table
from mpnn_core.structures.structure import Structure

if TYPE_CHECKING:
    from pandas import DataFrame

    from mpnn_core.design.model import Model

LETTERS = ALPHABET[:20]
METHODS = ("conditional", "tied", "unconditional")

COLUMNS: dict[str, type] = {
    "structure": str, "chain": str, "pos": str, "pre": str, "post": str,
    "logit_difference": float, "log_prob": float,
}  # fmt: skip
"""Of a row for each residue and letter: `pos` is the author number with its insertion code, `pre`
the present letter, `post` the other one, and `log_prob` the log-probability of that. `pre, post,
pos, logit_difference` are those of proteinmpnn_ddg, with its signs."""
APART = {"logit_difference_complex": float, "logit_difference_apart": float}
"""More columns where chains are taken apart; `logit_difference` is the first less the second."""
CORRECTED = {"logit_difference_ddg": float}
"""One more column where the residue by itself is subtracted."""

MOST_ROWS = 1 << 20  # residues of mutants that are scored together

_MUTATION = re.compile(r"(?:(?P<chain>.+):)?(?P<pre>[A-Z])(?P<pos>-?\d+[A-Za-z]?)(?P<post>[A-Z])")
_CHANGE = re.compile(r"(?P<label>.+):(?P<pre>[A-Z])>(?P<post>[A-Z])")


@dataclass(frozen=True, eq=False)
class Scan:
    """Every mutation of a structure, by one of `METHODS`.

    Attributes
    ----------
    structure, sequence : what was scanned; the letters are the present ones
    method : "conditional", each residue given all others; "tied", the same in tied orders;
        "unconditional", given the backbone alone
    log_probs : (L, 21) float32, the mean over the orders
    scanned : (L,) bool, the residues of which rows are made
    num_orders, seed, model_name : how it was computed
    apart : (L, 21) float32, the same with groups of chains taken apart; None where they were not
    alone : (L, 21) float32, of each residue by itself, without a neighbour; None where not asked
    """

    structure: Structure
    sequence: str
    method: str
    log_probs: NDArray[np.float32]
    scanned: NDArray[np.bool_]
    num_orders: int
    seed: int
    model_name: str
    apart: NDArray[np.float32] | None = None
    alone: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        return (
            f"<Scan of {self.structure.name}, {int(self.scanned.sum())} residues, {self.method}, "
            f"by {self.model_name}>"
        )

    @property
    def logit_difference(self) -> NDArray[np.float32]:
        """(L, 20) float32, log p(letter) - log p(present letter), less that of the chains apart;
        letters as in `ALPHABET`, NaN where the residue is not scanned."""
        whole = self._differences(self.log_probs)
        return whole if self.apart is None else whole - self._differences(self.apart)

    @property
    def corrected(self) -> NDArray[np.float32]:
        """(L, 20) float32, `logit_difference` less that of the residue by itself, as
        proteinmpnn_ddg's `logit_difference_ddg`."""
        if self.alone is None:
            raise ValueError("the scan has no residues by themselves; scan with alone=True")
        return self.logit_difference - self._differences(self.alone)

    def _differences(self, log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
        present = np.array([ALPHABET.index(letter) for letter in self.sequence])
        differences = log_probs[:, :20] - np.take_along_axis(log_probs, present[:, None], 1)
        differences[~self.scanned] = np.nan
        return differences

    @property
    def columns(self) -> dict[str, type]:
        """Names and kinds of the table's columns."""
        apart, alone = self.apart is not None, self.alone is not None
        return COLUMNS | (APART if apart else {}) | (CORRECTED if alone else {})

    def table(self) -> dict[str, list[Any]]:
        """The columns, of 20 rows for each scanned residue; floats to 5 places."""
        rows, s = np.flatnonzero(self.scanned), self.structure

        def numbers(values: NDArray[np.float32]) -> list[float]:
            listed: list[float] = (values[rows].astype(np.float64).round(5) + 0.0).ravel().tolist()
            return listed

        def texts(values: Sequence[str] | NDArray[np.str_]) -> list[str]:
            return [text for row in rows.tolist() for text in (str(values[row]),) * 20]

        table: dict[str, list[Any]] = {
            "structure": [s.name] * (20 * len(rows)),
            "chain": texts(s.chain_ids),
            "pos": texts(s.residue_numbers),
            "pre": texts(self.sequence),
            "post": list(LETTERS) * len(rows),
            "logit_difference": numbers(self.logit_difference),
            "log_prob": numbers(self.log_probs[:, :20]),
        }
        if self.apart is not None:
            table["logit_difference_complex"] = numbers(self._differences(self.log_probs))
            table["logit_difference_apart"] = numbers(self._differences(self.apart))
        if self.alone is not None:
            table["logit_difference_ddg"] = numbers(self.corrected)
        return table

    def plot(self, chain: str | None = None, axes: Any = None) -> Any:
        """Logit differences of a chain as a map; matplotlib's Axes.

        See `design.plotting.plot_map` for arguments and errors.
        """
        from mpnn_core.design.plotting import plot_map

        words = "logit difference, nats"
        return plot_map(self.structure, self.logit_difference, words, chain, axes, signed=True)

    def _repr_html_(self) -> str:
        difference = self.logit_difference
        flat = np.where(np.isnan(difference), -np.inf, difference)
        flat[np.array(list(self.sequence))[:, None] == np.array(list(LETTERS))] = -np.inf
        best = np.argsort(-flat, axis=None, kind="stable")[:MOST_SHOWN]
        rows = [
            (label(self.structure, i), self.sequence[i], LETTERS[a], f"{difference[i, a]:.3f}")
            for i, a in zip(*(part.tolist() for part in np.divmod(best, 20)), strict=True)
            if np.isfinite(flat[i, a])
        ]
        mutations = int(np.isfinite(flat).sum())
        caption = f"{mutations} mutations of {self.structure.name} by {self.model_name}"
        headings = "residue", "present", "mutation", "logit difference"
        return html_table(caption, headings, rows, mutations - len(rows))

    def to_pandas(self) -> DataFrame:
        """The table as a DataFrame; ImportError without pandas."""
        from mpnn_core.design.table import require_pandas

        return require_pandas().DataFrame(self.table(), columns=list(self.columns))


def scan(
    model: Model,
    structures: Sequence[Structure],
    sequences: Sequence[str | None],
    method: str = "conditional",
    num_orders: int = 1,
    seed: int = 0,
    common_random_numbers: bool = False,
    constraints: Sequence[Constraints] = (),
    split: Sequence[Sequence[str]] | None = None,
    alone: bool = False,
) -> list[Scan]:
    """What `Model.scan` gives for a list of structures; `sequences` and `constraints` one each."""
    if method not in METHODS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if num_orders < 1:
        raise ValueError(f"num_orders is {num_orders}; expected at least 1")
    letters = [q or s.sequence for q, s in zip(sequences, structures, strict=True)]
    for structure, sequence in zip(structures, letters, strict=True):
        if len(sequence) != len(structure):
            raise ValueError(
                f"{structure.name}: the sequence has {len(sequence)} letters for "
                f"{len(structure)} residues"
            )
    designed = [c.designed(s) for c, s in zip(constraints, structures, strict=True)]
    names = digests_of(structures, common_random_numbers)
    orders = [
        drawn_orders(seed, num_orders, mask, name)
        for mask, name in zip(designed, names, strict=True)
    ]

    def means(
        structures: Sequence[Structure], letters: Sequence[str], orders: Sequence[Any], fixed: Any
    ) -> list[NDArray[np.float32]]:
        if method == "unconditional":
            found: list[NDArray[np.float32]] = model.unconditional_log_probs(list(structures))
            return found
        found = model.conditional_log_probs(
            list(structures), list(letters), list(orders), constraints=fixed, tied=method == "tied"
        )
        return [lp[0] if len(lp) == 1 else lp.mean(0, dtype=np.float64) for lp in found]

    whole = means(structures, letters, orders, list(constraints))
    apart: list[NDArray[np.float32]] = []
    if split is not None:
        apart = [np.full((len(s), 21), np.nan, np.float32) for s in structures]
        parts = [
            (i, part, np.isin(s.chain_ids, part))
            for i, s in enumerate(structures)
            for part in groups_of(s, split)
        ]
        pieces = [structures[i].of_chains(part) for i, part, _ in parts]
        if "context" not in model.reads:  # of the whole it was said what is unseen
            pieces = [piece.with_ligands(()) for piece in pieces]
        found = means(
            pieces,
            ["".join(np.array(list(letters[i]))[keep]) for i, _, keep in parts],
            [_within(orders[i], keep) for i, _, keep in parts],
            None,
        )
        for (i, _, keep), log_probs in zip(parts, found, strict=True):
            apart[i][keep] = log_probs
    scans = []
    for i, structure in enumerate(structures):
        known = structure.mask & designed[i] & (np.array(list(letters[i])) != "X")
        if apart:
            known &= np.isfinite(apart[i]).all(1)
        scans.append(Scan(
            structure, letters[i], method, whole[i].astype(np.float32), known, num_orders, seed,
            model.name, apart[i] if apart else None, _alone(model, structure) if alone else None,
        ))  # fmt: skip
    return scans


def groups_of(structure: Structure, split: Sequence[Sequence[str]]) -> list[list[str]]:
    """The groups of chains that are taken apart; where none is given, each chain is one.

    Raises
    ------
    ConstraintError
        There is no such chain, one is in two groups, or there is one group alone.
    """
    groups = [list(group) for group in split] or [[chain] for chain in structure.chains]
    listed = [chain for group in groups for chain in group]
    for chain in listed:
        if chain not in structure.chains:
            raise ConstraintError(
                f"{structure.name} has no chain {chain!r} to take apart; it has "
                f"{', '.join(structure.chains)}"
            )
        if listed.count(chain) > 1:
            raise ConstraintError(f"chain {chain!r} is in two groups; expected one")
    if len(groups) < 2:
        raise ConstraintError(
            f"{structure.name}: one group of chains, {', '.join(listed)}; expected at least two to "
            "take apart"
        )
    return groups


def _within(orders: NDArray[np.int64], keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Orders (n, L) of some of the positions alone, by their new numbers."""
    number = keep.cumsum() - 1
    return np.stack([number[order[keep[order]]] for order in orders])


def _alone(model: Model, structure: Structure) -> NDArray[np.float32]:
    """(L, 21), each residue as a structure by itself; NaN where its backbone is incomplete."""
    rows = np.flatnonzero(structure.mask)
    log_probs = np.full((len(structure), 21), np.nan, np.float32)
    single = [
        Structure.from_backbone(structure.coords[[i]], "X", ca_only=structure.ca_only)
        for i in rows.tolist()
    ]
    if structure.membrane is not None:
        labels = structure.membrane[rows]
        single = [s.with_membrane(labels[[i]]) for i, s in enumerate(single)]
    log_probs[rows] = np.concatenate(model.unconditional_log_probs(single))
    return log_probs


def parse_mutations(text: str, structure: Structure) -> list[tuple[int, str]]:
    """ "A:K13A,A:L20V" or "A13:K>A A20:L>V" -> [(12, "A"), (19, "V")], positions and new letters.

    Raises
    ------
    ConstraintError
        A part is no mutation, there is no such residue, or its letter is another one.
    """
    found: dict[int, str] = {}
    for part in re.split(r"[,;\s]+", text.strip()):
        if match := _CHANGE.fullmatch(part):
            label = match["label"]
        elif match := _MUTATION.fullmatch(part):
            if match["chain"] is None and len(structure.chains) > 1:
                raise ConstraintError(
                    f"{structure.name}: {part!r} names no chain, and there are "
                    f"{', '.join(structure.chains)}; expected a form such as "
                    f"{structure.chains[0]}:{part}"
                )
            label = f"{match['chain'] or structure.chains[0]}:{match['pos']}"
        else:
            raise ConstraintError(
                f"{structure.name}: {part!r} is no mutation; expected a form such as A:K13A, or "
                "A13:K>A as in the tables of designs"
            )
        (row,) = positions(structure, label)
        if match["pre"] != structure.sequence[row]:
            raise ConstraintError(
                f"{structure.name}: {part!r}, but residue {label} is {structure.sequence[row]}"
            )
        if match["post"] not in LETTERS:
            raise ConstraintError(f"{structure.name}: {part!r}: {match['post']} is no amino acid")
        if row in found:
            raise ConstraintError(f"{structure.name}: {text!r} changes residue {label} twice")
        if not structure.mask[row]:
            raise ConstraintError(
                f"{structure.name}: {part!r}: the backbone of residue {label} is incomplete"
            )
        found[row] = match["post"]
    return sorted(found.items())


def joint_differences(
    model: Model,
    structure: Structure,
    mutants: Sequence[Sequence[tuple[int, str]]],
    num_orders: int,
    seed: int,
    common_random_numbers: bool,
    constraints: Constraints,
) -> NDArray[np.float32]:
    """What `Model.score_mutations` gives, (n,), for mutants as `parse_mutations` gives them."""
    (name,) = digests_of([structure], common_random_numbers)
    drawn = drawn_orders(seed, num_orders, constraints.designed(structure), name)
    together = max(1, MOST_ROWS // (2 * num_orders * len(structure)))
    return np.concatenate([
        _joint(model, structure, mutants[i : i + together], drawn, constraints)
        for i in range(0, len(mutants), together)
    ])  # fmt: skip


def _joint(
    model: Model,
    structure: Structure,
    mutants: Sequence[Sequence[tuple[int, str]]],
    drawn: NDArray[np.int64],
    constraints: Constraints,
) -> NDArray[np.float32]:
    """Differences (n,) of some mutants, the means over the orders (orders, L) of all residues."""
    native = np.array(list(structure.sequence))
    sequences, orders = [], []
    for mutations in mutants:
        rows = [row for row, _ in mutations]
        changed = native.copy()
        changed[rows] = [letter for _, letter in mutations]
        for order in drawn:
            is_last = np.isin(order, rows)
            sequences += ["".join(native), "".join(changed)]
            orders += [np.concatenate([order[~is_last], order[is_last]])] * 2
    log_probs = model.log_probs(structure, sequences, np.stack(orders), constraints=constraints)
    shape = len(mutants), len(drawn), 2, len(structure), len(ALPHABET)
    differences = []
    for mutations, of_orders in zip(mutants, log_probs.reshape(shape), strict=True):
        difference = np.zeros(len(drawn))
        for row, letter in mutations:
            difference += of_orders[:, 1, row, ALPHABET.index(letter)]
            difference -= of_orders[:, 0, row, ALPHABET.index(structure.sequence[row])]
        differences.append(difference.mean())
    return np.array(differences, np.float32)
