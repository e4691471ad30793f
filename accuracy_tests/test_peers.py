"""Peers: what implementations of ProteinMPNN give under one contract, and that they agree.

Every peer runs in a process of its own; candidates are files that a test writes.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from proteins import protein, random_order

from mpnn_core import ALPHABET
from mpnn_core.peers import environments, worker
from mpnn_core.peers.contract import Peer, PeerError
from mpnn_core.peers.opening import ADAPTERS, OpenPeer, open_peer, place_of
from mpnn_core.peers.original import Original
from mpnn_core.peers.ours import Ours

TOLERANCE = 1e-4  # nats

CANDIDATE = """
import numpy as np

class Candidate:
    name, version = "echo", "1"

    def log_probs(self, structure, sequence, order):
        return np.zeros((len(structure), 21), np.float32)

    def design(self, structure, n=1, temperature=0.1, seed=0):
        return [structure.sequence] * n

def peer():
    return Candidate()
"""


@pytest.fixture(scope="module", params=[Original, Ours])
def peer(request) -> Peer:
    return request.param()


@pytest.fixture(scope="module")
def opened_original() -> Iterator[OpenPeer]:
    with open_peer("original") as peer:
        yield peer


def candidate(folder: Path, old: str = "", new: str = "") -> str:
    """A candidate file, with one part of it replaced."""
    assert old in CANDIDATE
    path = folder / "fork.py"
    path.write_text(CANDIDATE.replace(old, new) if old else CANDIDATE, "utf-8")
    return str(path)


# What a peer gives.


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


def test_the_original_designs_in_batches_of_any_size() -> None:
    original, structure = Original(), protein("6MRR")
    original.batch = 2
    assert len(set(original.design(structure, n=3, temperature=1.0))) == 3


# The pipe.


def test_arrays_go_through_the_pipe_to_the_bit() -> None:
    arrays = {
        "nan": np.array([[np.nan, -0.0], [np.inf, 1e-45]], np.float32),
        "text": np.array(["A", "B27", " "]),
        "none": np.zeros((0, 4), np.int64),
        "transposed": np.arange(6).reshape(2, 3).T,
        "scalar": np.float64(0.1),
    }
    stream = io.BytesIO()
    worker.send(stream, {"word": "naïve\n"}, arrays)
    stream.seek(0)
    message, received = worker.receive(stream)
    assert message == {"word": "naïve\n"} and received.keys() == arrays.keys()
    for name, sent in arrays.items():
        sent = np.asarray(sent)
        assert (received[name].dtype, received[name].shape) == (sent.dtype, sent.shape), name
        assert received[name].tobytes() == sent.tobytes(), name
    assert worker.receive(stream) is None, "the stream has ended"


def test_a_message_that_is_cut_short_is_none() -> None:
    stream = io.BytesIO()
    worker.send(stream, {}, {"x": np.arange(4)})
    for end in (len(stream.getvalue()) - 1, 5):
        assert worker.receive(io.BytesIO(stream.getvalue()[:end])) is None


def test_an_array_of_objects_is_refused() -> None:
    with pytest.raises(TypeError, match="sequences is an array of Python objects"):
        worker.send(io.BytesIO(), {}, {"sequences": np.array([None])})


def test_the_original_gives_the_same_through_the_pipe(opened_original) -> None:
    structure, here = protein("6MRR"), Original()
    order = random_order(len(structure), 2)
    assert (opened_original.name, opened_original.version) == (here.name, here.version)
    there = opened_original.log_probs(structure, structure.sequence, order)
    np.testing.assert_allclose(
        there, here.log_probs(structure, structure.sequence, order), atol=2e-6, rtol=0
    )
    assert opened_original.design(structure, 2, 0.5, 3) == here.design(structure, 2, 0.5, 3)
    np.testing.assert_array_equal(
        np.sort(opened_original.neighbours(structure)), np.sort(here.neighbours(structure))
    )


def test_our_engine_gives_the_same_through_the_pipe() -> None:
    structures, here = [protein("6MRR"), protein("1pwc")], Ours()
    order = random_order(len(structures[0]), 2)
    with open_peer("ours") as there:
        np.testing.assert_allclose(
            there.log_probs(structures[0], structures[0].sequence, order),
            here.log_probs(structures[0], structures[0].sequence, order),
            atol=2e-6, rtol=0,
        )  # fmt: skip
        assert "design_many" in there.has
        designs = there.design_many(structures, 2, 0.5, 3)
        assert designs == here.design_many(structures, 2, 0.5, 3)
        assert designs[0] == here.design(structures[0], 2, 0.5, 3)
        assert 0 < there.time("design", structures[:1], 1, seed=0) < 60
        assert 0 < there.time("log_probs", structures[:1], 1, seed=0) < 60


# Candidates.


def test_a_candidate_gets_a_structure_with_what_the_contract_names(tmp_path) -> None:
    structure = protein("1pwc")  # has residues without a backbone
    fields = ("coords", "chain_ids", "residue_index", "mask")
    code = f"[f'{{np.asarray(getattr(structure, f)).tobytes().hex()}}' for f in {fields}]"
    spec = candidate(tmp_path, "return [structure.sequence] * n", f"raise ValueError({code})")
    with open_peer(spec) as peer, pytest.raises(PeerError) as caught:
        peer.design(structure)
    for field in fields:
        assert getattr(structure, field).tobytes().hex() in str(caught.value), field


def test_a_candidate_needs_numpy_alone_and_does_not_see_this_package(tmp_path) -> None:
    """In another environment: one that has NumPy, and not mpnn_core."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    (packages,) = environment.glob("**/site-packages")
    at = Path(np.__file__).parent
    for folder in (at, *at.parent.glob("numpy.libs")):
        (packages / folder.name).symlink_to(folder)
    look = 'import importlib.util as u, sys; seen = [n for n in ("mpnn_core", "torch") if '
    look += "u.find_spec(n)]\nimport numpy as np"
    spec = candidate(tmp_path, "import numpy as np", look)
    text = Path(spec).read_text("utf-8")
    Path(spec).write_text(text.replace('"echo"', '(sys.prefix + " sees " + str(seen))'), "utf-8")
    with open_peer(f"{spec}:{python}") as peer:
        assert peer.name == f"{environment} sees []"
        assert peer.design(protein("6MRR"), 2) == [protein("6MRR").sequence] * 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return np.zeros", "raise RuntimeError('no')  #", "line 8: RuntimeError: no"),
        ("len(structure), 21", "len(structure), 20", "the shape (68, 20); expected (68, 21)"),
        ("np.float32)", "np.int64)", "log_probs gave the dtype int64; expected float32"),
        ("np.zeros((", "np.nan * np.zeros((", "log_probs are not finite: 68; expected 0"),
        ("return np.zeros", "import os; os._exit(7)  #", "process ended, code 7: without a word"),
        (
            "return np.zeros", "import os; print('last words', flush=True); os.abort()  #",
            "its process ended, code -6: last words",
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_log_probs_is_said_with_the_name_of_the_peer(
    tmp_path, old, new, words
) -> None:
    structure = protein("6MRR")
    spec = candidate(tmp_path, old, new)
    with open_peer(spec) as peer, pytest.raises(PeerError) as caught:
        peer.log_probs(structure, structure.sequence, random_order(len(structure)))
    assert str(caught.value).startswith(f"peer {spec}: ") and str(caught.value).endswith(words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("* n", "", "gave sequences of the lengths [68]; expected [68, 68]"),
        ("[structure.sequence]", "['é' * len(structure)]", f"not in {ALPHABET}: é; expected "),
    ],
)
def test_designs_that_are_no_sequences_are_refused(tmp_path, old, new, words) -> None:
    with open_peer(candidate(tmp_path, old, new)) as peer:
        with pytest.raises(PeerError) as caught:
            peer.design(protein("6MRR"), 2)
        assert str(caught.value).endswith(words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def peer()", "def other()", "no function peer(); expected one that returns a peer"),
        ("def design", "def designs", "what peer() returned lacks design"),
        ("import numpy", "import nompy", "line 2: ModuleNotFoundError: No module named 'nompy'"),
    ],
)  # fmt: skip
def test_a_candidate_that_cannot_be_opened_says_why(tmp_path, old, new, words) -> None:
    spec = candidate(tmp_path, old, new)
    with pytest.raises(PeerError) as caught, open_peer(spec):
        pass
    assert str(caught.value).startswith(f"peer {spec}: it could not be opened: ")
    assert str(caught.value).endswith(words)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nobody", "there is no file of Python nobody; expected one of original, ours"),
        ("nothing.py", "there is no file of Python nothing.py"),
        ("ours:nothing", "there is no Python 'nothing'"),
        ("ours:", "there is no Python ''"),
    ],
)
def test_a_peer_that_is_nowhere_is_refused(spec, words) -> None:
    with pytest.raises(PeerError) as caught:
        place_of(spec)
    assert f"peer {spec}: {words}" in str(caught.value)


def test_what_a_peer_prints_is_no_reply(tmp_path) -> None:
    spec = candidate(tmp_path, "return [", "print('{}'); return [")
    with open_peer(spec) as peer:
        assert peer.design(protein("6MRR")) == [protein("6MRR").sequence]


# Environments.


def test_every_peer_of_others_has_an_environment_of_pinned_versions() -> None:
    assert ADAPTERS.keys() - environments.ENVIRONMENTS.keys() == {"original", "ours"}
    for name, environment in environments.ENVIRONMENTS.items():
        for requirement in (*environment.alone, *environment.requirements):
            assert requirement.count("==") == 1, f"{name}: {requirement} is not pinned"


def test_an_environment_is_built_anew_when_a_pin_changes() -> None:
    pins = environments.Environment(("a==1",), ("b==2",), ("3.11",), "a minute")
    others = [
        environments.Environment(("a==1.1",), ("b==2",), ("3.11",), "a minute"),
        environments.Environment(("a==1",), ("b==2", "c==3"), ("3.11",), "a minute"),
        environments.Environment(("a==1",), ("b==2",), ("3.12",), "a minute"),
    ]
    assert len({pins.hash, *(other.hash for other in others)}) == 4
    assert environments.Environment(("a==1",), ("b==2",), ("3.11",), "an hour").hash == pins.hash


def test_an_environment_that_cannot_be_built_says_what_is_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    nowhere = environments.Environment((), (), ("2.1", "2.2"), "a minute")
    monkeypatch.setitem(environments.ENVIRONMENTS, "ligandmpnn", nowhere)
    with (
        pytest.raises(PeerError, match=r"peer ligandmpnn: it needs Python 2.1 or 2.2, and none"),
        open_peer("ligandmpnn"),
    ):
        pass


@pytest.mark.proof
@pytest.mark.parametrize("name", environments.ENVIRONMENTS)
def test_other_implementations_agree_with_the_original(name, opened_original) -> None:
    """Each in the environment that the command builds, in the folder where it builds it."""
    structure, order = protein("6MRR"), random_order(len(protein("6MRR")), 1)
    with open_peer(name) as peer:
        log_probs = peer.log_probs(structure, structure.sequence, order)
        assert len(peer.design(structure, 2)) == 2
        if name == "ligandmpnn-v32":  # another network
            return
        difference = np.abs(
            log_probs - opened_original.log_probs(structure, structure.sequence, order)
        ).max()
        assert difference <= TOLERANCE, f"log-probabilities differ by {difference:.1e} nats"
