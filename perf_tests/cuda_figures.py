"""Measure what docs/explanation/cuda.md states of one or two GPUs, and write it down.

Rates, latencies, and how near the tiers are to plain torch::

    python perf_tests/cuda_figures.py fixtures/cuda-h100.json

Through `Model.design` and `design_stream`, from parsed structures to sequences and scores, T = 0.1,
an own decoding order for each sequence. What is compiled and recorded has been before the clock
starts.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from proteins import TS50, protein, rows_of

import mpnn_core as mpnn

BACKENDS = {"fast": "cuda-fast", "exact": "cuda"}
WORKLOADS = [("5L33", n) for n in (1, 8, 512, 1024)] + [("3HTN", n) for n in (1, 256, 512)]
MANY, EACH = 1000, 8  # structures of 60 to 500 residues, sequences of each


def many_structures(count: int, seed: int = 0) -> list[mpnn.Structure]:
    """Pieces of TS50's chains and 3HTN, 60 to 500 residues long."""
    rng = np.random.default_rng(seed)
    found = []
    for name in islice(cycle((*TS50, "3HTN")), count):
        whole = protein(name)
        length = int(rng.integers(60, 501))
        if length >= len(whole):
            found.append(whole)
        else:
            start = int(rng.integers(0, len(whole) - length))
            found.append(rows_of(whole, slice(start, start + length)))
    return found


def timed(call: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Milliseconds of a call that has ended by itself."""
    for _ in range(3):  # compiled, recorded, replayed
        call()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    low, median, high = (round(float(x), 3) for x in np.quantile(taken, [0.1, 0.5, 0.9]))
    return {"ms": median, "of": [low, high], "rounds": rounds}


def of_one_gpu(model: mpnn.Model) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, n in WORKLOADS:
        found = timed(lambda: model.design(protein(name), n, 0.1, 1), 9 if n > 8 else 25)  # noqa: B023
        yield f"{name} x {n}", {**found, "per second": round(1e3 * n / found["ms"])}
    structure, order = protein("5L33"), np.arange(len(protein("5L33")))
    yield "log_probs of 5L33", timed(lambda: model.log_probs(structure, None, order), 25)
    structures = many_structures(MANY)
    residues = np.mean([len(s) for s in structures])
    found = timed(lambda: model.design(structures, EACH, 0.1, 1), 3)
    rate = round(1e3 * MANY * EACH / found["ms"])
    name = f"{MANY} structures x {EACH}"
    yield name, {**found, "per second": rate, "residues": round(float(residues), 1)}


def differences(p: np.ndarray, q: np.ndarray) -> dict[str, float]:
    """Of log-probabilities q from those of plain torch, p: (n, L, 21)."""
    return {
        "kl": float((np.exp(p) * (p - q)).sum(-1).mean()),
        "argmax": float((p.argmax(-1) == q.argmax(-1)).mean()),
        "largest": float(np.abs(p - q).max()),
    }


def accuracy(models: Mapping[str, mpnn.Model], orders: int = 8) -> dict[str, Any]:
    """Each tier against plain torch on the same device; designed recovery on TS50 of both."""
    plain = mpnn.load_model(device=models["exact"].device, backend="torch")
    found: dict[str, Any] = {}
    for precision, model in models.items():
        own = found[precision] = {}
        for name in ("5L33", "3HTN"):
            structure, rng = protein(name), np.random.default_rng(0)
            order = np.stack([rng.permutation(len(structure)) for _ in range(orders)])
            native = np.repeat(structure.tokens[None], orders, 0)
            p, q = (m.log_probs(structure, native, order) for m in (plain, model))
            own[name] = differences(p, q)
            # Designing takes other kernels than scoring.
            d = model.design(structure, orders, 0.1, 1)
            p = plain.log_probs(structure, d.sequences, d.decoding_order)
            own[f"designing {name}"] = differences(p, d.log_probs)
        designs = model.design([protein(name) for name in TS50], EACH, 0.1, 1)
        own["TS50 recovery"] = float(np.mean([d.recovery.mean() for d in designs]))
    return found


def of_stream(devices: list[str], batches: int = 48, batch: int = 64) -> dict[str, Any]:
    """Designs a second of a stream once every worker has done its first batches.

    The clock runs while the stream takes structures: as many wait at the workers when it starts
    as when it stops. Kernels that no process has compiled before would be compiled meanwhile.
    """
    pieces = many_structures(batches * batch)
    asked: list[float] = []

    def structures() -> Iterator[mpnn.Structure]:
        yield from islice(cycle(pieces), 12 * len(devices) * batch)
        asked.append(time.perf_counter())
        yield from pieces
        asked.append(time.perf_counter())

    found = mpnn.design_stream(structures(), devices, EACH, backend="cuda-fast", batch_size=batch)
    lost = sum(isinstance(d, mpnn.Lost) for d in found)
    seconds = asked[1] - asked[0]
    rate = round(len(pieces) * EACH / seconds)
    return {"structures": len(pieces), "lost": lost, "s": round(seconds, 3), "per second": rate}


def machine() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    name, driver = subprocess.check_output(query, text=True).splitlines()[0].split(", ")
    import triton

    return {
        "gpu": name, "driver": driver, "torch": torch.__version__, "triton": triton.__version__,
        "python": platform.python_version(), "cores": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip


def main(path: str) -> None:
    figures: dict[str, Any] = {"machine": machine()}

    def write() -> None:
        Path(path).write_text(json.dumps(figures, indent=1) + "\n")

    models = {p: mpnn.load_model(device="cuda:0", backend=b) for p, b in BACKENDS.items()}
    for precision, model in models.items():
        figures[precision] = {}
        for name, found in of_one_gpu(model):
            figures[precision][name] = found
            print(precision, name, found, flush=True)
            write()
    figures["accuracy"] = accuracy(models)
    print(figures["accuracy"], flush=True)
    figures["stream, fast"] = {}
    of_stream(["cuda:0"])  # compiles
    for count in range(1, torch.cuda.device_count() + 1):
        found = of_stream([f"cuda:{i}" for i in range(count)])
        figures["stream, fast"][f"{count} GPU"] = found
        print("stream", count, found, flush=True)
        write()


if __name__ == "__main__":
    main(sys.argv[1])
