"""Peers: what implementations of ProteinMPNN give under one contract, and that they agree."""

from __future__ import annotations

import numpy as np
import pytest
from proteins import protein, random_order

from mpnn_core import ALPHABET
from mpnn_core.peers.contract import Peer
from mpnn_core.peers.original import Original
from mpnn_core.peers.ours import Ours

TOLERANCE = 1e-4  # nats


@pytest.fixture(scope="module", params=[Original, Ours])
def peer(request) -> Peer:
    return request.param()


def test_a_peer_says_its_name_and_version(peer) -> None:
    assert peer.name and peer.version[0].isdigit()


def test_log_probabilities_are_of_every_residue_and_letter(peer) -> None:
    structure = protein("6MRR")
    log_probs = peer.log_probs(structure, structure.sequence, random_order(len(structure)))
    assert log_probs.shape == (len(structure), len(ALPHABET)) and log_probs.dtype == np.float32
    assert np.exp(log_probs).sum(-1) == pytest.approx(1, abs=1e-5)


def test_a_seed_gives_its_sequences_again(peer) -> None:
    structure = protein("6MRR")
    sequences = peer.design(structure, n=2, temperature=0.5, seed=3)
    assert [len(sequence) for sequence in sequences] == [len(structure)] * 2
    assert set("".join(sequences)) <= set(ALPHABET) - {"X"}
    assert peer.design(structure, n=2, temperature=0.5, seed=3) == sequences
    assert peer.design(structure, n=2, temperature=0.5, seed=4) != sequences


@pytest.mark.parametrize("letters", ["native", "other"])
def test_peers_give_the_same_log_probabilities_under_one_order(letters) -> None:
    structure, order = protein("6MRR"), random_order(len(protein("6MRR")), 1)
    rng = np.random.default_rng(0)
    sequence = structure.sequence
    if letters == "other":
        sequence = "".join(rng.choice(list(ALPHABET[:20]), len(structure)))
    original, ours = (peer.log_probs(structure, sequence, order) for peer in (Original(), Ours()))
    difference = np.abs(original - ours).max()
    assert difference <= TOLERANCE, f"log-probabilities differ by {difference:.1e} nats"
