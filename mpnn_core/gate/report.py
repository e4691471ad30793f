"""One page of everything: ledger, history, comparison; a single file that needs no network.

What fell comes first. Intervals are drawn by the page's own styles, beside their numbers; charts
are SVG in the page itself. Their colours are the page's own variables, so that they follow light,
dark and print; shapes repeat what colours say.
"""

from __future__ import annotations

import errno
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpnn_core.gate import GateError
from mpnn_core.gate.claims import EXACT, Claim
from mpnn_core.gate.history import Series
from mpnn_core.gate.ledger import Entry, Ledger, minute
from mpnn_core.gate.pages import escaped
from mpnn_core.gate.revisions.comparison import CAUGHT, Comparison
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
    "#0000b5": "line",
}
INK, MUTED, GRID, GOOD, PART, BAD, LINE = COLOURS
# Verdict -> its sign on an axis and in a table: told apart without colour as well.
GLYPHS: Mapping[str, str] = {
    Verdict.CONFIRMED: "\u25cf",
    Verdict.COMPATIBLE: "\u25d0",
    Verdict.REACHED: "\u25cf",
    Verdict.SHORT: "\u25bc",
    Verdict.DIRECTION_ONLY: "\u25b2",
    Verdict.REFUTED: "\u25a0",
    Verdict.INCONCLUSIVE: "\u25c7",
    Verdict.RECORDED: "\u25aa",
}
# Charts are shown as large as they are drawn, so that their letters are 12 pixels high on a phone.
WIDTH_IN, LETTERS_PT = 3.6, 9
# On an axis; beyond it, numbers of a chart overflow.
LARGEST_PLACE = 1e30
MOST_TICKS = 5
# Room for a number beside a point: width and height, in printer's points.
LABEL_PT = 16.0, 10.0
HEADINGS = {"x": "Ratios, times as fast", "%": "Percent", "points": "Points of recovery"}


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
    def unmeasured(self) -> list[Entry]:
        """Every entry without a measurement: left open, not run, not exercised."""
        order = list(Verdict)
        found = [e for e in self.ledger.entries if e.value is None]
        return sorted(found, key=lambda e: (not e.is_red(), order.index(e.verdict)))

    @property
    def red(self) -> list[Entry]:
        return self.ledger.reds

    @property
    def regressions(self) -> list[str]:
        return self.comparison.regressions if self.comparison else []

    @property
    def lead(self) -> str:
        """One sentence: what fell, what passed, on which machine, when."""
        fell = []
        if self.regressions and self.comparison:
            fell.append(f"{_many(len(self.regressions), 'regression')} against "
                        f"{self.comparison.base}")  # fmt: skip
        if self.red:
            fell.append(f"{_many(len(self.red), 'gate')} failed")
        gates, ledger = self.ledger.counts(GateResult), self.ledger
        if not gates and not self.measured and not fell:
            return "Nothing was measured yet."
        passed = f"{_many(gates.get(GateResult.PASSED, 0), 'gate')} passed"
        left = gates.get(GateResult.INCONCLUSIVE, 0) if ledger.mode != "acceptance" else 0
        parts = [" and ".join(fell) or "nothing fell", passed]
        parts += [f"{left} stayed open"] if left else []
        text = f"{', '.join(parts)}; {_many(len(self.measured), 'figure')} measured"
        if ledger.machine:
            text += f" on {machine_in_words(ledger)}"
        if ledger.date:
            text += f", {minute(ledger.date)}"
        if ledger.ages:
            text += f" ({ledger.ages.removeprefix('rows: ')})"
        return text[:1].upper() + text[1:] + "."

    def title(self, entry: Entry) -> str:
        """The claim in words, with the figure's own where it has several."""
        claim = self.claims.get(entry.claim)
        if claim is None:
            return f"{entry.claim} {entry.figure}"
        own = entry.headline or entry.figure.replace("-", " ")
        return f"{claim.title}, {own}" if len(claim.figures) > 1 else claim.title

    def words(self, entry: Entry) -> str:
        """The claim and the workload in words."""
        return f"{self.title(entry)}: {entry.workload}"

    def fell(self, entry: Entry) -> str:
        """A red in one sentence."""
        if entry.value is None and not entry.bound:
            return f"{self.words(entry)}: gate {entry.gate}: {entry.note}"
        text = f"{self.words(entry)}: the gate is {entry.bound}, measured {entry.measured}"
        text += f", {entry.gate}"
        return f"{text}, {minute(entry.date)}" if self.ledger.is_earlier(entry) else text

    def link(self, entry: Entry) -> str:
        """The address of the file of the test that holds the figure."""
        return f"{self.source}/{entry.test.partition('::')[0]}"


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def machine_in_words(ledger: Ledger) -> str:
    """Its GPU or processor with its cores, and the classes that its entries name."""
    name = ledger.machine.get("gpu") or ledger.machine.get("processor", "an unknown machine")
    classes = list(dict.fromkeys(e.machine for e in ledger.measured if e.machine))
    cores = ledger.machine.get("cores")
    return ", ".join([name, *([f"{cores} cores"] if cores else []), *classes])


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
        groups=groups,
        glyphs=GLYPHS,
        caught_words=CAUGHT,
        minute=minute,
        machine_in_words=machine_in_words,
        trades=trades(report),
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
        "font.size": LETTERS_PT,
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


@dataclass(frozen=True)
class Scale:
    """From a number to its place on an axis, in percent; logarithmic for ratios."""

    low: float
    high: float
    is_ratio: bool

    @classmethod
    def over(cls, entries: Sequence[Entry]) -> Scale | None:
        """The axis of all intervals and reported figures; None if it would say nothing."""
        rows = [e for e in entries if _has_place(e)]
        if len(rows) < 2 or all(e.low == e.high for e in rows):
            return None
        is_ratio = rows[0].unit == "x"
        numbers = [x for e in rows for x in (e.low, e.high, _reported(e)) if x is not None]
        if is_ratio:
            numbers = [x for x in [1.0, *numbers] if x > 0]
        low, high = min(numbers), max(numbers)
        room = (high / low) ** 0.04 if is_ratio else (high - low) * 0.04
        return (
            cls(low / room, high * room, True) if is_ratio else cls(low - room, high + room, False)
        )

    def place(self, x: float) -> float:
        ends = self.low, self.high
        if self.is_ratio:
            x, ends = math.log(x), (math.log(self.low), math.log(self.high))
        return round(100 * (x - ends[0]) / (ends[1] - ends[0]), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The places of a few round numbers."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        values = MaxNLocator(MOST_TICKS - 1).tick_values(self.low, self.high)
        if self.is_ratio:
            for subs in ((1, 2, 5), (1, 3), (1,)):
                values = LogLocator(subs=subs, numticks=99).tick_values(self.low, self.high)
                if sum(self.low <= v <= self.high for v in values) <= MOST_TICKS:
                    break
        return [(self.place(v), f"{v:g}") for v in values if self.low <= v <= self.high]


@dataclass(frozen=True)
class Mark:
    """An interval on an axis, in percent of its width; `reported` is None for a range."""

    low: float
    width: float
    value: float
    reported: float | None
    text: str


@dataclass(frozen=True)
class Group:
    """Entries of one unit on one axis; those of units with a figure or two have none."""

    heading: str
    scale: Scale | None
    entries: Sequence[Entry]

    def mark(self, entry: Entry) -> Mark | None:
        if self.scale is None or not _has_place(entry):
            return None
        low, value, high = (
            self.scale.place(_number(x)) for x in (entry.low, entry.value, entry.high)
        )
        reported = _reported(entry)
        if reported is not None and self.scale.is_ratio and reported <= 0:
            reported = None
        text = f"measured {entry.measured}, reported {entry.reported}"
        place = None if reported is None else self.scale.place(reported)
        return Mark(low, round(high - low, 2), value, place, text)


def groups(entries: Sequence[Entry]) -> list[Group]:
    """The measured entries by unit, ratios first; units without an axis together, at the end."""
    units = sorted(dict.fromkeys(e.unit for e in entries), key=lambda unit: unit != "x")
    found, rest = [], []
    for unit in units:
        rows = [e for e in entries if e.unit == unit]
        scale = Scale.over(rows)
        if scale is None:
            rest += rows
        else:
            found.append(Group(HEADINGS.get(unit, unit), scale, rows))
    if rest:
        found.append(Group("Other figures" if found else "Figures", None, rest))
    return found


def _ratio_axis(axis: Any, set_scale: Callable[[str], None]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _reported(entry: Entry) -> float | None:
    """The reported number out of "1.84 x"; None for a range, which has no one number."""
    try:
        number = float(entry.reported.split()[0]) if " to " not in entry.reported else None
    except (ValueError, IndexError):
        return None
    return number if number is not None and abs(number) < LARGEST_PLACE else None


def trade_offs(report: Report) -> list[tuple[Entry, Entry | None]]:
    """Each measured speed-up whose loss is known, with the loss; with None if it is exact.

    The loss is a judged one: what was only recorded is of another workload, or another network.
    """
    pairs: list[tuple[Entry, Entry | None]] = []
    measured = [e for e in report.measured if _has_place(e) and e.verdict is not Verdict.RECORDED]
    for e in measured:
        figure = report.claims[e.claim].figures.get(e.figure) if e.claim in report.claims else None
        if e.unit != "x" or figure is None or not figure.loss:
            continue
        if figure.loss == EXACT:
            pairs.append((e, None))
            continue
        claim, _, key = figure.loss.partition(" ")
        losses = [loss for loss in measured if (loss.claim, loss.figure) == (claim, key)]
        own = report.claims[claim].workload
        # On the device of the speed and on the claim's own workload, where there is a choice.
        losses.sort(key=lambda loss: (loss.device != e.device, loss.workload != own))
        pairs += [(e, loss) for loss in losses[:1]]
    return pairs


@dataclass(frozen=True)
class Trade:
    """A speed with what it costs, as numbered in the chart."""

    number: int
    speed: Entry
    loss: Entry | None
    is_best: bool  # no other is faster at a smaller or equal loss

    @property
    def points(self) -> float:
        return 0.0 if self.loss is None else _number(self.loss.value)


def trades(report: Report) -> list[Trade]:
    """The trade-offs, the fastest first."""
    pairs = sorted(trade_offs(report), key=lambda pair: -_number(pair[0].value))
    at = [(0.0 if loss is None else _number(loss.value), _number(e.value)) for e, loss in pairs]
    best = front(at)
    numbered = enumerate(zip(pairs, at, strict=True), 1)
    return [Trade(n, e, loss, point in best) for n, ((e, loss), point) in numbered]


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (loss, speed) points that no other point beats in both, in order of loss."""
    best: list[tuple[float, float]] = []
    for loss, speed in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or speed > best[-1][1]:
            best.append((loss, speed))
    return best


def pareto(report: Report) -> Any:
    """Speed against loss of recovery, with the front drawn; None if there is no point."""
    points = trades(report)
    if not points:
        return None

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        best = front([(t.points, _number(t.speed.value)) for t in points])
        axes.step(*zip(*best, strict=True), where="post", color=LINE, linewidth=1, zorder=1)
        for t in points:
            marker, colour = ("o", GOOD) if t.points == 0 else ("s", PART)
            axes.plot(t.points, _number(t.speed.value), marker, color=colour, markersize=5)
        _ratio_axis(axes.yaxis, axes.set_yscale)
        axes.set_xlabel("loss of recovery, points (0: exact)")
        axes.set_ylabel("times as fast as the original")
        axes.margins(x=0.2, y=0.1)
        axes.grid()
        names = [(t.points, _number(t.speed.value), f"{t.number}") for t in points]
        label_points(figure, axes, names)

    return chart("pareto", "Speed against loss of accuracy", (WIDTH_IN, 4.0), draw)


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


def _number(value: float | None) -> float:
    assert value is not None
    return value


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
    return chart(name, f"History of {series.claim} {series.figure}", (WIDTH_IN, 2.2), draw)


def summary(report: Report) -> str:
    """The page in a few lines of Markdown, for the summary of a CI job."""
    lines = ["## Gates", "", escaped(report.lead), ""]
    lines += [f"- **regression**: {escaped(r)}" for r in report.regressions]
    lines += [f"- **failed**: {escaped(report.fell(e))}" for e in report.red]
    counts = report.ledger.counts
    gates = ", ".join(f"{n} {k}" for k, n in counts(GateResult).items()) or "none"
    verdicts = ", ".join(f"{n} {k}" for k, n in counts(Verdict).items())
    lines += ["", "| gates | verdicts |", "|---|---|", f"| {gates} | {verdicts} |"]
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
        lines += [] if c.regressions else ["", f"{c.conclusion.capitalize()}."]
    return "\n".join(lines) + "\n"
