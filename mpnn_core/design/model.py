"""Structures in, designs out: the model that users hold."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.backends.contract import Backend
from mpnn_core.backends.registry import find_backend
from mpnn_core.design.arguments import (
    DecodeArguments,
    DesignArguments,
    ScoreArguments,
    Temperature,
    checked_temperature,
    decode_arguments,
    design_arguments,
    listed,
    score_arguments,
    temperatures_of,
)
from mpnn_core.design.batches import Batch
from mpnn_core.design.devices import find_device
from mpnn_core.design.execution import Executor
from mpnn_core.design.jobs import Conditioning, Decoding, Job, Sampled, Sampling, Scoring
from mpnn_core.design.near import near_ligands
from mpnn_core.design.packing import Packed, SideChainPacker, load_packer
from mpnn_core.design.results import (
    Designs,
    Scores,
    design_results,
    log_prob_results,
    score_results,
)
from mpnn_core.design.scan import joint_differences, parse_mutations, scan
from mpnn_core.design.states import OverStates, StateDesigns, States, checked_combination
from mpnn_core.network.architectures import ARCHITECTURES, models_that_read
from mpnn_core.network.checkpoints import load_network, resolve
from mpnn_core.network.context import LigandMPNN
from mpnn_core.network.families import ALIASES, PACKAGED
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.variants import Variant, find_variant
from mpnn_core.sampling.constraints import Constraints
from mpnn_core.sampling.noise import check_noise, with_noise
from mpnn_core.sampling.possible import require_possible
from mpnn_core.selecting.selections import Selection
from mpnn_core.structures.structure import Structure, StructureWarning, shown_items

DEFAULT_LIGAND = ALIASES["ligand"]


class Model:
    """A network with its weights on a device; `load_model` makes one.

    `loss` is the measured loss against the published model, or says that it was not measured;
    "" where it is exact.
    """

    def __init__(
        self,
        network: MPNN,
        name: str,
        variant: Variant,
        device: torch.device,
        backend: str = "auto",
        loss: str = "",
    ) -> None:
        self.network = network.to(device)
        self.name = name
        self.variant = variant
        self.device = device
        self.loss = loss
        self._told: WeakSet[Structure] = WeakSet()  # whose ligands were said to be unseen
        self.executor = Executor(self.network, find_backend(backend, self.network, device), device)

    @property
    def backend(self) -> Backend:
        """What computes the network; another one may be put in its place."""
        return self.executor.backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self.executor.backend = backend

    def __repr__(self) -> str:
        loses = f" (loses {self.loss})" if self.loss else ""
        return (
            f"<Model {self.name}, {self.variant.name}{loses}, {self.backend.name} on {self.device}>"
        )

    @property
    def ca_only(self) -> bool:
        """Whether the network reads structures as traces of CA atoms (`Structure.ca_only`)."""
        return self.network.ca_only

    @property
    def reads(self) -> frozenset[str]:
        """What the network reads of a structure (`network.architectures.Architecture.needs`):
        "backbone" or "CA", and "context", the atoms around it, or "membrane", its labels."""
        needs = {kind.network: kind.needs for kind in ARCHITECTURES.values()}
        return next(needs[kind] for kind in type(self.network).__mro__ if kind in needs)

    def _readable(self, structures: Structure | Sequence[Structure]) -> Any:
        """Structures as the network reads them, in the form in which they are given."""
        items = listed(structures)
        if "context" not in self.reads:
            for structure in items:
                self._say_what_is_unseen(structure)
        readable = [self.network.readable(structure) for structure in items]
        return readable[0] if isinstance(structures, Structure) else readable

    def _say_what_is_unseen(self, structure: Structure) -> None:
        """Warn of the ligands of a structure, the first time that it is given."""
        if not len(structure.context) or structure in self._told:
            return
        self._told.add(structure)
        atoms = structure.context
        columns = atoms.chain_ids, atoms.residue_numbers, atoms.residue_names
        residues = set(zip(*columns, strict=True))
        counts = Counter(str(name) for *_, name in residues)
        names = [f"{name} ({n})" if n > 1 else name for name, n in sorted(counts.items())]
        warnings.warn(
            f"{self.name} does not see what is around the protein in {structure.name}: "
            f"{shown_items(names)}; {DEFAULT_LIGAND} does",
            StructureWarning,
            stacklevel=4,
        )

    def _near(
        self, structures: Sequence[Structure], designed: Sequence[NDArray[np.bool_]]
    ) -> list[NDArray[np.bool_]] | None:
        """What is designed near a ligand of each structure, (L,) bool; None if none is seen."""
        if "context" not in self.reads:
            return None
        return [near_ligands(s) & d for s, d in zip(structures, designed, strict=True)]

    @overload
    def design(
        self,
        structures: Structure,
        num_sequences: int = 1,
        temperature: Temperature = 0.1,
        seed: int | None = None,
        constraints: Constraints | Sequence[Constraints] | None = None,
        decoding_order: Any = None,
        common_random_numbers: bool = False,
        backbone_noise: float = 0.0,
    ) -> Designs: ...

    @overload
    def design(
        self,
        structures: Sequence[Structure],
        num_sequences: int = 1,
        temperature: Temperature = 0.1,
        seed: int | None = None,
        constraints: Constraints | Sequence[Constraints] | None = None,
        decoding_order: Any = None,
        common_random_numbers: bool = False,
        backbone_noise: float = 0.0,
    ) -> list[Designs]: ...

    def design(
        self,
        structures: Structure | Sequence[Structure],
        num_sequences: int = 1,
        temperature: Temperature = 0.1,
        seed: int | None = None,
        constraints: Constraints | Sequence[Constraints] | None = None,
        decoding_order: Any = None,
        common_random_numbers: bool = False,
        backbone_noise: float = 0.0,
    ) -> Designs | list[Designs]:
        """Sample sequences for backbones, as the original's `sample`.

        Parameters
        ----------
        structures : one Structure, or a list of them of any lengths
        num_sequences : sequences per structure
        temperature : divides the logits; 0 takes the likeliest residue. One number, or what
            broadcasts to (n, L): (L,) per position, (n, 1) per sequence
        seed : 0 to 2**63 - 1; None draws one, which the result names. The random numbers of a
            sequence depend on the seed, its own index and its backbone alone, not on names or on
            what is designed beside it.
        constraints : what may change, and to what; one for all structures, or one each
        decoding_order : (L,) or (n, L) positions as decoded; None draws one per sequence, fixed
            positions mostly first, as the original does. For a list of structures, a list.
            "coloured" draws orders of about half the levels, for all structures: not the
            original's distribution over orders (docs/explanation/engine.md says what that changes)
        common_random_numbers : whether all structures share their random numbers and orders,
            position by position, so that similar ones can be compared under the same draws.
            Otherwise each backbone has its own, however alike two are
        backbone_noise : Å, the standard deviation of Gaussian noise on every coordinate, drawn for
            each sequence from the seed, as the original's `--backbone_noise`. Each sequence is then
            encoded by itself; its other random numbers are those of the given structure

        Returns
        -------
        Designs, or a list of them for a list of structures.

        Raises
        ------
        ValueError, ConstraintError
            An argument is out of range, or does not fit its structure.
        MemoryError
            The results would be larger than this machine's memory.
        """
        arguments = design_arguments(
            self._readable(structures), num_sequences, temperature, seed, constraints,
            decoding_order, self.network.neighbours, common_random_numbers,
        )  # fmt: skip
        arguments = arguments._replace(
            near=self._near(arguments.structures, [r.designed for r in arguments.constraints])
        )
        designs = self._designs(arguments, temperature, backbone_noise)
        return designs[0] if isinstance(structures, Structure) else designs

    def _designs(
        self, arguments: DesignArguments, temperature: Temperature, noise: float
    ) -> list[Designs]:
        """The designs that arguments ask for, each sequence on coordinates with its own noise."""
        check_noise(noise)

        def sampled(arguments: DesignArguments) -> list[tuple[Batch, Sampled]]:
            job = Sampling(arguments, self.executor.letters)
            return [(batch, Sampled(*outputs)) for _, batch, outputs in self.executor.run(job)]

        batches: Iterable[tuple[Batch, Sampled]]
        if noise:  # the copies of one sequence at a time
            batches = (
                each
                for i in range(arguments.num_sequences)
                for each in sampled(arguments.of_sequence(i, _noisy(arguments, noise, i)))
            )
        else:
            batches = sampled(arguments)
        return design_results(arguments, batches, temperature, self.name, self.executor.blank)

    def design_states(
        self,
        structures: Sequence[Structure],
        num_sequences: int = 1,
        temperature: Temperature = 0.1,
        seed: int | None = None,
        constraints: Constraints | None = None,
        combine: str = "mean",
        weights: Sequence[float] | None = None,
        decoding_order: Any = None,
        backbone_noise: float = 0.0,
    ) -> StateDesigns:
        """Sample sequences that fit several states of a protein at once.

        Residues of equal chain and author number are one residue, and get one letter, from the
        combined logits of the states that have it.

        Parameters
        ----------
        structures : the states
        num_sequences, temperature, seed, backbone_noise : as in `design`; a temperature per
            position is stated by `Constraints.temperature_at`
        constraints : on residues by chain and author number, in whichever states they are
        combine : "mean", the mean of weight times logits over the residues that are tied, as in
            `Constraints.tied`; or "sum", their sum over the states, so that the probability is the
            product of the states' probabilities to the power of their weights
        weights : of the states, 1 unless given; a negative one designs against a state
        decoding_order : (L,) or (n, L) positions of `StateDesigns.structure` as decoded; None draws
            one per sequence

        Raises
        ------
        ValueError, ConstraintError
            An argument is out of range or does not fit, or a residue is kept that is not the same
            in all states.
        MemoryError
            The results would be larger than this machine's memory.
        """
        items = listed(structures)
        weights = checked_combination(combine, weights, len(items))
        states = States.from_structures(self._readable(items))
        known = states.resolved(constraints or Constraints(), weights, combine)
        designs = self.design(
            states.joint, num_sequences, temperature, seed, OverStates(known=known),
            states.order(decoding_order), backbone_noise=backbone_noise,
        )  # fmt: skip
        return StateDesigns(states, weights, combine, designs)

    def design_and_score(
        self,
        structures: Sequence[Structure],
        num_sequences: int = 1,
        temperatures: Sequence[Temperature] = (0.1,),
        seed: int | None = None,
        constraints: Constraints | Sequence[Constraints] | None = None,
        decoding_order: Any = None,
        common_random_numbers: bool = False,
        backbone_noise: float = 0.0,
    ) -> Iterator[tuple[list[Designs], Scores]]:
        """Designs at several temperatures, and the score of the native sequence, one structure
        after the other.

        Of each structure, what `design` gives at each of the `temperatures`, and what `score` gives
        of its own sequence under one order; the structure is encoded once for all of that. Results
        come as soon as they are computed; arguments are those of `design`, and are checked before
        anything is. With `backbone_noise` each sequence is encoded by itself, and the native one is
        scored on the coordinates of the first.
        """
        check_noise(backbone_noise)
        first, *others = temperatures
        arguments = design_arguments(
            self._readable(structures), num_sequences, first, seed, constraints, decoding_order,
            self.network.neighbours, common_random_numbers,
        )  # fmt: skip
        designed = [r.designed for r in arguments.constraints]
        near = self._near(arguments.structures, designed)
        arguments = arguments._replace(near=near)
        designs = [arguments]
        for temperature in others:
            checked = checked_temperature(temperature)
            for structure, resolved in zip(
                arguments.structures, arguments.constraints, strict=True
            ):
                of_positions = temperatures_of(
                    structure, checked, num_sequences, resolved.temperatures
                )
                require_possible(structure, resolved, of_positions)
            designs.append(arguments._replace(temperature=checked))
        native = score_arguments(
            arguments.structures, [None] * len(arguments.structures), designed, 1, arguments.seed,
            common_random_numbers,
        )  # fmt: skip
        native = native._replace(near=near)
        if backbone_noise:
            return self._each_noisy(designs, temperatures, native, backbone_noise)
        return self._each(designs, temperatures, native)

    def _each_noisy(
        self,
        designs: Sequence[DesignArguments],
        temperatures: Sequence[Temperature],
        native: ScoreArguments,
        noise: float,
    ) -> Iterator[tuple[list[Designs], Scores]]:
        """What `design_and_score` gives with noise on the coordinates."""
        for s in range(len(native.structures)):
            at = [
                self._designs(_of_structure(arguments, s), temperature, noise)[0]
                for arguments, temperature in zip(designs, temperatures, strict=True)
            ]
            alone = _of_structure(native, s)
            alone = alone._replace(structures=_noisy(_of_structure(designs[0], s), noise, 0))
            batches = [(batch, sums) for _, batch, sums in self.executor.run(Scoring(alone))]
            yield at, score_results(alone, batches)[0]

    def _each(
        self,
        designs: Sequence[DesignArguments],
        temperatures: Sequence[Temperature],
        native: ScoreArguments,
    ) -> Iterator[tuple[list[Designs], Scores]]:
        """What `design_and_score` gives, from its arguments."""
        sampling = [Sampling(arguments, self.executor.letters) for arguments in designs]
        scoring = Scoring(native)
        for together in self.executor.by_group(*sampling, scoring):
            batches: dict[Job, list[tuple[Batch, tuple[Tensor, ...]]]] = defaultdict(list)
            for job, batch, outputs in together:
                batches[job].append((batch, outputs))
            by_temperature = [
                design_results(
                    job.arguments,
                    [(batch, Sampled(*outputs)) for batch, outputs in batches[job]],
                    temperature, self.name, self.executor.blank,
                )
                for job, temperature in zip(sampling, temperatures, strict=True)
            ]  # fmt: skip
            scores = score_results(native, batches[scoring])
            for *at, score in zip(*by_temperature, scores, strict=True):
                yield at, score

    def log_probs(
        self,
        structures: Structure | Sequence[Structure],
        sequences: Any = None,
        decoding_order: Any = None,
        seed: int = 0,
        common_random_numbers: bool = False,
        constraints: Constraints | Sequence[Constraints] | None = None,
    ) -> Any:
        """Teacher-forced log-probabilities, as the original's `forward`.

        Parameters
        ----------
        structures : one Structure, or a list of them of any lengths
        sequences : a string, a list of n strings, or (L,) or (n, L) tokens; None is the native
            sequence. For a list of structures, a list with one such entry each.
        decoding_order : (L,) or (n, L) positions as decoded; None draws one per sequence from
            `seed`. For a list of structures, a list with one such entry each.
        seed, common_random_numbers : of the orders that are drawn, as in `design`
        constraints : what is fixed, which counts for a model that sees the side chains of that

        Returns
        -------
        (n, L, 21) float32, or a list of such for a list of structures. A residue whose backbone is
        incomplete gets what the original gives it, the output layer's bias alone.

        Raises
        ------
        ValueError
            A sequence or an order does not fit its structure; the message names both.
        MemoryError
            The results would be larger than memory.
        """
        arguments = decode_arguments(
            self._readable(structures), sequences, decoding_order, seed, common_random_numbers,
            constraints,
        )  # fmt: skip
        log_probs = self._decoded(Decoding(arguments))
        return log_probs[0] if isinstance(structures, Structure) else log_probs

    def unconditional_log_probs(self, structures: Structure | Sequence[Structure]) -> Any:
        """Log-probabilities that know the backbone and no residue, as `unconditional_probs`.

        Returns (L, 21) float32, or a list of such for a list of structures.
        """
        items = listed(self._readable(structures))
        unseen = [np.zeros((1, len(s)), np.int64) for s in items]  # of equal rank
        designed = [s.mask for s in items]
        arguments = DecodeArguments(items, [s.tokens[None] for s in items], unseen, designed)
        log_probs = self._decoded(Decoding(arguments))
        return log_probs[0][0] if isinstance(structures, Structure) else [lp[0] for lp in log_probs]

    def conditional_log_probs(
        self,
        structures: Structure | Sequence[Structure],
        sequences: Any = None,
        decoding_order: Any = None,
        seed: int = 0,
        common_random_numbers: bool = False,
        constraints: Constraints | Sequence[Constraints] | None = None,
        tied: bool = False,
    ) -> Any:
        """Log-probabilities of every residue that know the backbone and all other residues, as the
        original's `conditional_probs`.

        Of each residue it is last, after the others in their order, of which the result depends a
        little. One pass of the decoder is shared by all residues of a sequence, and what a residue
        changes by being last is computed anew (`network.conditional`).

        Parameters
        ----------
        structures, sequences, seed, common_random_numbers, constraints : as in `log_probs`
        decoding_order : (L,) or (n, L) positions, the order of the others; None draws one per
            sequence from `seed`. For a list of structures, a list with one such entry each.
        tied : the others of each residue are in an order that is made of the given one, so that
            1 + log2 L passes do for all (`network.conditional.tied_last_states`); in plain torch

        Returns
        -------
        (n, L, 21) float32, or a list of such for a list of structures; what a residue whose
        backbone is incomplete gets is as in `log_probs`. Raises what `log_probs` raises.
        """
        arguments = decode_arguments(
            self._readable(structures), sequences, decoding_order, seed, common_random_numbers,
            constraints,
        )  # fmt: skip
        log_probs = self._decoded(Conditioning(arguments, tied))
        return log_probs[0] if isinstance(structures, Structure) else log_probs

    def scan(
        self,
        structures: Structure | Sequence[Structure],
        sequences: Any = None,
        method: str = "conditional",
        num_orders: int = 1,
        seed: int = 0,
        common_random_numbers: bool = False,
        constraints: Constraints | Sequence[Constraints] | None = None,
        split: Sequence[Sequence[str]] | None = None,
        alone: bool = False,
    ) -> Any:
        """How likely every mutation is, against the present letter.

        Parameters
        ----------
        structures : one Structure, or a list of them
        sequences : the present letters, a string, or for a list one each; None is the native ones
        method : "conditional", each residue given all others (`conditional_log_probs`); "tied", the
            same in tied orders; "unconditional", given the backbone alone
        num_orders, seed, common_random_numbers : of the orders of the others, as in `score`
        constraints : what it would design is scanned; one for all structures, or one each
        split : groups of chains, [["A"], ["B", "C"]]: what mutations change between the groups is
            the complex less the groups apart; [] takes every chain apart
        alone : whether residues by themselves are computed too, for `Scan.corrected`

        Returns
        -------
        Scan, or a list of them for a list of structures.

        Raises
        ------
        ValueError, ConstraintError
            An argument is out of range, or does not fit its structure.
        """
        items = listed(self._readable(structures))
        one = isinstance(structures, Structure)
        letters = [sequences] if one else sequences or [None] * len(items)
        if constraints is None or isinstance(constraints, Constraints):
            constraints = [constraints or Constraints()] * len(items)
        scans = scan(
            self, items, letters, method, num_orders, seed, common_random_numbers, constraints,
            split, alone,
        )  # fmt: skip
        return scans[0] if one else scans

    def score_mutations(
        self,
        structure: Structure,
        mutations: Sequence[str],
        num_orders: int = 1,
        seed: int = 0,
        common_random_numbers: bool = False,
        constraints: Constraints | None = None,
    ) -> NDArray[np.float32]:
        """log p(mutant letters | all others) - log p(present letters | all others) of mutants.

        The mutated residues are decoded last, each given those before it. So of one mutation this
        is the logit difference of `scan` under the same orders.

        Parameters
        ----------
        mutations : n texts, each one or several: "A:K13A,A:L20V", or "A13:K>A A20:L>V"
        num_orders, seed, common_random_numbers, constraints : as in `scan`

        Returns
        -------
        (n,) float32, the mean over the orders.

        Raises
        ------
        ConstraintError
            A text is no mutation, there is no such residue, or its letter is another one.
        """
        structure = self._readable(structure)
        mutants = [parse_mutations(text, structure) for text in mutations]
        return joint_differences(
            self, structure, mutants, num_orders, seed, common_random_numbers,
            constraints or Constraints(),
        )  # fmt: skip

    def _decoded(self, job: Decoding) -> list[NDArray[np.float32]]:
        batches = ((batch, outputs) for _, batch, outputs in self.executor.run(job))
        return log_prob_results(job, batches, self.executor.blank)

    def score(
        self,
        structure: Structure,
        sequences: Any = None,
        constraints: Constraints | None = None,
        num_orders: int = 1,
        seed: int = 0,
        common_random_numbers: bool = False,
    ) -> Scores:
        """How well sequences fit a backbone: mean negative log-probabilities, lower is better.

        Each of the n sequences is scored under the same `num_orders` random decoding orders, drawn
        from `seed` for this structure, or for all structures with `common_random_numbers`. The
        structure is encoded once. `score` counts the positions that `constraints` would design,
        `global_score` all with a complete backbone; (n, num_orders) each. Raises what `log_probs`
        raises.
        """
        structure = self._readable(structure)
        designed = (constraints or Constraints()).designed(structure)
        arguments = score_arguments(
            [structure], [sequences], [designed], num_orders, seed, common_random_numbers
        )._replace(near=self._near([structure], [designed]))
        batches = [(batch, sums) for _, batch, sums in self.executor.run(Scoring(arguments))]
        return score_results(arguments, batches)[0]

    @cached_property
    def packer(self) -> SideChainPacker:
        """The side-chain packer beside this model, on its device; loaded when it is first used."""
        return load_packer(
            device=self.device, backend="torch" if self.backend.name == "torch" else "auto"
        )

    def pack(
        self,
        structure: Structure,
        sequences: Any = None,
        samples: int = 16,
        steps: int = 3,
        packs: int = 1,
        seed: int | None = None,
        keep: Selection | NDArray[np.bool_] | None = None,
        ligands: bool = True,
    ) -> Packed:
        """Side chains for sequences on a backbone, by LigandMPNN's packer, whatever model this is.

        Arguments, results and errors are those of `SideChainPacker.pack`.
        """
        return self.packer.pack(structure, sequences, samples, steps, packs, seed, keep, ligands)


def _noisy(arguments: DesignArguments, noise: float, sequence: int) -> list[Structure]:
    """Structures with the noise of a sequence on their coordinates."""
    return [
        with_noise(structure, noise, arguments.seed, sequence, name)
        for structure, name in zip(arguments.structures, arguments.digests, strict=True)
    ]


def _of_structure(arguments: Any, s: int) -> Any:
    """The arguments of one structure."""
    lists = {k: v[s : s + 1] for k, v in arguments._asdict().items() if isinstance(v, list)}
    return arguments._replace(**lists)


def load_model(
    weights: str | Path = PACKAGED,
    variant: str = "baseline",
    device: str | torch.device = "cpu",
    backend: str = "auto",
    side_chain_context: bool = False,
) -> Model:
    """A model that is ready to design.

    Parameters
    ----------
    weights : a published name ("v_48_020", "soluble/v_48_010", ...) or its short name ("soluble",
        ...), the name of one that was added, a path to a `.pt` or `.safetensors` file, or "random"
        for measurements of speed (docs/reference/weights.md). For a variant that was trained,
        "v_48_020" means the weights trained from it; a path is taken as it is
    variant : a name in `mpnn_core.VARIANTS`
    device : "cpu", "cuda", "mps", ...
    backend : "auto", the fastest exact one here; "torch"; "native", C++ on the CPU; "cuda";
        "mlx" and "coreml", exact, on Apple silicon (docs/explanation/apple.md); or a lossy one:
        "cuda-fast" (docs/explanation/cuda.md), "mlx-fast" and "coreml-fast", which compute in
        float16, and "mlx-int8"
    side_chain_context : whether a model that sees ligands sees the side chains of fixed residues
        too (`Structure.side_chains`), as LigandMPNN's `--ligand_mpnn_use_side_chain_context`

    Raises
    ------
    CheckpointError
        The weights cannot be had, or do not fit the variant.
    ValueError
        Unknown variant or backend, a device that this machine does not have, or side-chain context
        for a model that sees no ligands.
    """
    shape = find_variant(variant)
    place = find_device(device)
    choice = resolve(weights, shape)
    network, name = load_network(choice, shape)
    if side_chain_context:
        if not isinstance(network, LigandMPNN):
            raise ValueError(
                f"{name} does not see side chains; {', '.join(models_that_read('context'))} do"
            )
        network.side_chain_context = True
    return Model(network, name, shape, place, backend, choice.loss)
