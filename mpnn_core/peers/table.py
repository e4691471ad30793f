"""The rows of a ledger of peers, for a terminal and for the site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpnn_core.peers.parity import largest

PARITY = (
    "peer", "largest difference", "mean", "correlation", "same neighbours", "recovery",
    "above the original's",
)  # fmt: skip
SPEED = ("peer", "workload", "times faster", "seconds", "batch", "first call")


def parity_rows(ledger: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row per peer: differences in nats over all proteins, recovery in percent."""
    rows: list[tuple[str, ...]] = []
    for entry in ledger["peers"]:
        found = entry.get("parity")
        if found is None:
            rows.append((named(entry), "failed", *[""] * 5))
            continue
        differences = list(found["difference"].values())
        cells = [found["why"], "", ""]
        if differences:
            correlations = [of["pearson"] for of in differences]
            cells = [
                f"{largest(found):.1e}",
                f"{sum(of['mean'] for of in differences) / len(differences):.1e}",
                "none" if None in correlations else f"{min(correlations):.5f}",
            ]
        cells.append("" if found["neighbours"] is None else f"{100 * found['neighbours']:.1f} %")
        recovery = found["recovery"]
        if recovery is None:
            cells += ["", ""]
        else:
            low, high = recovery["interval"] or (float("nan"), float("nan"))
            above = f"{recovery['above']:.1f} [{low:.1f}, {high:.1f}]"
            cells += [f"{recovery['value']:.1f} %", above]
        rows.append((named(entry), *cells))
    return rows


def speed_rows(ledger: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row per peer and workload."""
    rows: list[tuple[str, ...]] = []
    for entry in ledger["peers"]:
        for workload, found in entry.get("speed", {}).items():
            interval = found["interval"]
            between = (
                "[{:.3g}, {:.3g}]".format(*interval)
                if interval
                else f"({found['sessions']} sessions: no interval)"
            )
            rows.append((
                named(entry),
                ledger["workloads"][workload],
                f"{found['ratio']:.3g} {between}",
                f"{found['seconds']:.3g}",
                str(found["batch"] or ""),
                f"+{found['first_s']:.1f} s" if found["first_s"] >= 0.05 else "",
            ))  # fmt: skip
    return rows


def named(entry: Mapping[str, Any]) -> str:
    """A peer as its authors call it; a file as it was given."""
    if "name" not in entry:
        return str(entry["peer"])
    return f"{entry['name']} {entry['version']}"
