"""Tables of residues of `mpnn-core score`, and several states, rings and noise in `design`."""

from __future__ import annotations

import numpy as np
import pytest
from proteins import path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main

SMALL, OTHER = path_of("6MRR"), path_of("5L33")


def rows(text: str) -> list[dict[str, str]]:
    head, *lines = (line.split("\t") for line in text.splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def column(table: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in table])


def test_residues_add_up_to_the_score(capsys) -> None:
    assert main(["score", str(SMALL), "--seed", "3", "--fixed", "A1-20"]) == 0
    (total,) = rows(capsys.readouterr().out)
    assert main(["score", str(SMALL), "--seed", "3", "--fixed", "A1-20", "--per-residue"]) == 0
    table = rows(capsys.readouterr().out)
    structure = protein("6MRR")
    assert [row["letter"] for row in table] == list(structure.sequence)
    assert [row["residue"] for row in table] == structure.residue_numbers.tolist()
    nll, designed = column(table, "nll"), column(table, "designed") > 0
    assert designed.sum() == len(structure) - 20
    assert nll[designed].mean() == pytest.approx(float(total["score"]), abs=2e-4)
    assert nll.mean() == pytest.approx(float(total["global_score"]), abs=2e-4)


@pytest.mark.parametrize("mode", ["unconditional", "conditional"])
def test_tables_have_what_the_model_gives(mode, capsys, model) -> None:
    assert main(["score", str(SMALL), f"--{mode}", "--log-probs"]) == 0
    table = rows(capsys.readouterr().out)
    found = np.stack([column(table, f"logp_{letter}") for letter in mpnn.ALPHABET], 1)
    structure = protein("6MRR")
    if mode == "unconditional":
        expected = model.unconditional_log_probs(structure)
    else:
        expected = model.conditional_log_probs(structure, seed=0)[0]
    np.testing.assert_allclose(found, expected, atol=6e-5)
    entropy = -(np.exp(expected) * expected).sum(1)
    np.testing.assert_allclose(column(table, "entropy"), entropy, atol=6e-5)


def test_more_orders_of_conditional_probabilities_are_asked_for(capsys) -> None:
    tables = []
    for orders in ([], ["--num-orders", "3"]):
        assert main(["score", str(SMALL), "--conditional", *orders]) == 0
        tables.append(column(rows(capsys.readouterr().out), "nll"))
    assert 1e-4 < np.abs(tables[0] - tables[1]).max() < 1


def test_log_probs_are_of_a_table_of_residues(capsys) -> None:
    assert main(["score", str(SMALL), "--log-probs"]) == 2
    assert "give --per-residue, --unconditional or --conditional" in capsys.readouterr().err


def test_states_are_designed_into_one_file(tmp_path, model) -> None:
    states = ["--state", str(SMALL), "--state", str(OTHER), "--state-weights=1,-0.3"]
    options = ["--combine", "sum", "-n", "2", "--seed", "4", "--out", str(tmp_path)]
    assert main(["design", *states, *options]) == 0
    expected = model.design_states(
        [protein("6MRR"), protein("5L33")], 2, 0.1, 4, combine="sum", weights=(1, -0.3)
    )
    (file,) = (tmp_path / "seqs").iterdir()
    lines = file.read_text().splitlines()
    assert file.name == "6MRR+5L33.fa" and lines[3::2] == expected.sequences
    assert "states=['6MRR', '5L33'], combine=sum, weights=[1,-0.3]" in lines[0]
    for i, header in enumerate(lines[2::2]):
        assert f"score_1={expected.scores[i, 0]:.4f}" in header
        assert f"score_2={expected.scores[i, 1]:.4f}" in header


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no structure is given"),
        ([SMALL, "--state", OTHER], "is given beside --state"),
        ([SMALL, "--combine", "sum"], "--combine is of several states"),
        ([SMALL, "--state-weights", "1"], "--state-weights is of several states"),
        (["--state", SMALL, "--state", OTHER, "--state-weights", "1"], "1 weights for 2 states"),
        (["--state", SMALL, "--save-probs"], "--save-probs: not for several states"),
    ],
)
def test_wrong_calls_of_states_are_refused(arguments, said, tmp_path, capsys) -> None:
    assert main(["design", *map(str, arguments), "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rings_and_noise_reach_the_design(tmp_path, model, capsys) -> None:
    options = ["--seed", "2", "--out", str(tmp_path), "--cyclic", "A", "--backbone-noise", "0.1"]
    assert main(["design", str(SMALL), *options]) == 0
    structure = protein("6MRR").with_cyclic("A")
    expected = model.design(structure, seed=2, backbone_noise=0.1).sequences
    assert (tmp_path / "seqs" / "6MRR.fa").read_text().splitlines()[3::2] == expected
    assert main(["score", str(SMALL), "--cyclic", "Q"]) == 1
    assert "no chain 'Q' to be cyclic; it has A" in capsys.readouterr().err
