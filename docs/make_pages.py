"""Write every measured figure of README.md and docs/ from what was stored.

A page holds blocks between `<!-- table: NAME -->` and `<!-- end -->`. This script fills them; a
test fails where a block is not what the stored measurements say, and where README or a page gives
a measured figure outside of a block. Run from the repository's root, after a measurement or a new
option of the command line:  python docs/make_pages.py

The stored measurements: fixtures/ledgers/**/*.json, fixtures/cuda-h100.json, docs/pareto.json,
fixtures/coverage/*.json, fixtures/complexes.json, docs/guard-runs.jsonl,
docs/history-alarms.json and mpnn_core/weights/*.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import make_model_cards as cards

import mpnn_core as mpnn
from mpnn_core.commands.main import parser
from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.coverage import Study
from mpnn_core.gate.ledger import Entry, Ledger
from mpnn_core.gate.pages import markdown
from mpnn_core.gate.revisions.comparison import CAUGHT
from mpnn_core.gate.revisions.rates import rates, read_runs
from mpnn_core.gate.verdicts import Change
from mpnn_core.network.families import ALIASES, checkpoint_of, find_family, published_names
from mpnn_core.network.variants import QUOTED
from mpnn_core.peers.table import PARITY, SPEED, parity_rows, speed_rows

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LEDGERS = ROOT / "fixtures" / "ledgers"
CLAIMS = load_claims(ROOT / "claims.toml")

CPU = Ledger.load(LEDGERS / "cpu-avx512.json")
GPU = [Ledger.load(path) for path in sorted(LEDGERS.glob("h100*.json"))]
H100 = json.loads((ROOT / "fixtures" / "cuda-h100.json").read_text("utf-8"))
PARETO = json.loads((DOCS / "pareto.json").read_text("utf-8"))
GUARD_RUNS = read_runs(DOCS / "guard-runs.jsonl")

BLOCK = re.compile(r"(?s)(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)")

# What README shows of the CPU: the first three that the stored ledger has. Claim, figure, words.
HEADLINES = (
    ("E2", "speed", "8 sequences for one protein (5L33, 106 residues)"),
    ("E4", "many", "64 sequences for the same protein"),
    ("E4", "three-chains", "8 sequences for a complex of three chains (3HTN, 429 residues)"),
    ("E1", "speed", "log-probabilities of one native sequence (5L33)"),
    ("E4", "one", "1 sequence for one protein (5L33)"),
)
GPU_HEADLINE = ("E8", "many-exact", "256 sequences for the complex of three chains (3HTN)")


ROUNDING = 1e-7  # a divergence below this is the rounding of float32

# Markdown.


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table whose last `numbers` columns are aligned to the right."""
    rule = "|" + "---|" * (len(headings) - numbers) + "--:|" * numbers
    return "\n".join([_row(headings), rule, *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def number(value: float) -> str:
    """A ratio as it is said aloud: two digits, three from 100 on."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def power(value: float) -> str:
    """A small number: 5.4e-5."""
    return f"{value:.1e}".replace("e-0", "e-")


def machine(of: dict[str, str] | Any) -> str:
    name = of.get("gpu") or of["processor"]
    return f"{name}, {of['cores']} cores, Python {of['python']}, torch {of['torch']}"


# The ledgers.


def measured(ledgers: Iterable[Ledger], claim: str, figure: str) -> Iterator[tuple[Ledger, Entry]]:
    """What was measured of a figure, with the ledger it stands in."""
    for ledger in ledgers:
        for entry in ledger.entries:
            if (entry.claim, entry.figure) == (claim, figure) and entry.value is not None:
                yield ledger, entry


def speeds() -> str:
    """README's table: one speed for a workload, and none of a run whose control excludes 1.

    A speed whose interval holds the goal is inconclusive about the goal, and still a speed.
    """
    settled, open_ = [], []
    for claim, figure, words in HEADLINES:
        row = (words, f"{CPU.machine['cores']} CPU cores")
        found = [
            e.value
            for _, e in measured([CPU], claim, figure)
            if e.control is not None and e.control[0] <= 1 <= e.control[1]
        ]  # fmt: skip
        if found:
            settled.append((*row, f"{number(found[0])} x"))
        else:
            open_.append((*row, "not settled"))
    rows = (settled + open_)[:3]
    claim, figure, words = GPU_HEADLINE
    rows += [
        (words, ledger.machine["gpu"].removesuffix(" 80GB HBM3"), f"{number(entry.value)} x")
        for ledger, entry in measured(GPU, claim, figure)
    ]
    return table(("workload", "on", "times faster"), rows, numbers=1)


def choices() -> str:
    """README's table of models: what each loses, and its speed with the exact one as 1."""
    exact = next(e for _, e in measured([CPU], "E3", "difference"))
    fast = H100["accuracy"]["fast"]["designing 3HTN"]
    at = "3HTN x 512"
    rows = [
        (
            "exact",
            "the default",
            f"nothing: log-probabilities within {power(exact.value)} of the original's",
            "1",
        ),
        (
            "half precision",
            "`--device cuda --backend cuda-fast`",
            f"the likeliest residue changes at {100 * (1 - fast['argmax']):.1f} % of positions",
            number(H100["exact"][at]["ms"] / H100["fast"][at]["ms"]),
        ),
    ]
    native = {
        p["variant"]: p["speed"]["value"]
        for p in PARETO["cpu"]["points"]
        if p["backend"] == "native"
    }
    for variant in _students()[::2]:  # the rest are on the page of small models
        rows.append((
            f"small: {variant.name}",
            f"`--variant {variant.name}`",
            f"{quoted(variant)['value']:.1f} points of recovery on single chains, "
            f"{cards.on_complexes(variant):.1f} on complexes",
            number(native[variant.name] / native["baseline"]),
        ))  # fmt: skip
    return table(("model", "option", "what it loses", "speed"), rows, numbers=1)


def quoted(variant: mpnn.Variant) -> dict[str, float]:
    """The loss that it quotes, with a prediction interval: on a set that chose nothing."""
    return variant.evaluation["sets"][QUOTED]["metrics"]["recovery"]["loss_of_another_sample"]


def _students() -> list[mpnn.Variant]:
    """The variants with weights of their own, those that lose least first."""
    return sorted(cards.students(), key=lambda v: quoted(v)["value"])


def losses() -> str:
    """What every small model loses, with prediction intervals: what chose nothing first."""
    rows = []
    for v in _students():
        of_sets = (quoted(v), v.evaluation["loss"])
        chose_nothing, chose = (f"{i['value']:.1f} [{i['low']:.1f}, {i['high']:.1f}]"
                                for i in of_sets)  # fmt: skip
        rows.append((
            f"[`{v.name}`](~/reference/models/{v.name}.md)",
            f"{v.encoder_layers}+{v.decoder_layers} layers of width {v.hidden}, "
            f"k = {v.neighbours}",
            chose_nothing, f"{cards.on_complexes(v):.1f}", chose,
        ))  # fmt: skip
    first = _students()[0].evaluation
    headings = (
        "model", "shape", f"{QUOTED}, {first['sets'][QUOTED]['chains']} chains", "4 complexes",
        f"{first['chains']} chains that chose the recipes",
    )  # fmt: skip
    return table(headings, rows, 3)


def history() -> str:
    """How often an unchanged engine is called slower, and a fall is seen, by simulation."""
    rows = [
        (
            str(of["earlier"]),
            f"{of['false alarms']} of {of['histories']}",
            f"{of['seen']} of {of['falls']}",
        )
        for of in json.loads((DOCS / "history-alarms.json").read_text("utf-8"))
    ]
    return table(("runs of other commits", "false alarms", "falls by 30 % that were seen"), rows, 2)


def ledger_of(ledger: Ledger, wanted: Callable[[Entry], bool]) -> str:
    """The measured figures of a ledger, with the machine they are from."""
    rows = [
        (
            f"{'; '.join(filter(None, (e.workload, e.made_of)))} ({e.claim} {e.figure})",
            e.measured,
            "" if e.control is None else f"{e.control[0]:.3g} to {e.control[1]:.3g}",
            e.judged,
        )
        for e in ledger.measured if wanted(e)
    ]  # fmt: skip
    headings = ("workload and figure", "measured", "control", "verdict")
    source = f"{machine(ledger.machine)}; {ledger.date[:10]}."
    return f"{source}\n\n{table(headings, rows)}"


def cpu() -> str:
    """Our own claims as the stored run on a CPU found them."""
    return ledger_of(CPU, lambda e: e.claim.startswith("E") and e.claim not in ("E20", "E3"))


def gpu() -> str:
    """The pairs with the original on a GPU."""
    return "\n\n".join(ledger_of(ledger, lambda e: e.claim == "E8") for ledger in GPU)


def gpu_rates() -> str:
    """Designs on one H100 by themselves, exact and in half precision."""
    rows = []
    for workload, exact in H100["exact"].items():
        fast = H100["fast"][workload]
        rows.append((
            workload.replace(" x ", " × "),
            f"{exact['ms']:.3g} ms", f"{exact['per second']:,}" if "per second" in exact else "",
            f"{fast['ms']:.3g} ms", f"{fast['per second']:,}" if "per second" in fast else "",
        ))  # fmt: skip
    headings = ("workload", "exact", "designs/s", "half precision", "designs/s")
    of = H100["machine"]
    source = f"{of['gpu']}, torch {of['torch']}, Triton {of['triton']}; {of['date']}."
    return f"{source}\n\n{table(headings, rows, numbers=4)}"


def gpu_accuracy() -> str:
    """How far the two tiers on a GPU are from plain torch there."""
    rows = []
    for tier, words in (("exact", "exact"), ("fast", "half precision")):
        for protein in ("5L33", "3HTN"):
            found = H100["accuracy"][tier][f"designing {protein}"]
            rows.append((
                words, protein, f"{power(found['largest'])} nats",
                f"{power(found['kl'])} nats" if found["kl"] > ROUNDING else "0",
                f"{100 * found['argmax']:.1f} %",
            ))  # fmt: skip
    headings = ("tier", "protein", "largest difference", "KL", "same likeliest residue")
    recovery = {tier: 100 * H100["accuracy"][tier]["TS50 recovery"] for tier in ("exact", "fast")}
    return (
        f"{table(headings, rows, numbers=3)}\n\nRecovery of designs on TS50: "
        f"{recovery['exact']:.1f} % exact, {recovery['fast']:.1f} % in half precision."
    )


def variants() -> str:
    """Every variant in plain torch and in native code against the original."""
    of = PARETO["cpu"]
    by = {(p["variant"], p["backend"]): p["speed"] for p in of["points"]}
    names = dict.fromkeys(p["variant"] for p in of["points"])
    rows = [
        (
            name,
            *(
                "{value:.3g} [{low:.3g}, {high:.3g}] x".format(**by[name, backend])
                for backend in ("torch", "native")
            ),
        )
        for name in names
    ]
    source = (
        f"{of['workload']}; {machine(of['machine'])}; {of['date'][:10]}, {of['rounds']} rounds."
    )
    return f"{source}\n\n{table(('variant', 'plain torch', 'native code'), rows, numbers=2)}"


def peers() -> str:
    """Other implementations: how far they are from the original, and how fast."""
    parts = []
    for path in sorted((LEDGERS.parent / "peers").glob("*.json")):
        ledger = json.loads(path.read_text("utf-8"))
        of = ledger["machine"]
        parts.append(
            f"{of['processor']}, {of['cores']} cores, Python {of['python']}; {ledger['date']}."
        )
        rows = parity_rows(ledger)
        parts.append(table(PARITY, rows, numbers=len(PARITY) - 1))
        parts.append(table(SPEED, speed_rows(ledger), numbers=len(SPEED) - 2))
        if ledger["left_out"]:
            parts.append(f"Not measured, for want of time: {', '.join(ledger['left_out'])}.")
        parts += [f"Not exercised: {e['failed']}" for e in ledger["peers"] if e["failed"]]
    return "\n\n".join(parts) or "No run is stored yet; `mpnn-core bench` makes one."


def parity() -> str:
    """How far the exact model is from the original."""
    found = next(e for _, e in measured([CPU], "E3", "difference"))
    return (
        f"Largest difference of a log-probability on the six example proteins: {found.measured}. "
        f"The gate fails above {CLAIMS['E3'].figures['difference'].gates['cpu'].at_most:g} nats."
    )


def orders() -> str:
    """Coloured decoding orders against random ones, claim E9."""
    return ledger_of(CPU, lambda e: e.claim == "E9")


def study() -> str:
    """What the study reports, and what the stored run found."""
    rows = []
    for claim in (c for c in CLAIMS.values() if c.id.startswith("S")):
        for key, figure in claim.figures.items():
            entries = [e for e in CPU.entries if (e.claim, e.figure) == (claim.id, key)]
            done = [e for e in entries if e.value is not None]
            name = f"{claim.id} {claim.title}: {key}"
            rows += [(f"{name} ({e.workload})", str(figure), e.measured, e.judged) for e in done]
            if not done:
                why = f"needs {figure.needs}" if figure.needs else "inconclusive"
                rows.append((f"{name} ({claim.workload})", str(figure), "-", why))
    headings = ("claim (on)", "the study", "here", "verdict")
    return f"{machine(CPU.machine)}; {CPU.date[:10]}.\n\n{table(headings, rows)}"


def guard() -> str:
    """What the guard said of slowdowns of known size, counted from independent runs."""
    rows = []
    for found in rates(GUARD_RUNS):
        k, share = found.kind, found.share(Change.SLOWER)
        low, high = f"{100 * share.low:.0f}", f"{100 * share.high:.0f}"
        said = [f"{100 * (caught - 1):.1f}" for caught in found.caught]
        beside = f", {k.parallel} runs at a time" if k.parallel > 1 else ""
        rows.append((
            f"{k.processor}, {k.cores} cores, {k.condition}{beside}; {k.restarts} restarts of "
            f"{k.rounds} rounds", f"{k.slower} %" if k.slower else "unchanged", f"{found.runs}",
            f"{found.verdicts[Change.SLOWER]} ({low} to {high} %)",
            *(f"{found.verdicts[v]}" for v in (Change.INCONCLUSIVE, Change.NONE, Change.FASTER)),
            f"{said[0]} to {said[-1]} %, median {said[len(said) // 2]}" if said else "not stored",
            f"{found.load[0]:.1f} to {found.load[1]:.1f}",
        ))  # fmt: skip
    headings = (
        "machine", "slower by", "runs", "called slower (95 % interval)", "inconclusive",
        "no change", "faster", CAUGHT, "load",
    )  # fmt: skip
    return table(headings, rows, numbers=8)


def coverage() -> str:
    """How often a published interval held what later processes found."""
    parts = []
    for path in sorted((ROOT / "fixtures" / "coverage").glob("*.json")):
        study = Study.load_from(path)
        condition = "idle" if study.condition == "idle" else "one core busy"
        source = f"{study.machine_class}, {condition}: {machine(study.machine)}; {study.date[:10]}."
        headings = ("figure", "published interval", "later processes inside", "rate")
        parts.append(f"{source}\n\n{table(headings, study.rows(), numbers=2)}")
    return "\n\n".join(parts) or "Not measured yet."


def whole_ledger() -> str:
    """Every figure of every claim in the stored run."""
    return markdown(CPU.completed(CLAIMS), CLAIMS).strip()


def gate_table() -> str:
    """What pyproject.toml tells the gates of this project."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    tables = re.findall(
        r"(?ms)^\[+tool\.mpnn_core\.gate.*?(?=^\[+(?!tool\.mpnn_core\.gate)|\Z)", text
    )
    return "```toml\n" + "".join(tables).rstrip() + "\n```"


# The command line.


def command_line() -> str:
    """Every command and option, from the parsers' own help."""
    return "\n\n".join(_of_commands(parser(), "mpnn-core"))


def _of_commands(top: argparse.ArgumentParser, start: str) -> Iterator[str]:
    """The commands of a parser, and those of each command: headings, help and options."""
    for name, command in _commands(top):
        yield f"## {start} {name}"
        yield _help_of_command(top, name)
        rows = []
        for action in command._actions:
            if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
                continue
            text = command._get_formatter()._expand_help(action) if action.help else ""
            rows.append((_option(action), " ".join(text.split())))
        if rows:
            yield table(("option", "meaning"), rows)
        yield from _of_commands(command, f"{start} {name}")


def _commands(top: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    return [item for action in _subparsers(top) for item in action.choices.items()]


def _subparsers(top: argparse.ArgumentParser) -> list[argparse._SubParsersAction[Any]]:
    return [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]


def _help_of_command(top: argparse.ArgumentParser, name: str) -> str:
    """What `mpnn-core --help` says of a command, as a sentence."""
    [commands] = _subparsers(top)
    actions = {action.dest: action.help for action in commands._choices_actions}
    text = (actions.get(name) or "").strip()
    return f"{text[:1].upper()}{text[1:]}."


def _option(action: argparse.Action) -> str:
    metavar = action.metavar
    if metavar is None and action.choices is not None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    if metavar is None and action.option_strings and action.nargs != 0:
        metavar = action.dest.upper()
    if not action.option_strings:
        return f"`{metavar or action.dest}`"
    return f"`{', '.join(action.option_strings)}{f' {metavar}' if metavar else ''}`"


# The published weights.


def checkpoints() -> str:
    """Every published checkpoint: its names, its network, and where it is."""
    short = {full: f"`{alias}`" for alias, full in ALIASES.items()}
    rows = []
    for name in published_names():
        family, checkpoint = find_family(name), checkpoint_of(name)
        assert family is not None
        packages = " or ".join(f"{s.package} {s.version}" for s in family.sources)
        packaged = checkpoint in family.packaged
        rows.append(
            (
                f"`{name}`", short.get(name, ""), family.architecture, str(family.neighbours),
                f"{family.noise_levels[checkpoint]:g}",
                "**mpnn-core**" if packaged else packages, family.licence,
            )
        )  # fmt: skip
    return table(("name", "short", "network", "k", "noise", "in", "licence"), rows)


def hashes() -> str:
    """The sha256 of every published checkpoint, as published and as a file of ours."""
    rows = []
    for name in published_names():
        family, checkpoint = find_family(name), checkpoint_of(name)
        assert family is not None
        rows.append(
            (f"`{name}`", f"`{family.sha256[checkpoint]}`", f"`{family.converted[checkpoint]}`")
        )
    return table(("name", "sha256 as published", "sha256 as safetensors"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "speeds": speeds,
    "choices": choices,
    "history": history,
    "losses": losses,
    "cpu": cpu,
    "gpu": gpu,
    "gpu-rates": gpu_rates,
    "gpu-accuracy": gpu_accuracy,
    "variants": variants,
    "peers": peers,
    "parity": parity,
    "orders": orders,
    "study": study,
    "guard": guard,
    "coverage": coverage,
    "ledger": whole_ledger,
    "gate-table": gate_table,
    "command-line": command_line,
    "checkpoints": checkpoints,
    "hashes": hashes,
}


def filled(text: str, page: Path) -> str:
    """The text of a page with each of its blocks as the stored measurements have it.

    In a block, a link that begins with `~/` is one from docs/.
    """
    docs = Path(os.path.relpath(DOCS, page.parent)).as_posix()
    return BLOCK.sub(
        lambda m: f"{m[1]}{BLOCKS[m[2]]().replace('](~/', f']({docs}/')}\n{m[3]}", text
    )


def pages() -> list[Path]:
    """README and every page of the site."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def main() -> None:
    for path in pages():
        text = path.read_text("utf-8")
        new = filled(text, path)
        if new != text:
            path.write_text(new, "utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
