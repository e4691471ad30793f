"""What can be counted instead of timed: the same on every machine, and so gated exactly.

`fixtures/baseline.json` holds what each counter must be, and why it is what it is; it changes by a
reviewed diff alone, which `fixtures/make_baseline.py` proposes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mpnn_core
from mpnn_core.backends.coreml.buckets import choose_bucket
from mpnn_core.backends.native import instruction_sets
from mpnn_core.constants import ATOM_PAIRS, GAUSSIANS, LETTERS
from mpnn_core.design.model import Model, load_model
from mpnn_core.gate import GateError
from mpnn_core.network.encoding import Copies
from mpnn_core.network.graph import Backbones, nearest_neighbours
from mpnn_core.network.mpnn import MPNN
from mpnn_core.sampling.noise import order_noise
from mpnn_core.sampling.schedule import wavefront
from mpnn_core.structures.structure import Structure

# The size of the package is counted in steps of this: code may grow without a new baseline.
STEP_BYTES = 128 << 10
SEED = 37
NEIGHBOURS = 48  # of the packaged weights


@dataclass(frozen=True)
class Counter:
    """One counted number, or list of names; with `torch`, another torch may count otherwise."""

    name: str
    value: int | str
    unit: str
    torch: bool = False


class BaselineError(GateError):
    """baseline.json is not there, or none; the message says what to do."""


def encoder_multiply_adds(network: MPNN, N: int, K: int) -> int:
    """Of `encode` on N nodes with K neighbours: features, encoder, and what decoding reads."""
    H, E = network.W_out.in_features, N * K
    features = E * GAUSSIANS * len(ATOM_PAIRS) * H + E * H * H  # the embedding, W_e
    message = N * 2 * H * H + E * 2 * H * H  # A h_i and C h_j; B h_E and W2
    update = N * H * H + N * 8 * H * H  # W3, feed-forward
    edges = N * 2 * H * H + E * 3 * H * H  # A h_i and C h_j; B h_E, W12 and W13
    decoder = E * H * H + N * H * H  # B h_E, D h_V
    return (
        features
        + len(network.encoder_layers) * (message + update + edges)
        + len(network.decoder_layers) * decoder
    )


def row_multiply_adds(network: MPNN, M: int, K: int) -> int:
    """Of `decode` or `sample` on M rows with K neighbours."""
    H, layers = network.W_out.in_features, len(network.decoder_layers)
    per_row = H * H + K * H * H + H * H + 8 * H * H + H * H  # A h_i, W2, W3, feed-forward, D h_i
    residues = layers * LETTERS * H * H  # C emb(s)
    return M * (layers * per_row + LETTERS * H) + residues


class NativeCount:
    """The native engine, with the multiply-adds of each call counted from the shapes it is given.

    Raises LookupError for a call that it has no count for: a new one needs one here.
    """

    def __init__(self, engine: Any, network: MPNN) -> None:
        self._engine, self._network = engine, network
        self.multiply_adds = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in ("encode", "decode", "sample"):
            raise LookupError(f"Engine.{name} is new; count its multiply-adds in counters.py")
        call = getattr(self._engine, name)

        def counted(**arrays: Any) -> Any:
            N, K = arrays["neighbours"].shape
            if name == "encode":
                self.multiply_adds += encoder_multiply_adds(self._network, N, K)
            else:
                self.multiply_adds += row_multiply_adds(self._network, len(arrays["rank"]), K)
            return call(**arrays)

        return counted


class Operations(TorchDispatchMode):
    """Counts the operations that torch dispatches; `written` are the sizes of their results.

    In bytes, those of views left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.written: list[int] = []

    @property
    def bytes(self) -> int:
        return sum(self.written)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        is_view = any(
            r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns
        )
        if not is_view:
            results = out if isinstance(out, tuple | list) else [out]
            self.written += [r.nbytes for r in results if isinstance(r, torch.Tensor)]
        return out


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most that torch holds on the CPU at a time during `run`, beyond what it held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = run()  # alive until the profile has ended
    del kept
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(max(held.max(initial=0), 0))


def matmul_multiply_adds(run: Callable[[], Any]) -> int:
    """What torch's own counter finds: matrix products that torch dispatches, and nothing else."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as found:
        run()
    return int(found.get_total_flops()) // 2


def count(structures: Mapping[str, Structure]) -> list[Counter]:
    """All counters, on structures that `fixtures/make_baseline.py` names."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # counts do not depend on it, and a busy machine is not waited for
    try:
        return [*_of_engine(structures), *_of_package()]
    finally:
        torch.set_num_threads(threads)


def _of_engine(structures: Mapping[str, Structure]) -> Iterator[Counter]:
    workloads = {"torch": (("6MRR", 2),), "native": (("5L33", 8), ("3HTN", 1))}
    for backend in workloads if instruction_sets() else ("torch",):
        model = load_model(backend=backend)
        for name, copies in workloads[backend]:
            yield from _of_design(model, structures[name], copies, f"{backend}, {name} x {copies}")
        structure = structures["5L33"]
        with torch.inference_mode(), Operations() as found:
            model.log_probs(structure, seed=SEED)
        where = f"{backend}, log-probabilities of 5L33"
        yield Counter(f"operations: {where}", found.calls, "operations", torch=True)
        yield Counter(f"written: {where}", found.bytes, "bytes", torch=True)
    for name, structure in structures.items():
        levels = len(_levels(structure))
        yield Counter(f"levels: {name}", levels, "levels")
        length = int(structure.mask.sum())
        if length <= 256:
            bucket = choose_bucket(length)
            yield Counter(f"bucket: {name}", bucket, "residues")
            yield Counter(f"padding: {name}", bucket - length, "rows")


def _of_design(model: Model, structure: Structure, copies: int, where: str) -> Iterator[Counter]:
    def run() -> Any:
        return model.design(structure, copies, seed=SEED)

    run()
    with torch.inference_mode(), Operations() as found:
        run()
    yield Counter(f"operations: {where}", found.calls, "operations", torch=True)
    yield Counter(f"written: {where}", found.bytes, "bytes", torch=True)
    yield Counter(f"peak: {where}", peak_bytes(run), "bytes", torch=True)
    if model.backend.name == "native":
        backend: Any = model.backend
        backend._engine = counted = NativeCount(backend._engine, model.network)
        run()
        backend._engine = counted._engine
        products = counted.multiply_adds
    else:
        products = matmul_multiply_adds(run)
    yield Counter(f"multiply-adds: {where}", products, "multiply-adds")


def _levels(structure: Structure) -> list[Any]:
    backbones = Backbones.from_structures([structure])
    graph = nearest_neighbours(backbones, NEIGHBOURS)
    copies = Copies.of(graph, backbones.offsets, [0])
    order = order_noise(SEED, 0, len(backbones)).argsort(kind="stable")
    rank = torch.from_numpy(order.argsort(kind="stable"))
    return wavefront(rank, copies.neighbours)


def _of_package() -> Iterator[Counter]:
    package = Path(mpnn_core.__file__).parent
    for weights in sorted((package / "weights").glob("*.safetensors")):
        yield Counter(f"checkpoint: {weights.stem}", weights.stat().st_size, "bytes")
    code = sum(
        path.stat().st_size for path in package.rglob("*.*") if path.suffix in (".py", ".jinja")
    )
    steps = -(-code // STEP_BYTES) * STEP_BYTES
    yield Counter("package: code, at most", steps, "bytes")
    show = (
        "import sys, torch, numpy, safetensors; before = set(sys.modules); import mpnn_core;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, text=True, check=True
    ).stdout.split()
    ours = [m for m in done if m.split(".")[0] == "mpnn_core"]
    others = {m.split(".")[0] for m in done} - {"mpnn_core"} - sys.stdlib_module_names
    yield Counter("import: modules of mpnn_core", len(ours), "modules")
    named = " ".join(sorted(m for m in others if not m.startswith("_")))
    yield Counter("import: packages beside torch and numpy", named or "none", "names")


@dataclass(frozen=True)
class Baseline:
    """What the counters must be: values by name, why, and the torch they were counted with."""

    values: Mapping[str, int | str]
    reasons: Mapping[str, str]
    torch: str

    @classmethod
    def load(cls, path: Path) -> Baseline:
        try:
            content = json.loads(path.read_text("utf-8"))
            rows = content["counters"]
            return cls(
                {name: row["value"] for name, row in rows.items()},
                {name: row["because"] for name, row in rows.items()},
                content["torch"],
            )
        except FileNotFoundError:
            raise BaselineError(
                f"there is no {path}; `python fixtures/make_baseline.py` proposes one"
            ) from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BaselineError(f"{path} is not a baseline: {error!r}") from None

    def differences(self, counters: list[Counter]) -> list[str]:
        """A line per counter that is not what it must be, is new, or is gone."""
        lines = []
        for c in counters:
            expected = self.values.get(c.name)
            if expected is None:
                lines.append(f"{c.name}: {c.value} {c.unit}, new")
            elif expected != c.value and self.compares(c):
                lines.append(f"{c.name}: {c.value} {c.unit}, was {expected}{_change(expected, c)}")
        gone = self.values.keys() - {c.name for c in counters}
        return lines + [f"{name}: gone, was {self.values[name]}" for name in sorted(gone)]

    def compares(self, counter: Counter) -> bool:
        """Whether the counter can be held against the baseline on this torch."""
        return not counter.torch or self.torch == torch.__version__.split("+")[0]

    def updated(self, counters: list[Counter], because: str) -> dict[str, Any]:
        """The new content of the file: `because` goes beside what has changed."""
        rows = {}
        for c in counters:
            kept = self.values.get(c.name) == c.value
            reason = self.reasons[c.name] if kept else because
            rows[c.name] = {"value": c.value, "unit": c.unit, "because": reason}
        return {"torch": torch.__version__.split("+")[0], "counters": rows}


def _change(expected: int | str, counter: Counter) -> str:
    if isinstance(expected, str) or isinstance(counter.value, str) or not expected:
        return ""
    return f" ({100 * (counter.value / expected - 1):+.2f} %)"
