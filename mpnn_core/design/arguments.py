"""What callers give, checked in one place: every form of an argument becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpnn_core.constants import ALPHABET, LETTERS
from mpnn_core.structures.structure import Structure

# Temperature 0: logits that differ in their last bit differ by a factor of e^50 in probability.
_COLDEST = np.float32(1e-8)


def _listed(structures: Structure | Sequence[Structure]) -> list[Structure]:
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


def _per_structure(structures: Structure | Sequence[Structure], given: Any) -> list[Any]:
    """One entry of `given` per structure, from what came with one structure or a list of them."""
    if isinstance(structures, Structure):
        return [given]
    if given is None:
        return [None] * len(structures)
    if isinstance(given, str) or len(given) != len(structures):
        raise ValueError(
            f"{len(structures)} structures were given; expected a list with an entry for each"
        )
    return list(given)


def _tokens(structure: Structure, given: Any) -> NDArray[np.int64]:
    """Any form of sequences -> (n, L) int64."""
    if given is None:
        return structure.tokens[None]
    if isinstance(given, str):
        given = [given]
    if len(given) and isinstance(given[0], str):
        for sequence in given:
            unknown = [letter for letter in sequence if letter not in ALPHABET]
            if unknown:
                raise ValueError(
                    f"{structure.name}: a sequence holds {unknown[0]!r}; expected letters of "
                    f"{ALPHABET}"
                )
        lengths = {len(sequence) for sequence in given}
        if lengths != {len(structure)}:
            raise ValueError(
                f"{structure.name} has {len(structure)} residues; a sequence of "
                f"{(lengths - {len(structure)}).pop()} was given"
            )
        given = [[ALPHABET.index(letter) for letter in sequence] for sequence in given]
    tokens = np.atleast_2d(np.asarray(given))
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


def _orders(structure: Structure, given: ArrayLike, n: int) -> NDArray[np.int64]:
    """Checked decoding orders, (1 or n or any number for n = 1, L) int64."""
    orders = np.atleast_2d(np.asarray(given))
    L = len(structure)
    if orders.shape[1:] != (L,) or not (np.sort(orders, 1) == np.arange(L)).all():
        raise ValueError(
            f"{structure.name}: a decoding order, shape {orders.shape}, does not list each of the "
            f"positions 0 to {L - 1} once"
        )
    if n > 1 and len(orders) not in (1, n):
        raise ValueError(f"{structure.name}: {len(orders)} decoding orders for {n} sequences")
    return orders.astype(np.int64)


def _temperatures(structure: Structure, given: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    try:
        return np.broadcast_to(given, (n, len(structure)))
    except ValueError:
        raise ValueError(
            f"temperature has shape {given.shape}; {structure.name} needs one number, or what "
            f"broadcasts to {(n, len(structure))}"
        ) from None
