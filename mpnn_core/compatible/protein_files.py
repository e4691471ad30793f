"""The files that `protein_mpnn_run.py` writes, with its names, keys, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET
from mpnn_core.design.results import Designs, Scores
from mpnn_core.structures.fasta import chain_sequences, title_line
from mpnn_core.structures.files import output_name, write_atomically
from mpnn_core.structures.structure import Structure

FOLDERS = {
    "seqs": ".fa", "scores": ".npz", "probs": ".npz", "score_only": ".npz",
    "conditional_probs_only": ".npz", "unconditional_probs_only": ".npz",
}  # fmt: skip
"""Each folder, and how its files end."""


def shown(value: float | np.floating) -> str:
    """A number as the original writes it."""
    return np.format_float_positional(np.float32(value), unique=False, precision=4)


def fasta(
    designs: Sequence[Designs],
    native: Scores,
    structure: Structure,
    designed: Sequence[str],
    model_name: str,
    version: str,
    seed: int,
    ca_only: bool,
) -> str:
    """seqs/NAME.fa: the native sequence, then the designs at each temperature.

    Parameters
    ----------
    designs : those at each temperature; none writes nothing at all, as the original does where no
        batch is whole
    native : the scores of the structure's own sequence
    designed : the chains to design
    """
    if not designs:
        return ""
    kept = [chain for chain in structure.chains if chain not in designed]
    key = "CA_model_name" if ca_only else "model_name"
    header = (
        f"{structure.name}, score={shown(native.score.mean())}, "
        f"global_score={shown(native.global_score.mean())}, fixed_chains={kept}, "
        f"designed_chains={list(designed)}, {key}={model_name}, git_hash={version}, seed={seed}"
    )
    lines = [title_line(header), chain_sequences(structure, structure.sequence, designed)]
    for at in designs:
        rows = zip(at.sequences, at.scores, at.global_scores, at.recovery, strict=True)
        for sample, (sequence, score, global_score, recovery) in enumerate(rows, start=1):
            lines += [
                f">T={np.asarray(at.temperature).item()}, sample={sample}, "
                f"score={shown(score)}, global_score={shown(global_score)}, "
                f"seq_recovery={shown(recovery)}",
                chain_sequences(structure, sequence, designed),
            ]
    return "\n".join(lines) + "\n"


def scores(designs: Sequence[Designs]) -> dict[str, NDArray[Any]]:
    """scores/NAME.npz: n designs at t temperatures, one after the other: (t n,) float32 each."""
    none = np.zeros(0, np.float32)
    return {
        "score": np.concatenate([none, *(at.scores for at in designs)]),
        "global_score": np.concatenate([none, *(at.global_scores for at in designs)]),
    }


def probabilities(
    designs: Sequence[Designs], chains: Sequence[str], batch_size: int
) -> dict[str, NDArray[Any]]:
    """probs/NAME.npz: probs and log_probs (t n, L, 21) float32, S (t n, L) int32; mask (b, L) and
    chain_order (b, chains), the same in each of the b rows of a batch."""
    letters = [sequence for at in designs for sequence in at.sequences]
    mask = designs[0].designed.astype(np.float32)
    return {
        "probs": np.concatenate([at.probabilities for at in designs]).astype(np.float32),
        "log_probs": np.concatenate([at.log_probs for at in designs]).astype(np.float32),
        "S": np.array([[ALPHABET.index(a) for a in s] for s in letters], np.int32),
        "mask": np.tile(mask, (batch_size, 1)),
        "chain_order": np.array([list(chains)] * batch_size),
    }


def scored(
    structure: Structure,
    sequence: str,
    score: NDArray[np.float32],
    global_score: NDArray[np.float32],
    designed: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """score_only/NAME_pdb.npz or NAME_fasta_i.npz: the scores (n,) float32 of one sequence under n
    orders, S (L,) int64, seq_str the letters of the designed chains."""
    return {
        "score": score,
        "global_score": global_score,
        "S": np.array([ALPHABET.index(a) for a in sequence], np.int64),
        "seq_str": np.array(chain_sequences(structure, sequence, designed).replace("/", "")),
    }


def conditionals(
    structure: Structure, log_p: NDArray[np.float32], designed: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """conditional_probs_only/NAME.npz and unconditional_probs_only/NAME.npz: log_p (n, L, 21)
    float32, S (L,) int64, mask and design_mask (L,) float32."""
    return {
        "log_p": log_p,
        "S": structure.tokens,
        "mask": structure.mask.astype(np.float32),
        "design_mask": designed.astype(np.float32),
    }


def path_of(folder: Path, kind: str, name: str, ending: str = "") -> Path:
    """Where a file of one kind, a key of `FOLDERS`, is written."""
    return folder / kind / f"{output_name(name + ending)}{FOLDERS[kind]}"


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a .npz file, not compressed."""
    # The names of arrays are arguments, of which numpy's types know one alone.
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    write_atomically(path, lambda file: file.write(text.encode()))
