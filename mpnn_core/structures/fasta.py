"""Sequences of several chains as FASTA text, joined by "/" as in the original."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mpnn_core.structures.files import read_bounded
from mpnn_core.structures.structure import Structure

LARGEST_BYTES = 2**30


class FastaError(ValueError):
    """An unusable FASTA file; the message names the file and the record."""


def chain_sequences(structure: Structure, sequence: str, chains: Iterable[str]) -> str:
    """The letters of some chains of a sequence (L,), in the structure's order, joined by "/"."""
    letters = np.array(list(sequence))
    return "/".join("".join(letters[structure.chain_ids == chain]) for chain in chains)


def read_sequences(
    path: str | os.PathLike[str], structure: Structure, chains: Iterable[str]
) -> list[tuple[str, str]]:
    """(title, sequence of L letters) of each record of a FASTA file.

    A record holds the sequences of `chains`, or of all chains, joined by "/", as `mpnn-core design`
    writes them. The remaining chains keep the residues of the structure.

    Raises
    ------
    FastaError
        The file does not exist or has no record, or a record does not fit the structure.
    """
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    chosen = list(chains)
    try:
        text = read_bounded(Path(path), LARGEST_BYTES).decode("utf-8-sig")
        if "\0" in text:  # an array of letters would lose it
            raise ValueError("it holds null characters")
        records = list(SimpleFastaParser(io.StringIO(text, newline=None)))
    except OSError as error:
        raise FastaError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise FastaError(f"{path} is not a FASTA file: {error}") from None
    if not records:
        raise FastaError(f"{path} holds no sequence; expected FASTA records, '>title' first")
    return [(title, _filled(path, title, text, structure, chosen)) for title, text in records]


def _filled(
    path: str | os.PathLike[str], title: str, text: str, structure: Structure, chains: list[str]
) -> str:
    """The sequence of a structure with the chains of one record in it, L letters."""
    parts = text.upper().split("/")
    if len(parts) == len(structure.chains):
        chains = list(structure.chains)
    sizes = {chain: int((structure.chain_ids == chain).sum()) for chain in chains}
    if [len(part) for part in parts] != list(sizes.values()):
        expected = ", ".join(f"{chain} {size}" for chain, size in sizes.items())
        raise FastaError(
            f"{path}: record {title!r} has chains of {', '.join(str(len(p)) for p in parts)} "
            f"residues; {structure.name} needs {expected}, joined by '/'"
        )
    letters = np.array(list(structure.sequence))
    for chain, part in zip(chains, parts, strict=True):
        letters[structure.chain_ids == chain] = list(part)
    return "".join(letters)
