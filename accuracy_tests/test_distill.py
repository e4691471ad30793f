"""Distillation: what a lesson is, what a run keeps, and that a student learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proteins import path_of, protein
from sklearn.svm import LinearSVC

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.constants import ALPHABET
from mpnn_core.network.checkpoints import (
    build_network,
    file_sha256,
    load_checkpoint,
    resolve,
    weights_file,
)
from mpnn_core.network.variants import VARIANTS, find_variant
from mpnn_core.training import metrics
from mpnn_core.training.corpus import Corpus, corpus_of
from mpnn_core.training.lessons import Minibatch, ResidentCorpus
from mpnn_core.training.recipes import (
    RECIPES,
    DistillError,
    EvaluationSettings,
    Lessons,
    Recipe,
    bounds,
    learning_rate,
    with_values,
)
from mpnn_core.training.run import STATE, Run
from mpnn_core.training.students import Student, apart, initial_weights, logits_and_states

CPU = torch.device("cpu")
SMALL = ("1mr1D", "2xcjA", "2cviA", "2va0A")  # the shortest chains of TS50
FROM_SCRATCH = Recipe(start="random", learning_rate=4e-3, warmup=5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Gradients of gathers add up in the order of threads; with one, a run repeats to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    chains = [protein(name) for name in SMALL]
    # One chain is shorter than k = 48, and one cluster has two members.
    short = mpnn.Structure.from_backbone(
        chains[0].coords[:40], chains[0].sequence[:40], name="short"
    )
    return replace(corpus_of("small", [*chains, short]), cluster=np.array([0, 1, 2, 3, 3]))


@pytest.fixture(scope="module")
def teacher() -> torch.nn.Module:
    return build_network(load_checkpoint("v_48_020"), find_variant("baseline"))


def test_a_batch_computes_what_the_model_computes(corpus: Corpus, teacher: torch.nn.Module) -> None:
    resident = ResidentCorpus.of(corpus, CPU)
    spare = len(resident.coords) - 1
    rows = torch.tensor([*range(spare), *[spare] * 7])
    batch = Minibatch.of(resident, rows)
    order = torch.rand(len(rows))
    b, g = batch.backbones, batch.graph(48)
    logits, states = logits_and_states(
        teacher, b.coords, b.residue_index, b.chain, g.neighbours, g.valid, batch.native, order
    )
    found = logits.log_softmax(-1)[batch.present].split(resident.sizes.tolist())
    orders = [
        np.argsort(o.numpy())[None] for o in order[batch.present].split(resident.sizes.tolist())
    ]
    expected = mpnn.load_model("v_48_020").log_probs(list(corpus.structures), None, orders)
    difference = max(
        float(np.abs(f.numpy() - e[0]).max()) for f, e in zip(found, expected, strict=True)
    )
    assert difference < 1e-4
    last = states[:, batch.present][-1]  # the output layer reads it
    assert (teacher.W_out(last) - logits[batch.present]).abs().max() < 1e-4
    assert states.shape == (6, len(rows), 128)


@given(seed=st.integers(0, 2**32 - 1), nodes=st.integers(130, 700))
@settings(max_examples=25, deadline=None)
def test_steps_take_whole_chains_of_clusters_in_turn(corpus: Corpus, seed: int, nodes: int) -> None:
    resident = ResidentCorpus.of(corpus, CPU)
    spare = len(resident.coords) - 1
    plan = resident.plan(seed, 0, 12, nodes)
    taken = []
    for row in plan:
        real = row[row < spare]
        assert (row[len(real) :] == spare).all()
        while len(real):
            chain = int(np.flatnonzero(resident.starts == real[0])[0])
            size = resident.sizes[chain]
            assert (real[:size] == np.arange(real[0], real[0] + size)).all()
            taken.append(chain)
            real = real[size:]
    # Every cluster once before any comes again.
    rounds = [corpus.cluster[taken[i : i + 4]] for i in range(0, len(taken) - 4, 4)]
    assert all(len(set(r.tolist())) == 4 for r in rounds)
    assert (plan == resident.plan(seed, 0, 12, nodes)).all()


def whole(corpus: Corpus) -> tuple[ResidentCorpus, Minibatch]:
    """All of a corpus as one batch, with the spare row at its end."""
    resident = ResidentCorpus.of(corpus, CPU)
    return resident, Minibatch.of(resident, torch.arange(len(resident.coords)))


def test_noise_stays_within_its_bound(corpus: Corpus) -> None:
    resident, batch = whole(corpus)
    noisy = batch.varied(Lessons(noise=0.2, divide=0, crop=0, deform=0), resident)
    moved = (noisy.backbones.coords - batch.backbones.coords)[batch.present].std()
    assert 0 < moved < 0.2
    assert (noisy.present == batch.present).all()
    assert (noisy.backbones.chain == 3 * batch.backbones.chain).all()  # undivided, whole


def test_bent_structures_keep_their_bonds_and_shift_far_atoms(corpus: Corpus) -> None:
    """By a few per cent, smoothly, each structure in its own way."""
    torch.manual_seed(0)
    resident, batch = whole(corpus)
    apart_by = torch.cdist(*[batch.backbones.coords[:, 1]] * 2)
    structure = batch.structure
    alike = structure[:, None] == structure
    near, far = alike & (apart_by > 0) & (apart_by < 4.5), alike & (apart_by > 20)
    changes, shifts, moved = [], [], []
    for _ in range(20):
        bent = batch.varied(Lessons(noise=0, divide=0, crop=0, deform=0.06), resident)
        assert (bent.present == batch.present).all()
        before, after = batch.backbones.coords, bent.backbones.coords
        bonds = torch.stack([(x[:, :3] - x[:, 1:]).norm(dim=-1) for x in (before, after)])
        changes.append((bonds[1] / bonds[0] - 1)[batch.present].flatten())
        shift = after[:, 1] - before[:, 1]
        between = (shift[:, None] - shift).norm(dim=-1)
        shifts.append((between[near].mean(), between[far].mean()))
        moved.append(torch.stack([shift[structure == s].mean(0) for s in range(len(corpus))]))
    strain = torch.cat(changes)
    assert 0.005 < float(strain.std()) < 0.03
    assert float(strain.abs().max()) < 0.3
    close, distant = torch.tensor(shifts).mean(0).tolist()
    assert distant > 3 * close > 0
    assert float(torch.stack(moved).std(1).mean()) > 0.05  # not one field for all


def test_divided_structures_are_two_or_three_chains_in_a_row(corpus: Corpus) -> None:
    torch.manual_seed(0)
    resident, batch = whole(corpus)
    seen = set()
    for _ in range(20):
        divided = batch.varied(Lessons(divide=1, crop=0), resident)
        for structure, size in enumerate(resident.sizes):
            chain = divided.backbones.chain[divided.structure == structure].tolist()
            pieces = [next(group) for _, group in groupby(chain)]
            assert len(chain) == size
            assert pieces == sorted(set(pieces))
            seen.add(len(pieces))
        chains_of = {
            (int(s), int(c))
            for s, c in zip(divided.structure, divided.backbones.chain, strict=True)
        }
        assert len({c for _, c in chains_of}) == len(chains_of)  # no number in two structures
    assert seen == {1, 2, 3}  # a cut may fall before the first residue


def test_cropped_structures_keep_one_side_of_a_plane(corpus: Corpus) -> None:
    torch.manual_seed(0)
    resident, batch = whole(corpus)
    shares = []
    for _ in range(20):
        cropped = batch.varied(Lessons(noise=0, divide=0, crop=1), resident)
        for structure, size in enumerate(resident.sizes):
            rows = cropped.structure == structure
            ca, kept = batch.backbones.coords[rows, 1], cropped.present[rows]
            shares.append(float(kept.sum()) / size)
            if 8 <= int(kept.sum()) <= size - 8:
                side = LinearSVC(C=1e6, max_iter=200_000).fit(ca.numpy(), kept.numpy())
                assert side.score(ca.numpy(), kept.numpy()) > 0.98
    assert 0.7 < float(np.mean(shares)) < 0.9
    assert min(shares) > 0.25


def test_a_lesson_is_the_network_on_the_structure_that_it_shows(
    corpus: Corpus, teacher: torch.nn.Module
) -> None:
    """Divided and cropped: the model on structures made of what is left says the same."""
    torch.manual_seed(1)
    resident, batch = whole(corpus)
    lesson = batch.varied(Lessons(noise=0, divide=1, crop=1), resident)
    order = torch.rand(len(lesson.rows))
    b, g = lesson.backbones, lesson.graph(48)
    logits, _ = logits_and_states(
        teacher, b.coords, b.residue_index, b.chain, g.neighbours, g.valid, lesson.native, order
    )
    model = mpnn.load_model("v_48_020")
    for structure in range(len(corpus)):
        rows = (lesson.structure == structure) & lesson.present
        shown = mpnn.Structure.from_backbone(
            b.coords[rows].numpy(),
            "".join(ALPHABET[i] for i in lesson.native[rows]),
            chain_ids=[str(int(c)) for c in b.chain[rows]],
            residue_index=b.residue_index[rows].numpy(),
        )
        expected = model.log_probs(shown, None, np.argsort(order[rows].numpy())[None])[0]
        assert np.abs(logits[rows].log_softmax(-1).numpy() - expected).max() < 1e-4


def test_a_student_of_the_teachers_shape_starts_as_the_teacher(teacher: torch.nn.Module) -> None:
    state = teacher.state_dict()
    assert all((v == state[k]).all() for k, v in initial_weights(state, state).items())


def test_a_shallow_student_starts_from_the_first_and_the_last_layer(
    teacher: torch.nn.Module,
) -> None:
    state = teacher.state_dict()
    lean = initial_weights(state, mpnn.load_model("random", "lean").network.state_dict())
    for kind in ("encoder_layers", "decoder_layers"):
        for layer, source in ((0, 0), (1, 2)):
            assert (lean[f"{kind}.{layer}.W2.weight"] == state[f"{kind}.{source}.W2.weight"]).all()


def test_a_student_goes_on_from_a_checkpoint_of_its_shape(teacher: torch.nn.Module) -> None:
    shipped = resolve("v_48_020", find_variant("extreme-v2")).load().state
    path = weights_file("v_48_020").with_name("extreme-v2.safetensors")
    student = Student("extreme-v2", Recipe(start=str(path)), teacher, CPU)
    assert all((value == shipped[name]).all() for name, value in student.averages().items())
    assert student.before is not None  # what is known of the weights that it goes on from
    assert student.before["sha256"] == file_sha256(path)
    assert student.before["run"]["steps"] > 0
    with pytest.raises(DistillError, match="does not fit variant 'extreme-v2'"):
        Student("extreme-v2", Recipe(start="v_48_020"), teacher, CPU)
    with pytest.raises(DistillError, match=r"nowhere\.safetensors'; expected 'teacher', 'random'"):
        Student("extreme-v2", Recipe(start="nowhere.safetensors"), teacher, CPU)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"\xff", b"[" * 10**5])
def test_a_damaged_record_beside_a_checkpoint_is_named(
    record: bytes, teacher: torch.nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "start.safetensors"
    resolve("v_48_020", find_variant("extreme-v2")).load().save(path)
    path.with_suffix(".training.json").write_bytes(record)
    with pytest.raises(DistillError, match=r"start\.training\.json is not the record of"):
        Student("extreme-v2", Recipe(start=str(path)), teacher, CPU)


@pytest.mark.parametrize("residues", [1, 2, 5])
def test_chains_shorter_than_a_neighbourhood_can_be_learnt_from(
    residues: int, tmp_path: Path
) -> None:
    s = protein("5L33")
    short = mpnn.Structure.from_backbone(s.coords[:residues], s.sequence[:residues], name="short")
    run = Run(
        {"extreme-v2": FROM_SCRATCH}, Lessons(steps=3, nodes=residues), corpus_of("s", [short])
    )
    assert run.train(tmp_path)


@pytest.mark.parametrize("name", sorted({v.student for v in VARIANTS.values() if v.student}))
def test_every_student_has_a_recipe_and_starts_with_finite_weights(
    name: str, teacher: torch.nn.Module
) -> None:
    student = Student(name, replace(RECIPES[name], start="teacher"), teacher, CPU)
    assert bool(torch.isfinite(student.weights).all())
    assert set(student.averages()) == set(student.network.state_dict())


def test_muon_steps_have_singular_values_near_one(teacher: torch.nn.Module) -> None:
    student = Student("extreme-v2", FROM_SCRATCH, teacher, CPU)
    generator = torch.Generator().manual_seed(0)
    momentum = torch.randn(student.momentum.shape, generator=generator)
    step = student._orthogonal(momentum)
    blocks = step.view(-1, 64, 64)[:4]  # of the first matrix; every (64, 64) block is one step
    values = torch.linalg.svdvals(blocks / (0.2 * 64**0.5))
    # The iteration's coefficients trade exactness for speed: 0.7 to 1.2, the smallest ones aside.
    assert 0.5 < float(values.median()) < 1.3
    assert float(values.max()) < 1.5


def test_states_are_apart_in_units_of_their_own_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    taught = torch.randn(3, 50, 8, generator=generator) * torch.tensor([0.1, 1, 7])[:, None, None]
    present = torch.arange(50) < 40
    assert float(apart(taught, taught, present)) == 0
    mean = taught[:, present].mean((1, 2), keepdim=True).expand_as(taught)
    assert float(apart(mean, taught, present)) == pytest.approx(1, abs=1e-5)
    absent = torch.where(present[:, None], taught, 100.0)
    assert float(apart(absent, taught, present)) == 0
    off = taught + taught[:, present].std((1, 2), correction=0)[:, None, None] / 2
    assert float(apart(off, taught, present)) == pytest.approx(0.25, abs=1e-5)


def test_a_student_that_matches_comes_nearer_to_the_teachers_states(
    corpus: Corpus, tmp_path: Path
) -> None:
    def distance(match: float) -> float:
        recipe = Recipe(learning_rate=5e-4, warmup=5, match=match)
        run = Run({"fast": recipe}, Lessons(steps=10, nodes=160), corpus)
        run.train(tmp_path / str(match))
        _, batch = whole(corpus)
        b, g = batch.backbones, batch.graph(48)
        order = torch.rand(len(batch.rows), generator=torch.Generator().manual_seed(0))
        given = b.coords, b.residue_index, b.chain, g.neighbours, g.valid, batch.native, order
        with torch.no_grad():
            (_, own), (_, taught) = (
                logits_and_states(network, *given)
                for network in (run.students[0].network, run.teacher)
            )
            return float(apart(own, taught, batch.present))

    alone, matched = distance(0), distance(1)
    assert 0 < matched < 0.97 * alone, f"{alone:.4f} without matching, {matched:.4f} with"


def test_states_of_another_shape_do_not_match(teacher: torch.nn.Module) -> None:
    with pytest.raises(DistillError, match=r"lean: match is 0\.5, .* \(128, 2, 2\)"):
        Student("lean", Recipe(match=0.5), teacher, CPU)


def test_learning_rates_rise_hold_and_fall() -> None:
    recipe = Recipe(learning_rate=1.0, warmup=10, fall=0.5)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert rates[50:] == pytest.approx([(100 - step) / 50 for step in range(50, 100)])


def test_distilling_improves_a_student_within_two_minutes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structures = tmp_path / "structures"
    structures.mkdir()
    for name in SMALL:
        (structures / path_of(name).name).symlink_to(path_of(name))
    call = [
        "distill", str(structures), "--student", "extreme-v2", "--out", str(tmp_path / "run"),
        "--set", "steps=40,nodes=384,warmup=5", "--validation", str(structures),
    ]  # fmt: skip
    assert main(call) == 0
    assert "residues/s" in capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "extreme-v2.training.json").read_text())
    assert record["corpus"]["structures"] == len(SMALL)
    assert record["run"]["steps"] == 40
    trained = mpnn.load_model(str(tmp_path / "run" / "extreme-v2.safetensors"), "extreme-v2")
    untrained = mpnn.load_model("random", "extreme-v2")
    files = sorted(structures.iterdir())
    chains = [mpnn.read_structure(file) for file in files]

    def divergence(model: mpnn.Model) -> float:
        """From the pretrained network, mean over residues."""
        of = mpnn.load_model("v_48_020").log_probs(chains)
        return float(
            np.mean([
                (np.exp(p[0]) * (p[0] - q[0])).sum(-1).mean()
                for p, q in zip(of, model.log_probs(chains), strict=True)
            ])
        )  # fmt: skip

    before, after = divergence(untrained), divergence(trained)
    assert after < 0.75 * before, f"KL to the teacher {before:.3f} before, {after:.3f} after"


def test_a_look_measures_what_the_models_say(corpus: Corpus) -> None:
    """On the validation structures: recovery of teacher and student, and what lies between them.

    Some native residues are unknown, and are no residues to recover.
    """
    unknown = [replace(s, sequence="XXXX" + s.sequence[4:]) for s in corpus.structures]
    corpus = corpus_of("some unknown", unknown)
    run = Run({"extreme-v2": FROM_SCRATCH}, Lessons(nodes=300), corpus, corpus)
    recovery, divergence = run.validate()
    sizes = run.corpus.sizes.tolist()
    order = torch.rand(sum(sizes) + 1, generator=torch.Generator().manual_seed(0))[:-1]
    orders = [np.argsort(o.numpy())[None] for o in order.split(sizes)]
    chains = list(corpus.structures)
    models = {
        "teacher": mpnn.load_model("v_48_020"),
        "extreme-v2": mpnn.load_model("random", "extreme-v2"),
    }
    said = {name: [p[0] for p in m.log_probs(chains, None, orders)] for name, m in models.items()}
    for name, log_probs in said.items():
        hits = [metrics.recovery(c, p[None])[0] for p, c in zip(log_probs, chains, strict=True)]
        assert recovery[name] == pytest.approx(np.mean(hits), abs=2e-3)
    between = [
        (np.exp(p) * (p - q)).sum(-1).mean()
        for p, q in zip(said["teacher"], said["extreme-v2"], strict=True)
    ]
    assert divergence == pytest.approx({"extreme-v2": np.mean(between)}, abs=1e-4)


def test_a_resumed_run_is_the_uninterrupted_run(corpus: Corpus, tmp_path: Path) -> None:
    adam = Recipe(learning_rate=4e-3, warmup=5, orthogonal=False)
    recipes = {"minimal-fast": FROM_SCRATCH, "extreme-v2": adam}
    lessons = Lessons(steps=20, nodes=160)
    whole = Run(recipes, lessons, corpus)
    assert whole.train(tmp_path / "whole")
    first = Run(recipes, lessons, corpus)
    assert not first.train(tmp_path / "cut", minutes=0)
    second = Run(recipes, lessons, corpus)
    second.resume(tmp_path / "cut")
    assert second.step == 10
    assert second.train(tmp_path / "cut")
    for a, b in zip(whole.students, second.students, strict=True):
        assert (a.weights == b.weights).all()
        assert (a.averaged == b.averaged).all()
    shipped = load_checkpoint(tmp_path / "cut" / "extreme-v2.safetensors").state
    expected = whole.students[1].averages()
    assert all((shipped[name] == expected[name]).all() for name in expected)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_saved(
    corpus: Corpus, tmp_path: Path
) -> None:
    run = Run({"extreme-v2": FROM_SCRATCH}, Lessons(steps=30, nodes=160), corpus)
    run.train(tmp_path, minutes=0)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    run.students[0].weights[0] = torch.nan
    with pytest.raises(DistillError, match=r"extreme-v2: the loss of step 10 is not finite"):
        run.train(tmp_path)
    assert {path: path.read_bytes() for path in kept} == kept


def test_weights_that_are_not_finite_after_the_last_step_are_not_saved(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run({"extreme-v2": FROM_SCRATCH}, Lessons(steps=10, nodes=160), corpus)
    take = run.training_step.take

    def overflow(count: int) -> torch.Tensor:
        losses = take(count)
        run.students[0].averaged[5] = torch.inf  # as the last update may
        return losses

    monkeypatch.setattr(run.training_step, "take", overflow)
    with pytest.raises(DistillError, match=r"extreme-v2: .* or the weights after it"):
        run.train(tmp_path)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
import mpnn_core as mpnn
from mpnn_core.training.corpus import read_corpus
from mpnn_core.training.recipes import DistillError, Lessons, Recipe
from mpnn_core.training.run import STATE, Run

corpus = read_corpus(Path(sys.argv[1]))
recipes = {name: Recipe(start="random") for name in ("minimal-fast", "extreme-v2")}
lessons = Lessons(steps=20, nodes=160)
replace = os.replace
for at in range(6):  # the state, weights and a record for each of two students, or none of them
    folder = Path(sys.argv[2]) / str(at)
    Run(recipes, lessons, corpus).train(folder, minutes=0)
    if os.fork() == 0:
        left = [at]
        def killing(*paths):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            replace(*paths)
        os.replace = killing
        run = Run(recipes, lessons, corpus)
        os.replace = replace
        run.resume(folder)
        os.replace = killing
        run.train(folder)
        os._exit(0)
    _, status = os.wait()
    resumed = Run(recipes, lessons, corpus)
    resumed.resume(folder)
    print(at, os.WTERMSIG(status), resumed.step)
"""


@pytest.mark.proof
def test_a_run_that_is_killed_while_it_is_saved_goes_on(tmp_path: Path) -> None:
    """At every file that is put into its place: all students are at one step, and weights and
    records are those of it once the run goes on."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in SMALL[:2]:
        (corpus / path_of(name).name).symlink_to(path_of(name))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(corpus), str(tmp_path)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:-1] == [
        "0 9 10", "1 9 20", "2 9 20", "3 9 20", "4 9 20", "5 0 20",
    ]  # fmt: skip
    for at, steps in enumerate([10, 20, 20, 20, 20, 20]):
        for name in ("minimal-fast", "extreme-v2"):
            record = json.loads((tmp_path / str(at) / f"{name}.training.json").read_text())
            assert record["run"]["steps"] == steps, f"killed at file {at}: {name}"
            final = load_checkpoint(tmp_path / str(at) / f"{name}.safetensors").state
            whole = load_checkpoint(tmp_path / "5" / f"{name}.safetensors").state
            same = all((final[key] == whole[key]).all() for key in whole)
            assert same is (steps == 20), f"killed at file {at}: {name}"


@pytest.fixture(scope="module")
def saved(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten steps of twenty."""
    folder = tmp_path_factory.mktemp("saved")
    Run({"extreme-v2": FROM_SCRATCH}, Lessons(steps=20, nodes=160), corpus).train(folder, minutes=0)
    return folder


OTHER = {
    of.name: {"teacher": "v_48_010", "start": "teacher", "orthogonal": False}.get(
        of.name, type(of.default)(bounds(settings, of.name)[1]) if of.metadata else None
    )
    for settings in (Lessons, Recipe)
    for of in fields(settings)
}


@pytest.mark.parametrize(
    "name", sorted(OTHER.keys() - {"match"})
)  # match: for other students alone
def test_a_run_does_not_go_on_with_another_setting(name: str, corpus: Corpus, saved: Path) -> None:
    change = {name: OTHER[name] if name != "nodes" else 161}
    lessons, recipe = Lessons(steps=20, nodes=160), FROM_SCRATCH
    if hasattr(lessons, name):
        lessons = replace(lessons, **change)
    else:
        recipe = replace(recipe, **change)
    before = {path: path.read_bytes() for path in saved.iterdir()}
    other = Run({"extreme-v2": recipe}, lessons, corpus)
    with pytest.raises(DistillError, match=rf"begun otherwise: .*{name} is .*, was .*Resume with"):
        other.resume(saved)
    assert {path: path.read_bytes() for path in saved.iterdir()} == before


def test_a_run_does_not_go_on_with_other_students(corpus: Corpus, saved: Path) -> None:
    both = {"extreme-v2": FROM_SCRATCH, "minimal": FROM_SCRATCH}
    other = Run(both, Lessons(steps=20, nodes=160), corpus)
    with pytest.raises(DistillError, match="with the students extreme-v2, not extreme-v2, minimal"):
        other.resume(saved)


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "foreign"])
def test_a_damaged_state_is_named(damage: str, corpus: Corpus, saved: Path, tmp_path: Path) -> None:
    content = (saved / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(
        {
            "cut": content[:-100],
            "empty": b"",
            "zeros": bytes(1000),
            "foreign": (saved / "extreme-v2.safetensors").read_bytes(),
        }[damage]
    )
    run = Run({"extreme-v2": FROM_SCRATCH}, Lessons(steps=20, nodes=160), corpus)
    with pytest.raises(DistillError, match=rf"{STATE} is damaged"):
        run.resume(tmp_path)


def test_another_corpus_does_not_resume(corpus: Corpus, tmp_path: Path) -> None:
    recipes = {"extreme-v2": FROM_SCRATCH}
    Run(recipes, Lessons(steps=10, nodes=160), corpus).train(tmp_path)
    other = Run(recipes, Lessons(steps=10, nodes=160), corpus.subset([0, 1]))
    with pytest.raises(DistillError, match="was begun on another corpus"):
        other.resume(tmp_path)


def test_a_chain_longer_than_a_step_is_refused_by_name(corpus: Corpus) -> None:
    with pytest.raises(DistillError, match=r"2cviA|1mr1D|2xcjA|2va0A"):
        Run({"extreme-v2": FROM_SCRATCH}, Lessons(nodes=64), corpus)


def test_values_are_read_as_their_setting() -> None:
    values = {"steps": "100", "start": "random", "learning_rate": "1e-2"}
    assert with_values(Lessons(), values) == Lessons(steps=100)
    assert with_values(Recipe(), values) == Recipe(start="random", learning_rate=0.01)
    with pytest.raises(DistillError, match="steps is 'many'; expected a int"):
        with_values(Lessons(), {"steps": "many"})
    with pytest.raises(DistillError, match="orthogonal is '1'; expected a bool"):
        with_values(Recipe(), {"orthogonal": "1"})


NUMBERS = [
    (settings, of.name, *bounds(settings, of.name))
    for settings in (Lessons, Recipe, EvaluationSettings)
    for of in fields(settings)
    if isinstance(of.default, int | float) and not isinstance(of.default, bool)
]


@pytest.mark.parametrize(("settings", "name", "least", "most"), NUMBERS)
def test_every_number_of_a_recipe_is_finite_and_within_its_bounds(
    settings: type, name: str, least: float, most: float
) -> None:
    kind = type(getattr(settings(), name))
    for inside in (least, most):
        assert getattr(settings(**{name: kind(inside)}), name) == inside
    beyond = {float("nan"), float("inf"), -float("inf"), least - 1, 2 * most + 1, "1", None, True}
    for wrong in beyond:
        with pytest.raises(DistillError, match=f"^{name} is {wrong!r}; expected"):
            settings(**{name: wrong})
        if settings is not EvaluationSettings:
            with pytest.raises(DistillError, match=f"^{name} is .*; expected"):
                with_values(settings(), {name: str(wrong) if wrong != "1" else "one"})


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_a_warmup_the_rate_is_held_from_the_first_step(warmup: int) -> None:
    rates = [learning_rate(Recipe(learning_rate=1.0, warmup=warmup), i, 100) for i in range(50)]
    assert rates == [1.0] * 50


@pytest.mark.parametrize(
    "value",
    ["average=nan", "learning_rate=nan", "learning_rate=inf", "weight_decay=-1", "steps=0",
     "average=0.9,average=0.8", "noise=nan", "nodes=99999999999", "seed=-1", "fall=2"],
)  # fmt: skip
def test_a_setting_out_of_bounds_is_refused_before_anything_is_written(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["distill", str(tmp_path / "no corpus"), "--student", "minimal", "--set", value]
    assert main([*call, "--out", str(tmp_path / "run")]) == 2
    assert value.partition("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["foo", "meta", "cpu:x", "", "mps", "cuda:99"])
@pytest.mark.parametrize("command", ["design", "score", "eval", "distill"])
def test_a_device_that_is_not_here_is_a_sentence(
    command: str, device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structures = tmp_path / "structures"
    structures.mkdir()
    (structures / "1mr1D.pdb.gz").symlink_to(path_of("1mr1D"))
    call = {
        "design": [str(structures), "--out", str(tmp_path / "out")],
        "score": [str(structures)],
        "eval": [str(structures)],
        "distill": [str(structures), "--student", "minimal", "--out", str(tmp_path / "run")],
    }[command]
    assert main([command, *call, "--device", device]) == 2
    error = capsys.readouterr().err
    assert f"device {device!r} cannot be used here" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["--student", "tiny"], "no student is called 'tiny'"),
        (["--student", "minimal", "--set", "stepz=1"], "stepz"),
        (["--student", "minimal", "--resume"], "has no saved run of 'minimal'"),
    ],
)
def test_wrong_calls_say_what_is_expected(
    call: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1mr1D.pdb.gz").symlink_to(path_of("1mr1D"))
    assert main(["distill", str(tmp_path), "--out", str(tmp_path / "run"), *call]) == 2
    assert said in capsys.readouterr().err


def test_ranks_of_equal_chains_do_not_mix(corpus: Corpus) -> None:
    _, batch = whole(corpus)
    same = batch.backbones.chain[batch.graph(48).neighbours] == batch.backbones.chain[:, None]
    assert bool(same.all())
    assert len(list(groupby(batch.backbones.chain.tolist()))) == len(corpus) + 1
