"""What the command states for single residues: weights, biases, temperatures, PSSMs, chains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from proteins import path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands.at_residues import biases_of, temperatures_at, tied_of
from mpnn_core.commands.main import main
from mpnn_core.commands.options import CallError

SMALL = path_of("6MRR")
TRIMER = path_of("6EHB")


def designed(folder: Path, *arguments: object) -> list[str]:
    """The sequences of a run of the command, chains joined."""
    (file,) = arguments[:1]
    assert main(["design", *map(str, arguments), "--restart", "--out", str(folder)]) == 0
    name = mpnn.read_structure(str(file)).name
    lines = (folder / "seqs" / f"{name}.fa").read_text().splitlines()
    return [line.replace("/", "") for line in lines[3::2]]


def pssm_of(length: int, letter: str = "F") -> dict[str, np.ndarray]:
    bias = np.zeros((length, 21))
    bias[:, mpnn.ALPHABET.index(letter)] = 1
    return {"bias": bias, "coef": np.ones(length), "odds": bias}


def test_weights_of_tied_positions_reach_the_design(tmp_path, model) -> None:
    options = ["--chains", "A,B", "--tied", "A10-60=1,B10-60=-0.5", "--seed", 4]
    constraints = mpnn.Constraints(chains="A,B", tied=[{"A10-60": 1.0, "B10-60": -0.5}])
    structure = protein("6EHB")
    (expected,) = model.design(structure, seed=4, constraints=constraints).sequences
    kept = np.isin(structure.chain_ids, ["A", "B"])
    (found,) = designed(tmp_path, TRIMER, *options)
    assert found == "".join(np.array(list(expected))[kept])
    unweighted = mpnn.Constraints(chains="A,B", tied=["A10-60,B10-60"])
    assert model.design(structure, seed=4, constraints=unweighted).sequences != [expected]


def test_texts_become_constraints() -> None:
    assert tied_of(["A1,B1", "A2=1, B2=-0.5", "A3,B3=2"]) == [
        "A1,B1", {"A2": 1.0, "B2": -0.5}, {"A3": 1.0, "B3": 2.0},
    ]  # fmt: skip
    assert biases_of(["A12=G:-0.3,P:1", "A1-3,B7=w:2,A12=G:-1"]) == {
        "A12": {"G": -1.3, "P": 1.0}, "A1-3": {"W": 2.0}, "B7": {"W": 2.0},
    }  # fmt: skip
    assert temperatures_at(["A10-20=0.3", "B1,B2=0"]) == {"A10-20": 0.3, "B1,B2": 0.0}


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (tied_of, "A1=1,A1=2", "each position once"),
        (tied_of, "A1=x,B1=2", "'x' is no weight"),
        (biases_of, "A1=G", "expected POSITIONS=LETTER:VALUE"),
        (biases_of, "A1=G:inf", "finite"),
        (biases_of, "A1=B:1", "'B' is no residue"),
        (biases_of, "nowhere.json", "'nowhere.json': expected POSITIONS=LETTER:VALUE"),
        (temperatures_at, "A1=warm", "'warm' is no temperature"),
    ],
)
def test_a_text_that_states_nothing_is_refused(read, text, said) -> None:
    with pytest.raises(CallError, match=said):
        read([text])


def test_biases_come_from_a_file_too(tmp_path) -> None:
    file = tmp_path / "bias.json"
    file.write_text(json.dumps({"A12": {"G": 60}, "A14": {"W": 60}}))
    (sequence,) = designed(tmp_path, SMALL, "--bias-at", file, "--bias-at", "A16=H:60")
    numbers = protein("6MRR").residue_numbers.tolist()
    assert [sequence[numbers.index(n)] for n in ("12", "14", "16")] == ["G", "W", "H"]
    file.write_text(json.dumps({"A12": {"G": "much"}}))
    with pytest.raises(CallError, match="A12, G is 'much'; expected a number"):
        biases_of([str(file)])


def test_some_positions_have_their_own_temperature(model) -> None:
    structure = protein("6MRR")
    constraints = mpnn.Constraints(temperature_at={"A10-20": 5.0, 40: 0.0})
    found = model.design(structure, 4, 0.1, seed=2, constraints=constraints)
    temperature = np.full(len(structure), 0.1)
    numbers = structure.residue_numbers.astype(int)
    temperature[(numbers >= 10) & (numbers <= 20)] = 5.0
    temperature[40] = 0.0
    expected = model.design(structure, 4, temperature, seed=2)
    assert found.sequences == expected.sequences
    assert found.sequences != model.design(structure, 4, 0.1, seed=2).sequences
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    with pytest.raises(mpnn.ConstraintError, match="6MRR: the temperature at A10 is -1"):
        model.design(structure, constraints=mpnn.Constraints(temperature_at={"A10": -1}))


def test_a_temperature_of_some_positions_reaches_the_design(tmp_path, model) -> None:
    options = ["--temperature-at", "A10-30=3", "--seed", 5]
    expected = model.design(
        protein("6MRR"), seed=5, constraints=mpnn.Constraints(temperature_at={"A10-30": 3.0})
    )
    assert designed(tmp_path, SMALL, *options) == expected.sequences


@pytest.mark.parametrize("kind", ["npz", "json", "json by name"])
def test_a_pssm_comes_from_a_file(tmp_path, kind) -> None:
    structure = protein("6EHB")
    values = pssm_of(int((structure.chain_ids == "B").sum()))
    file = tmp_path / "pssm.file"
    if kind == "npz":
        with file.open("wb") as opened:
            np.savez(opened, **{f"B_{key}": value for key, value in values.items()})
    else:
        names = {"bias": "pssm_bias", "coef": "pssm_coef", "odds": "pssm_log_odds"}
        content = {"B": {names[key]: value.tolist() for key, value in values.items()}}
        file.write_text(json.dumps({"6EHB": content} if "name" in kind else content))
    (sequence,) = designed(tmp_path, TRIMER, "--pssm", file, "--seed", 1)
    of_chain = structure.chain_ids == "B"
    letters = np.array(list(sequence))
    assert set(letters[of_chain]) == {"F"}
    (plain,) = designed(tmp_path, TRIMER, "--seed", 1, "--chains", "A,C")
    assert len(set(letters[~of_chain])) > 10 and len(plain) == (~of_chain).sum()


def test_the_log_odds_of_a_pssm_count_from_a_threshold(tmp_path) -> None:
    values = pssm_of(len(protein("6MRR")), "W")
    np.savez(tmp_path / "p.npz", **{f"A_{key}": value for key, value in values.items()})
    options = ["--pssm", tmp_path / "p.npz", "--pssm-weight", 0]
    (plain,) = designed(tmp_path, SMALL, *options, "--seed", 1)
    (odd,) = designed(tmp_path, SMALL, *options, "--pssm-threshold", 0.5, "-T", 1, "--seed", 1)
    assert odd.count("W") > plain.count("W") + 10


def test_a_pssm_that_does_not_fit_is_refused(tmp_path, capsys) -> None:
    np.savez(tmp_path / "p.npz", **{f"A_{k}": v for k, v in pssm_of(7).items()})
    call = ["design", str(SMALL), "--out", str(tmp_path), "--pssm", str(tmp_path / "p.npz")]
    assert main(call) == 1
    assert "6MRR: the PSSM of chain A has 7 rows; expected 68" in capsys.readouterr().err
    (tmp_path / "p.json").write_text(json.dumps({"other": {"A": {"pssm_coef": [1]}}}))
    assert main([*call[:-1], str(tmp_path / "p.json")]) == 2
    assert "other, chain A has no pssm_bias" in capsys.readouterr().err


def test_a_matrix_that_counts_missing_numbers_is_that_of_the_residues_there_are() -> None:
    structure = protein("3HTN")
    rows = np.flatnonzero(structure.chain_ids == "B")
    index = structure.residue_index[rows]
    span = int(index[-1] - index[0]) + 1
    assert span > len(rows), "chain B has gaps"
    bias = np.random.default_rng(1).random((span, 21))
    pssm = mpnn.PSSM(bias, np.ones(span), multiplier=1.0)
    resolved = mpnn.Constraints(pssm={"B": pssm}).resolve(structure)
    assert resolved.pssm is not None
    np.testing.assert_allclose(resolved.pssm[0][rows], bias[index - index[0]], rtol=1e-6)
    others = structure.chain_ids != "B"
    assert not resolved.pssm[1][others].any() and (resolved.pssm[2][others] == 1).all()


def test_chains_that_are_not_read_are_not_there(tmp_path, model) -> None:
    pair = mpnn.read_structure(TRIMER, chains="A,B")
    expected = model.design(pair, seed=3).sequences
    assert designed(tmp_path, TRIMER, "--read-chains", "A,B", "--seed", 3) == expected
