"""What a design run gives: sequences, scores, and what was computed per residue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.constants import ALPHABET, LETTERS
from mpnn_core.design.arguments import (
    DesignArguments,
    ScoreArguments,
    Temperature,
    temperatures_of,
)
from mpnn_core.design.batches import Batch
from mpnn_core.design.jobs import ASCII, Decoding, Sampled
from mpnn_core.design.mutations import mutations
from mpnn_core.sampling.constraints import Resolved
from mpnn_core.sampling.possible import NothingLeftError, is_distribution
from mpnn_core.structures.fasta import chain_sequences, title_line
from mpnn_core.structures.files import output_name
from mpnn_core.structures.shown import html_table
from mpnn_core.structures.structure import Structure

if TYPE_CHECKING:
    from pandas import DataFrame


MOST_SHOWN = 20  # rows of what a notebook shows


@dataclass(frozen=True)
class Design:
    """One sequence designed on a structure: an item of `Designs`.

    Attributes
    ----------
    name : the structure's name in outputs and the number of the sample, "5L33_1"
    sample : its number among those that were drawn, from 1
    sequence : L letters; fixed and incomplete residues keep theirs
    chains : the letters of each chain, by id, in the structure's order
    score, global_score, recovery, confidence, ligand_confidence : floats, as in `Designs`
    mutations : what differs from the native sequence, as "A12:K>R": chain and author number, the
        native residue, the new one. Residues whose native is unknown (X) are not listed
    """

    name: str
    sample: int
    sequence: str
    chains: dict[str, str]
    score: float
    global_score: float
    recovery: float
    confidence: float
    ligand_confidence: float | None
    mutations: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Designs:
    """Sequences designed on one structure.

    `len`, `[i]` and iteration give each as a `Design`; a slice gives Designs.

    Attributes
    ----------
    structure, seed, temperature, model_name : what they were designed from
    design_chains : chains that were designed, in the structure's order
    sequences : n strings of L letters; fixed and incomplete residues keep theirs
    scores : (n,) mean negative log-probability over the designed positions
    global_scores : (n,) the same over all positions with a complete backbone
    ligand_scores : (n,) float32, the same over the designed positions whose virtual CB is less than
        8 Å from a context atom; NaN if there is none, None if the model does not see such atoms
    recovery : (n,) share of the designed positions that kept the native residue
    designed : (L,) bool
    confidence : (n,) float32, exp(-scores), LigandMPNN's overall_confidence: the geometric mean of
        the probabilities of the residues that were drawn, 0 to 1
    ligand_confidence : (n,) float32, exp(-ligand_scores), LigandMPNN's ligand_confidence; NaN or
        None as `ligand_scores`. If no designed residue is near, LigandMPNN writes 1
    log_probs : (n, L, 21) float32, of the network, before temperature, bias and omission
    probabilities : (n, L, 21) float32, what residues were drawn from; 0 where none was
    decoding_order : (n, L) int64, positions as decoded; tied ones follow each other
    residue_confidence : (n, L) float32, exp of the log-probability of the residue that stands at
        each position, 0 to 1; 0 where the backbone is incomplete
    samples : (n,) int64, the number of each among those that were drawn, from 1

    log_probs, probabilities and decoding_order are fetched from the device when they are first
    read.
    """

    structure: Structure
    seed: int
    temperature: Temperature
    model_name: str
    design_chains: tuple[str, ...]
    sequences: list[str]
    scores: NDArray[np.float32]
    global_scores: NDArray[np.float32]
    ligand_scores: NDArray[np.float32] | None
    recovery: NDArray[np.float32]
    designed: NDArray[np.bool_]
    on_device: OnDevice | None = field(repr=False)
    samples: NDArray[np.int64] = field(default=None)  # type: ignore[arg-type]  # 1, 2, ..., n

    def __post_init__(self) -> None:
        if self.samples is None:
            object.__setattr__(self, "samples", np.arange(1, len(self.sequences) + 1))

    @property
    def confidence(self) -> NDArray[np.float32]:
        return np.exp(-self.scores)

    @property
    def ligand_confidence(self) -> NDArray[np.float32] | None:
        return None if self.ligand_scores is None else np.exp(-self.ligand_scores)

    @cached_property
    def log_probs(self) -> NDArray[np.float32]:
        return self._details.log_probs(self.structure)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        return self._details.probabilities(self.structure)

    @cached_property
    def decoding_order(self) -> NDArray[np.int64]:
        return self._details.decoding_order(self.structure)

    @cached_property
    def residue_confidence(self) -> NDArray[np.float32]:
        letters = np.array([[ALPHABET.index(a) for a in s] for s in self.sequences], np.int64)
        letters = letters.reshape(len(self), len(self.structure), 1)
        drawn = np.take_along_axis(self.log_probs, letters, 2)[:, :, 0]
        return np.where(self.structure.mask, np.exp(drawn), np.float32(0))

    @property
    def _details(self) -> OnDevice:
        if self.on_device is None:
            raise ValueError("these designs came without details; ask for them with details=True")
        return self.on_device

    def without_details(self) -> Designs:
        """The same without the last three, which cannot be read from it."""
        return replace(self, on_device=None)

    def rows(self, chosen: Sequence[int]) -> Designs:
        """Some of the designs, by index, in that order; details come along."""
        index = np.array(chosen, np.int64)
        near = self.ligand_scores
        some = replace(
            self,
            sequences=[self.sequences[i] for i in index.tolist()],
            scores=self.scores[index],
            global_scores=self.global_scores[index],
            ligand_scores=None if near is None else near[index],
            recovery=self.recovery[index],
            samples=self.samples[index],
            on_device=None,
        )
        if self.on_device is not None or "log_probs" in self.__dict__:
            for name in ("log_probs", "probabilities", "decoding_order"):
                some.__dict__[name] = getattr(self, name)[index]
        return some

    def to_fasta(self, separator: str = "/", native: bool = False) -> str:
        """All chains of every design as FASTA text, kept ones too, in the structure's order.

        Parameters
        ----------
        separator : what joins the chains: "/" as ProteinMPNN, ":" as LigandMPNN and ColabFold
        native : whether the native sequence comes first

        A record is called `NAME_1`, by the number of the sample; its scores follow after a space.
        """
        chains = self.structure.chains
        lines = []
        if native:
            own = chain_sequences(self.structure, self.structure.sequence, chains, separator)
            lines += [title_line(output_name(self.structure.name)), own]
        for design in self:
            title = (
                f"{design.name} score={design.score:.4f} confidence={design.confidence:.4f} "
                f"seq_recovery={design.recovery:.4f} mutations={len(design.mutations)}"
            )
            own = chain_sequences(self.structure, design.sequence, chains, separator)
            lines += [title_line(title), own]
        return "".join(line + "\n" for line in lines)

    def plot(self, chain: str | None = None, axes: Any = None) -> Any:
        """Mean probability of each amino acid at each residue of a chain; matplotlib's Axes.

        See `design.plotting.plot_map` for arguments and errors.
        """
        from mpnn_core.design.plotting import plot_map

        mean = self.probabilities.mean(0)[:, :20]
        return plot_map(self.structure, mean, "mean probability", chain, axes)

    def _repr_html_(self) -> str:
        shown = list(self)[:MOST_SHOWN]
        rows = [
            (d.name, f"{d.score:.3f}", f"{d.recovery:.3f}", len(d.mutations),
             "/".join(d.chains.values()))
            for d in shown
        ]  # fmt: skip
        headings = "name", "score", "recovery", "mutations", "sequence"
        caption = f"{len(self)} designs of {self.structure.name} by {self.model_name}"
        return html_table(caption, headings, rows, len(self) - len(shown))

    def to_pandas(self) -> DataFrame:
        """A DataFrame of one row a design, of the columns `design.table.COLUMNS`.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        from mpnn_core.design.table import data_frame

        return data_frame([self])

    def __getstate__(self) -> dict[str, Any]:
        """Everything fetched: what is pickled has no device."""
        if self.on_device is not None:
            for name in ("log_probs", "probabilities", "decoding_order"):
                getattr(self, name)
        return {**self.__dict__, "on_device": None}

    def __len__(self) -> int:
        return len(self.sequences)

    @overload
    def __getitem__(self, index: int) -> Design: ...

    @overload
    def __getitem__(self, index: slice) -> Designs: ...

    def __getitem__(self, index: int | slice) -> Design | Designs:
        if isinstance(index, slice):
            return self.rows(range(len(self))[index])
        try:
            i = range(len(self))[index]
        except IndexError:
            raise IndexError(f"design {index} of {len(self)}") from None
        sequence, near = self.sequences[i], self.ligand_confidence
        chains = self.structure.chains
        parts = [chain_sequences(self.structure, sequence, [chain]) for chain in chains]
        sample = int(self.samples[i])
        return Design(
            name=f"{output_name(self.structure.name)}_{sample}",
            sample=sample,
            sequence=sequence,
            chains=dict(zip(chains, parts, strict=True)),
            score=float(self.scores[i]),
            global_score=float(self.global_scores[i]),
            recovery=float(self.recovery[i]),
            confidence=float(self.confidence[i]),
            ligand_confidence=None if near is None else float(near[i]),
            mutations=mutations(self.structure, sequence),
        )

    def __iter__(self) -> Iterator[Design]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, eq=False)
class Scores:
    """Mean negative log-probabilities of n sequences under r orders: (n, r) float32 each.

    Attributes
    ----------
    score : over the designed positions
    global_score : over all positions with a complete backbone
    ligand_score : over the designed positions near a ligand; NaN or None as `Designs.ligand_scores`
    confidence, ligand_confidence : (n,) float32, exp of minus the means of `score` and of
        `ligand_score` over the orders, as in `Designs`
    """

    score: NDArray[np.float32]
    global_score: NDArray[np.float32]
    ligand_score: NDArray[np.float32] | None = None

    @property
    def confidence(self) -> NDArray[np.float32]:
        return np.exp(-self.score.mean(1))

    @property
    def ligand_confidence(self) -> NDArray[np.float32] | None:
        return None if self.ligand_score is None else np.exp(-self.ligand_score.mean(1))


@dataclass(frozen=True, eq=False)
class OnDevice:
    """What was computed per residue for sequences of one structure, where it was computed.

    Attributes
    ----------
    parts : for some sequences each, the rows' log-probabilities (m, 21) and probabilities (m, 21)
        and, over all positions, the decoding orders (count L,)
    blank : (21,), the log-probabilities of a position that has no row
    """

    parts: list[tuple[Tensor, Tensor, Tensor]]
    blank: NDArray[np.float32]

    def log_probs(self, structure: Structure) -> NDArray[np.float32]:
        return self._letters(structure, [part[0] for part in self.parts], self.blank)

    def probabilities(self, structure: Structure) -> NDArray[np.float32]:
        return self._letters(structure, [part[1] for part in self.parts], 0)

    def decoding_order(self, structure: Structure) -> NDArray[np.int64]:
        orders = torch.cat([part[2] for part in self.parts]).cpu().numpy()
        return orders.reshape(-1, len(structure))

    def _letters(self, structure: Structure, rows: list[Tensor], blank: Any) -> NDArray[np.float32]:
        """(rows, 21) of the complete residues of n sequences -> (n, L, 21)."""
        complete = torch.cat(rows).cpu().numpy().reshape(-1, int(structure.mask.sum()), LETTERS)
        if structure.mask.all():
            return complete
        whole = np.empty((len(complete), len(structure), LETTERS), np.float32)
        whole[:] = blank
        whole[:, structure.mask] = complete
        return whole


def design_results(
    arguments: DesignArguments,
    batches: Iterable[tuple[Batch, Sampled]],
    temperature: Temperature,
    model_name: str,
    blank: NDArray[np.float32],
) -> list[Designs]:
    """The designs of every structure that the batches hold, from what they gave.

    `blank` (21,) is what a residue that is no node gets for its log-probabilities.
    """
    structures = arguments.structures
    letters: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)
    sums: defaultdict[int, list[NDArray[np.float64]]] = defaultdict(list)
    parts: defaultdict[int, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
    for batch, sampled in batches:
        rows, totals = sampled.letters.cpu().numpy(), sampled.sums.cpu().numpy()
        row = position = sequence = 0
        for s, _, count in batch.runs:
            m, p = count * int(structures[s].mask.sum()), count * len(structures[s])
            letters[s].append(rows[row : row + m].reshape(count, -1))
            sums[s].append(totals[sequence : sequence + count])
            parts[s].append((
                sampled.log_probs[row : row + m], sampled.probabilities[row : row + m],
                sampled.order[position : position + p],
            ))  # fmt: skip
            row, position, sequence = row + m, position + p, sequence + count
    designs = []
    for s in letters:
        structure = structures[s]
        nll, global_nll, recovered, *ligand_nll = np.concatenate(sums[s]).T
        constraints = arguments.constraints[s]
        details = OnDevice(parts[s], blank)
        if np.isnan(nll).any():
            raise _nothing_left(structure, constraints, int(np.isnan(nll).argmax()), details)
        count = constraints.designed.sum()
        designs.append(Designs(
            structure=structure,
            seed=arguments.seed,
            temperature=_temperature_of(structure, temperature, arguments, constraints),
            model_name=model_name,
            design_chains=constraints.design_chains,
            sequences=_sequences(structure, np.concatenate(letters[s])),
            scores=(nll / count).astype(np.float32),
            global_scores=(global_nll / structure.mask.sum()).astype(np.float32),
            ligand_scores=_near_ligands(ligand_nll, arguments, s),
            recovery=(recovered / count).astype(np.float32),
            designed=constraints.designed,
            on_device=details,
        ))  # fmt: skip
    return designs


def _temperature_of(
    structure: Structure, temperature: Temperature, arguments: DesignArguments, resolved: Resolved
) -> Temperature:
    """The temperature of the call, or (n, L) where some positions have their own."""
    if resolved.temperatures is None:
        return temperature
    given = np.asarray(temperature, np.float32)
    return temperatures_of(structure, given, arguments.num_sequences, resolved.temperatures)


def _near_ligands(
    nll: Sequence[NDArray[np.float64]], arguments: DesignArguments | ScoreArguments, s: int
) -> NDArray[np.float32] | None:
    """The mean over what is designed near a ligand in structure s, from the sum of each sequence:
    (n,), NaN if nothing is; None for a model that sees none, which has no sums."""
    if arguments.near is None:
        return None
    (of_sequences,) = nll
    count = int(arguments.near[s].sum())
    return (of_sequences / (count or np.nan)).astype(np.float32)


def _nothing_left(
    structure: Structure, constraints: Resolved, sequence: int, details: OnDevice
) -> NothingLeftError:
    """What to raise for a sequence: where it began to be no distribution, and why."""
    drawn_from = torch.from_numpy(details.probabilities(structure)[sequence])  # (L, 21)
    impossible = ~is_distribution(drawn_from).numpy() & constraints.designed
    order = details.decoding_order(structure)[sequence]
    position = int(order[impossible[order]][0])
    tied = next((group for group in constraints.groups if position in group), None)
    why = (
        "its logits are beyond float32"
        if tied is None
        else "the weights of the positions tied there, up to "
        f"{max(map(abs, tied.values())):g}, make logits that are beyond float32; give smaller ones"
    )
    return NothingLeftError(structure, position, why, sequence)


def log_prob_results(
    job: Decoding,
    batches: Iterable[tuple[Batch, tuple[Tensor, ...]]],
    blank: NDArray[np.float32],
) -> list[NDArray[np.float32]]:
    """Log-probabilities (n, L, 21) of every structure, from what the batches gave."""
    structures = job.structures
    log_probs = [
        np.tile(blank, (n, len(s), 1)) for n, s in zip(job.counts, structures, strict=True)
    ]
    for batch, (rows,) in batches:
        parts = batch.parts(rows.cpu().numpy())
        for (s, i), part in zip(batch.sequences, parts, strict=True):
            log_probs[s][i, structures[s].mask] = part
    return log_probs


def score_results(
    arguments: ScoreArguments, batches: Iterable[tuple[Batch, tuple[Tensor, ...]]]
) -> list[Scores]:
    """The scores of every structure that the batches hold, from what they gave."""
    sums: defaultdict[int, list[NDArray[np.float64]]] = defaultdict(list)
    for batch, (totals,) in batches:
        of_sequences = totals.cpu().numpy()
        sequence = 0
        for s, _, count in batch.runs:
            sums[s].append(of_sequences[sequence : sequence + count])
            sequence += count

    def by_order(means: NDArray[Any]) -> NDArray[np.float32]:
        return means.astype(np.float32).reshape(-1, arguments.num_orders)

    scores = []
    for s, of_structure in sums.items():
        nll, global_nll, *ligand_nll = np.concatenate(of_structure).T
        ligand = _near_ligands(ligand_nll, arguments, s)
        scores.append(Scores(
            by_order(nll / arguments.designed[s].sum()),
            by_order(global_nll / arguments.structures[s].mask.sum()),
            None if ligand is None else by_order(ligand),
        ))  # fmt: skip
    return scores


def _sequences(structure: Structure, letters: NDArray[np.uint8]) -> list[str]:
    """ASCII (n, complete residues) -> n strings of L letters; the others keep theirs."""
    L = len(structure)
    if not structure.mask.all():
        whole = np.tile(ASCII[structure.tokens], (len(letters), 1))
        whole[:, structure.mask] = letters
        letters = whole
    text = letters.tobytes().decode("ascii")
    return [text[start : start + L] for start in range(0, len(text), L)]


def format_designs(designs: Sequence[Designs], native: Scores, version: str) -> str:
    """The text of the FASTA file of one structure: the native sequence, then each design.

    `designs` are those at each temperature. The fields are those of the original's
    `protein_mpnn_run.py`, with the version of this package where it has its git hash; after the
    scores, those of LigandMPNN's `run.py` if the model sees ligands.
    """
    first = designs[0]
    s = first.structure
    fixed = [chain for chain in s.chains if chain not in first.design_chains]
    header = (
        f"{output_name(s.name)}, score={native.score.mean():.4f}"
        f", global_score={native.global_score.mean():.4f}{_confidences(native)[0]}"
        f", fixed_chains={fixed}, designed_chains={list(first.design_chains)}"
        f", model_name={first.model_name}, mpnn_core={version}, seed={first.seed}"
    )
    lines = [
        title_line(header),
        chain_sequences(s, s.sequence, first.design_chains),
    ]
    for at in designs:
        temperature = _of_most(at.temperature)
        rows = zip(
            at.samples.tolist(), at.sequences, at.scores, at.global_scores, _confidences(at),
            at.recovery, strict=True,
        )  # fmt: skip
        for sample, sequence, score, global_score, more, recovery in rows:
            lines += [
                f">T={temperature:g}, sample={sample}, score={score:.4f}"
                f", global_score={global_score:.4f}{more}, seq_recovery={recovery:.4f}",
                chain_sequences(s, sequence, first.design_chains),
            ]
    return "\n".join(lines) + "\n"


def _of_most(temperature: Temperature) -> float:
    """The temperature of most positions, which a header has room for."""
    values, times = np.unique(np.asarray(temperature), return_counts=True)
    return float(values[times.argmax()])


def _confidences(of: Designs | Scores) -> list[str]:
    """Fields of the confidences of each sequence, which models that see ligands have."""
    if of.ligand_confidence is None:
        return [""] * len(of.confidence)
    return [
        f", overall_confidence={overall:.4f}, ligand_confidence={ligand:.4f}"
        for overall, ligand in zip(of.confidence, of.ligand_confidence, strict=True)
    ]
