"""Files of constraints: the originals', this project's, motifs and resfiles; and their damage."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import struct
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proteins import path_of, protein, rows_of

import mpnn_core as mpnn
from mpnn_core import ALPHABET, ConstraintError, Constraints
from mpnn_core.commands.constraints import Constraining
from mpnn_core.commands.main import main
from mpnn_core.sampling.labels import ConstraintWarning, label
from mpnn_core.selecting.constraint_sets import read_constraints, schema
from mpnn_core.selecting.motifs import fixed_from
from mpnn_core.selecting.originals import (
    KINDS,
    ChainPositions,
    PSSMUse,
    read_constraint_file,
    with_files,
)
from mpnn_core.selecting.pickles import read_plain_pickle
from mpnn_core.selecting.resfiles import resfile_fields

GOLDENS = Path(__file__).parents[1].parent / "shared" / "data" / "goldens"
GAPPED = "3HTN"  # chains A, B and C from 43 to 185; four numbers are missing in B


def written(folder: Path, *lines: object, name: str = "file.jsonl") -> Path:
    """A file of these objects, or texts, one per line."""
    path = folder / name
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", "utf-8")
    return path


def fields(folder: Path, kind: str, entry: object, **settings: Any) -> dict[str, Any]:
    """What a file of one structure says of 3HTN."""
    return read_constraint_file(written(folder, {GAPPED: entry}), kind).fields(
        protein(GAPPED), **settings
    )


# ProteinMPNN's JSONL, against its own reading of the same file.


def original_arrays(**dictionaries: Any) -> SimpleNamespace:
    """What the original's `tied_featurize` makes of 3HTN, at the rows that this package has."""
    utils = pytest.importorskip("protein_mpnn_utils")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files open
        parsed = utils.parse_PDB(str(path_of(GAPPED)))
    given = [dictionaries.get(name) for name in
             ("chains", "fixed", "omit", "tied", "pssm", "bias")]  # fmt: skip
    values = utils.tied_featurize(parsed, "cpu", *given)
    s = protein(GAPPED)
    starts = dict(zip("ABC", np.cumsum([0, *values[9][0][:-1]]), strict=True))
    first = {chain: s.residue_index[s.chain_ids == chain].min() for chain in s.chains}
    at = np.array([
        starts[chain] + index - first[chain]
        for chain, index in zip(s.chain_ids.tolist(), s.residue_index.tolist(), strict=True)
    ])  # fmt: skip
    return SimpleNamespace(
        at=at,
        fixed=values[10][0].numpy()[at] == 0,
        omit=values[11][0].numpy()[at] > 0,
        tied=[set(map(int, group)) for group in values[14][0]],
        coefficient=values[15][0].numpy()[at],
        pssm=values[16][0].numpy()[at],
        odds=values[17][0].numpy()[at],
        bias=values[18][0].numpy()[at],
        beta=values[19].numpy()[at],
    )


def test_fixed_positions_are_those_of_the_original(tmp_path):
    entry = {"A": [1, 2, 143], "B": [*range(1, 144, 3)], "C": []}
    expected = original_arrays(fixed={GAPPED: entry}).fixed
    found = np.zeros(len(protein(GAPPED)), bool)
    found[fields(tmp_path, "fixed_positions", entry)["fixed"]] = True
    assert found.tolist() == expected.tolist() and 40 < found.sum() < 60


def test_omitted_residues_are_those_of_the_original(tmp_path):
    entry = {"A": [[[1, 2], "GPL"], [[2, 90], "C"]], "B": [[[*range(1, 144, 2)], "AW"]], "C": []}
    expected = original_arrays(omit={GAPPED: entry}).omit
    found = Constraints(omit="", **fields(tmp_path, "omit_positions", entry)).omitted(
        protein(GAPPED)
    )
    assert (found == expected).all() and found.sum() > 100


def test_biases_and_matrices_are_those_of_the_original(tmp_path):
    rng = np.random.default_rng(0)
    bias = {chain: rng.normal(size=(143, 21)).round(3).tolist() for chain in "ABC"}
    pssm = {
        chain: {
            "pssm_coef": rng.random(143).round(3).tolist(),
            "pssm_bias": rng.random((143, 21)).round(3).tolist(),
            "pssm_log_odds": rng.normal(size=(143, 21)).round(3).tolist(),
        }
        for chain in "AB"
    } | {"C": {}}
    expected = original_arrays(bias={GAPPED: bias}, pssm={GAPPED: pssm})
    found = fields(tmp_path, "bias_by_residue", bias)["bias_at"]
    np.testing.assert_allclose(found, expected.bias, atol=1e-6)
    use = PSSMUse(0.25, 0.5, log_odds=True, bias=True)
    matrix = fields(tmp_path, "pssm", pssm, pssm=use)["pssm"]
    np.testing.assert_allclose(matrix.bias, expected.pssm, atol=1e-6)
    np.testing.assert_allclose(matrix.coefficient, expected.coefficient, atol=1e-6)
    np.testing.assert_allclose(matrix.log_odds, expected.odds, atol=1e-3)
    assert (matrix.multiplier, matrix.threshold) == (0.25, 0.5)
    assert fields(tmp_path, "pssm", pssm) == {}, "no flag, no weight"
    odds_alone = fields(tmp_path, "pssm", pssm, pssm=PSSMUse(0.25, log_odds=True))["pssm"]
    assert odds_alone.multiplier == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_ties_are_those_of_the_original(tmp_path, weighted):
    def member(n: int, weight: float) -> Any:
        return [[n], [weight]] if weighted else [n]

    entry = [{"A": member(n, 1.0), "B": member(n, -0.5)} for n in range(1, 144)]
    expected = original_arrays(tied={GAPPED: entry})
    place = {at: row for row, at in enumerate(expected.at.tolist())}
    groups = fields(tmp_path, "tied_positions", entry)["tied"]
    assert [set(group) for group in groups] == [
        {place[at] for at in group if at in place} for group in expected.tied
    ]
    assert min(map(len, groups)) == 1, "where B has a gap, A is alone"
    for group in groups:
        for row, weight in group.items():
            assert weight == pytest.approx(expected.beta[row])


def test_positions_count_what_the_chain_leaves_out():
    positions = ChainPositions.of(protein(GAPPED)).rows
    assert {chain: len(rows) for chain, rows in positions.items()} == {"A": 143, "B": 143, "C": 143}
    gaps = {chain: int((rows < 0).sum()) for chain, rows in positions.items()}
    assert gaps == {"A": 0, "B": 4, "C": 0}
    for rows in positions.values():
        for n, row in enumerate(rows.tolist()):
            assert row < 0 or protein(GAPPED).residue_numbers[row] == str(43 + n)


def test_chains_to_design_and_to_keep(tmp_path):
    found = fields(tmp_path, "chain_ids", [["C", "A"], ["B"]])
    assert Constraints(**found).design_chains(protein(GAPPED)) == ["A", "C"]
    file = read_constraint_file(written(tmp_path, {GAPPED: [["C", "A"], ["B"]]}))
    assert file.chains(GAPPED) == (["C", "A"], ["B"])
    with pytest.warns(ConstraintWarning, match="chain B of 3HTN is neither"):
        fields(tmp_path, "chain_ids", [["A"], ["C"]])
    with pytest.warns(ConstraintWarning, match="chain D is to be kept"):
        fields(tmp_path, "chain_ids", [["A"], ["B", "C", "D"]])


def test_the_last_line_counts_but_matrices_add_up(tmp_path):
    one, other = {"5L33": {"A": [1]}}, {GAPPED: {"A": [2]}}
    with pytest.warns(ConstraintWarning, match="the last of 2 lines counts alone.*5L33"):
        file = read_constraint_file(written(tmp_path, one, "", other))
    assert file.fields(protein(GAPPED)) == {"fixed": [1]}
    with pytest.raises(ConstraintError, match="no entry for 5L33: it is on an earlier line"):
        file.fields(protein("5L33"))
    merged = read_constraint_file(
        written(tmp_path, {"5L33": {"A": {}}}, {GAPPED: {"A": {}}}), "pssm"
    )
    assert set(merged.entries) == {"5L33", GAPPED}


@pytest.mark.parametrize(
    "name, kind",
    [
        ("proteinmpnn/example_2/assigned_pdbs.jsonl", "chain_ids"),
        ("proteinmpnn/example_4/fixed_pdbs.jsonl", "fixed_positions"),
        ("proteinmpnn/example_5/tied_pdbs.jsonl", "tied_positions"),
        ("proteinmpnn/example_6/tied_pdbs.jsonl", "tied_positions"),
        ("proteinmpnn/example_8/bias_pdbs.jsonl", "bias"),
        ("proteinmpnn/example_pssm/pssm.jsonl.gz", "pssm"),
        ("ligandmpnn/fix_residues_multi.json", "fixed_residues"),
        ("ligandmpnn/bias_AA_per_residue.json", "bias_residues"),
        ("ligandmpnn/bias_AA_per_residue_multi.json", "bias_residues"),
        ("ligandmpnn/omit_AA_per_residue.json", "omit_residues"),
        ("ligandmpnn/omit_AA_per_residue_multi.json", "omit_residues"),
    ],
)
def test_the_authors_own_files_are_recognised(name, kind, tmp_path):
    path = GOLDENS / name
    if not path.exists():
        pytest.skip(f"{path} is not here; the authors' files are not part of the repository")
    if path.suffix == ".gz":
        (tmp_path / "plain").write_bytes(gzip.decompress(path.read_bytes()))
        path = tmp_path / "plain"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_constraint_file(path).kind == kind


def test_the_authors_fourth_example_keeps_what_it_names():
    folder = GOLDENS / "proteinmpnn" / "example_4"
    if not folder.exists():
        pytest.skip(f"{folder} is not here; the authors' files are not part of the repository")
    files = [read_constraint_file(folder / f"{name}_pdbs.jsonl") for name in ("assigned", "fixed")]
    resolved = with_files(Constraints(), protein(GAPPED), files).resolve(protein(GAPPED))
    assert resolved.design_chains == ("A", "C")
    assert resolved.designed.sum() == 2 * 143 - 22


# LigandMPNN's JSON.


def test_labels_under_paths_and_of_one_structure(tmp_path):
    s = protein("4GYT")
    a, b = label(s, 3), label(s, 5)
    for entry in ({f"./inputs/{s.name}.pdb": f"{a} {b}"}, {s.name: f"{a} {b}"}):
        file = read_constraint_file(written(tmp_path, entry), "fixed_residues")
        assert file.fields(s) == {"fixed": [3, 5]}
        redesigned = read_constraint_file(written(tmp_path, entry), "redesigned_residues")
        assert redesigned.fields(s) == {"redesigned": [3, 5]}
    for entry in ({a: "APQ"}, {"./inputs/4GYT.pdb": {a: "APQ"}}):
        file = read_constraint_file(written(tmp_path, entry))
        assert (file.kind, file.fields(s)) == ("omit_residues", {"omit_at": {3: "A,P,Q"}})
    for entry in ({a: {"G": -0.3}}, {"./inputs/4GYT.pdb": {a: {"G": -0.3}}}):
        file = read_constraint_file(written(tmp_path, entry))
        bias = file.fields(s)["bias_at"]
        assert file.kind == "bias_residues" and bias[3, ALPHABET.index("G")] == np.float32(-0.3)
        assert np.count_nonzero(bias) == 1


def test_a_path_tells_structures_of_one_name_apart(tmp_path):
    s = protein("4GYT")
    entry = {"a/4GYT.pdb": label(s, 1), "b/4GYT.pdb": label(s, 2)}
    file = read_constraint_file(written(tmp_path, entry), "fixed_residues")
    assert file.fields(s, path="b/4GYT.pdb") == {"fixed": [2]}
    with pytest.raises(ConstraintError, match=r"may be a/4GYT\.pdb or b/4GYT\.pdb"):
        file.fields(s)


# Damage: the message names the file, the line or key, and what there is.


@pytest.mark.parametrize(
    "kind, lines, message",
    [
        ("fixed_positions", ["{"], "line 2: no JSON"),
        ("fixed_positions", [{GAPPED: {"A": [1]}}, "{]"], "line 2: no JSON"),
        ("fixed_positions", [[1]], "line 1: [1]; expected an object"),
        ("fixed_positions", ['{"3HTN": {"A": [1]}, "3HTN": {}}'], "'3HTN' comes twice"),
        ("fixed_positions", ["[" * 100_000], "line 1"),
        ("fixed_positions", [{GAPPED: {"A": [0]}}], "line 1: 3HTN: chain A: 0 is no position"),
        ("fixed_positions", [{GAPPED: {"A": ["A12"]}}], '3HTN: chain A: "A12" is no position'),
        ("fixed_positions", [{GAPPED: {"A": [144]}}], "position 144 of chain A; it has positions 1 "
                                                     "to 143 in 3HTN"),
        ("fixed_positions", [{GAPPED: {"Q": [1]}}], "3HTN has no chain 'Q'; it has A, B, C"),
        ("fixed_positions", [{"3HTM": {}}], "no entry for 3HTN; it has 3HTM"),
        ("omit_positions", [{GAPPED: {"A": [[[1], "GZ"]]}}], 'chain A: "Z" is no residue'),
        ("omit_positions", [{GAPPED: {"A": [[1, "G"]]}}], "expected a list of positions"),
        ("omit_positions", [{GAPPED: {"A": [1]}}], "expected positions and letters"),
        ("bias", [{"A": "1"}], 'A: "1" is no finite number'),
        ("bias", ['{"A": NaN}'], "line 1: NaN is no number that can be used"),
        ("bias", ['{"A": 1e999}'], "A: Infinity is no finite number"),
        ("bias", [{"Ala": 1}], '"Ala" is no residue'),
        ("bias_by_residue", [{GAPPED: {"A": [[0] * 20]}}], "position 1: 20 numbers; expected 21"),
        ("bias_by_residue", [{GAPPED: {"B": [[0] * 21] * 139}}], "chain B: 139 rows; 3HTN needs "
                                                                "143"),
        ("tied_positions", [{GAPPED: [{"A": [[1], [1, 2]]}]}], "group 1: chain A: 1 positions and "
                                                               "2 weights"),
        ("tied_positions", [{GAPPED: [{"A": [1], "B": [999]}]}], "group 1: position 999"),
        ("tied_positions", [{GAPPED: {"A": [1]}}], "expected"),
        ("chain_ids", [{GAPPED: [["A"]]}], "the chains to design and those to keep"),
        ("chain_ids", [{GAPPED: [["A"], ["A"]]}], "chain A is to be designed and to be kept"),
        ("chain_ids", [{GAPPED: [["Q"], []]}], "3HTN has no chain 'Q'"),
        ("chain_ids", [{GAPPED: [[], ["A", "B", "C"]]}], "no chain of 3HTN is to be designed"),
        ("pssm", [{GAPPED: {"A": {"pssm_coef": []}}}], "chain A: it has pssm_coef; expected"),
        ("fixed_residues", [{GAPPED: "A43 A999"}], "3HTN has no residue 'A999'"),
        ("fixed_residues", [{GAPPED: 3}], "3HTN: 3; expected labels of residues"),
        ("omit_residues", [{GAPPED: {"A999": "G"}}], "3HTN has no residue 'A999'"),
        ("bias_residues", [{GAPPED: {"A43": {"G": None}}}], "A43: G: null is no finite number"),
    ],
)  # fmt: skip
def test_a_damaged_file_names_the_place(kind, lines, message, tmp_path):
    path = written(tmp_path, *lines)
    with pytest.raises(ConstraintError) as error:
        read_constraint_file(path, kind).fields(protein(GAPPED))
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\xff\xfe\x00", "no text: byte 0 is not UTF-8"),
        (b"", "it is empty"),
        (b"{}", "no form of constraints that is known"),
        (b'{"3HTN": null}', "no form of constraints that is known"),
        (b'{"3HTN": "A43 A44"}', "say whether they are kept or designed"),
    ],
)
def test_what_is_no_file_of_constraints_is_said(content, message, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ConstraintError) as error:
        read_constraints(path)
    assert str(path) in str(error.value) and message in str(error.value)
    with pytest.raises(ConstraintError, match="not read: No such file"):
        read_constraints(tmp_path / "none.json")


def test_what_is_stated_once_is_not_stated_twice(tmp_path):
    file = read_constraint_file(written(tmp_path, {GAPPED: [["A"], ["B", "C"]]}))
    with pytest.raises(ConstraintError, match="chains is stated elsewhere as well"):
        file.for_structure(protein(GAPPED), Constraints(chains="B"))


def test_what_files_say_adds_up(tmp_path):
    s = protein(GAPPED)
    base = Constraints(
        fixed="A43", omit_at={"A44": "C"}, bias={"A": 1.0}, bias_at={"A45": {"G": 1.0}},
        tied="A50,B50", tied_chains="",
    )  # fmt: skip
    files = [
        read_constraint_file(written(tmp_path, entry, name=f"{n}.json"), kind)
        for n, (kind, entry) in enumerate([
            ("fixed_positions", {GAPPED: {"B": [1]}}),
            ("omit_positions", {GAPPED: {"A": [[[2], "W"]]}}),
            ("bias", {"A": 0.5, "C": 2.0}),
            ("bias_residues", {"A45": {"G": 0.25}}),
            ("tied_positions", {GAPPED: [{"A": [20], "C": [20]}]}),
        ])
    ]  # fmt: skip
    made = with_files(base, s, files).resolve(s)
    assert np.flatnonzero(~made.designed).tolist() == [0, 143]
    letters = [ALPHABET[i] for i in np.flatnonzero(made.omitted[1])]
    assert letters == ["C", "W", "X"]
    assert made.biases[2, ALPHABET.index("G")] == 1.25
    assert made.biases[9, ALPHABET.index("A")] == 1.5
    assert [len(group) for group in made.groups] == [2, 2]


# The file of this project.

GOOD: list[Any] = [
    {"version": 1, "structures": {"*": {}}},
    {
        "$schema": "constraints.schema.json",
        "version": 1,
        "structures": {
            "*": {"omit": "C", "bias": {"W": -1.5}},
            GAPPED: {
                "chains": "A,B",
                "fixed": ["interface:A/B:6", "A43"],
                "omit_at": {"surface": "W", "A50-60": "P"},
                "bias_at": {"A50-60": {"K": 0.5, "E": -0.5}},
                "tied": [["C50", "C51"], {"C52": 1, "C53": -0.5}],
                "temperature_at": {"core": 0.3},
            },
        },
    },
    {"version": 1, "structures": {GAPPED: {"redesigned": "A43-50", "tied_chains": ["A,B"]}}},
    {"version": 1, "structures": {"*": {"pssm": {"file": "p.jsonl", "multiplier": 0.3}}}},
    {"version": 1, "structures": {"*": {"pssm": {"chains": {"A": None}, "log_odds": True}}}},
]
BAD: list[tuple[Any, str]] = [
    ({"version": 2, "structures": {"*": {}}}, "version is 2; expected 1"),
    ({"structures": {"*": {}}}, "version is null; expected 1"),
    ({"version": 1, "structures": {}}, "structures: {}; expected names"),
    ({"version": 1, "structures": {"*": []}}, "*: []; expected keys"),
    ({"version": 1, "structures": {"*": {}}, "x": 1}, "'x' is no key"),
    ({"version": 1, "structures": {"*": {"fixd": "A1"}}}, "'fixd' is no key; did you mean fixed"),
    ({"version": 1, "structures": {"*": {"fixed": 3}}}, "fixed: 3; expected a text"),
    ({"version": 1, "structures": {"*": {"fixed": " "}}}, 'fixed: " "; expected a text'),
    ({"version": 1, "structures": {"*": {"omit": "CZ"}}}, 'omit: "CZ"; expected letters'),
    ({"version": 1, "structures": {"*": {"bias": {"W": "1"}}}}, 'bias: W: "1" is no number'),
    ({"version": 1, "structures": {"*": {"bias": {"WW": 1}}}}, "bias: 'WW' is no residue"),
    ({"version": 1, "structures": {"*": {"bias_at": {"all": 1}}}}, "bias_at: all: 1; expected"),
    ({"version": 1, "structures": {"*": {"tied": "A1"}}}, 'tied: "A1"; expected a list'),
    ({"version": 1, "structures": {"*": {"tied": [{"A1": "x"}]}}}, "group 1: A1"),
    ({"version": 1, "structures": {"*": {"pssm": {}}}}, "expected an object with file or chains"),
    ({"version": 1, "structures": {"*": {"pssm": {"file": "a", "multiplier": 2}}}}, "0 to 1"),
    ({"version": 1, "structures": {"*": {"temperature_at": {"all": -1}}}}, "at least 0"),
]


@pytest.mark.parametrize("content", GOOD, ids=range(len(GOOD)))
def test_a_good_file_fits_the_schema_and_is_read(content, tmp_path):
    jsonschema.validate(content, json.loads(schema()))
    assert read_constraints(written(tmp_path, content)).entries == content["structures"]


@pytest.mark.parametrize("content, message", BAD, ids=range(len(BAD)))
def test_a_bad_file_fits_neither(content, message, tmp_path):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json.loads(schema()))
    path = written(tmp_path, content)
    with pytest.raises(ConstraintError) as error:
        read_constraints(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_the_schema_is_a_schema_and_is_published():
    jsonschema.Draft202012Validator.check_schema(json.loads(schema()))
    page = Path(__file__).parents[1] / "docs" / "reference" / "constraints.schema.json"
    assert page.read_text("utf-8") == schema()


def test_an_entry_says_what_it_says(tmp_path):
    s = protein(GAPPED)
    source = read_constraints(written(tmp_path, GOOD[1]))
    made = source.for_structure(s).resolve(s)
    kept = mpnn.select(s, "interface:A/B:6 + A43")
    assert made.design_chains == ("A", "B")
    assert (made.designed == (np.isin(s.chain_ids, ["A", "B"]) & ~kept)).all()
    assert made.omitted[:, ALPHABET.index("C")].all()
    assert (made.omitted[:, ALPHABET.index("W")] == mpnn.select(s, "surface")).all()
    assert made.biases[8, ALPHABET.index("K")] == 0.5
    assert (made.biases[:, ALPHABET.index("W")] == -1.5).all()
    core = mpnn.select(s, "core")
    assert (made.temperatures[core] == np.float32(0.3)).all()
    assert np.isnan(made.temperatures[~core]).all()


def test_an_entry_is_looked_for_by_name(tmp_path):
    source = read_constraints(written(tmp_path, GOOD[2]))
    with pytest.raises(ConstraintError, match=r"no entry for 5L33, and none for all.*it has 3HTN"):
        source.for_structure(protein("5L33"))
    for_all = {"version": 1, "structures": {"*": {"chains": "B"}, GAPPED: {"chains": "A"}}}
    made = read_constraints(written(tmp_path, for_all)).for_structure(protein(GAPPED))
    assert made.design_chains(protein(GAPPED)) == ["A"], "in place of what holds for all"


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"fixed": "A43, A999"}, "fixed: 3HTN: selection 'A43, A999', character 6"),
        ({"redesigned": "interface:A/Q"}, "redesigned: 3HTN: selection"),
        ({"chains": "Q"}, "chains: 3HTN has no chain 'Q'"),
        ({"tied": ["A43,Q1"]}, "tied: 3HTN has no residue 'Q1'"),
        ({"tied_chains": "A,Q"}, "tied_chains: 3HTN has no chain 'Q'"),
        ({"omit_at": {"A1": "C"}}, "omit_at: 3HTN: selection 'A1'"),
        ({"bias_at": {"A1": {"C": 1}}}, "bias_at: 3HTN: selection 'A1'"),
        ({"pssm": {"file": "none.jsonl"}}, "none.jsonl: not read"),
        ({"pssm": {"chains": {"A": {"pssm_coef": [0.5], "pssm_bias": [[0] * 21],
                                    "pssm_log_odds": [[0] * 21]}}}}, "1 rows; 3HTN needs 143"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_structure_and_key(entry, message, tmp_path):
    path = written(tmp_path, {"version": 1, "structures": {GAPPED: entry}})
    with pytest.raises(ConstraintError) as error:
        read_constraints(path).for_structure(protein(GAPPED))
    assert str(error.value).startswith(str(path)) or "none.jsonl" in str(error.value)
    assert message in str(error.value)


# Motifs.


class Attack:
    """A pickle of it calls a function of the system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_trb_keeps_its_motif(protocol, tmp_path):
    s = protein(GAPPED)
    kept = np.ones(len(s), bool)
    kept[3] = False  # its amino acid was masked
    content = {
        "config": {"inference": {"num_designs": 10, "ckpt": None}, "noise": [0.5, (1, 2)]},
        "plddt": np.random.default_rng(0).random((5, len(s))).astype(np.float32),
        "con_hal_pdb_idx": [("A", 45), ("A", 46), ("B", 50)],
        "con_hal_idx0": np.array([2, 3, 150]),
        "inpaint_seq": kept,
        "time": np.float64(12.5),
        "device": "CPU",
        "objects": np.array(["a", None], object),
        "names": np.array(["A1", "B12"]),
    }
    path = tmp_path / "design.trb"
    path.write_bytes(pickle.dumps(content, protocol))
    read = read_plain_pickle(path)
    assert (read["plddt"] == content["plddt"]).all() and read["time"] == 12.5
    assert read["names"].tolist() == ["A1", "B12"] and read["objects"] == ["a", None]
    assert [label(s, row) for row in fixed_from(path, s)] == ["A45", "B50"]
    path.write_bytes(pickle.dumps({"con_hal_idx0": np.array([7, 2])}, protocol))
    assert fixed_from(path, s) == [2, 7]
    complex_ = {"con_hal_pdb_idx": [("A", 45)], "complex_con_hal_pdb_idx": [("B", 50), ("C", 43)]}
    path.write_bytes(pickle.dumps(complex_, protocol))
    assert [label(s, row) for row in fixed_from(path, s)] == ["B50", "C43"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["key", "inside", "beside"])
def test_a_pickle_that_runs_something_is_refused(protocol, place, tmp_path):
    mark = tmp_path / "ran"
    attack = Attack(mark)
    content: Any = {
        "key": {"con_hal_pdb_idx": attack},
        "inside": {"con_hal_idx0": np.array([1, attack], object)},
        "beside": [{"con_hal_idx0": [1]}, attack],
    }[place]
    path = tmp_path / "design.trb"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ConstraintError, match="nothing of it was run") as error:
        fixed_from(path, protein(GAPPED))
    assert str(path) in str(error.value) and "system" in str(error.value)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists(), "an ordinary unpickler runs it, so the test can fail"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04N.",  # None
        b"PK\x03\x04",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",  # a frame of 8 EiB
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60),  # bytes without end
        b"cbuiltins\neval\n(V1\ntR.",
        b"cnumpy\nload\n(Vx\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I9999999999999\ntcnumpy\ndtype\n(Vf8\ntRI00\nI9\ntb.",
        b"c__builtin__\nset\n}Va\nI1\nsb.",  # a state for what is no array
    ],
    ids=range(9),
)  # fmt: skip
def test_a_damaged_trb_is_said_in_a_sentence(content, tmp_path):
    path = tmp_path / "design.trb"
    path.write_bytes(content)
    with pytest.raises(ConstraintError) as error:
        fixed_from(path, protein(GAPPED))
    assert str(path) in str(error.value)


def test_a_state_is_for_arrays_alone(tmp_path):
    path = tmp_path / "design.trb"
    path.write_bytes(b"c__builtin__\nset\n}Va\nI1\nsb.")
    with pytest.raises(ConstraintError, match="a state to what is no array; nothing was run"):
        fixed_from(path, protein(GAPPED))


def test_containers_within_containers_are_read_once(tmp_path):
    level: Any = [1]
    for _ in range(40):  # two to the fortieth, if each were copied
        level = [level, level]
    path = tmp_path / "design.trb"
    path.write_bytes(pickle.dumps({"con_hal_idx0": [1], "more": level}))
    assert fixed_from(path, protein(GAPPED)) == [1]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"con_hal_pdb_idx": [("A", 999)]}, "con_hal_pdb_idx: 3HTN has no residue 'A:999'"),
        ({"con_hal_pdb_idx": ["A45"]}, 'con_hal_pdb_idx: "A45"; expected a chain and a number'),
        ({"con_hal_idx0": [425]}, "con_hal_idx0: 425; 3HTN has the positions 0 to 424"),
        ({"con_hal_pdb_idx": []}, "it keeps no residue"),
        ({"plddt": []}, "neither con_hal_pdb_idx nor con_hal_idx0; it has plddt"),
        ([1], "expected a .trb of RFdiffusion"),
    ],
)
def test_a_trb_of_another_design_is_refused(content, message, tmp_path):
    path = tmp_path / "design.trb"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ConstraintError) as error:
        fixed_from(path, protein(GAPPED))
    assert str(path) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    "specification, kept",
    [
        ({}, ["A43", "A44", "B50"]),
        ({"select_unfixed_sequence": "X18,Y7-9"}, ["A43", "B50"]),
        ({"select_unfixed_sequence": {"X17-18": "ALL"}}, ["B50"]),
        ({"select_unfixed_sequence": False}, ["A43", "A44", "B50"]),
    ],
)
def test_the_motif_of_rfdiffusion3(specification, kept, tmp_path):
    content = {
        "diffused_index_map": {"X17": "A43", "X18": "A44", "Z5": "B50"},
        "specification": specification,
        "metrics": {"num_residues": 425},
    }
    path = written(tmp_path, content, name="design.json")
    assert [label(protein(GAPPED), row) for row in fixed_from(path, protein(GAPPED))] == kept


@pytest.mark.parametrize(
    "content, message",
    [
        ({"specification": {}}, "no diffused_index_map"),
        ({"diffused_index_map": {"A1": "A999"}}, "diffused_index_map: A1: 3HTN has no residue"),
        ({"diffused_index_map": {"A1": 3}}, "diffused_index_map: A1: 3; expected a residue"),
        ({"diffused_index_map": {"A1": "A43"}, "specification": {"select_unfixed_sequence": True}},
         "it keeps no residue"),
        ({"diffused_index_map": {"A1": "A43"}, "specification": {"select_unfixed_sequence": "?"}},
         "select_unfixed_sequence: '?'"),
    ],
)  # fmt: skip
def test_a_json_that_keeps_nothing_is_said(content, message, tmp_path):
    path = written(tmp_path, content, name="design.json")
    with pytest.raises(ConstraintError) as error:
        fixed_from(path, protein(GAPPED))
    assert str(path) in str(error.value) and message in str(error.value)


def with_remarks(folder: Path, *remarks: str) -> Path:
    path = folder / f"{GAPPED}.pdb"
    text = path_of(GAPPED).read_text()
    path.write_text(text + "".join(f"REMARK PDBinfo-LABEL:{remark}\n" for remark in remarks))
    return path


def test_remarks_count_the_residues_of_the_file(tmp_path):
    path = with_remarks(tmp_path, "    1 FIXED", "  144 HOTSPOT fixed", "    7 HOTSPOT")
    structure = mpnn.read_structure(path)
    assert [label(structure, row) for row in fixed_from(path, structure)] == ["A43", "B43"]
    swapped = rows_of(structure, np.argsort(structure.chain_ids == "A", kind="stable"))
    assert [label(swapped, row) for row in fixed_from(path, swapped)] == ["B43", "A43"]


@pytest.mark.parametrize(
    "remarks, message",
    [
        ((" 426 FIXED",), "residue 426; 3HTN has residues 1 to 425"),
        ((" A45 FIXED",), "residue A45; 3HTN has residues 1 to 425"),
        ((), "no line REMARK PDBinfo-LABEL"),
    ],
)
def test_remarks_that_do_not_fit(remarks, message, tmp_path):
    path = with_remarks(tmp_path, *remarks)
    with pytest.raises(ConstraintError) as error:
        fixed_from(path, mpnn.read_structure(path))
    assert str(path) in str(error.value) and message in str(error.value)


# Resfiles.


def allowed(structure: mpnn.Structure, found: dict[str, Any]) -> dict[str, str]:
    """Label -> the letters that may be drawn there; the native one in brackets if it is kept."""
    omitted = Constraints(**found).omitted(structure)
    return {
        label(structure, row): f"[{structure.sequence[row]}]"
        if row in found["fixed"]
        else "".join(a for a, no in zip(ALPHABET, omitted[row], strict=True) if not no)
        for row in range(len(structure))
    }


def test_a_resfile_says_what_each_residue_may_be(tmp_path):
    s = protein(GAPPED)
    path = tmp_path / "design.resfile"
    path.write_text(
        "# all others keep their amino acid\nNATAA EX 1 EX 2\nUSE_INPUT_SC\nstart\n"
        "* B POLAR  # a chain\n60 - 70 B NOTAA DE\n65 B PIKAA FYW EX ARO 1 LEVEL 4\n"
        "66 B NATRO\n50 A ALLAA\n51 A ALLAAxc\n52 A APOLAR NOTAA W\n"
    )
    found = allowed(s, resfile_fields(path, s))
    assert found["A43"] == f"[{s.sequence[0]}]"
    assert found["B50"] == "DEHKNQRST"
    assert found["B60"] == "ACFGHIKLMNPQRSTVWY", "the range counts before the chain"
    assert found["B65"] == "FWY" and found["B66"].startswith("[")
    assert found["A50"] == "ACDEFGHIKLMNPQRSTVWY" and found["A51"] == "ADEFGHIKLMNPQRSTVWY"
    assert found["A52"] == "ACFGILMPVY"


@pytest.mark.parametrize(
    "text, message",
    [
        ("NATAA\n", "no line 'start'"),
        ("start\n999 A NATAA\n", "line 2: 3HTN has no residue 'A:999'"),
        ("start\n45 Q NATAA\n", "line 2: 3HTN has no residue 'Q:45'"),
        ("start\n* Q NATAA\n", "line 2: 3HTN has no chain Q; it has A, B, C"),
        ("start\n45 A PIKA W\n", "line 2: 'PIKA' is no command"),
        ("start\n45 A PIKAA\n", "line 2: PIKAA names no amino acid"),
        ("start\n45 A PIKAA W1\n", "line 2: PIKAA W1: '1' is no amino acid"),
        ("start\n45 A PIKAA W NOTAA W\n", "line 2: PIKAA W NOTAA W leaves no amino acid"),
        ("start\n45 A NATAA\n45 A NATRO\n", "line 3: A45 has a line of this kind already"),
        ("start\nA 45 NATAA\n", "line 2: 'A' is no residue number"),
        ("start\n45\n", "line 2: '45'; expected"),
        ("start\n45 A\n", "line 2: no command"),
        ("ALLAA\nRESET\nstart\n", "line 1: 'RESET' is no command"),
    ],
)
def test_a_damaged_resfile_names_the_line(text, message, tmp_path):
    path = tmp_path / "design.resfile"
    path.write_text(text)
    with pytest.raises(ConstraintError) as error:
        resfile_fields(path, protein(GAPPED))
    assert str(error.value).startswith(str(path)) and message in str(error.value)


# The command.


def design(*arguments: object) -> int:
    return main(["design", *map(str, arguments), "--seed", "1", "--restart"])


def sequence(out: Path, name: str, record: int = 1) -> str:
    return (out / "seqs" / f"{name}.fa").read_text().splitlines()[2 * record + 1]


def test_each_structure_has_its_constraints_in_one_call(tmp_path, capsys):
    content = {
        "version": 1,
        "structures": {
            "*": {"omit": "C"},
            "6MRR": {"fixed": "A5-68"},
            "5L33": {"redesigned": "A10", "omit_at": {"A10": "ADEFGHIKLMNPQRSTVY"}},
        },
    }
    files = path_of("6MRR"), path_of("5L33")
    path = written(tmp_path, content)
    assert design(*files, "--constraints", path, "--out", tmp_path / "out") == 0
    native, designed = protein("6MRR").sequence, sequence(tmp_path / "out", "6MRR")
    assert designed[4:] == native[4:] and designed[:4] != native[:4]
    native, designed = protein("5L33").sequence, sequence(tmp_path / "out", "5L33")
    at = protein("5L33").residue_numbers.tolist().index("10")
    assert designed[at] == "W" and designed[:at] + designed[at + 1 :] == (
        native[:at] + native[at + 1 :]
    )
    capsys.readouterr()


def test_a_structure_that_does_not_fit_fails_alone(tmp_path, capsys):
    content = {"version": 1, "structures": {"6MRR": {"fixed": "A1-9"}, "5L33": {"fixed": "B1"}}}
    files = path_of("6MRR"), path_of("5L33")
    path = written(tmp_path, content)
    assert design(*files, "--constraints", path, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err.splitlines()
    [told] = [line for line in said if "5L33" in line]
    assert str(path) in told and "5L33: fixed" in told and "no residue 'B1'" in told
    assert [p.name for p in (tmp_path / "out" / "seqs").iterdir()] == ["6MRR.fa"]


def test_a_file_that_is_wrong_designs_nothing(tmp_path, capsys):
    path = written(tmp_path, {"version": 1, "structures": {"6MRR": {"fixd": "A1-9"}}})
    out = tmp_path / "out"
    assert design(path_of("6MRR"), "--constraints", path, "--out", out) == 2
    assert "did you mean fixed" in capsys.readouterr().err and not out.exists()


def test_a_kind_tells_files_apart_that_look_alike(tmp_path):
    path = written(tmp_path, {"6MRR.pdb": "A5 A6"})
    for kind, expected in (
        ("fixed_residues", {4, 5}),
        ("redesigned_residues", {*range(68)} - {4, 5}),
    ):
        options = SimpleNamespace(constraints=[f"{kind}={path}"], fixed_from=[], resfile=None)
        made = Constraining(options, Constraints(), [path_of("6MRR")])
        constraints = made(protein("6MRR"), path_of("6MRR"))
        kept = set(np.flatnonzero(~constraints.designed(protein("6MRR"))).tolist())
        assert kept == expected


def test_temperatures_of_positions_are_those_of_the_model(tmp_path, model):
    content = {"version": 1, "structures": {"6MRR": {"temperature_at": {"A1-30": 2.0}}, "5L33": {}}}
    path = written(tmp_path, content)
    files = path_of("6MRR"), path_of("5L33")
    out = tmp_path / "out"
    assert design(*files, "--constraints", path, "--out", out, "-T", 0.2) == 0
    temperature = np.full(68, 0.2, np.float32)
    temperature[:30] = 2.0
    expected = model.design(protein("6MRR"), 1, temperature, seed=1)
    assert sequence(out, "6MRR") == expected.sequences[0]
    assert sequence(out, "5L33") == model.design(protein("5L33"), 1, 0.2, seed=1).sequences[0]
    assert ">T=0.2, sample=1" in (out / "seqs" / "6MRR.fa").read_text()


def test_scores_count_what_is_designed(tmp_path, capsys, model):
    content = {"version": 1, "structures": {"6MRR": {"redesigned": "core"}}}
    path = written(tmp_path, content)
    call = ["score", str(path_of("6MRR")), "--num-orders", "2", "--constraints", str(path)]
    assert main(call) == 0
    row = capsys.readouterr().out.splitlines()[1].split("\t")
    s = protein("6MRR")
    chosen = Constraints(redesigned=np.flatnonzero(mpnn.select(s, "core")))
    expected = model.score(s, s.sequence, chosen, 2, 0)
    assert float(row[2]) == pytest.approx(expected.score.mean(), abs=1e-4)


def test_motifs_and_resfiles_keep_residues(tmp_path, capsys):
    native = protein("6MRR").sequence
    (tmp_path / "6MRR.trb").write_bytes(pickle.dumps({"con_hal_idx0": list(range(60))}))
    for option in (tmp_path / "6MRR.trb", tmp_path):
        assert design(path_of("6MRR"), "--fixed-from", option, "--out", tmp_path / "out") == 0
        found = sequence(tmp_path / "out", "6MRR")
        assert found[:60] == native[:60] and found != native
    (tmp_path / "r.resfile").write_text("NATAA\nstart\n68 A PIKAA W\n")
    resfile = tmp_path / "r.resfile"
    assert design(path_of("6MRR"), "--resfile", resfile, "--out", tmp_path / "out") == 0
    assert sequence(tmp_path / "out", "6MRR") == native[:67] + "W"
    both = path_of("6MRR"), path_of("5L33")
    assert design(*both, "--fixed-from", tmp_path / "6MRR.trb", "--out", tmp_path / "out") == 2
    assert "it is of one structure, and 2 are given" in capsys.readouterr().err


def test_remarks_of_the_structures_own_file(tmp_path):
    path = tmp_path / "6MRR.pdb"
    remarks = "".join(f"REMARK PDBinfo-LABEL: {n:4d} FIXED\n" for n in range(1, 61))
    path.write_text(path_of("6MRR").read_text() + remarks)
    assert design(path, "--fixed-from", "remarks", "--out", tmp_path / "out") == 0
    assert sequence(tmp_path / "out", "6MRR")[:60] == protein("6MRR").sequence[:60]


def test_kinds_are_those_that_the_page_lists():
    page = Path(__file__).parents[1] / "docs" / "reference" / "constraints.md"
    text = page.read_text("utf-8")
    for kind in KINDS:
        assert f"`{kind}`" in text, kind
    for key in json.loads(schema())["$defs"]["entry"]["properties"]:
        assert f"`{key}`" in text, key


# Anything at all: it is read or refused in a sentence, and never half.

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 150), st.just(10**400), st.floats(allow_nan=False),
    st.sampled_from(["A", "B", "A43", "A43 A44", "GPL", "", "Q", "A43-50", "all"]),
)  # fmt: skip
KEYS = st.sampled_from([
    "3HTN", "A", "B", "Q", "A43", "G", "pssm_coef", "pssm_bias", "pssm_log_odds", "x/3HTN.pdb",
    "*", "version", "structures", "fixed", "omit_at", "bias_at", "tied", "pssm", "chains", "all",
    "diffused_index_map", "specification", "select_unfixed_sequence",
])  # fmt: skip
CONTENT = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=3,
)
SETS = st.dictionaries(st.sampled_from(["*", GAPPED]), CONTENT, max_size=2).map(
    lambda structures: {"version": 1, "structures": structures}
)


@given(content=CONTENT | SETS, kind=st.sampled_from([None, *KINDS]))
def test_any_json_is_read_or_refused_in_a_sentence(content, kind, tmp_path_factory):
    path = written(tmp_path_factory.getbasetemp(), content, name="any.json")
    s = protein(GAPPED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstraintWarning)
        try:
            source = read_constraints(path, kind)
            source.for_structure(s, pssm=PSSMUse(0.5, 0.0, log_odds=True, bias=True)).resolve(s)
        except ConstraintError as error:
            assert str(error)


@given(content=CONTENT)
def test_any_json_of_a_motif_is_read_or_refused(content, tmp_path_factory):
    path = written(tmp_path_factory.getbasetemp(), content, name="motif.json")
    with contextlib.suppress(ConstraintError):
        assert fixed_from(path, protein(GAPPED))


@given(content=st.data())
def test_any_trb_is_read_or_refused(content, tmp_path_factory):
    good = pickle.dumps({
        "con_hal_pdb_idx": [("A", 45)], "con_hal_idx0": np.array([2]), "inpaint_seq": np.ones(425),
        "x": np.array(["a"], object),
    }, content.draw(st.integers(0, 5)))  # fmt: skip
    damaged = bytearray(good)
    for _ in range(content.draw(st.integers(1, 4))):
        at = content.draw(st.integers(0, len(good) - 1))
        damaged[at] = content.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "any.trb"
    path.write_bytes(bytes(damaged))
    with contextlib.suppress(ConstraintError):
        assert fixed_from(path, protein(GAPPED))


@given(words=st.lists(st.sampled_from(
    ["45", "A", "*", "-", "_", "50", "PIKAA", "FYW", "NATAA", "start", "\n", "EX", "1", "ARO", "#"]
), max_size=20))  # fmt: skip
def test_any_resfile_is_read_or_refused(words, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.resfile"
    path.write_text("ALLAA\nstart\n" + " ".join(words))
    with contextlib.suppress(ConstraintError):
        found = resfile_fields(path, protein(GAPPED))
        assert set(found) == {"fixed", "omit_at"}


def test_files_of_one_name_are_told_apart_by_their_paths(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "6MRR.pdb").write_bytes(path_of("6MRR").read_bytes())
    files = {str(tmp_path / f / "6MRR.pdb"): r for f, r in (("a", "A1 A2"), ("b", "A3"))}
    path = tmp_path / "fixed.json"
    path.write_text(json.dumps(files))
    native = protein("6MRR").sequence
    for folder, kept in (("a", [0, 1]), ("b", [2])):
        out = tmp_path / f"out-{folder}"
        file = tmp_path / folder / "6MRR.pdb"
        call = [file, "--constraints", f"fixed_residues={path}", "--omit", native[:3], "--out", out]
        assert design(*call) == 0
        found = sequence(out, "6MRR")
        assert [i for i in range(3) if found[i] == native[i]] == kept


def test_a_mask_of_another_design_is_refused(tmp_path):
    content = {"con_hal_idx0": [1], "inpaint_seq": np.ones(5, bool)}
    (tmp_path / "x.trb").write_bytes(pickle.dumps(content))
    with pytest.raises(ConstraintError, match="inpaint_seq has 5 values, and 6MRR has 68 residues"):
        fixed_from(tmp_path / "x.trb", protein("6MRR"))
