"""What the original's helper scripts write: constraints of all structures of a file, as JSON.

Every function takes outlines, the name and the letters of the chains of each structure
(`reading.outlines`), and gives the dictionary of one line of JSON. Positions count the letters of a
chain from 1, gaps as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpnn_core.constants import ALPHABET, LETTERS
from mpnn_core.sampling.constraints import letter_index
from mpnn_core.sampling.labels import ConstraintError
from mpnn_core.structures.files import open_bounded, write_atomically

Outlines = Sequence[tuple[str, Mapping[str, str]]]
Say = Callable[[str], None]

PSSM_KEYS = {"pssm_coef": "coef", "pssm_bias": "bias", "pssm_log_odds": "odds"}
"""Keys of a PSSM in JSON, and how those of a .npz file end."""

LARGEST_PSSM = 2**30


def assigned_chains(outlines: Outlines, designed: Sequence[str]) -> dict[str, Any]:
    """structure -> [chains to design, chains that are kept]."""
    return {
        name: [list(designed), [chain for chain in chains if chain not in designed]]
        for name, chains in outlines
    }


def fixed_positions(
    outlines: Outlines,
    chains: Sequence[str],
    positions: Sequence[Sequence[int]],
    redesigned: bool = False,
) -> dict[str, Any]:
    """structure -> chain -> fixed positions; of chains that are not named, none.

    With `redesigned`, the positions are those to design, and all others are fixed: those of chains
    that are not named as well.

    Raises
    ------
    ConstraintError
        There are not as many lists of positions as chains, or a structure has no such position.
    """
    named = dict(zip(chains, _as_many(positions, chains, "position_list"), strict=True))
    made: dict[str, Any] = {}
    for name, there in outlines:
        _check_positions(name, there, named)
        if redesigned:
            made[name] = {
                chain: sorted(set(range(1, len(letters) + 1)) - set(named.get(chain, ())))
                for chain, letters in there.items()
            }
        else:
            made[name] = {chain: list(of_chain) for chain, of_chain in named.items()} | {
                chain: [] for chain in there if chain not in named
            }
    return made


def tied_positions(
    outlines: Outlines, chains: Sequence[str], positions: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """structure -> groups: the first of each list of positions, the second of each, and so on.

    Raises
    ------
    ConstraintError
        As `fixed_positions`, or the lists differ in length.
    """
    named = dict(zip(chains, _as_many(positions, chains, "position_list"), strict=True))
    if len({len(of_chain) for of_chain in named.values()}) > 1:
        sizes = ", ".join(f"{chain} {len(of_chain)}" for chain, of_chain in named.items())
        raise ConstraintError(f"position_list: positions are tied one by one; got {sizes}")
    for name, there in outlines:
        _check_positions(name, there, named)
    groups = [
        {chain: [position] for chain, position in zip(named, members, strict=True)}
        for members in zip(*named.values(), strict=True)
    ]
    return {name: groups for name, _ in outlines}


def homooligomer(outlines: Outlines, say: Say = lambda _: None) -> dict[str, Any]:
    """structure -> groups of all chains, by position; a chain that is shorter is in fewer.

    `say` takes a sentence about chains of unlike lengths, which the original would tie to residues
    of the next chain.
    """
    made: dict[str, Any] = {}
    for name, chains in outlines:
        say_unlike(name, chains, say)
        made[name] = [
            {chain: [n] for chain in sorted(chains) if n <= len(chains[chain])}
            for n in range(1, len(chains[min(chains)]) + 1)
        ]
    return made


def positive_and_negative(
    outlines: Outlines,
    groups: Sequence[Sequence[str]],
    weights: Sequence[Sequence[float]],
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """structure -> groups of chains, each tied by position, with the weight of each chain.

    Raises
    ------
    ConstraintError
        There are not as many weights as chains, or a structure has no such chain.
    """
    flat = [chain for group in groups for chain in group]
    if not flat:
        raise ConstraintError("pos_neg_chain_list: expected chains to tie, such as 'A B, C D'")
    every = [weight for of_group in weights for weight in of_group]
    weight_of = dict(zip(flat, _as_many(every, flat, "pos_neg_chain_betas"), strict=True))
    made: dict[str, Any] = {}
    for name, chains in outlines:
        _check_positions(name, chains, dict.fromkeys(flat, ()))
        say_unlike(name, {chain: chains[chain] for chain in flat}, say)
        made[name] = [
            {
                chain: [[n], [weight_of[chain]]]
                for chain in group
                if n <= len(chains[chain])
            }
            for group in groups
            for n in range(1, max(len(chains[chain]) for chain in group) + 1)
        ]  # fmt: skip
    return made


def say_unlike(name: str, chains: Mapping[str, str], say: Say) -> None:
    """Say that chains that are tied by position differ in length."""
    if len({len(letters) for letters in chains.values()}) > 1:
        sizes = ", ".join(f"{chain} {len(letters)}" for chain, letters in chains.items())
        say(f"{name}: the tied chains differ in length ({sizes}); the last positions are tied less")


def amino_acid_bias(letters: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """letter -> what is added to its logit; ConstraintError for what is no letter, or no pair."""
    for letter in letters:
        letter_index(letter)
    return dict(zip(letters, _as_many(values, letters, "bias_list"), strict=True))


def bias_per_residue(
    outlines: Outlines,
    chains: Sequence[str] = (),
    positions: Sequence[Sequence[int]] = (),
    bias: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """structure -> chain -> (n, 21) numbers: `bias` at the positions that are named, 0 elsewhere.

    Raises
    ------
    ConstraintError
        As `fixed_positions`.
    """
    named = dict(zip(chains, _as_many(positions, chains, "position_list"), strict=True))
    made: dict[str, Any] = {}
    for name, there in outlines:
        _check_positions(name, there, named)
        made[name] = {}
        for chain, letters in there.items():
            values = np.zeros((len(letters), LETTERS))
            for letter, value in (bias or {}).items():
                values[[n - 1 for n in named.get(chain, ())], letter_index(letter)] = value
            made[name][chain] = values.tolist()
    return made


def omitted_letters(
    outlines: Outlines,
    chains: Sequence[str],
    positions: Sequence[Sequence[int]],
    letters: Sequence[str],
) -> dict[str, Any]:
    """structure -> chain -> [[positions, letters]]; a chain may be named more than once.

    Raises
    ------
    ConstraintError
        As `fixed_positions`, or there are not as many sets of letters as chains.
    """
    _as_many(positions, chains, "position_list")
    for of_chain in _as_many(letters, chains, "AA_list"):
        for letter in of_chain:
            letter_index(letter)
    made: dict[str, Any] = {}
    for name, there in outlines:
        made[name] = {chain: [] for chain in there}
        for chain, of_chain, omitted in zip(chains, positions, letters, strict=True):
            _check_positions(name, there, {chain: of_chain})
            made[name][chain].append([list(of_chain), omitted])
    return made


def pssm(outlines: Outlines, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """structure -> chain -> its PSSM, from NAME.npz in a folder with A_coef, A_bias and A_odds.

    Raises
    ------
    ConstraintError
        A file is missing, is no .npz of arrays, lacks one, or has one of another shape.
    """
    made: dict[str, Any] = {}
    for name, chains in outlines:
        path = Path(folder) / f"{name}.npz"
        arrays: dict[str, Any] = {}
        try:
            with open_bounded(path, LARGEST_PSSM) as file, np.load(file, allow_pickle=False) as npz:
                arrays = {key: npz[key] for key in npz.files}
        # NumPy and zipfile raise whatever damaged bytes lead them to.
        except Exception as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ConstraintError(f"{path}: not read: {reason}") from None
        made[name] = {}
        for chain, letters in chains.items():
            made[name][chain] = {}
            for key, ending in PSSM_KEYS.items():
                found = arrays.get(f"{chain}_{ending}")
                shape = (len(letters),) if ending == "coef" else (len(letters), LETTERS)
                if found is None or found.shape != shape:
                    got = "nothing" if found is None else f"shape {found.shape}"
                    columns = "" if ending == "coef" else f", columns as in {ALPHABET}"
                    raise ConstraintError(
                        f"{path}: expected {chain}_{ending} of shape {shape}{columns}; got {got}"
                    )
                made[name][chain][key] = found.tolist()
    return made


def write_lines(path: str | os.PathLike[str], *dictionaries: Mapping[str, Any]) -> None:
    """Write each dictionary as a line of JSON."""
    text = "".join(json.dumps(dictionary) + "\n" for dictionary in dictionaries)
    write_atomically(Path(path), lambda file: file.write(text.encode()))


def _as_many(values: Sequence[Any], chains: Sequence[str], what: str) -> Sequence[Any]:
    if len(values) != len(chains):
        raise ConstraintError(
            f"{what} has {len(values)} entries for {len(chains)} of {' '.join(chains) or 'none'}"
        )
    return values


def _check_positions(
    name: str, chains: Mapping[str, str], named: Mapping[str, Sequence[int]]
) -> None:
    for chain, positions in named.items():
        if chain not in chains:
            raise ConstraintError(f"{name} has no chain {chain!r}; it has {', '.join(chains)}")
        wrong = [n for n in positions if not 1 <= n <= len(chains[chain])]
        if wrong:
            raise ConstraintError(
                f"{name}: chain {chain} has the positions 1 to {len(chains[chain])}, gaps counted, "
                f"not {wrong[0]}"
            )
