"""What `protein_mpnn_run.py` is told of its structures, as `Constraints` on each."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpnn_core.compatible.reading import Parsed
from mpnn_core.constants import ALPHABET
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.sampling.labels import ConstraintError
from mpnn_core.selecting.originals import ConstraintFile, PSSMUse, with_files
from mpnn_core.structures.fasta import LARGEST_BYTES, FastaError
from mpnn_core.structures.files import read_bounded
from mpnn_core.structures.structure import Structure, shown_chain


@dataclass(frozen=True)
class Inputs:
    """What is told of all structures.

    Attributes
    ----------
    files : constraints by the names of structures
    chains : the chains to design and those to keep, by name; others are not read. None: see below
    designed : the chains to design of every structure, the others are kept; None designs all
    omit : letters that are never drawn
    pssm : how a file of PSSMs counts; None gives them no weight
    """

    files: Sequence[ConstraintFile] = ()
    chains: ConstraintFile | None = None
    designed: Sequence[str] | None = None
    omit: Sequence[str] = ("X",)
    pssm: PSSMUse | None = None

    def of(self, parsed: Parsed, ca_only: bool = False) -> tuple[Structure, Constraints]:
        """A structure and its constraints: the chains to design first, then those that are kept,
        both in the order of their ids, as the original's arrays have them.

        Raises
        ------
        ConstraintError, StructureError
            What is told does not fit the structure, or that is unusable.
        """
        designed, kept = self._chains(parsed)
        structure = parsed.structure([*designed, *kept], ca_only)
        constraints = Constraints(chains=designed, omit=",".join(self.omit))
        return structure, with_files(constraints, structure, self.files, pssm=self.pssm)

    def _chains(self, parsed: Parsed) -> tuple[list[str], list[str]]:
        source = parsed.name
        if self.designed is not None:
            designed = list(self.designed)
            kept = [chain for chain in parsed.chains if chain not in designed]
        elif self.chains is not None:
            source = f"{self.chains.path}: {parsed.name}"
            designed, kept = self.chains.chains(parsed.name)
        else:
            designed, kept = list(parsed.chains), []
        for chain in (*designed, *kept):
            if chain not in parsed.chains:
                raise ConstraintError(
                    f"{source} has no chain {shown_chain(chain)}; it has "
                    f"{', '.join(map(shown_chain, parsed.chains))}"
                )
        if not designed:
            raise ConstraintError(f"{source}: no chain is to be designed")
        return sorted(set(designed)), sorted(set(kept))


def read_fasta(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """The title of each record, and its letters without "/"; raises FastaError."""
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    try:
        text = read_bounded(Path(path), LARGEST_BYTES).decode("utf-8-sig").lstrip()
        if not text.startswith(">"):  # the parser would leave out all before the first
            raise ValueError("expected '>title' first")
        records = list(SimpleFastaParser(io.StringIO(text, newline=None)))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FastaError(f"{path}: not read as FASTA: {reason}") from None
    return [(title, letters.replace("/", "")) for title, letters in records]


def scored_sequence(
    structure: Structure, designed: Sequence[str], title: str, letters: str, any_length: bool
) -> str:
    """The sequence of a structure (L letters) whose first ones are those of a record: of the
    designed chains, in the order of their ids, or of all chains.

    Parameters
    ----------
    any_length : whether a record may end anywhere, with the residues of the structure after it

    Raises
    ------
    ConstraintError
        It has another number of letters, or what is none.
    """
    wrong = set(letters) - set(ALPHABET)
    if wrong:
        raise ConstraintError(
            f"{structure.name}: record {title!r} has {min(wrong)!r}; expected letters of {ALPHABET}"
        )
    sizes = [int((structure.chain_ids == chain).sum()) for chain in structure.chains]
    of_designed = sum(sizes[: len(designed)])
    fits = len(letters) in (of_designed, len(structure))
    if not (fits or (any_length and len(letters) <= len(structure))):
        expected = ", ".join(
            f"{chain} {size}" for chain, size in zip(structure.chains, sizes, strict=True)
        )
        raise ConstraintError(
            f"{structure.name}: record {title!r} has {len(letters)} letters; expected "
            f"{of_designed}, of the designed chains {' '.join(designed)} in this order, or "
            f"{len(structure)}, of all ({expected}); a gap is an X"
        )
    return letters + structure.sequence[len(letters) :]
