"""How far a peer is from the original: log-probabilities, neighbours, recovery of its designs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpnn_core import Structure
from mpnn_core.gate.intervals import paired_mean
from mpnn_core.peers.opening import OpenPeer

EXACT = 1e-4  # nats; a peer within it is called exact
SEQUENCES = 4  # designs of each chain, at T = 0.1


@dataclass
class Reference:
    """What the original gives for some proteins and chains, each computed when first needed."""

    original: OpenPeer
    proteins: Mapping[str, Structure]
    chains: Sequence[Structure]
    _log_probs: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _neighbours: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _recovery: list[float] = field(default_factory=list)

    def order(self, name: str) -> NDArray[np.int64]:
        """The decoding order of a protein, for all peers."""
        return np.random.default_rng(0).permutation(len(self.proteins[name]))

    def log_probs(self, name: str) -> NDArray[np.float32]:
        if name not in self._log_probs:
            structure = self.proteins[name]
            self._log_probs[name] = self.original.log_probs(
                structure, structure.sequence, self.order(name)
            )
        return self._log_probs[name]

    def neighbours(self, name: str) -> NDArray[np.int64]:
        if name not in self._neighbours:
            self._neighbours[name] = self.original.neighbours(self.proteins[name])
        return self._neighbours[name]

    def recovery(self) -> list[float]:
        if not self._recovery:
            self._recovery = recovery(self.original, self.chains)
        return self._recovery


def parity(peer: OpenPeer, reference: Reference) -> dict[str, Any]:
    """A peer against the original, as JSON.

    `difference`: per protein the largest and the mean difference of log-probabilities in nats, and
    their correlation, under one order; {} with the reason in `why` where they are not compared.
    `neighbours`: the share of residues whose set of neighbours is the same; None where the peer
    does not give them. `recovery`: percent of native residues in its designs, per set of chains,
    and what it is above the original's, with an interval at 95 % over chains.
    """
    found: dict[str, Any] = {"difference": {}, "neighbours": None, "recovery": None, "why": ""}
    if peer.weights != "v_48_020":
        found["why"] = f"another network, {peer.weights}"
    elif not peer.takes_order:
        found["why"] = "takes no decoding order"
    else:
        for name, structure in reference.proteins.items():
            theirs = peer.log_probs(structure, structure.sequence, reference.order(name))
            rows = structure.mask
            found["difference"][name] = _difference(theirs[rows], reference.log_probs(name)[rows])
    if "neighbours" in peer.has and peer.weights == "v_48_020":
        shares = [
            _same_sets(peer.neighbours(s)[s.mask], reference.neighbours(name)[s.mask])
            for name, s in reference.proteins.items()
        ]
        found["neighbours"] = float(np.mean(np.concatenate(shares)))
    if reference.chains:
        theirs_of = recovery(peer, reference.chains)
        above = np.subtract(theirs_of, reference.recovery())
        interval = paired_mean(above, error=0.05) if len(above) > 1 else None
        found["recovery"] = {
            "chains": len(reference.chains),
            "value": float(np.mean(theirs_of)),
            "original": float(np.mean(reference.recovery())),
            "above": float(above.mean()),
            "interval": interval and [interval.low, interval.high],
        }
    return found


def largest(found: Mapping[str, Any]) -> float | None:
    """The largest difference of a log-probability on any protein; None where none was compared."""
    differences = [of["largest"] for of in found["difference"].values()]
    return max(differences, default=None)


def recovery(peer: OpenPeer, chains: Sequence[Structure]) -> list[float]:
    """Percent of native residues in the designs of each chain."""
    values = []
    for designs, chain in zip(peer.design_many(chains, SEQUENCES), chains, strict=True):
        native = np.array(list(chain.sequence))
        known = chain.mask & (native != "X")
        values.append(100 * float(np.mean([(np.array(list(d)) == native)[known] for d in designs])))
    return values


def _difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> dict[str, float | None]:
    difference = np.abs(a.astype(np.float64) - b)
    constant = np.ptp(a) == 0  # which correlates with nothing
    return {
        "largest": float(difference.max()),
        "mean": float(difference.mean()),
        "pearson": None if constant else float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
    }


def _same_sets(a: NDArray[np.int64], b: NDArray[np.int64]) -> list[bool]:
    return [set(x) == set(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
