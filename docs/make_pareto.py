"""Speed against loss of every variant on every backend: measure it, and draw docs/pareto.svg.

    python docs/make_pareto.py measure [--device cuda]   # adds this device to docs/pareto.json
    python docs/make_pareto.py draw

Speed is paired with the original's sample() in one process: all of them run in every round, in
random order. Losses are not measured here: they are those of the evaluations in mpnn_core/weights.
Needs the extra test; run from the repository's root.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mpnn_core as mpnn
from mpnn_core.backends.registry import LOSSES
from mpnn_core.gate.intervals import ERROR, Interval, median_ratio
from mpnn_core.gate.ledger import now, this_machine
from mpnn_core.gate.pairing import Rounds
from mpnn_core.gate.project import load_project
from mpnn_core.gate.report import front
from mpnn_core.network.variants import QUOTED
from mpnn_core.peers import original

DOCS = Path(__file__).parent
STORED = DOCS / "pareto.json"
PICTURE = DOCS / "pareto.svg"
STRUCTURES = DOCS.parent / "fixtures" / "structures"

ROUNDS = 24
# What is designed: enough to fill the device, and what the original's largest batch there is.
WORKLOADS = {"cpu": ("5L33", 8), "mps": ("5L33", 8), "cuda": ("3HTN", 256)}
# What computes there as it is meant to: MLX and Core ML run on a CPU for their tests alone.
MEASURED = {
    "cpu": ("torch", "native"),
    "mps": ("torch", "mlx", "mlx-fast", "coreml", "coreml-fast"),
    "cuda": ("torch", "cuda", "cuda-fast"),
}
TEMPERATURE = 0.1

# Readable on white and on black.
INK = "#6e7781"
COLOURS = ("#2f81f7", "#d9822b", "#2da44e", "#bf5fd0", "#d1495b")
MARKS = "osD^v"


def measured_variants() -> list[mpnn.Variant]:
    """Every variant whose loss is known, once: a batched form is the same network."""
    return [
        v for v in mpnn.VARIANTS.values()
        if v.accuracy == "exact" or (v.evaluation is not None and v.student == v.name)
    ]  # fmt: skip


def measure(device: str) -> dict[str, Any]:
    """Ratios to the original's sample() of each variant and backend there is on a device."""
    name, copies = WORKLOADS[device]
    structure = mpnn.read_structure(STRUCTURES / f"{name}.pdb")
    place = torch.device(device)
    network = original.load().to(place)
    given = original.inputs(structure, copies=copies).to(place)

    def baseline() -> None:
        with place:  # it makes some of its tensors on the default device
            original.sample(network, given, TEMPERATURE)["S"].cpu()

    sides: dict[tuple[str, str], Callable[[], Any]] = {}
    for backend in MEASURED[device]:
        try:
            models = [
                mpnn.load_model(variant=v.name, device=place, backend=backend)
                for v in measured_variants()
            ]
        except ValueError as error:
            print(f"left out: {backend}: {error}", file=sys.stderr)
            continue
        for model in models:
            sides[model.variant.name, backend] = lambda model=model: (
                model.design(structure, copies, TEMPERATURE, seed=0).sequences
            )
    rounds = Rounds({"original": baseline, "control": baseline} | sides)
    for _ in range(ROUNDS):
        rounds.round()
    logs = rounds.log_seconds
    seconds = {side: np.array(found) for side, found in logs.items()}

    def ratio(side: Any) -> dict[str, float]:
        found = median_ratio(seconds["original"] - seconds[side], ERROR)
        assert found is not None
        return {"value": found.value, "low": found.low, "high": found.high}

    return {
        "workload": f"{copies} sequences of {name} ({len(structure)} residues), T = {TEMPERATURE}",
        "machine": this_machine(load_project(DOCS.parent)),
        "date": now(),
        "rounds": ROUNDS,
        "control": ratio("control"),
        "points": [
            {"variant": variant, "backend": backend, "speed": ratio((variant, backend))}
            for variant, backend in sides
        ],
    }


def losses() -> dict[str, Interval]:
    """Points of teacher-forced recovery that each variant loses, as it was evaluated."""
    found = {v.name: v.evaluation for v in measured_variants()}
    return {
        name: Interval(0, 0, 0)
        if evaluation is None
        else Interval(**evaluation["sets"][QUOTED]["metrics"]["recovery"]["loss_of_another_sample"])
        for name, evaluation in found.items()
    }


def draw(stored: dict[str, Any], path: Path) -> None:
    """A panel per device: how many times faster than the original, against what is lost."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.fonttype": "none", "svg.hashsalt": "pareto", "font.size": 9, "text.color": INK,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    }  # fmt: skip
    from matplotlib import pyplot

    known = losses()
    backends = sorted({p["backend"] for of in stored.values() for p in of["points"]})
    figure, axes = pyplot.subplots(
        1, len(stored), figsize=(6.4 * len(stored), 4.4), squeeze=False, layout="constrained"
    )
    for axis, (device, of_device) in zip(axes[0], stored.items(), strict=True):
        points = [p for p in of_device["points"] if p["variant"] in known]
        for p in points:
            loss, speed = known[p["variant"]], Interval(**p["speed"])
            colour = COLOURS[backends.index(p["backend"]) % len(COLOURS)]
            axis.errorbar(
                loss.value, speed.value,
                xerr=[[loss.value - loss.low], [loss.high - loss.value]],
                yerr=[[speed.value - speed.low], [speed.high - speed.value]],
                color=colour, elinewidth=0.8, alpha=0.9, markersize=5,
                marker=MARKS[backends.index(p["backend"]) % len(MARKS)],
            )  # fmt: skip
        best = front([(known[p["variant"]].value, p["speed"]["value"]) for p in points])
        axis.plot(*zip(*best, strict=True), color=INK, linewidth=1, linestyle="--", zorder=0)
        axis.plot(0, 1, marker="x", color=INK)
        axis.annotate("the original", (0, 1), xytext=(6, -3), textcoords="offset points")
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}x")
        axis.grid(color=INK, alpha=0.2, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.06, y=0.1)
        place_names(figure, axis, points, known, best)
        machine = of_device["machine"]
        axis.set_title(
            f"{machine.get('gpu') if device == 'cuda' else _cores(machine)}\n"
            f"{of_device['workload']}",
            fontsize=9,
        )
        axis.set_xlabel(f"loss of teacher-forced recovery on {QUOTED} (percentage points)")
    axes[0][0].set_ylabel("designs per second, times the original's")
    handles = [
        pyplot.Line2D(
            [], [], color=COLOURS[i % len(COLOURS)], marker=MARKS[i % len(MARKS)], linestyle="",
            label=f"{name} ({LOSSES[name]})" if name in LOSSES else name,
        )
        for i, name in enumerate(backends)
    ]  # fmt: skip
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=4)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def _cores(machine: dict[str, str]) -> str:
    return f"{machine['processor']}, {machine['cores']} cores"


def place_names(
    figure: Any,
    axis: Any,
    points: Sequence[dict[str, Any]],
    known: Mapping[str, Interval],
    best: Sequence[tuple[float, float]],
) -> None:
    """The name of each variant by its fastest point, where it covers no bar, line or other name."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # until then nothing has a place
    per_point = figure.dpi / 72
    room = axis.get_window_extent()

    def box(x: Sequence[float], y: Sequence[float]) -> Bbox:
        corners = axis.transData.transform([(x[0], y[0]), (x[-1], y[-1])])
        (left, low), (right, high) = corners.min(0), corners.max(0)
        return Bbox.from_extents(left, low, right, high).padded(2 * per_point)

    taken = []
    for p in points:
        loss, speed = known[p["variant"]], Interval(**p["speed"])
        taken += [
            box([loss.low, loss.high], [speed.value]),
            box([loss.value], [speed.low, speed.high]),
        ]
    for (x, y), (next_x, next_y) in pairwise(best):  # straight in log y, as it is drawn
        along = np.linspace(0, 1, 60)
        taken += [
            box([a], [b])
            for a, b in zip(x + along * (next_x - x), y * (next_y / y) ** along, strict=True)
        ]
    fastest = {p["variant"]: p for p in sorted(points, key=lambda p: p["speed"]["value"])}
    for name, p in fastest.items():
        at = (known[name].value, p["speed"]["value"])
        text = axis.annotate(name, at, xytext=(0, 0), textcoords="offset points")
        for reach, angle in product(range(6, 90, 3), range(90, 450, 15)):
            up, along = reach * np.sin(np.radians(angle)), reach * np.cos(np.radians(angle))
            text.set_position((along, up))
            text.set_ha("left" if along > 1 else "right" if along < -1 else "center")
            text.set_va("bottom" if up > -1 else "top")
            found = text.get_window_extent()
            inside = room.x0 < found.x0 and found.x1 < room.x1 and found.y1 < room.y1
            if inside and not any(found.overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent().padded(4 * per_point))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "draw"))
    parser.add_argument("--device", default="cpu", choices=WORKLOADS)
    options = parser.parse_args()
    stored = json.loads(STORED.read_text("utf-8")) if STORED.is_file() else {}
    if options.what == "measure":
        stored[options.device] = measure(options.device)
        STORED.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")
    if not stored:
        parser.error("nothing is measured yet; expected `measure` first")
    draw(stored, PICTURE)


if __name__ == "__main__":
    main()
