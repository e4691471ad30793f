"""Peers: what implementations of ProteinMPNN give under one contract, and that they agree.

Every peer runs in a process of its own; candidates are files that a test writes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from proteins import EXAMPLES, protein, random_order

from mpnn_core import ALPHABET
from mpnn_core.commands import bench
from mpnn_core.commands.main import main
from mpnn_core.peers import environments, worker
from mpnn_core.peers.contract import Peer, PeerError
from mpnn_core.peers.opening import ADAPTERS, OpenPeer, open_peer, place_of
from mpnn_core.peers.original import Original
from mpnn_core.peers.ours import Ours
from mpnn_core.peers.proteins import examples
from mpnn_core.peers.speed import SESSIONS, WORKLOADS, Race, workloads

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


# Proteins.


def test_the_examples_that_are_shipped_are_those_of_the_fixtures() -> None:
    assert tuple(examples()) == EXAMPLES
    for name, shipped in examples().items():
        structure = protein(name)
        for attribute in ("coords", "chain_ids", "residue_index", "residue_numbers", "mask"):
            np.testing.assert_array_equal(
                getattr(shipped, attribute), getattr(structure, attribute), f"{name}: {attribute}"
            )
        assert shipped.sequence == structure.sequence, name


# Speed, on a clock that the test owns.


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A side whose runs take known seconds: a first call of each process, and later ones."""

    def __init__(self, clock: Clock, first: float, later: float, has: tuple[str, ...] = ()) -> None:
        self.clock, self.first, self.later, self.has = clock, first, later, frozenset(has)
        self.called: set[tuple] = set()
        self.batches: list[int | None] = []

    def __enter__(self) -> Timed:
        self.called.clear()
        self.clock.now += 1
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def time(self, call, structures, n, seed, batch) -> float:
        size = n * sum(map(len, structures)) / 106
        seconds = size * self.later * (1 if batch in (None, n) else 0.5)
        key = (call, len(structures), n, batch)
        seconds += 0 if key in self.called else self.first
        self.called.add(key)
        self.batches.append(batch)
        self.clock.now += seconds
        return seconds


def race(sides: dict[str, Timed], clock: Clock, names: tuple[str, ...], budget_s: float) -> Race:
    lines: list[str] = []
    found = Race(
        [name for name in sides if name != "original"],
        [w for w in workloads(()) if w.name in names],
        examples(), budget_s, lines.append, opener=sides.__getitem__, clock=clock,
    )  # fmt: skip
    found.run()
    found.lines = lines
    return found


def test_the_ratio_is_that_of_later_runs_and_the_first_call_stands_apart() -> None:
    clock = Clock()
    sides = {"original": Timed(clock, 0.5, 1.0), "fast": Timed(clock, 20.0, 0.25)}
    found = race(sides, clock, ("5L33x1",), 1e6).of("0")["5L33x1"]
    assert found["ratio"] == pytest.approx(4) and found["sessions"] == SESSIONS
    assert found["interval"] == pytest.approx([4, 4])
    assert found["first_s"] == pytest.approx(20) and found["seconds"] == pytest.approx(0.25)


def test_the_fastest_batch_is_the_one_that_is_timed() -> None:
    clock = Clock()
    sides = {"original": Timed(clock, 0, 1.0), "batched": Timed(clock, 0, 1.0, ("batch",))}
    found = race(sides, clock, ("5L33x8",), 1e6).of("0")["5L33x8"]
    assert found["batch"] == 2 and found["ratio"] == pytest.approx(2)
    assert sides["batched"].batches[4:] == [2] * (4 * SESSIONS), "other batches were timed"


def test_workloads_without_room_in_the_budget_are_left_out_and_said() -> None:
    clock = Clock()
    sides = {"original": Timed(clock, 0, 1.0), "slow": Timed(clock, 0, 1.0)}
    # A session of 5L33x1 takes 2 s to open and 8 s of runs; one of 5L33x8 64 s more.
    found = race(sides, clock, ("5L33x1", "5L33x8", "5L33x64"), 120)
    assert found.left_out == ["5L33x8", "5L33x64"]
    (line,) = found.lines
    assert line.startswith("the budget has no room for 5L33x8, 5L33x64; the first of them needs")
    assert found.of("0")["5L33x1"]["sessions"] == SESSIONS and clock.now <= 120
    minutes = int(line.split("--budget ")[1].split("m")[0])
    clock.now = 0
    assert race(sides, clock, ("5L33x1", "5L33x8"), 60 * minutes).left_out == []


def test_a_peer_that_dies_while_it_is_timed_fails_alone(tmp_path) -> None:
    clock = Clock()

    class Dies(Timed):
        def time(self, *arguments) -> float:
            if len(self.batches) > 5:
                raise PeerError("peer dies: its process ended")
            return super().time(*arguments)

    sides = {
        "original": Timed(clock, 0, 1.0), "dies": Dies(clock, 0, 1.0), "lives": Timed(clock, 0, 0.5)
    }  # fmt: skip
    found = race(sides, clock, ("5L33x1",), 1e6)
    assert found.failed == {"dies": "peer dies: its process ended"}
    assert found.lines == ["peer dies: its process ended"]
    assert found.of("1")["5L33x1"]["ratio"] == pytest.approx(2)
    assert found.of("1")["5L33x1"]["sessions"] == SESSIONS


# The command.


def test_an_implementation_that_is_not_exact_turns_the_exit_code(tmp_path, capsys) -> None:
    out = tmp_path / "peers.json"
    call = ["bench", "--protein", "6MRR", "--chains", "0", "--budget", "0s", "--out", str(out)]
    spec = candidate(tmp_path)
    assert main([*call, "--peer", spec]) == 0
    assert main([*call, "--peer", spec, "--exact"]) == 1
    said = capsys.readouterr()
    assert f"peer {spec}: not exact: its log-probabilities of 6MRR differ by" in said.err
    (entry,) = json.loads(out.read_text("utf-8"))["peers"]
    assert entry["name"] == "echo" and entry["parity"]["difference"]["6MRR"]["largest"] > 1


def test_a_peer_that_fails_does_not_keep_others_from_being_compared(tmp_path, capsys) -> None:
    out = tmp_path / "peers.json"
    spec = candidate(tmp_path, "return np.zeros", "raise RuntimeError('no')  #")
    assert (
        main([
            "bench", "--peer", spec, "--peer", "ours", "--protein", "6MRR", "--chains", "2",
            "--budget", "0s", "--out", str(out),
        ])
        == 1
    )  # fmt: skip
    failed, ours = json.loads(out.read_text("utf-8"))["peers"]
    assert failed["failed"].endswith("RuntimeError: no") and not ours["failed"]
    assert ours["parity"]["difference"]["6MRR"]["largest"] <= TOLERANCE
    recovery = ours["parity"]["recovery"]
    assert recovery["chains"] == 2 and 20 < recovery["value"] < 70
    assert recovery["above"] == pytest.approx(recovery["value"] - recovery["original"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--peer", "nobody"], "peer nobody: there is no file of Python nobody; expected one of"),
        (["--peer", "ours", "--protein", "1ABC"], "--protein 1ABC: expected one of 5L33, 6MRR"),
        (["--peer", "ours", "--workload", "x"], "--workload x: expected one of score, 5L33x1"),
    ],
)
def test_a_wrong_call_is_refused(tmp_path, capsys, arguments, words) -> None:
    out = tmp_path / "peers.json"
    assert main(["bench", *arguments, "--out", str(out)]) == 2
    assert words in capsys.readouterr().err and not out.exists()


def test_what_the_help_lists_is_what_there_is() -> None:
    assert bench.PEERS.split(", ") == list(ADAPTERS)
    assert bench.PROTEINS.split(", ") == list(examples())
    assert bench.WORKLOADS.split(", ") == list(WORKLOADS)
