"""Evaluation of a model against its teacher: metrics of many structures, with intervals.

Papers call three metrics "recovery" or "perplexity"; they are kept apart here. *Teacher-forced
recovery*: share of residues whose likeliest letter is the native one, given the native residues
that are decoded before. *Designed recovery*: share of residues that a designed sequence has in
common with the native one. *Native perplexity*: exp of the mean negative log-probability of the
native sequence.

A metric of a set of structures is the mean over its structures, long or short. A loss is the paired
difference from the teacher, under the same decoding orders and the same random numbers; positive is
worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core.constants import ALPHABET, AMINO_ACIDS
from mpnn_core.design.model import Model
from mpnn_core.gate.intervals import ERROR, Interval, exactly, paired_mean, students_t
from mpnn_core.sampling.noise import COMMON, digest
from mpnn_core.sampling.orders import drawn_orders
from mpnn_core.structures.structure import Structure
from mpnn_core.training.corpus import Corpus, CorpusError, batched, read_corpus
from mpnn_core.training.metrics import (
    METRICS,
    Assessment,
    by_structure,
    composition,
    known_residues,
    losses,
    metrics,
    recovery,
)
from mpnn_core.training.recipes import EvaluationSettings

SCHEMA = 1
# A teacher that recovers less than this of TS50 has no trained weights.
LEAST_REFERENCE_RECOVERY = 0.35
FEWEST = 5  # structures for an interval: that of fewer is too wide to say anything
DEFAULT = EvaluationSettings()

Progress = Callable[[int], object]  # called with a number of structures when they are done


class ReferenceModelError(ValueError):
    """A teacher that recovers too little to have trained weights."""


def assess(
    model: Model,
    structures: Sequence[Structure],
    settings: EvaluationSettings = DEFAULT,
    advance: Progress = lambda count: None,
) -> Assessment:
    """Score and design many structures; `advance` counts them when scored, and when designed."""
    return Assessment(
        teacher_forced(model, structures, settings.num_orders, settings.seed, advance),
        designed(model, structures, settings, advance),
    )


def teacher_forced(
    model: Model,
    structures: Sequence[Structure],
    num_orders: int = 1,
    seed: int = 0,
    advance: Progress = lambda count: None,
    common_random_numbers: bool = False,
) -> list[NDArray[np.float32]]:
    """Log-probabilities of native sequences: (num_orders, L, 21) each.

    The decoding orders are those that `Model.design` draws from the seed to design all positions.
    """
    log_probs: list[NDArray[np.float32]] = []
    for batch in batched(structures, num_orders):
        keys = [COMMON if common_random_numbers else digest(s) for s in batch]
        orders = [
            drawn_orders(seed, num_orders, s.mask, key) for s, key in zip(batch, keys, strict=True)
        ]
        log_probs += model.log_probs(batch, decoding_order=orders)
        advance(len(batch))
    return log_probs


def designed(
    model: Model,
    structures: Sequence[Structure],
    settings: EvaluationSettings = DEFAULT,
    advance: Progress = lambda count: None,
) -> list[NDArray[np.int64]]:
    """Designs as tokens: (num_sequences, L) each."""
    tokens: list[NDArray[np.int64]] = []
    for batch in batched(structures, settings.num_sequences):
        for designs in model.design(
            batch, settings.num_sequences, settings.temperature, settings.seed
        ):
            letters = [[ALPHABET.index(letter) for letter in s] for s in designs.sequences]
            tokens.append(np.array(letters))
        advance(len(batch))
    return tokens


def loss_of_another_sample(loss: NDArray[np.float64], error: float = ERROR) -> Interval:
    """A prediction interval for the mean loss of another S structures of the same kind.

    `loss` is (S, n), of n decoding orders or designs; the other structures have one each. The
    interval is wider than a confidence interval of the mean, for the other sample varies too: it is
    Student's t interval for the difference between the means of two independent samples.
    """
    ours, theirs = loss.mean(1), loss[:, 0]
    mean = float(ours.mean())
    spread = math.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / len(loss))
    if spread == 0:
        return exactly(mean)
    half = students_t(len(loss) - 1, error) * spread
    return Interval(mean, mean - half, mean + half)


def ts50() -> Corpus:
    """The TS50 set: 50 chains of 79 to 173 residues, on which the field reports recovery."""
    return read_corpus(Path(__file__).parents[1] / "data" / "TS50.npz")


def compare_with_teacher(
    model: Model,
    teacher: Model,
    corpora: Sequence[Corpus],
    settings: EvaluationSettings = DEFAULT,
    advance: Progress = lambda count: None,
) -> dict[str, Any]:
    """A model compared with its teacher on TS50 and on each corpus, as JSON.

    docs/explanation/evaluation.md explains what it holds.

    The entry `loss` is the loss of teacher-forced recovery on the last corpus, with the interval of
    `loss_of_another_sample`. It is the one to quote if that corpus chose nothing: no recipe, and no
    moment to stop. A variant in the package quotes TS50 (`Variant.loss`).

    Raises
    ------
    ReferenceModelError
        The teacher recovers less than `LEAST_REFERENCE_RECOVERY` of TS50.
    CorpusError
        Two corpora have one name, or one has no native residue to recover.
    """
    all_corpora = (ts50(), *corpora)
    _check_corpora(all_corpora)
    sets: dict[str, Any] = {}
    for corpus in all_corpora:
        quoted = corpus.name
        reference = assess(teacher, corpus.structures, settings, advance)
        if not sets:
            check_reference(teacher.name, corpus, reference)
        assessed = assess(model, corpus.structures, settings, advance)
        for name, keep in _sets(corpus):
            sets[name] = _compared(corpus, keep, assessed, reference)
    return {
        "schema": SCHEMA,
        "settings": asdict(settings) | {"confidence": 1 - ERROR},
        "loss": sets[quoted]["metrics"]["recovery"]["loss_of_another_sample"],
        "chains": sets[quoted]["chains"],
        "sets": sets,
    }


def _check_corpora(corpora: Sequence[Corpus]) -> None:
    names = [corpus.name for corpus in corpora]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CorpusError(f"two corpora are called {twice[0]}; rename one, or evaluate them apart")
    for corpus in corpora:
        if not any(known_residues(s).any() for s in corpus.structures):
            raise CorpusError(
                f"{corpus.name}: no residue has a known native letter and a complete backbone; "
                "there is nothing to recover"
            )


def check_reference(name: str, corpus: Corpus, assessed: Assessment) -> None:
    """Raise ReferenceModelError for a teacher that recovers too little to have trained weights."""
    mean = by_structure(recovery, corpus.structures, assessed.log_probs).mean()
    if not mean >= LEAST_REFERENCE_RECOVERY:
        raise ReferenceModelError(
            f"{name} recovers {100 * mean:.1f} % of {corpus.name}, teacher-forced; a reference has "
            f"at least {100 * LEAST_REFERENCE_RECOVERY:.0f} %. Random weights have about 5 %: are "
            "these trained, and of this variant?"
        )


def _sets(corpus: Corpus) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The sets of a corpus: all of it; and if it has both, the structures released after and before
    the snapshot that the published weights were trained on."""
    post = corpus.post_cutoff
    yield corpus.name, np.ones_like(post)
    if post.any() and not post.all():
        yield f"{corpus.name}, after the cut-off", post
        yield f"{corpus.name}, before the cut-off", ~post


def _compared(
    corpus: Corpus, keep: NDArray[np.bool_], assessed: Assessment, reference: Assessment
) -> dict[str, Any]:
    """Metrics, losses and compositions on the structures of a corpus that `keep` (S,) selects."""
    part = corpus.subset(keep)
    model, teacher = (
        Assessment(
            [lp for lp, kept in zip(a.log_probs, keep, strict=True) if kept],
            [d for d, kept in zip(a.designs, keep, strict=True) if kept],
        )
        for a in (assessed, reference)
    )
    values = metrics(part.structures, model, teacher)
    of_teacher = metrics(part.structures, teacher, teacher)
    comparison: dict[str, Any] = {
        "corpus_sha256": part.sha256,
        "chains": len(part),
        "residues": part.residues,
        "metrics": {},
        "composition": {
            "letters": AMINO_ACIDS,
            "native": composition(part.structures, [s.tokens for s in part.structures]),
            "teacher": composition(part.structures, teacher.designs),
            "model": composition(part.structures, model.designs),
        },
    }
    by_chain: dict[str, Any] = {
        "id": [s.name for s in part.structures],
        "residues": [int(s.mask.sum()) for s in part.structures],
        "post_cutoff": part.post_cutoff.tolist(),
    }
    for name in METRICS:
        loss = losses(name, values[name], of_teacher[name])
        defined = np.isfinite(loss).all(1)
        if defined.any():
            comparison["metrics"][name] = {
                "teacher": float(of_teacher[name][defined].mean()),
                "model": float(values[name][defined].mean()),
                **_intervals(loss[defined]),
            }
        by_chain[name] = {
            side: [None if np.isnan(v) else round(float(v), 4) for v in by_draw.mean(1)]
            for side, by_draw in (("teacher", of_teacher[name]), ("model", values[name]))
        }
    return comparison | ({"by_chain": by_chain} if keep.all() else {})


def _intervals(loss: NDArray[np.float64]) -> dict[str, dict[str, float | None]]:
    """The mean of losses (S, n) with both intervals; without them if S is below `FEWEST`."""
    if len(loss) < FEWEST:
        alone = {"value": float(loss.mean()), "low": None, "high": None}
        return {"loss": alone, "loss_of_another_sample": alone}
    return {
        "loss": asdict(paired_mean(loss.mean(1))),
        "loss_of_another_sample": asdict(loss_of_another_sample(loss)),
    }
