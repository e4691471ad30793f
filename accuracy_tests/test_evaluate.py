"""What is measured of a model: metrics by hand, intervals, references, `mpnn-core eval`."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from proteins import TS50, path_of, protein, without_backbone

import mpnn_core as mpnn
from mpnn_core.commands import evaluate as command
from mpnn_core.commands.main import main
from mpnn_core.constants import AMINO_ACIDS
from mpnn_core.network.architectures import random_network
from mpnn_core.network.checkpoints import Checkpoint, build_network, file_sha256, weights_file
from mpnn_core.training import evaluate, metrics
from mpnn_core.training.corpus import Corpus, CorpusError, corpus_of, read_corpus
from mpnn_core.training.metrics import METRICS, Assessment
from mpnn_core.training.recipes import EvaluationSettings

FEW = EvaluationSettings(num_orders=2, num_sequences=2, seed=3)
TEN = TS50[::5]


@pytest.fixture(scope="module")
def small() -> Corpus:
    """Ten chains of TS50, half of them said to be after the cut-off."""
    corpus = corpus_of("ten", [protein(name) for name in TEN])
    return replace(corpus, post_cutoff=np.arange(10) % 2 == 0)


@pytest.fixture(scope="module")
def fewer(model) -> mpnn.Model:
    """A model that is known to lose: the published weights with a third of the neighbours."""
    return mpnn.load_model(weights_file("v_48_020"), variant="fast")


@pytest.fixture(scope="module")
def assessed(model, small) -> Assessment:
    return evaluate.assess(model, small.structures, FEW)


# ------------------------------------------------------------------------------ metrics by hand


def said(sequence: str, sure: float = 0.7) -> np.ndarray:
    """Log-probabilities (L, 21) that give each letter of a sequence the probability `sure`."""
    p = np.full((len(sequence), 21), (1 - sure) / 20, dtype=np.float32)
    p[np.arange(len(sequence)), [mpnn.ALPHABET.index(letter) for letter in sequence]] = sure
    return np.log(p)


@pytest.fixture
def four() -> mpnn.Structure:
    """ACDX, whose C has no backbone: A and D are what counts."""
    s = protein("6MRR")
    first = mpnn.Structure.from_backbone(s.coords[:4], "ACDX")
    return without_backbone(first, [1])


def test_recovery_counts_known_residues_with_a_backbone(four):
    log_probs = np.stack([said("AWDW"), said("AWWW"), said("WCWX")])
    assert metrics.recovery(four, log_probs).tolist() == [1, 0.5, 0]
    only_d = np.array([False, False, True, True])
    assert metrics.recovery(four, log_probs, only_d).tolist() == [1, 0, 0]
    assert np.isnan(metrics.recovery(four, log_probs, np.array([False, True, False, True]))).all()


@pytest.mark.parametrize("of", [np.array, torch.tensor])
def test_a_residue_is_recovered_by_the_likeliest_of_all_letters(of):
    """X is one of them: a network that finds it likeliest has recovered nothing."""
    logits = np.zeros((3, 21))
    logits[0, 4] = logits[1, 5] = 1
    logits[2, [4, 20]] = 1, 2
    assert metrics.recovered(of(logits), of([4, 4, 4])).tolist() == [True, False, False]


def test_recovery_of_designs_counts_the_same_residues(four):
    designs = np.array([[mpnn.ALPHABET.index(a) for a in s] for s in ("ACDX", "ACWA", "WCWX")])
    assert metrics.designed_recovery(four, designs).tolist() == [1, 0.5, 0]


def test_native_nll_is_that_of_the_native_letters(four):
    log_probs = np.stack([said("AAAA"), said("AADD")])
    expected = [-(math.log(0.7) + math.log(0.015)) / 2, -math.log(0.7)]
    np.testing.assert_allclose(metrics.native_nll(four, log_probs), expected, rtol=1e-6)


def test_divergence_is_from_the_teacher_to_the_model(four):
    teacher, model = said("AAAA", 0.9)[None], said("AAAA", 0.5)[None]
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.005 / 0.025)
    np.testing.assert_allclose(metrics.divergence(four, teacher, model), expected, rtol=1e-5)
    assert metrics.divergence(four, teacher, teacher).tolist() == [0]


def test_composition_is_in_percent_of_the_counted_letters(four):
    designs = np.array([[mpnn.ALPHABET.index(a) for a in s] for s in ("ACAC", "ACDC")])
    shares = dict(zip(AMINO_ACIDS, metrics.composition([four], [designs]), strict=True))
    assert {a: share for a, share in shares.items() if share} == {"A": 75, "D": 25}


def test_sidechain_neighbours_are_those_of_the_plain_sum():
    s = without_backbone(protein("1A8O"), [3])
    counted = metrics.sidechain_neighbours(s)
    b, c = s.coords[:, 1] - s.coords[:, 0], s.coords[:, 2] - s.coords[:, 1]
    cb = s.coords[:, 1] - 0.58273431 * np.cross(b, c) + 0.56802827 * b - 0.54067466 * c
    for i in (0, 17, 40):
        total = 0.0
        axis = (cb[i] - s.coords[i, 1]) / np.linalg.norm(cb[i] - s.coords[i, 1])
        for j in set(range(len(s))) - {i, 3}:
            line = cb[j] - cb[i]
            d = np.linalg.norm(line)
            cone = max(0.0, (line @ axis / d + 0.5) / 1.5)
            total += cone**2 / (1 + math.exp(d - 9))
        assert counted[i] == pytest.approx(total, rel=1e-4)
    assert np.isnan(counted[3])


def test_buried_residues_are_hydrophobic_and_every_residue_is_of_one_class():
    structures = [protein(name) for name in TEN]
    classes = [metrics.residue_classes(s) for s in structures]
    for s, of_structure in zip(structures, classes, strict=True):
        assert (np.sum(list(of_structure.values()), 0) == 1)[s.mask].all()
    share = {
        name: np.mean(
            [a in "AVILMFWC" for s, c in zip(structures, classes, strict=True)
             for a in np.array(list(s.sequence))[c[name]]]
        )
        for name in ("buried", "boundary", "exposed")
    }  # fmt: skip
    assert share["buried"] > 0.7 > share["boundary"] > 0.4 > share["exposed"]


# --------------------------------------------------------------------------- models and corpora


def test_ts50_in_the_package_is_the_structures_files():
    folder = path_of(TS50[0]).parent
    assert evaluate.ts50().sha256 == read_corpus(folder).sha256


def test_what_is_teacher_forced_is_what_the_model_says(model, small, assessed):
    [first] = [lp for lp, s in zip(assessed.log_probs, small.structures, strict=True)
               if s.name == TEN[3]]  # fmt: skip
    alone = model.log_probs(protein(TEN[3]), seed=FEW.seed)
    assert first.shape == (2, len(protein(TEN[3])), 21)
    np.testing.assert_allclose(first[:1], alone, atol=5e-5)  # the order of the seed comes first
    assert np.abs(first[1] - first[0]).max() > 0.01


def test_designs_are_those_of_the_model(model, small, assessed):
    alone = model.design(protein(TEN[3]), 2, 0.1, seed=FEW.seed)
    letters = ["".join(mpnn.ALPHABET[t] for t in row) for row in assessed.designs[3]]
    assert letters == alone.sequences


def test_a_model_loses_nothing_to_itself(small, assessed):
    found = metrics.metrics(small.structures, assessed, assessed)
    for name, values in found.items():
        assert np.nanmax(np.abs(metrics.losses(name, values, values))) == 0, name


def test_a_loss_is_positive_where_the_model_is_worse():
    better, worse = np.array([[50.0]]), np.array([[40.0]])
    assert metrics.losses("recovery", worse, better) == 10
    assert metrics.losses("nll", better, worse) == 10
    assert metrics.losses("kl", better, worse) == 50


def test_fewer_neighbours_lose_in_every_metric(model, fewer, small, monkeypatch):
    monkeypatch.setattr(evaluate, "ts50", lambda: small)
    ticks: list[int] = []
    found = evaluate.compare_with_teacher(fewer, model, [], FEW, ticks.append)
    assert sum(ticks) == 4 * len(small)
    assert list(found["sets"]) == ["ten", "ten, after the cut-off", "ten, before the cut-off"]
    assert [s["chains"] for s in found["sets"].values()] == [10, 5, 5]
    whole = found["sets"]["ten"]
    assert whole["metrics"].keys() == METRICS.keys()
    for name, measured in whole["metrics"].items():
        loss, another = measured["loss"], measured["loss_of_another_sample"]
        assert loss["value"] == another["value"] > 0, name
        for interval in (loss, another):
            assert interval["low"] < loss["value"] < interval["high"], name
        assert another["high"] - another["low"] > loss["high"] - loss["low"], name
    assert 4 < whole["metrics"]["recovery"]["loss"]["value"] < 14
    assert found["loss"] == whole["metrics"]["recovery"]["loss_of_another_sample"]
    assert found["chains"] == 10
    assert json.loads(json.dumps(found)) == found
    parts = [s["metrics"]["kl"]["loss"]["value"] for s in found["sets"].values()]
    assert parts[1] != parts[2]
    assert parts[0] == pytest.approx((parts[1] + parts[2]) / 2)  # five chains each
    # The mean over chains is that of what is kept by chain.
    by_chain = whole["by_chain"]["recovery"]
    difference = np.mean(by_chain["teacher"]) - np.mean(by_chain["model"])
    assert difference == pytest.approx(whole["metrics"]["recovery"]["loss"]["value"], abs=1e-3)
    assert sum(whole["composition"]["model"]) == pytest.approx(100)


@pytest.mark.parametrize("seed", range(3))
def test_another_sample_is_where_it_is_expected(seed):
    """Chains drawn from one population, twice: the second mean lies in the first's interval."""
    rng = np.random.default_rng(seed)
    inside = within_mean = 0
    for _ in range(60):
        chains = rng.gamma(2.0, 1.0, 80)  # skewed, as losses are
        orders = chains[:, None] + rng.normal(0, 1.5, (80, 4))
        interval = evaluate.loss_of_another_sample(orders[:40])
        other = orders[40:, 0].mean()
        inside += interval.low <= other <= interval.high
        mean = orders[:40].mean(1)
        half = 2.58 * mean.std(ddof=1) / math.sqrt(40)
        within_mean += abs(other - mean.mean()) <= half
    assert inside >= 57, f"{inside} of 60 at 99 %"
    assert within_mean < inside, "the interval of the mean would do, and is narrower"


@pytest.mark.parametrize("weights", ["random", "of another variant"])
def test_a_reference_that_recovers_too_little_is_refused(weights, model, small, monkeypatch):
    monkeypatch.setattr(evaluate, "ts50", lambda: small)
    variant = mpnn.VARIANTS["baseline" if weights == "random" else "extreme-v2"]
    network = random_network(variant)
    if weights != "random":
        network = model.network
        variant = replace(mpnn.VARIANTS["fast"], neighbours=4)
        network = build_network(Checkpoint("v_48_020", network.state_dict(), 48), variant)
    poor = mpnn.Model(network, "poor", variant, model.device)
    with pytest.raises(evaluate.ReferenceModelError, match=r"poor recovers \d+\.\d % of ten"):
        evaluate.compare_with_teacher(model, poor, [], FEW)


def test_corpora_without_native_residues_or_a_name_of_their_own_are_refused(model, small):
    s = protein("6MRR")
    backbone = mpnn.Structure.from_backbone(s.coords, "X" * len(s))
    with pytest.raises(CorpusError, match="designed: no residue has a known native letter"):
        evaluate.compare_with_teacher(model, model, [small, corpus_of("designed", [backbone])], FEW)
    with pytest.raises(CorpusError, match="two corpora are called ten"):
        evaluate.compare_with_teacher(model, model, [small, small], FEW)


# ----------------------------------------------------------------------------------- mpnn-core eval


def test_eval_prints_and_writes_what_it_found(small, fewer, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "ts50", lambda: small)
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("6MRR", "5L33"):
        (folder / f"{name}.pdb").write_bytes(path_of(name).read_bytes())
    weights, out = weights_file("v_48_020"), tmp_path / "new" / "fast.json"
    arguments = ["--variant", "fast", "--weights", str(weights), "--num-orders", "2", "-n", "2"]
    assert main(["eval", str(folder), *arguments, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["sets"])[-1] == "mine"
    assert found["chains"] == 2
    assert found["model"] == {
        "name": "v_48_020", "variant": "fast", "backend": fewer.backend.name,
        "sha256": file_sha256(weights),
    }  # fmt: skip
    assert found["settings"] == {
        "num_orders": 2, "num_sequences": 2, "temperature": 0.1, "seed": 0, "confidence": 0.99,
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert "mine: 2 structures, 174 residues" in shown
    loss = found["loss"]["value"]
    assert f"v_48_020, fast, loses {loss:.1f} [too few] points" in shown
    assert list(found["sets"]["ten"]["by_chain"])[:2] == ["id", "residues"]


def test_eval_refuses_what_cannot_be_evaluated(tmp_path, capsys, monkeypatch, small):
    monkeypatch.setattr(evaluate, "ts50", lambda: small)
    assert main(["eval", str(tmp_path / "nowhere")]) == 2
    assert "there is no" in capsys.readouterr().err
    (tmp_path / "cut.pdb").write_text("ATOM      1  N   MET A   1      10.0")
    assert main(["eval", str(tmp_path)]) == 2
    assert "cut.pdb" in capsys.readouterr().err
    random = tmp_path / "random.safetensors"
    network = random_network(mpnn.VARIANTS["baseline"])
    Checkpoint("random", network.state_dict(), 48).save(random)
    out = tmp_path / "out.json"
    assert main(["eval", "--teacher", str(random), "-n", "1", "--out", str(out)]) == 2
    assert "random recovers" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["eval"]) == 2
    assert "pip install scipy" in capsys.readouterr().err
