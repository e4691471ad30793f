"""One page of everything: ledger, history, comparison; a single file that needs no network.

Charts are SVG in the page itself. Their colours are the page's own variables, so that they follow
light, dark and print; shapes repeat what colours say.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from mpnn_core.gate import GateError
from mpnn_core.gate.claims import EXACT, Claim
from mpnn_core.gate.history import Series
from mpnn_core.gate.ledger import Entry, Ledger
from mpnn_core.gate.pages import escaped
from mpnn_core.gate.revisions.comparison import Comparison
from mpnn_core.gate.stored import write_whole
from mpnn_core.gate.verdicts import Change, GateResult, Verdict

TEMPLATE = "report.html.jinja"
# Stand-ins that no chart uses otherwise, and the variable of the page that each becomes.
COLOURS = {
    "#0000a1": "ink",
    "#0000a2": "muted",
    "#0000a3": "grid",
    "#0000b1": "good",
    "#0000b2": "part",
    "#0000b3": "bad",
    "#0000b4": "open",
    "#0000b5": "line",
}
INK, MUTED, GRID, GOOD, PART, BAD, OPEN, LINE = COLOURS
# Verdict -> colour and marker: told apart without colour as well.
MARKS = {
    Verdict.CONFIRMED: (GOOD, "o"),
    Verdict.COMPATIBLE: (GOOD, "v"),
    Verdict.REACHED: (GOOD, "*"),
    Verdict.SHORT: (PART, "<"),
    Verdict.DIRECTION_ONLY: (PART, "^"),
    Verdict.REFUTED: (BAD, "s"),
    Verdict.INCONCLUSIVE: (OPEN, "D"),
    Verdict.RECORDED: (INK, "."),
}
WIDTH_IN = 9.5
ROW_IN = 0.24
# On an axis; beyond it, numbers of a chart overflow.
LARGEST_PLACE = 1e30
# Room for a name beside a point: width and height, in printer's points.
LABEL_PT = 80.0, 9.5


@dataclass(frozen=True)
class Report:
    """The content of the page.

    `source` is the address of the folder of the tests' files; `elsewhere` has ledgers that were
    recorded on other machines.
    """

    claims: Mapping[str, Claim]
    ledger: Ledger
    series: Sequence[Series]
    comparison: Comparison | None
    source: str
    elsewhere: Sequence[Ledger] = ()

    def __post_init__(self) -> None:
        # The address becomes links, and a link may be a script.
        before_path, colon, _ = self.source.partition(":")
        if colon and "/" not in before_path and before_path.lower() not in ("http", "https"):
            raise GateError(
                f"--source {self.source!r}: expected an address of http or https, or a folder"
            )

    @property
    def measured(self) -> list[Entry]:
        return self.ledger.measured

    @property
    def absent(self) -> list[Entry]:
        return self.ledger.absent

    @property
    def red(self) -> list[Entry]:
        return [e for e in self.ledger.entries if e.is_red()]

    def link(self, entry: Entry) -> str:
        """The address of the file of the test that holds the figure."""
        return f"{self.source}/{entry.test.partition('::')[0]}"


def relative_source(root: Path, page: Path) -> str:
    """From the folder of the page to that of the project."""
    return Path(os.path.relpath(root.resolve(), page.resolve().parent)).as_posix()


def check_place(option: str, path: Path) -> None:
    """Refuse a path that no file can be written to, before anything is computed for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; expected a file")
        if not path.exists():
            tempfile.TemporaryFile(dir=path.parent).close()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "it is not yours to write")
    except OSError as error:
        raise GateError(f"{option} {path} cannot be written: {error.strerror or error}") from None


def write(report: Report, path: Path) -> None:
    """Render the page into one file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("mpnn_core.gate", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        report=report,
        comparison=report.comparison,
        forests=list(forests(report.measured)),
        pareto=pareto(report),
        histories=list(histories([s for s in report.series if len(s.points) > 1])),
        runs_once=sum(len(s.points) == 1 for s in report.series),
        verdicts=report.ledger.counts(Verdict).items(),
        gates=report.ledger.counts(GateResult).items(),
    )
    write_whole(path, page)


def chart(name: str, title: str, size: tuple[float, float], draw: Callable[[Any], None]) -> Any:
    """A figure as SVG for the page; `title` is its text for screen readers."""
    import matplotlib as mpl
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # the same page from the same ledger
        "font.family": "sans-serif",
        "font.size": 8,
        "text.parse_math": False,  # a name may have dollar signs
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        **dict.fromkeys(("text.color", "axes.labelcolor", "legend.labelcolor"), INK),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
        **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
        "axes.facecolor": "none",
        "figure.facecolor": "none",
    }
    text = io.StringIO()
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for stand_in, variable in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{variable})")
    label = f'<svg role="img" aria-label="{escape(title)}" '
    return Markup(label + svg.removeprefix("<svg "))


def forests(entries: Sequence[Entry]) -> Iterable[tuple[str, Any]]:
    """Per unit, its name and a forest plot: reported against measured."""
    units = dict.fromkeys(e.unit for e in entries)
    for unit in sorted(units, key=lambda unit: unit != "x"):  # ratios first
        rows = [e for e in entries if e.unit == unit and _has_place(e)]
        if len(rows) > 1 and any(e.low != e.high for e in rows):  # else the table says it all
            yield unit, _forest(unit, rows)


def _forest(unit: str, rows: Sequence[Entry]) -> Any:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for y, e in enumerate(rows):
            colour, marker = MARKS[e.verdict]
            axes.plot([e.low, e.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            axes.plot(e.value, y, marker, color=colour, markersize=5)
            reported = _reported(e)
            if reported is not None:
                axes.plot(reported, y, "|", color=INK, markersize=11, markeredgewidth=1.4)
        if unit == "x":
            _ratio_axis(axes.xaxis, axes.set_xscale)
            axes.axvline(1, color=MUTED, linewidth=0.8)
        axes.set_xlabel(f"{unit}; the bar is the reported figure" if unit else "")
        axes.set_yticks(range(len(rows)), [_name(e, rows) for e in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x")
        _legend(figure, [v for v in MARKS if any(e.verdict is v for e in rows)])

    height = 1.1 + ROW_IN * len(rows)
    return chart(f"forest {unit}", f"Reported and measured, in {unit}", (WIDTH_IN, height), draw)


def _legend(figure: Any, verdicts: Sequence[Verdict]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=MARKS[v][0], marker=MARKS[v][1], markersize=5, label=v)
        for v in verdicts
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False)


def _ratio_axis(axis: Any, set_scale: Callable[[str], None]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name(entry: Entry, rows: Sequence[Entry]) -> str:
    name = f"{entry.claim} {entry.figure}"
    alike = [e.workload.split() for e in rows if (e.claim, e.figure) == (entry.claim, entry.figure)]
    if len(alike) == 1:
        return name
    same = takewhile(lambda words: len(set(words)) == 1, zip(*alike, strict=False))
    telling = entry.workload.split()[len(list(same)) :]
    return f"{name}: {' '.join(telling)[:38] or entry.device}"


def _reported(entry: Entry) -> float | None:
    """The reported number out of "1.84 x"; None for a range, which has no one number."""
    try:
        return float(entry.reported.split()[0]) if " to " not in entry.reported else None
    except (ValueError, IndexError):
        return None


def trade_offs(report: Report) -> list[tuple[Entry, Entry | None]]:
    """Each measured speed-up whose loss is known, with the loss; with None if it is exact."""
    pairs: list[tuple[Entry, Entry | None]] = []
    measured = [e for e in report.measured if _has_place(e)]
    losses = {(e.claim, e.figure): e for e in measured}
    for e in measured:
        figure = report.claims[e.claim].figures.get(e.figure) if e.claim in report.claims else None
        if e.unit != "x" or figure is None or not figure.loss or e.verdict is Verdict.RECORDED:
            continue
        if figure.loss == EXACT:
            pairs.append((e, None))
            continue
        claim, _, key = figure.loss.partition(" ")
        if (claim, key) in losses:
            pairs.append((e, losses[claim, key]))
    return pairs


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (loss, speed) points that no other point beats in both, in order of loss."""
    best: list[tuple[float, float]] = []
    for loss, speed in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or speed > best[-1][1]:
            best.append((loss, speed))
    return best


def pareto(report: Report) -> Any:
    """Speed against loss of recovery, with the front drawn; None if there is no point."""
    points = trade_offs(report)
    if not points:
        return None
    at = [(0.0 if loss is None else _value(loss), _value(e), e) for e, loss in points]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        best = front([(loss, speed) for loss, speed, _ in at])
        axes.step(*zip(*best, strict=True), where="post", color=LINE, linewidth=1, zorder=1)
        for loss, speed, _ in at:
            marker = "o" if loss == 0 else "s"
            axes.plot(loss, speed, marker, color=GOOD if loss == 0 else PART, markersize=6)
        _ratio_axis(axes.yaxis, axes.set_yscale)
        axes.set_xlabel("loss of recovery, points (0: exact)")
        axes.set_ylabel("times as fast as the original")
        axes.margins(x=0.15, y=0.1)
        axes.grid()
        names = [(loss, speed, f"{e.claim} {e.figure}") for loss, speed, e in at]
        label_points(figure, axes, names)

    return chart("pareto", "Speed against loss of accuracy", (WIDTH_IN, 4.2), draw)


def label_points(
    figure: Any, axes: Any, points: Sequence[tuple[float, float, str]], lift: float = -3
) -> None:
    """A name to the right of each point, `lift` above it, and more where it would lie on another.

    `lift` is in printer's points, from the point to the name's baseline.
    """
    figure.draw_without_rendering()  # until then nothing has a place
    per_point = figure.dpi / 72
    taken: list[tuple[float, float]] = []
    for x, y, text in sorted(points, key=lambda p: p[1]):
        across, up = axes.transData.transform((x, y)) / per_point
        place = up + lift
        for other_across, other in sorted(taken, key=lambda t: t[1]):
            if abs(other_across - across) < LABEL_PT[0] and abs(other - place) < LABEL_PT[1]:
                place = other + LABEL_PT[1]
        taken.append((across, place))
        axes.annotate(text, (x, y), xytext=(8, place - up), textcoords="offset points")


def _has_place(entry: Entry) -> bool:
    """Whether an axis has a place for a figure; that of ratios is logarithmic."""
    numbers = [x for x in (entry.value, entry.low, entry.high) if x is not None]
    if entry.unit == "x":
        return all(1 / LARGEST_PLACE < x < LARGEST_PLACE for x in numbers)
    return all(abs(x) < LARGEST_PLACE for x in numbers)


def _value(entry: Entry) -> float:
    assert entry.value is not None
    return entry.value


def histories(series: Sequence[Series]) -> Iterable[tuple[str, list[tuple[Series, Any]]]]:
    """Per claim, its series with a chart each."""
    for claim in dict.fromkeys(s.claim for s in series):
        drawn = [
            s for s in series if s.claim == claim and all(_has_place(p.entry) for p in s.points)
        ]
        yield claim, [(s, _history(s)) for s in drawn]


def _history(series: Series) -> Any:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        y = [p.value for p in series.points]
        lows = [p.value - (p.entry.low or p.value) for p in series.points]
        highs = [(p.entry.high or p.value) - p.value for p in series.points]
        axes.errorbar(
            range(len(y)), y, yerr=[[max(0, v) for v in lows], [max(0, v) for v in highs]],
            fmt="o", color=LINE, markersize=3.5, linewidth=0.9,
        )  # fmt: skip
        for step in series.steps:
            axes.axvline(step.at - 0.5, color=BAD, linewidth=1, linestyle="--")
        if series.is_ratio and all(p.value > 0 for p in series.points):
            _ratio_axis(axes.yaxis, axes.set_yscale)
        axes.set_ylabel(series.unit)
        axes.set_xlabel("run")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(-0.7, max(len(series.points) - 0.3, 1))
        axes.grid()

    name = " ".join((series.claim, series.figure, series.workload, series.device, series.processor))
    return chart(name, f"History of {series.claim} {series.figure}", (WIDTH_IN, 1.9), draw)


def summary(report: Report) -> str:
    """The page in a few lines of Markdown, for the summary of a CI job."""
    lines = ["## Gates", "", "| gates | verdicts |", "|---|---|"]
    counts = report.ledger.counts
    gates = ", ".join(f"{n} {k}" for k, n in counts(GateResult).items()) or "none"
    verdicts = ", ".join(f"{n} {k}" for k, n in counts(Verdict).items())
    lines += [f"| {gates} | {verdicts} |", ""]
    for e in report.red:
        text = escaped(f"{e.claim} {e.figure}, {e.bound}, measured {e.measured}")
        lines.append(f"- **failed**: {text}")
    c = report.comparison
    if c is not None:
        lines += [
            "",
            f"## Against {escaped(c.base)}",
            "",
            "| benchmark | time | verdict |",
            "|---|---|---|",
        ]
        for o in c.outcomes:
            bold = "**" if o.change in (Change.SLOWER, Change.BROKEN) else ""
            name, time = escaped(o.benchmark), escaped(o.time)
            lines.append(f"| {name} | {time} | {bold}{o.change}{bold} |")
        lines += ["", *(f"- **{escaped(r)}**" for r in c.regressions)]
        lines += [] if c.regressions else [f"{c.conclusion.capitalize()}."]
    return "\n".join(lines) + "\n"
