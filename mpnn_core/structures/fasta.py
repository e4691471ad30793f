"""Sequences of several chains as FASTA text, joined by "/" as in the original."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpnn_core.structures.files import read_bounded
from mpnn_core.structures.structure import Structure, shown_chain

# Letters of a sequence that another chain has and its own has not, from which on it is the other's.
SURELY_OTHER_LETTERS, SURELY_OTHER_SHARE = 6, 0.25

LARGEST_BYTES = 2**30


class FastaError(ValueError):
    """An unusable FASTA file; the message names the file and the record."""


def chain_sequences(
    structure: Structure, sequence: str, chains: Iterable[str], separator: str = "/"
) -> str:
    """The letters of some chains of a sequence (L,), in the structure's order, joined."""
    letters = np.array(list(sequence))
    return separator.join("".join(letters[structure.chain_ids == chain]) for chain in chains)


def title_line(title: str) -> str:
    """The first line of a record: one line, whatever characters are in the title."""
    return ">" + "".join(c if c.isprintable() else "_" for c in title)


def read_sequences(
    path: str | os.PathLike[str], structure: Structure, chains: Iterable[str]
) -> list[tuple[str, str]]:
    """(title, sequence of L letters) of each record of a FASTA file.

    A record holds the sequences of `chains`, or of all chains, joined by "/" (or ":", as
    LigandMPNN writes them), in the structure's order; or in the order of `designed_chains=[...]`,
    if the title of the first record has it, as those of `mpnn-core design` and of the original
    have. The remaining chains keep the residues of the structure. An X for each number that is
    missing from a chain, as the original writes it, may stand or not.

    Raises
    ------
    FastaError
        The file does not exist or has no record; a record does not fit the structure, or its chains
        are in another order, as their letters show.
    """
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    try:
        text = read_bounded(Path(path), LARGEST_BYTES).decode("utf-8-sig").lstrip()
        if text and not text.startswith(">"):  # the parser would leave out all before the first
            raise ValueError(f"it begins with {text.split()[0][:20]!r}; expected '>title'")
        if "\0" in text:  # an array of letters would lose it
            raise ValueError("it holds null characters")
        records = list(SimpleFastaParser(io.StringIO(text, newline=None)))
    except OSError as error:
        raise FastaError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise FastaError(f"{path} is not a FASTA file: {error}") from None
    if not records:
        raise FastaError(f"{path} holds no sequence; expected FASTA records, '>title' first")
    chosen = list(chains)
    titled = _titled_order(records[0][0])
    order = titled if titled and set(titled) <= set(chosen) else chosen
    sizes = [int((structure.chain_ids == chain).sum()) for chain in order]
    if order is not titled and len(set(sizes)) < len(sizes):  # no length would tell
        warnings.warn(
            f"{path}: the letters of a record go to the chains "
            f"{'/'.join(map(shown_chain, order))} of {structure.name}, in this order",
            UserWarning,
            stacklevel=2,
        )
    return [
        (title, _filled(f"{path}: record {title!r}", letters, structure, order))
        for title, letters in records
    ]


def _titled_order(title: str) -> list[str]:
    """The chains that a title names as designed, in its order; none if it names none."""
    match = re.search(r"designed_chains=\[(.*?)\]", title)
    return re.findall(r"'([^']*)'", match[1]) if match else []


def _filled(record: str, text: str, structure: Structure, chains: list[str]) -> str:
    """The sequence of a structure with the chains of one record in it, L letters."""
    parts = re.split("[/:]", text.upper())
    if len(parts) != len(chains) and len(parts) == len(structure.chains):
        chains = list(structure.chains)
    rows = {chain: np.flatnonzero(structure.chain_ids == chain) for chain in chains}
    order = "/".join(map(shown_chain, chains))
    if len(parts) == len(chains):
        parts = [
            _without_gaps(part, structure.residue_index[rows[chain]])
            for chain, part in zip(chains, parts, strict=True)
        ]
    if [len(part) for part in parts] != [len(of_chain) for of_chain in rows.values()]:
        expected = ", ".join(f"{shown_chain(chain)} {len(own)}" for chain, own in rows.items())
        raise FastaError(
            f"{record} has chains of {', '.join(str(len(p)) for p in parts)} residues; "
            f"{structure.name} needs {expected}, joined by '/' in this order. A number that is "
            "missing from a chain has no letter here, or an X"
        )
    letters = np.array(list(structure.sequence))
    own = {chain: letters[structure.chain_ids == chain] for chain in structure.chains}
    for chain, part in zip(chains, parts, strict=True):
        given = np.array(list(part))
        for other in structure.chains:
            if len(own[other]) == len(given) and _fits(given, own[other], own[chain]):
                raise FastaError(
                    f"{record} has letters of chain {shown_chain(other)} where chain "
                    f"{shown_chain(chain)} is expected; the order of chains is {order}"
                )
    for chain, part in zip(chains, parts, strict=True):
        letters[rows[chain]] = list(part)
    return "".join(letters)


def _without_gaps(part: str, index: NDArray[np.int64]) -> str:
    """The letters of a chain without those that stand for missing numbers, if it has such."""
    places = index - index[0]
    if len(part) != places[-1] + 1 or (np.diff(places) < 1).any():
        return part
    present = np.isin(np.arange(len(part)), places)
    letters = np.array(list(part))
    return "".join(letters[present]) if set(letters[~present]) <= {"X", "-"} else part


def _fits(given: NDArray[np.str_], better: NDArray[np.str_], own: NDArray[np.str_]) -> bool:
    """Whether letters are those of another chain, and not by chance.

    Designs have about half of the letters of their chain, and unrelated chains one in fifteen.
    """
    more = int((given == better).sum()) - int((given == own).sum())
    return more >= max(SURELY_OTHER_LETTERS, SURELY_OTHER_SHARE * len(given))
