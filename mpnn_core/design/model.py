"""Structures in, designs out: the model that users hold."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpnn_core.backends.contract import Backend
from mpnn_core.backends.registry import find_backend
from mpnn_core.constants import LETTERS
from mpnn_core.design.arguments import (
    _COLDEST,
    _listed,
    _orders,
    _per_structure,
    _temperatures,
    _tokens,
)
from mpnn_core.design.batches import Batch, cut, within
from mpnn_core.design.execution import MEMORY_BUDGET_BYTES, _is_half_free, _memory_budget
from mpnn_core.design.jobs import _profile, _temperature_rows, _ties
from mpnn_core.design.results import (
    _CODES,
    _FLOAT_BYTES,
    Designs,
    OnDevice,
    Sampled,
    Scores,
    Temperature,
    _check_memory,
    _sequences,
    mean_nll,
)
from mpnn_core.network.checkpoints import load_network, resolve
from mpnn_core.network.families import PACKAGED
from mpnn_core.network.families import RANDOM as RANDOM
from mpnn_core.network.graph import Backbones, upload
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.variants import Variant, find_variant
from mpnn_core.sampling.constraints import Constraints, Resolved
from mpnn_core.sampling.noise import ORDER, RESIDUE, half_normal
from mpnn_core.sampling.orders import (
    COLOURED,
    FIXED_WEIGHT,
    coloured_orders,
    drawn_orders,
    ranks,
    visit_groups,
)
from mpnn_core.sampling.sampler import Distribution, Profile
from mpnn_core.structures.structure import Structure


class Model:
    """A network with its weights on a device; `load_model` makes one.

    `loss` says what it loses against the published model, as measured, or that nobody measured it;
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
        self.backend: Backend = find_backend(backend, self.network, device)
        self.name = name
        self.variant = variant
        self.device = device
        self.loss = loss
        self._since_look = 0  # bytes left on the device since its memory was looked at

    def __repr__(self) -> str:
        loses = f" (loses {self.loss})" if self.loss else ""
        return (
            f"<Model {self.name}, {self.variant.name}{loses}, {self.backend.name} on {self.device}>"
        )

    def design(
        self,
        structures: Structure | Sequence[Structure],
        num_sequences: int = 1,
        temperature: Temperature = 0.1,
        seed: int | None = None,
        constraints: Constraints | Sequence[Constraints] | None = None,
        decoding_order: Any = None,
    ) -> Any:
        """Sample sequences for backbones, as the original's `sample`.

        Parameters
        ----------
        structures : one Structure, or a list of them of any lengths
        num_sequences : sequences per structure
        temperature : divides the logits; 0 takes the likeliest residue. One number, or what
            broadcasts to (n, L): (L,) per position, (n, 1) per sequence
        seed : 0 to 2**63 - 1; None draws one, which the result names. A sequence depends on the
            seed and its own index alone, not on what is designed beside it.
        constraints : what may change, and to what; one for all structures, or one each
        decoding_order : (L,) or (n, L) positions as decoded; None draws one per sequence, fixed
            positions mostly first, as the original does. For a list of structures, a list.
            "coloured" draws orders of about half the levels, for all structures: not the
            original's distribution over orders (docs/engine.md says what that changes)

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
        if num_sequences < 1:
            raise ValueError(f"num_sequences is {num_sequences}; expected at least 1")
        given_temperature = np.asarray(temperature, dtype=np.float32)
        if not ((given_temperature >= 0) & np.isfinite(given_temperature)).all():
            raise ValueError(
                f"temperature is {given_temperature}; expected a number of at least 0, such as 0.1 "
                "(0 always takes the likeliest residue)"
            )
        given_temperature = np.maximum(given_temperature, _COLDEST)
        seed = secrets.randbits(32) if seed is None else seed
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; expected 0 to 2**63 - 1")
        items = _listed(structures)
        if isinstance(constraints, Constraints) or constraints is None:
            constraints = [constraints or Constraints()] * len(items)
        if len(constraints) != len(items):
            raise ValueError(f"{len(constraints)} constraints for {len(items)} structures")
        coloured = isinstance(decoding_order, str)
        if coloured and decoding_order != COLOURED:
            raise ValueError(
                f"decoding_order is {decoding_order!r}; expected positions, {COLOURED!r} or None"
            )
        _check_memory(items, num_sequences)
        given = _per_structure(structures, None if coloured else decoding_order)

        resolved = [c.resolve(item) for c, item in zip(constraints, items, strict=True)]
        for structure in items:
            _temperatures(structure, given_temperature, num_sequences)
        orders = [
            None if order is None else _orders(structure, order, num_sequences)
            for structure, order in zip(items, given, strict=True)
        ]
        if coloured:
            orders = [
                coloured_orders(structure, r, self.variant.neighbours, num_sequences, seed)
                for structure, r in zip(items, resolved, strict=True)
            ]
        # On a GPU nothing of this loop waits, but for what is tied or in a given order.
        plain = not any(r.groups or r.pssm for r in resolved) and all(o is None for o in orders)
        found = [
            (batch, self._kept(Sampled(*outputs)))
            for batch, outputs in self._computed(
                self._sampled,
                items,
                [num_sequences] * len(items),
                lambda batch: self._asked(
                    batch, resolved, orders, given_temperature, num_sequences, seed
                ),
                record=plain,
                fetched=2,
            )
        ]
        letters: list[list[NDArray[np.uint8]]] = [[] for _ in items]
        sums: list[list[NDArray[np.float64]]] = [[] for _ in items]
        parts: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in items]
        for batch, sampled in found:
            rows, totals = sampled.letters.cpu().numpy(), sampled.sums.cpu().numpy()
            row = position = sequence = 0
            for s, _, count in batch.runs:
                m, p = count * int(items[s].mask.sum()), count * len(items[s])
                letters[s].append(rows[row : row + m].reshape(count, -1))
                sums[s].append(totals[sequence : sequence + count])
                parts[s].append((
                    sampled.log_probs[row : row + m], sampled.probabilities[row : row + m],
                    sampled.order[position : position + p],
                ))  # fmt: skip
                row, position, sequence = row + m, position + p, sequence + count

        designs = []
        for s, structure in enumerate(items):
            nll, global_nll, recovered = np.concatenate(sums[s]).T
            designed = resolved[s].designed
            designs.append(Designs(
                structure=structure,
                seed=seed,
                temperature=temperature,
                model_name=self.name,
                design_chains=resolved[s].design_chains,
                sequences=_sequences(structure, np.concatenate(letters[s])),
                scores=(nll / designed.sum()).astype(np.float32),
                global_scores=(global_nll / structure.mask.sum()).astype(np.float32),
                recovery=(recovered / designed.sum()).astype(np.float32),
                designed=designed,
                on_device=OnDevice(parts[s], self._blank),
            ))  # fmt: skip
        return designs[0] if isinstance(structures, Structure) else designs

    def _asked(
        self,
        batch: Batch,
        resolved: Sequence[Resolved],
        given: Sequence[NDArray[np.int64] | None],
        temperature: NDArray[np.float32],
        n: int,
        seed: int,
    ) -> tuple[Any, ...]:
        """What `_sampled` is given, on the device."""
        numbers = [np.arange(first, first + count) for _, first, count in batch.runs]
        keys = upload(np.concatenate([[seed], *numbers]), batch.wide)
        designed = batch.of_positions([r.designed for r in resolved])
        asked = (
            keys,
            batch.of_nodes([s.tokens for s in batch.structures]),
            batch.of_nodes([r.designed for r in resolved]),
            batch.of_nodes([r.biases for r in resolved]),
            batch.of_nodes([r.omitted for r in resolved]),
            designed,
            _temperature_rows(batch, temperature, n),
        )
        if all(given[s] is None and not resolved[s].groups for s in batch.group):
            order = None
        else:
            drawn = self._order(batch, keys, designed)
            order = self._changed(batch, resolved, given, drawn)
        profile = _profile(batch, resolved)
        group, weight = _ties(batch, resolved)
        unusual = (order, profile, group, weight)
        return asked if all(x is None for x in unusual) else asked + unusual

    def _sampled(
        self,
        batch: Batch,
        encoding: Any,
        keys: Tensor,
        tokens: Tensor,
        designed: Tensor,
        biases: Tensor,
        omitted: Tensor,
        designed_positions: Tensor,
        temperature: Tensor,
        order: Tensor | None = None,
        profile: Profile | None = None,
        group: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Sampled:
        """One batch, on the device alone.

        Parameters
        ----------
        keys : (1 + sequences,) int64, the seed and the number of every sequence
        tokens, designed, biases, omitted : over the nodes
        designed_positions : over the positions of the group's structures, bool
        temperature : () or (M,) float32
        order, profile, group, weight : None, or over the positions, nodes and rows
        """
        copies = batch.copies(encoding.graph)
        nodes = copies.nodes
        if order is None:
            order = self._order(batch, keys, designed_positions)
        native, chosen = tokens[nodes], designed[nodes]
        uniform = self.backend.uniforms(keys, RESIDUE, batch.lengths, batch.position_starts)
        samples = self.backend.sample(
            encoding,
            copies,
            batch.rank(order),
            Distribution(
                temperature.expand(len(nodes)),
                biases[nodes],
                omitted[nodes],
                profile and Profile(*(x[nodes] for x in vars(profile).values())),
                group,
                weight,
            ),
            batch.drawn(uniform),
            native,
            chosen,
        )
        log_probs = samples.logits.log_softmax(-1)
        nll = -log_probs.gather(1, samples.tokens[:, None])[:, 0]
        totals = [nll * chosen, nll, chosen & (samples.tokens == native)]
        return Sampled(
            self._codes[samples.tokens],
            batch.sums(torch.stack(totals, 1)),
            log_probs,
            samples.probabilities,
            order,
        )

    def _order(self, batch: Batch, keys: Tensor, designed: Tensor) -> Tensor:
        """The positions of every sequence as decoded, drawn as the original draws them: (P,).

        designed : over the positions of the group's structures, bool
        """
        drawn = self.backend.uniforms(keys, ORDER, batch.lengths, batch.position_starts)
        noise = half_normal(drawn.to(batch.wide))
        weight = (designed.double() + FIXED_WEIGHT)[batch.structure_position]
        return batch.order(weight * noise)

    def _changed(
        self,
        batch: Batch,
        resolved: Sequence[Resolved],
        given: Sequence[NDArray[np.int64] | None],
        order: Tensor,
    ) -> Tensor:
        """The orders with those that are given, and tied positions following each other."""
        changed = order.cpu().numpy()
        start = 0
        for s, i in batch.jobs:
            L, orders = len(batch.structures[s]), given[s]
            mine = changed[start : start + L] if orders is None else orders[i % len(orders)]
            if resolved[s].groups:
                mine = visit_groups(mine, [list(group) for group in resolved[s].groups])
            changed[start : start + L] = mine
            start += L
        return upload(changed, batch.wide)

    def log_probs(
        self,
        structures: Structure | Sequence[Structure],
        sequences: Any = None,
        decoding_order: Any = None,
        seed: int = 0,
    ) -> Any:
        """Teacher-forced log-probabilities, as the original's `forward`.

        Parameters
        ----------
        structures : one Structure, or a list of them of any lengths
        sequences : a string, a list of n strings, or (L,) or (n, L) tokens; None is the native
            sequence. For a list of structures, a list with one such entry each.
        decoding_order : (L,) or (n, L) positions as decoded; None draws one per sequence from
            `seed`. For a list of structures, a list with one such entry each.

        Returns
        -------
        (n, L, 21) float32, or a list of such for a list of structures. A residue whose backbone is
        incomplete gets what the original gives it, the output layer's bias alone.

        Raises
        ------
        ValueError
            A sequence or an order does not fit its structure; the message names both.
        """
        items = _listed(structures)
        tokens = [
            _tokens(s, given)
            for s, given in zip(items, _per_structure(structures, sequences), strict=True)
        ]
        orders = [
            drawn_orders(seed, len(t), s.mask) if order is None else _orders(s, order, len(t))
            for s, t, order in zip(
                items, tokens, _per_structure(structures, decoding_order), strict=True
            )
        ]
        counts = [max(len(t), len(o)) for t, o in zip(tokens, orders, strict=True)]
        found = self._decoded(
            items,
            counts,
            lambda batch: (
                batch.of_rows(tokens[s][i % len(tokens[s])] for s, i in batch.jobs),
                batch.of_rows(ranks(orders[s][i % len(orders[s])]) for s, i in batch.jobs),
            ),
        )
        return found[0] if isinstance(structures, Structure) else found

    def unconditional_log_probs(self, structures: Structure | Sequence[Structure]) -> Any:
        """Log-probabilities that know the backbone and no residue, as `unconditional_probs`.

        Returns (L, 21) float32, or a list of such for a list of structures.
        """
        items = _listed(structures)
        found = self._decoded(
            items,
            [1] * len(items),
            lambda batch: (
                batch.of_nodes([s.tokens for s in items]),
                # Rows of equal rank do not see each other.
                batch.of_nodes([np.zeros(len(s), np.int64) for s in items]),
            ),
        )
        return found[0][0] if isinstance(structures, Structure) else [lp[0] for lp in found]

    def _decoded(
        self,
        items: list[Structure],
        counts: Sequence[int],
        given: Callable[[Batch], tuple[Tensor, Tensor]],
    ) -> list[NDArray[np.float32]]:
        """Log-probabilities (n, L, 21) of the tokens (M,) and ranks (M,) that batches are given."""

        def decoded(batch: Batch, encoding: Any, tokens: Tensor, rank: Tensor) -> tuple[Tensor]:
            copies = batch.copies(encoding.graph)
            return (self.backend.decode(encoding, copies, tokens, rank).log_softmax(-1),)

        results = [np.tile(self._blank, (n, len(s), 1)) for n, s in zip(counts, items, strict=True)]
        computed = self._computed(decoded, items, counts, given, record=True, fetched=1)
        for batch, (found,) in computed:
            parts = batch.parts(found.cpu().numpy())
            for (s, i), lp in zip(batch.jobs, parts, strict=True):
                results[s][i, items[s].mask] = lp
        return results

    def score(
        self,
        structure: Structure,
        sequences: Any = None,
        constraints: Constraints | None = None,
        num_orders: int = 1,
        seed: int = 0,
    ) -> Scores:
        """How well sequences fit a backbone: mean negative log-probabilities, lower is better.

        Each of the n sequences is scored under the same `num_orders` random decoding orders, drawn
        from `seed`. `score` counts the positions that `constraints` would design, `global_score`
        all with a complete backbone; (n, num_orders) each.
        """
        tokens = _tokens(structure, sequences)
        designed = (constraints or Constraints()).designed(structure)
        orders = drawn_orders(seed, num_orders, designed)
        score, global_score = [], []
        for row in tokens:
            lp = self.log_probs(structure, np.repeat(row[None], num_orders, 0), orders)
            score.append(mean_nll(lp, row, designed))
            global_score.append(mean_nll(lp, row, structure.mask))
        return Scores(np.stack(score), np.stack(global_score))

    def _computed(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        structures: list[Structure],
        counts: Sequence[int],
        given: Callable[[Batch], tuple[Any, ...]],
        record: bool,
        fetched: int,
    ) -> Iterator[tuple[Batch, tuple[Tensor, ...]]]:
        """A function of every batch, its encoding and what it is given.

        record : what is given are tensors, and what the function does depends on their shapes and
            the batch's alone, so that a backend may record and replay it
        fetched : so many of the results may already be on the host
        """
        for group, batches in self._batches(structures, counts):
            chosen = [structures[s] for s in group]
            replays = self.backend.replays if record else None
            if replays and len(batches) == 1 and batches[0].recordable:
                whole = partial(self._encoded_too, function, batches[0])
                key = (function.__name__, *batches[0].key)
                host = torch.device("cpu")
                b = Backbones.from_structures(chosen, host)
                asked = given(replace(batches[0], device=host))
                tensors = (b.coords, b.residue_index, b.chain, *asked)
                with self._computing():
                    outputs = replays(key, whole, tensors, fetched)
                yield batches[0], outputs
                continue
            backbones = Backbones.from_structures(chosen, self.device)
            with self._computing():
                encoding = self.backend.encode(backbones)
            for batch in batches:
                with self._computing():
                    outputs = function(batch, encoding, *given(batch))
                yield batch, outputs

    def _kept(self, sampled: Sampled) -> Sampled:
        """Itself, or where half of the device's memory is in use, with the rest on the host."""
        if self.device.type != "cuda":
            return sampled
        self._since_look += sampled.large
        if self._since_look < MEMORY_BUDGET_BYTES:  # looking takes a millisecond
            return sampled
        if not _is_half_free(self.device):
            return sampled.fetched()
        self._since_look = 0
        return sampled

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode():
            if self.device.type != "cuda":
                yield
            else:  # Triton launches on the current device
                with torch.cuda.device(self.device):
                    yield

    def _encoded_too(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        batch: Batch,
        coords: Tensor,
        residue_index: Tensor,
        chain: Tensor,
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        """`function` of a batch and the encoding of its structures."""
        backbones = Backbones(coords, residue_index, chain, batch.offsets)
        return function(batch, self.backend.encode(backbones), *given)

    def _batches(
        self, structures: list[Structure], counts: Sequence[int]
    ) -> Iterator[tuple[list[int], list[Batch]]]:
        """Structures that are encoded together, and the few batches in which their `counts`
        sequences are decoded."""
        lengths = [int(s.mask.sum()) for s in structures]
        budget = _memory_budget(self.device)
        together = min(budget, self.backend.best_encoded_bytes or budget)
        for group in within(together // self._encoding_bytes(), lengths):
            runs = [(s, 0, counts[s]) for s in group]
            parts = cut(budget // self._row_bytes(), runs, lengths)
            yield group, [Batch(structures, group, part, self.device) for part in parts]

    def _encoding_bytes(self) -> int:
        """Bytes that one residue's encoding takes: h_E and a term per decoder layer and edge."""
        v = self.variant
        return _FLOAT_BYTES * v.hidden * v.neighbours * (2 + v.decoder_layers)

    def _row_bytes(self) -> int:
        """Bytes that one residue of one sequence takes: states, tables, and int64 edge rows."""
        v = self.variant
        return _FLOAT_BYTES * (v.hidden * 3 * (1 + v.decoder_layers) + 4 * LETTERS) + (
            2 * 8 * v.neighbours
        )

    @cached_property
    def _codes(self) -> Tensor:
        """The letters in ASCII, by token: (21,) uint8."""
        return upload(_CODES, self.device)

    @cached_property
    def _blank(self) -> NDArray[np.float32]:
        """The log-probabilities (21,) of a node state of zero."""
        blank: NDArray[np.float32] = self.network.W_out.bias.float().log_softmax(-1).cpu().numpy()
        return blank


def load_model(
    weights: str | Path = PACKAGED,
    variant: str = "baseline",
    device: str | torch.device = "cpu",
    backend: str = "auto",
) -> Model:
    """A model that is ready to design.

    Parameters
    ----------
    weights : a published name ("v_48_020", "soluble/v_48_010", ...), a path to a `.pt` or
        `.safetensors` file, or "random" for measurements of speed. For a variant that was trained,
        "v_48_020" means the weights trained from it; a path is taken as it is
    variant : a name in `mpnn_core.variants.VARIANTS`
    device : "cpu", "cuda", "mps", ...
    backend : "auto", the fastest exact one here; "torch"; "native", C++ on the CPU; "cuda";
        "mlx" and "coreml", exact, on Apple silicon (docs/apple.md); or a lossy one: "cuda-fast"
        (docs/cuda.md), "mlx-fast" and "coreml-fast", float16, and "mlx-int8"

    Raises
    ------
    CheckpointError
        The weights cannot be had, or do not fit the variant.
    ValueError
        Unknown variant or backend, or a device that this machine does not have.
    """
    shape = find_variant(variant)
    place = _device(device)
    choice = resolve(weights, shape)
    network, name = load_network(choice, shape)
    return Model(network, name, shape, place, backend, choice.loss)


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}") from error
    return place
