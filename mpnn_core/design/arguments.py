"""What callers give, checked in one place: every form of an argument becomes one form.

`design_arguments` and `decode_arguments` check the arguments of `Model.design` and of
`Model.log_probs`. Nothing is computed on a device before they return.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpnn_core.constants import ALPHABET, LETTERS
from mpnn_core.design.memory import check_memory
from mpnn_core.sampling.constraints import Constraints, Resolved
from mpnn_core.sampling.noise import COMMON, digest
from mpnn_core.sampling.orders import COLOURED, coloured_orders, drawn_orders, ranks
from mpnn_core.sampling.possible import require_possible
from mpnn_core.structures.structure import Structure

Temperature = float | Sequence[float] | NDArray[np.floating]

# Temperature 0: logits that differ in their last bit differ by a factor of e^50 in probability.
COLDEST = np.float32(1e-8)

# What is kept of one residue of one sequence: the residue or its place in the order, as int64, and
# log-probabilities; of a design, probabilities as well.
SCORED_BYTES = np.dtype(np.int64).itemsize
DECODED_BYTES = np.dtype(np.float32).itemsize * LETTERS
DESIGNED_BYTES = 2 * DECODED_BYTES + np.dtype(np.int64).itemsize


class DesignArguments(NamedTuple):
    """What a design run is asked for; lists have an entry per structure.

    Attributes
    ----------
    num_sequences : per structure, n
    temperature : float32, what broadcasts to (n, L) for every structure
    digests : what names each structure in the key of its random numbers (`noise.digest`)
    constraints : each resolved on its structure
    orders : (1 or n, L) int64 positions as decoded; None where an order is drawn for each sequence
    near : (L,) bool, the designed positions near a ligand; None for a model that sees none
    first : the number of the first sequence, in the key of its random numbers
    """

    structures: list[Structure]
    num_sequences: int
    temperature: NDArray[np.float32]
    seed: int
    digests: list[int]
    constraints: list[Resolved]
    orders: list[NDArray[np.int64] | None]
    near: list[NDArray[np.bool_]] | None = None
    first: int = 0

    def of_sequence(self, i: int, structures: list[Structure]) -> DesignArguments:
        """Those of sequence i alone, on other coordinates of the same structures."""
        temperature = self.temperature
        if temperature.ndim == 2 and len(temperature) > 1:
            temperature = temperature[i : i + 1]
        orders = [None if order is None else order[[i % len(order)]] for order in self.orders]
        return self._replace(
            structures=structures, num_sequences=1, temperature=temperature, orders=orders, first=i
        )


class DecodeArguments(NamedTuple):
    """Given sequences under given orders; lists have an entry per structure.

    Where a structure has one sequence or one order, it goes with all of the others.

    Attributes
    ----------
    tokens : (n, L) int64
    ranks : (n, L) int64, when each position is decoded; positions of equal rank do not see each
        other
    designed : (L,) bool, the positions that are not fixed
    """

    structures: list[Structure]
    tokens: list[NDArray[np.int64]]
    ranks: list[NDArray[np.int64]]
    designed: list[NDArray[np.bool_]]


class ScoreArguments(NamedTuple):
    """Sequences to score, each under the same orders; lists have an entry per structure.

    Attributes
    ----------
    tokens : (n * num_orders, L) int64, each sequence `num_orders` times
    ranks : (num_orders, L) int64, as in `DecodeArguments`
    designed : (L,) bool, the positions that a score counts; none is incomplete
    near : (L,) bool, those of them near a ligand; None for a model that sees none
    """

    structures: list[Structure]
    tokens: list[NDArray[np.int64]]
    ranks: list[NDArray[np.int64]]
    designed: list[NDArray[np.bool_]]
    num_orders: int
    near: list[NDArray[np.bool_]] | None = None


def design_arguments(
    structures: Structure | Sequence[Structure],
    num_sequences: int,
    temperature: Temperature,
    seed: int | None,
    constraints: Constraints | Sequence[Constraints] | None,
    decoding_order: Any,
    neighbours: int,
    common_random_numbers: bool = False,
) -> DesignArguments:
    """The arguments of `Model.design`, checked; `neighbours` is the network's k.

    Raises
    ------
    ValueError, TypeError, ConstraintError, MemoryError
        As `Model.design` describes them.
    """
    check_count(num_sequences)
    temperatures = checked_temperature(temperature)
    seed = checked_seed(seed)
    items = listed(structures)
    constraints = constraints_of(items, constraints)
    if isinstance(decoding_order, str) and decoding_order != COLOURED:
        raise ValueError(
            f"decoding_order is {decoding_order!r}; expected positions, {COLOURED!r} or None"
        )
    check_memory(
        items, [num_sequences] * len(items), DESIGNED_BYTES,
        "design fewer at a time, with another seed each time",
    )  # fmt: skip
    coloured = isinstance(decoding_order, str)
    order_of_each = per_structure(structures, None if coloured else decoding_order)
    resolved = [c.resolve(item) for c, item in zip(constraints, items, strict=True)]
    for structure, constraint in zip(items, resolved, strict=True):
        of_positions = temperatures_of(
            structure, temperatures, num_sequences, constraint.temperatures
        )
        require_possible(structure, constraint, of_positions)
    orders = [
        None if order is None else checked_orders(structure, order, num_sequences)
        for structure, order in zip(items, order_of_each, strict=True)
    ]
    digests = digests_of(items, common_random_numbers)
    if coloured:
        orders = [
            coloured_orders(structure, r, neighbours, num_sequences, seed, name)
            for structure, r, name in zip(items, resolved, digests, strict=True)
        ]
    return DesignArguments(items, num_sequences, temperatures, seed, digests, resolved, orders)


def constraints_of(
    structures: Sequence[Structure], constraints: Constraints | Sequence[Constraints] | None
) -> Sequence[Constraints]:
    """The constraints of each structure, from one for all, none, or one each."""
    if isinstance(constraints, Constraints) or constraints is None:
        return [constraints or Constraints()] * len(structures)
    if len(constraints) != len(structures):
        raise ValueError(f"{len(constraints)} constraints for {len(structures)} structures")
    return constraints


def check_count(num_sequences: int) -> None:
    """Raise ValueError unless that is a number of sequences."""
    if num_sequences < 1:
        raise ValueError(f"num_sequences is {num_sequences}; expected at least 1")


def checked_temperature(temperature: Temperature) -> NDArray[np.float32]:
    """A temperature that divides: at least `COLDEST`; ValueError if it is none."""
    temperatures = np.asarray(temperature, dtype=np.float32)
    if not ((temperatures >= 0) & np.isfinite(temperatures)).all():
        raise ValueError(
            f"temperature is {temperatures}; expected a number of at least 0, such as 0.1 "
            "(0 always takes the likeliest residue)"
        )
    return np.maximum(temperatures, COLDEST)


def checked_seed(seed: int | None) -> int:
    """A seed, drawn for None; ValueError if it is none."""
    if seed is None:
        return secrets.randbits(32)
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; expected 0 to 2**63 - 1")
    return seed


def digests_of(structures: Sequence[Structure], common_random_numbers: bool) -> list[int]:
    """What names each structure in the key of its random numbers."""
    return [COMMON if common_random_numbers else digest(s) for s in structures]


def decode_arguments(
    structures: Structure | Sequence[Structure],
    sequences: Any,
    decoding_order: Any,
    seed: int,
    common_random_numbers: bool = False,
    constraints: Constraints | Sequence[Constraints] | None = None,
) -> DecodeArguments:
    """The arguments of `Model.log_probs`, checked; orders that are not given are drawn.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `Model.log_probs` describes them.
    """
    checked_seed(seed)
    items = listed(structures)
    tokens = [
        tokens_of(structure, sequence)
        for structure, sequence in zip(items, per_structure(structures, sequences), strict=True)
    ]
    given = [
        None if order is None else checked_orders(s, order, len(t))
        for s, t, order in zip(
            items, tokens, per_structure(structures, decoding_order), strict=True
        )
    ]
    counts = [
        len(t) if order is None else max(len(t), len(order))
        for t, order in zip(tokens, given, strict=True)
    ]
    check_memory(items, counts, DECODED_BYTES, "compute fewer sequences at a time")
    orders = [
        drawn_orders(seed, len(t), s.mask, name) if order is None else order
        for s, t, order, name in zip(
            items, tokens, given, digests_of(items, common_random_numbers), strict=True
        )
    ]
    designed = [
        c.designed(s) for s, c in zip(items, constraints_of(items, constraints), strict=True)
    ]
    return DecodeArguments(items, tokens, [ranks(order) for order in orders], designed)


def score_arguments(
    structures: Sequence[Structure],
    sequences: Sequence[Any],
    designed: Sequence[NDArray[np.bool_]],
    num_orders: int,
    seed: int,
    common_random_numbers: bool = False,
) -> ScoreArguments:
    """The arguments of `Model.score` for structures with an entry each, checked.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `Model.score` describes them.
    """
    if num_orders < 1:
        raise ValueError(f"num_orders is {num_orders}; expected at least 1")
    checked_seed(seed)
    tokens = [tokens_of(s, given) for s, given in zip(structures, sequences, strict=True)]
    counts = [len(t) * num_orders for t in tokens]
    check_memory(structures, counts, SCORED_BYTES, "score fewer sequences at a time")
    digests = digests_of(structures, common_random_numbers)
    orders = [
        drawn_orders(seed, num_orders, of_structure, name)
        for of_structure, name in zip(designed, digests, strict=True)
    ]
    return ScoreArguments(
        list(structures),
        [np.repeat(t, num_orders, 0) for t in tokens],
        [ranks(order) for order in orders],
        list(designed),
        num_orders,
    )


def listed(structures: Structure | Sequence[Structure]) -> list[Structure]:
    """One structure or several, as a list."""
    items = [structures] if isinstance(structures, Structure) else list(structures)
    if not items:
        raise ValueError("the list of structures is empty")
    for item in items:
        if not isinstance(item, Structure):
            raise TypeError(
                f"expected a Structure or a list of them, got {type(item).__name__}; "
                "read_structure(path) makes one"
            )
    return items


def per_structure(structures: Structure | Sequence[Structure], values: Any) -> list[Any]:
    """One entry of `values` per structure, from what came with one structure or a list of them."""
    if isinstance(structures, Structure):
        return [values]
    if values is None:
        return [None] * len(structures)
    if isinstance(values, str) or len(values) != len(structures):
        raise ValueError(
            f"{len(structures)} structures were given; expected a list with an entry for each"
        )
    return list(values)


def tokens_of(structure: Structure, sequences: Any) -> NDArray[np.int64]:
    """Any form of sequences -> (n, L) int64; None is the structure's own."""
    if sequences is None:
        return structure.tokens[None]
    if isinstance(sequences, str):
        sequences = [sequences]
    if len(sequences) and isinstance(sequences[0], str):
        for sequence in sequences:
            unknown = [letter for letter in sequence if letter not in ALPHABET]
            if unknown:
                raise ValueError(
                    f"{structure.name}: a sequence holds {unknown[0]!r}; expected letters of "
                    f"{ALPHABET}"
                )
        lengths = {len(sequence) for sequence in sequences}
        if lengths != {len(structure)}:
            raise ValueError(
                f"{structure.name} has {len(structure)} residues; a sequence of "
                f"{(lengths - {len(structure)}).pop()} was given"
            )
        sequences = [[ALPHABET.index(letter) for letter in sequence] for sequence in sequences]
    tokens = np.atleast_2d(np.asarray(sequences))
    if tokens.ndim != 2 or tokens.shape[1] != len(structure) or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"{structure.name}: sequences have shape {tokens.shape} and dtype {tokens.dtype}; "
            f"expected (n, {len(structure)}) integers, or strings"
        )
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() >= LETTERS:
        raise ValueError(
            f"{structure.name}: tokens must be 0 to {LETTERS - 1}, at least one sequence"
        )
    return tokens.astype(np.int64)


def checked_orders(structure: Structure, orders: ArrayLike, n: int) -> NDArray[np.int64]:
    """Decoding orders of n sequences: (1 or n, L) int64; of one sequence, any number of them."""
    rows = np.atleast_2d(np.asarray(orders))
    L = len(structure)
    if rows.shape[1:] != (L,) or not (np.sort(rows, 1) == np.arange(L)).all():
        raise ValueError(
            f"{structure.name}: a decoding order, shape {rows.shape}, does not list each of the "
            f"positions 0 to {L - 1} once"
        )
    if n > 1 and len(rows) not in (1, n):
        raise ValueError(f"{structure.name}: {len(rows)} decoding orders for {n} sequences")
    return rows.astype(np.int64)


def temperatures_of(
    structure: Structure,
    temperature: NDArray[np.float32],
    n: int,
    own: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The temperature of every position of n sequences: (n, L); `own` (L,) instead of it where
    that is a number (`Resolved.temperatures`)."""
    try:
        temperatures = np.broadcast_to(temperature, (n, len(structure)))
        return (
            temperatures
            if own is None
            else np.where(np.isnan(own), temperatures, np.maximum(own, COLDEST))
        )
    except ValueError:
        raise ValueError(
            f"temperature has shape {temperature.shape}; {structure.name} needs one number, or "
            f"what broadcasts to {(n, len(structure))}"
        ) from None
