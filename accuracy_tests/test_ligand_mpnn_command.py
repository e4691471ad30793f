"""`mpnn-core ligand-mpnn` and `ligand-mpnn-score`: LigandMPNN's options, readings and files.

What the authors' code reads and writes is in committed goldens (fixtures/make_ligandmpnn_files.py,
fixtures/make_context_goldens.py); with `--proof` their code is asked live. What they published is
in `../shared/data/goldens`, and its tests are skipped where that is missing.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
import torch
from edited_complexes import EDITS, text_of
from ligandmpnn_files import (
    CASES,
    COMMANDS,
    GOLDENS,
    STRUCTURES,
    arguments,
    described,
    run_original,
)
from oracles import NEEDS, LigandOracle, python_of_oracle
from proteins import COMPLEXES, path_of

from mpnn_core import ALPHABET, ConstraintError, Model, StructureError, load_model
from mpnn_core.commands.main import main
from mpnn_core.compatible import ligand_options, ligand_scores
from mpnn_core.compatible.ligand_designs import LigandDesigns, Run, b_factors
from mpnn_core.compatible.ligand_reading import Complex, read_complex
from mpnn_core.network.checkpoints import resolve
from mpnn_core.network.families import find_family
from mpnn_core.structures.context import NOT_IN_ORIGINAL

TOLERANCE = 1e-4  # nats
PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "goldens" / "ligandmpnn"
REASON = f"{PUBLISHED} is not there: what the authors published"
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason=REASON)

FILES = {
    "1hvr": COMPLEXES / "1hvr.pdb.gz",
    "3mht": COMPLEXES / "3mht.pdb.gz",
    "1a28": COMPLEXES / "1a28.pdb.gz",
    "19hc": COMPLEXES / "19hc.pdb.gz",
    "2nwl-opm": COMPLEXES / "2nwl-opm.pdb.gz",
    "7cth": COMPLEXES / "7cth.cif.gz",
    "1pwc": path_of("1pwc"),
    "pdb3hsy": path_of("pdb3hsy"),
    "3HTN": path_of("3HTN"),
    "6EHB": path_of("6EHB"),
}
# Edits of a complex of which the atoms around it are not those of the original.
READ_OTHERWISE = {
    "no elements": "read by their names; the original sees no ligand",
    "dummies with elements": "dummies of a membrane are no ligand",
}


def ligand_mpnn(*arguments: object, command: str = "ligand-mpnn") -> int:
    """Run the command in a few words: its exit code."""
    return main([command, *map(str, arguments), "--verbose", "0"])


def loaded(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = torch.load(path, weights_only=False)
    return values


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDENS.read_text("ascii"))
    return found


@pytest.fixture(scope="module")
def around() -> dict[str, np.ndarray]:
    with np.load(COMPLEXES / "atoms.npz") as file:
        return dict(file)


# ------------------------------------------------------------------------------------- reading


def seen_atoms(complex: Complex) -> np.ndarray:
    """(A, 4): thousandths of an Å and elements of the atoms that the original knows, sorted."""
    context = complex.structure.context
    xyz = np.round(context.coords * 1000).astype(np.int64)
    rows = np.column_stack([xyz, context.elements])
    rows = rows[~np.isin(context.elements, list(NOT_IN_ORIGINAL))]
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("name", FILES)
def test_the_atoms_around_a_protein_are_those_of_the_original(name, around) -> None:
    np.testing.assert_array_equal(seen_atoms(read_complex(FILES[name])), around[f"{name}/atoms"])


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_complex_is_read_as_by_the_original(edit, around, tmp_path) -> None:
    path = tmp_path / "edited.pdb"
    path.write_text(text_of(edit), "ascii")
    ours, theirs = seen_atoms(read_complex(path)), around[f"{edit}/atoms"]
    is_equal = ours.shape == theirs.shape and bool((ours == theirs).all())
    assert is_equal == (edit not in READ_OTHERWISE)


@pytest.mark.parametrize("name", ["1hvr", "3mht", "1pwc"])
def test_residues_and_side_chains_are_those_of_the_original(name, around) -> None:
    complex = read_complex(FILES[name])
    labels = around[f"{name}/labels"].tolist()
    assert complex.labels == labels
    theirs = np.full((len(labels), 32, 3), np.nan)
    theirs[around[f"{name}/has"]] = around[f"{name}/side_chains"] / 1000
    np.testing.assert_allclose(complex.structure.side_chains, theirs, atol=6e-4)


def test_letters_labels_and_numbers_are_those_of_the_original(tmp_path) -> None:
    """Modified residues are X, an insertion code is in the label, and counts."""
    lines = [
        line.replace("MSE", "XXX")
        for line in path_of("pdb1ubi").read_text("ascii").splitlines()
        if line.startswith("ATOM")
    ]
    changed = []
    for line in lines:
        number = int(line[22:26])
        if number == 2:
            line = f"{line[:22]}   1B{line[27:]}"
        if number == 5:
            line = f"{line[:17]}MSE{line[20:]}"
        changed.append(line)
    path = tmp_path / "x.pdb"
    path.write_text("\n".join([*changed, "END", ""]), "ascii")
    complex = read_complex(path)
    assert complex.labels[:4] == ["A1", "A1B", "A3", "A4"]
    assert complex.structure.residue_index[:4].tolist() == [1, 2, 4, 5]
    assert complex.structure.sequence[:6] == "MQIFXK"
    assert complex.name == "x"


def test_alternate_locations_are_those_called_a_and_the_last_atom_counts(tmp_path) -> None:
    def atom(serial: int, name: str, altloc: str, x: float) -> str:
        return (
            f"ATOM  {serial:5d}  {name:<3}{altloc}GLY A   1    {x:8.3f}{serial:8.3f}   0.000  0.50"
            f"  0.00           {name[0]}"
        )

    lines = [
        atom(1, "N", " ", 0), atom(2, "CA", "A", 1), atom(3, "CA", "B", 9), atom(4, "C", " ", 2),
        atom(5, "C", "A", 3), atom(6, "O", "A", 4),
    ]  # fmt: skip
    path = tmp_path / "x.pdb"
    path.write_text("\n".join([*lines, "END", ""]), "ascii")
    structure = read_complex(path).structure
    assert structure.coords[0, :, 0].tolist() == [0, 1, 3, 4]


def test_some_chains_are_read_alone_and_one_that_is_not_there_is_refused() -> None:
    complex = read_complex(path_of("4GYT"), ["B"])
    assert complex.chains == ["B"]
    with pytest.raises(StructureError, match=r"4GYT\.pdb.*chain Q.*is not there.*A, B"):
        read_complex(path_of("4GYT"), ["Q"])


def test_a_residue_that_comes_twice_is_refused(tmp_path) -> None:
    text = path_of("pdb1ubi").read_text("ascii")
    first = [line for line in text.splitlines() if line.startswith("ATOM")]
    path = tmp_path / "x.pdb"
    path.write_text("\n".join([*first, *first, "END", ""]), "ascii")
    with pytest.raises(StructureError, match=r"more than once: A1, A2"):
        read_complex(path)


@pytest.mark.proof
@pytest.mark.parametrize("zero_occupancy", [False, True])
def test_every_pdb_file_is_read_as_by_the_authors_parser(tmp_path, zero_occupancy) -> None:
    python = python_of_oracle()
    if python is None:
        pytest.skip(NEEDS)
    paths = sorted(STRUCTURES.glob("*.pdb"))
    for packed in sorted(COMPLEXES.glob("*.pdb.gz")):
        paths.append(tmp_path / packed.name.removesuffix(".gz"))
        paths[-1].write_bytes(gzip.decompress(packed.read_bytes()))
    with LigandOracle(python) as oracle:
        for path in paths:
            theirs = oracle.ask("parse", file=str(path), zero_occupancy=zero_occupancy)
            complex = read_complex(path, (), zero_occupancy)
            s = complex.structure
            numbers = zip(theirs["letters"], theirs["R_idx"], theirs["icodes"], strict=True)
            assert complex.labels == [f"{chain}{n}{code}" for chain, n, code in numbers], path
            np.testing.assert_array_equal(s.tokens, theirs["S"], str(path))
            np.testing.assert_array_equal(s.mask, theirs["mask"] > 0, str(path))
            np.testing.assert_array_equal(s.coords[s.mask], theirs["X"][s.mask], str(path))
            np.testing.assert_array_equal(s.side_chains, theirs["side_chains"], str(path))
            if "nwl" not in path.name:  # has dummies without elements
                np.testing.assert_array_equal(s.context.coords, theirs["Y"], str(path))


# ---------------------------------------------------------------------- files, side by side


@pytest.mark.parametrize("case", CASES)
def test_files_are_those_of_the_original(case, golden, tmp_path) -> None:
    """Names, titles, keys, types, shapes and every atom."""
    command = COMMANDS[CASES[case][0]]
    assert main([command, *arguments(case, tmp_path)]) == 0
    ours = described(tmp_path)
    assert list(ours) == list(golden[case])
    for name, theirs in golden[case].items():
        assert json.loads(json.dumps(ours[name])) == theirs, name


@pytest.mark.proof
@pytest.mark.parametrize("case", CASES)
def test_the_goldens_are_what_the_authors_code_writes(case, golden, tmp_path) -> None:
    python = python_of_oracle()
    if python is None:
        pytest.skip(NEEDS)
    run_original(python, case, tmp_path)
    assert json.loads(json.dumps(described(tmp_path))) == golden[case]


@pytest.fixture(scope="module")
def run_on_1ubi(tmp_path_factory) -> Path:
    """Files of three sequences of which two residues are fixed."""
    out = tmp_path_factory.mktemp("designs")
    code = ligand_mpnn(
        "--pdb_path", path_of("pdb1ubi"), "--out_folder", out, "--seed", 2, "--batch_size", 3,
        "--save_stats", 1, "--fixed_residues", "A3 A4", "--temperature", 0.3,
    )  # fmt: skip
    assert code == 0
    return out


def titles_of(fasta: Path) -> list[dict[str, str]]:
    return [
        dict(field.partition("=")[::2] for field in line[1:].split(", "))
        for line in fasta.read_text("ascii").splitlines()
        if line.startswith(">")
    ]


def test_titles_say_what_the_statistics_hold(run_on_1ubi) -> None:
    stats = loaded(run_on_1ubi / "stats" / "pdb1ubi.pt")
    tokens, native = stats["generated_sequences"], stats["native_sequence"]
    designed = stats["chain_mask"].bool()
    assert designed.logical_not().nonzero()[:, 0].tolist() == [2, 3]
    assert (tokens[:, 2:4] == native[2:4]).all()
    assert (stats["log_probs"][:, 2:4] == 0).all()
    assert (stats["sampling_probs"][:, 2:4] == 0).all()
    nll = -stats["log_probs"].gather(2, tokens[..., None])[..., 0]
    for n, title in enumerate(titles_of(run_on_1ubi / "seqs" / "pdb1ubi.fa")[1:]):
        confidence = torch.exp(-nll[n][designed].mean()).item()
        recovery = (tokens[n] == native)[designed].float().mean().item()
        assert float(title["overall_confidence"]) == pytest.approx(confidence, abs=6e-5)
        assert float(title["seq_rec"]) == pytest.approx(recovery, abs=6e-5)


def test_sampling_probabilities_are_of_twenty_letters_at_the_temperature(run_on_1ubi) -> None:
    stats = loaded(run_on_1ubi / "stats" / "pdb1ubi.pt")
    designed = stats["chain_mask"].bool()
    expected = (stats["log_probs"][..., :20] / stats["temperature"]).softmax(-1)
    torch.testing.assert_close(
        stats["sampling_probs"][:, designed], expected[:, designed], atol=1e-5, rtol=0
    )


def test_a_backbone_has_the_names_and_the_probabilities_of_its_design(run_on_1ubi) -> None:
    stats = loaded(run_on_1ubi / "stats" / "pdb1ubi.pt")
    chosen = stats["log_probs"].gather(2, stats["generated_sequences"][..., None])[..., 0].exp()
    for n in range(3):
        (chain, *_) = gemmi.read_pdb(str(run_on_1ubi / "backbones" / f"pdb1ubi_{n + 1}.pdb"))[0]
        residues = [r for r in chain if r.find_atom("CA", "*")]
        letters = [gemmi.find_tabulated_residue(r.name).one_letter_code for r in residues]
        assert letters == [ALPHABET[token] for token in stats["generated_sequences"][n].tolist()]
        expected = [0.0 if i in (2, 3) else float(p) for i, p in enumerate(chosen[n])]
        assert [r[0].b_iso for r in residues] == pytest.approx(expected, abs=6e-3)


def test_legacy_gives_no_b_factor_to_what_is_certain() -> None:
    """The original's 0 for a residue of more than 0.99."""
    complex = read_complex(path_of("pdb1ubi"))
    L = len(complex.labels)
    log_probs = np.zeros((1, L, 21), np.float32)
    log_probs[0, :3, 0] = np.log([0.995, 0.98, 0.5])
    asked = np.arange(L) != 3
    tokens = np.zeros((1, L), np.int64)
    designs = LigandDesigns(complex, Run(), tokens, log_probs, log_probs, tokens, asked, asked)
    assert b_factors(designs, legacy=False)[0, :4] == pytest.approx([0.995, 0.98, 0.5, 0])
    assert b_factors(designs, legacy=True)[0, :4] == pytest.approx([0, 0.98, 0.5, 0])


# --------------------------------------------------------------------- what the authors published


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """The folder in which the authors run their examples: ./inputs has the structures."""
    (tmp_path / "inputs").mkdir()
    packed = (PUBLISHED / "1BC8.pdb.gz").read_bytes()
    (tmp_path / "inputs" / "1BC8.pdb").write_bytes(gzip.decompress(packed))
    shutil.copy(path_of("4GYT"), tmp_path / "inputs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@published
def test_the_published_statistics_come_out_of_the_command(inputs, monkeypatch) -> None:
    """Its sequence is the only one that the command may draw, and its order is given."""
    with np.load(PUBLISHED / "save_stats-1BC8.npz") as file:
        theirs = dict(file)
    (tokens,) = theirs["generated_sequences"]
    only = {
        label: "".join(letter for letter in ALPHABET[:20] if letter != ALPHABET[token])
        for label, token in zip(read_complex("inputs/1BC8.pdb").labels, tokens, strict=True)
    }
    Path("only.json").write_text(json.dumps(only))
    design = Model.design

    def in_their_order(self: Model, *arguments: Any) -> Any:
        *first, order = arguments
        assert order is None
        return design(self, *first, theirs["decoding_order"])

    monkeypatch.setattr(Model, "design", in_their_order)
    code = ligand_mpnn(
        "--model_type", "protein_mpnn", "--seed", 111, "--pdb_path", "./inputs/1BC8.pdb",
        "--out_folder", "out", "--save_stats", 1, "--omit_AA_per_residue", "only.json",
    )  # fmt: skip
    assert code == 0
    ours = loaded(Path("out/stats/1BC8.pt"))
    assert list(ours) == [
        "generated_sequences", "sampling_probs", "log_probs", "decoding_order", "native_sequence",
        "mask", "chain_mask", "seed", "temperature",
    ]  # fmt: skip
    for name in ours:
        if name in ("log_probs", "sampling_probs"):
            continue
        value = np.asarray(ours[name])
        np.testing.assert_array_equal(value, theirs[name], name)
        if isinstance(ours[name], torch.Tensor):
            assert value.dtype == theirs[name].dtype, name
    np.testing.assert_allclose(ours["log_probs"], theirs["log_probs"], atol=TOLERANCE, rtol=0)
    # What they drew from, which no letter was missing of.
    unbiased = (ours["log_probs"][..., :20] / 0.1).softmax(-1)
    np.testing.assert_allclose(unbiased, theirs["sampling_probs"], atol=10 * TOLERANCE, rtol=0)


MULTI = ("--pdb_path_multi", PUBLISHED / "pdb_ids.json", "--seed", 111)


def sequences_of(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """By label, the native residues and those of the first design of a file in ./out."""
    complex = read_complex(f"inputs/{name}.pdb")
    order = sorted(range(len(complex.labels)), key=lambda i: complex.structure.chain_ids[i])
    lines = Path("out/seqs", f"{name}.fa").read_text("ascii").splitlines()
    return tuple(  # type: ignore[return-value]
        dict(zip((complex.labels[i] for i in order), line.replace(":", ""), strict=True))
        for line in (lines[1], lines[3])
    )


@published
@pytest.mark.parametrize("option", ["fixed", "redesigned"])
def test_the_published_lists_of_residues_are_kept_or_designed(option, inputs) -> None:
    file = PUBLISHED / f"{'fix' if option == 'fixed' else option}_residues_multi.json"
    arguments = [*MULTI, "--out_folder", "out", f"--{option}_residues_multi", file]
    assert ligand_mpnn(*arguments, "--temperature", 1.0) == 0
    for path, text in json.loads(file.read_text()).items():
        native, design = sequences_of(Path(path).stem)
        named = set(text.split())
        (title,) = titles_of(Path("out/seqs", f"{Path(path).stem}.fa"))[:1]
        kept = named if option == "fixed" else native.keys() - named
        assert all(native[label] == design[label] for label in kept)
        assert int(title["num_res"]) == len(native) - len(kept)
        assert any(native[label] != design[label] for label in native.keys() - kept)


@published
def test_the_published_omissions_leave_the_letter_that_they_leave(inputs) -> None:
    one, multi = (PUBLISHED / f"omit_AA_per_residue{end}.json" for end in ("", "_multi"))
    assert ligand_mpnn(*MULTI, "--out_folder", "out", "--omit_AA_per_residue_multi", multi) == 0
    for path, table in json.loads(multi.read_text()).items():
        _, design = sequences_of(Path(path).stem)
        assert {design[label] for label in table} == {"K"}
    arguments = ["--pdb_path", "./inputs/1BC8.pdb", "--out_folder", "out", "--seed", 111]
    assert ligand_mpnn(*arguments, "--omit_AA_per_residue", one) == 0
    _, design = sequences_of("1BC8")
    assert {design[label] for label in json.loads(one.read_text())} == {"Y"}


@published
def test_the_published_biases_are_added_to_the_logits(inputs) -> None:
    one, multi = (PUBLISHED / f"bias_AA_per_residue{end}.json" for end in ("", "_multi"))
    for options, tables in (
        ([*MULTI, "--bias_AA_per_residue_multi", multi], json.loads(multi.read_text())),
        (
            ["--pdb_path", "./inputs/1BC8.pdb", "--bias_AA_per_residue", one],
            {"./inputs/1BC8.pdb": json.loads(one.read_text())},
        ),
    ):
        more = ["--out_folder", "out", "--save_stats", 1, "--temperature", 1.0]
        assert ligand_mpnn(*options, *more) == 0
        for path, table in tables.items():
            stats = loaded(Path("out/stats", f"{Path(path).stem}.pt"))
            labels = read_complex(path).labels
            logits = stats["log_probs"].clone()
            for label, values in table.items():
                for letter, value in values.items():
                    logits[:, labels.index(label), ALPHABET.index(letter)] += value
            expected = logits[..., :20].softmax(-1)
            torch.testing.assert_close(stats["sampling_probs"], expected, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------ symmetry


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> tuple[Complex, dict[str, Any]]:
    out = tmp_path_factory.mktemp("tied")
    code = ligand_mpnn(
        "--pdb_path", path_of("4GYT"), "--out_folder", out, "--seed", 4, "--save_stats", 1,
        "--batch_size", 2, "--number_of_batches", 2, "--temperature", 0.5,
        "--symmetry_residues", "A10,B10|A20,B20,A21", "--symmetry_weights", "0.5,0.25|1.0,1.0,-0.5",
    )  # fmt: skip
    assert code == 0
    return read_complex(path_of("4GYT")), loaded(out / "stats" / "4GYT.pt")


def test_the_logits_of_symmetric_residues_add_up_with_their_weights(tied) -> None:
    complex, stats = tied
    for labels, weights in (
        (("A10", "B10"), (0.5, 0.25)),
        (("A20", "B20", "A21"), (1.0, 1.0, -0.5)),
    ):
        rows = [complex.position[label] for label in labels]
        tokens = stats["generated_sequences"][:, rows]
        assert (tokens == tokens[:, :1]).all()
        total = sum(
            w * stats["log_probs"][:, row] for w, row in zip(weights, rows, strict=True)
        )  # a row's logits up to a number, which softmax does not see
        assert isinstance(total, torch.Tensor)
        expected = (total[:, :20] / 0.5).softmax(-1)
        for row in rows:
            torch.testing.assert_close(stats["sampling_probs"][:, row], expected, atol=1e-5, rtol=0)


def test_the_sequences_of_a_batch_share_an_order_where_residues_are_tied(tied) -> None:
    complex, stats = tied
    orders = stats["decoding_order"]
    assert (orders[0] == orders[1]).all()
    assert (orders[2] == orders[3]).all()
    assert (orders[0] != orders[2]).any()
    place = orders[0].tolist().index(complex.position["A20"])
    members = [complex.position[label] for label in ("A20", "B20", "A21")]
    assert orders[0].tolist()[place : place + 3] == members


def test_without_ties_every_sequence_has_an_order_of_its_own(run_on_1ubi) -> None:
    orders = loaded(run_on_1ubi / "stats" / "pdb1ubi.pt")["decoding_order"]
    assert (orders[0] != orders[1]).any()


def test_weights_that_are_not_given_are_equal_and_add_up_to_one() -> None:
    assert ligand_options.symmetry_weights("A1,A2|B1,B2,B3,B4", "") == [[0.5] * 2, [0.25] * 4]
    with pytest.raises(ConstraintError, match=r"groups of \[2\] numbers for groups of \[3\]"):
        ligand_options.symmetry_weights("A1,A2,A3", "1,1")


def test_the_chains_of_a_homo_oligomer_get_one_sequence(tmp_path) -> None:
    code = ligand_mpnn(
        "--pdb_path", path_of("4GYT"), "--out_folder", tmp_path, "--seed", 4, "--homo_oligomer", 1
    )
    assert code == 0
    complex = read_complex(path_of("4GYT"))
    design = (tmp_path / "seqs" / "4GYT.fa").read_text("ascii").splitlines()[3].split(":")
    numbers = [
        complex.structure.residue_numbers[complex.structure.chain_ids == chain].tolist()
        for chain in complex.chains
    ]
    first, second = (dict(zip(n, s, strict=True)) for n, s in zip(numbers, design, strict=True))
    common = first.keys() & second.keys()
    assert len(common) > 100
    assert all(first[number] == second[number] for number in common)


# -------------------------------------------------------------------------------------- scores


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("v_48_020")


def score(out: Path, *more: object) -> dict[str, Any]:
    code = ligand_mpnn(
        "--pdb_path", path_of("pdb1ubi"), "--out_folder", out, "--seed", 7, *more,
        command="ligand-mpnn-score",
    )  # fmt: skip
    assert code == 0
    return loaded(out / "pdb1ubi.pt")


def test_an_autoregressive_score_is_that_of_its_order(model, tmp_path) -> None:
    file = score(tmp_path, "--autoregressive_score", 1, "--batch_size", 3)
    structure = read_complex(path_of("pdb1ubi")).structure
    expected = model.log_probs(structure, None, file["decoding_order"])
    np.testing.assert_allclose(file["log_probs"], expected, atol=1e-5)
    np.testing.assert_allclose(file["probs"].sum(-1), 1, atol=1e-5)
    shifted = file["logits"] - file["log_probs"]
    np.testing.assert_allclose(shifted, shifted[..., :1].repeat(21, -1), atol=1e-5)
    assert np.ptp(shifted[..., 0]) > 0.1  # logits, not log-probabilities


def test_a_single_score_sees_all_other_residues(model, tmp_path) -> None:
    file = score(tmp_path)
    structure = read_complex(path_of("pdb1ubi")).structure
    order = file["decoding_order"][0].astype(int)  # (L, L)
    assert order[:, -1].tolist() == list(range(len(structure)))
    for i in (0, 30, 75):
        expected = model.log_probs(structure, None, order[i])[0, i]
        np.testing.assert_allclose(file["log_probs"][0, i], expected, atol=1e-5)


def test_without_the_sequence_both_scores_are_what_the_backbone_says(model, tmp_path) -> None:
    structure = read_complex(path_of("pdb1ubi")).structure
    expected = model.unconditional_log_probs(structure)
    for name, more in (("single", ()), ("all", ("--autoregressive_score", 1))):
        file = score(tmp_path / name, "--use_sequence", 0, *more, "--batch_size", 2)
        for n in range(2):
            np.testing.assert_allclose(file["log_probs"][n], expected, atol=1e-5)


def test_legacy_scores_single_residues_the_other_way_round(model, tmp_path) -> None:
    """The original's `use_sequence` of single residues says the opposite of its name."""
    structure = read_complex(path_of("pdb1ubi")).structure
    file = score(tmp_path, "--legacy")
    expected = model.unconditional_log_probs(structure)
    np.testing.assert_allclose(file["log_probs"][0], expected, atol=1e-5)
    assert file["decoding_order"][0, :, 0].tolist() == list(range(len(structure)))


def test_means_and_deviations_are_by_residue_and_letter(tmp_path) -> None:
    file = score(tmp_path, "--autoregressive_score", 1, "--number_of_batches", 4)
    assert file["residue_names"][0] == "A1"
    probs = file["probs"]
    assert file["mean_of_probs"]["A5"]["W"] == pytest.approx(
        probs[:, 4, ALPHABET.index("W")].mean()
    )
    assert file["std_of_probs"]["A5"]["W"] == pytest.approx(probs[:, 4, ALPHABET.index("W")].std())


def test_tied_residues_follow_each_other_in_the_orders_of_scores(model) -> None:
    structure = read_complex(path_of("pdb1ubi")).structure
    _, orders = ligand_scores.autoregressive(
        model, structure, structure.mask, [[3, 40]], Run(2, 2, 0.1, 5), use_sequence=True
    )
    assert (orders[0] == orders[1]).all()
    assert (orders[1] != orders[2]).any()
    for order in orders.tolist():
        assert order[order.index(3) + 1] == 40


# ------------------------------------------------------------------------- options, in words


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("proteinmpnn_v_48_002.pt", "v_48_002"),
        ("./model_params/solublempnn_v_48_030.pt", "soluble/v_48_030"),
        ("/else/ligandmpnn_v_32_010_25.pt", "ligand/v_32_010_25"),
        ("per_residue_label_membrane_mpnn_v_48_020.pt", "membrane/per_residue_v_48_020"),
        ("global_label_membrane_mpnn_v_48_020.pt", "membrane/global_v_48_020"),
    ],
)
def test_published_files_have_names_here(file, name) -> None:
    assert ligand_options.weights_of(file) == name


def test_the_default_weights_are_packaged() -> None:
    for file in ligand_options.MODEL_TYPES.values():
        assert resolve(ligand_options.weights_of(file))


def test_a_checkpoint_may_be_a_file_and_the_title_has_its_path(tmp_path) -> None:
    family = find_family("v_48_002")
    assert family is not None
    installed = family.installed("v_48_002")
    assert installed is not None
    path = shutil.copy(installed[1], tmp_path / "ours.pt")
    assert ligand_mpnn(*UBI, "--out_folder", tmp_path, "--checkpoint_protein_mpnn", path) == 0
    native, design = titles_of(tmp_path / "seqs" / "pdb1ubi.fa")
    assert native["model_path"] == str(path)
    confidence = load_model("v_48_002").design(
        read_complex(path_of("pdb1ubi")).structure, seed=1
    ).confidence  # fmt: skip
    assert float(design["overall_confidence"]) == pytest.approx(float(confidence[0]), abs=6e-5)


def test_a_blank_chain_stays_blank(tmp_path) -> None:
    lines = path_of("pdb1ubi").read_text("ascii").splitlines()
    atoms = [f"{line[:21]} {line[22:]}" for line in lines if line.startswith("ATOM")]
    path = tmp_path / "blank.pdb"
    path.write_text("\n".join([*atoms, "END", ""]), "ascii")
    code = ligand_mpnn(
        "--pdb_path", path, "--out_folder", tmp_path, "--seed", 1, "--fixed_residues", "1 2"
    )
    assert code == 0
    assert titles_of(tmp_path / "seqs" / "blank.fa")[0]["num_res"] == "74"
    written = read_complex(tmp_path / "backbones" / "blank_1.pdb")
    assert written.labels[:2] == ["1", "2"]
    assert written.structure.sequence[:2] == "MQ"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


UBI = ("--pdb_path", path_of("pdb1ubi"), "--seed", 1)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--fixed_residues", "A1 Q7"], "--fixed_residues: no residue is called Q7; there is chain A A1 to A76"),  # noqa: E501
        (["--redesigned_residues", "A99"], "--redesigned_residues: no residue is called A99"),
        (["--symmetry_residues", "A1,A99"], "--symmetry_residues: no residue is called A99"),
        (["--chains_to_design", "A,Z"], "--chains_to_design: there is no chain 'Z' of protein"),
        (["--parse_these_chains_only", "Z"], "chain Z: is not there"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_structure_is_said_of_it(more, sentence, capsys, tmp_path) -> None:
    assert ligand_mpnn(*UBI, "--out_folder", tmp_path, *more) == 1
    assert sentence in said(capsys)
    assert not any((tmp_path / "seqs").iterdir())


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "expected --pdb_path or --pdb_path_multi"),
        ([*UBI, "--bias_AA", "A:1,Q"], "--bias_AA: 'Q': expected a letter of"),
        ([*UBI, "--omit_AA", "AB"], "--omit_AA: 'B' is no letter of"),
        ([*UBI, "--zero_indexed", "maybe"], "--zero_indexed is 'maybe'; expected 0 or 1"),
        ([*UBI, "--fixed_residues_multi", "{}/none.json"], "none.json: not read: No such file"),
        ([*UBI, "--fixed_residues_multi", "{}/list.json"], "list.json: expected an object"),
        ([*UBI, "--fixed_residues_multi", "{}/other.json"], "there is no key"),
        ([*UBI, "--global_transmembrane_label", 2], "expected 0 or 1"),
        ([*UBI, "--checkpoint_protein_mpnn", "nothing.pt"], "no checkpoint is published as"),
        ([*UBI, "--checkpoint_protein_mpnn", "ligandmpnn_v_32_010_25.pt"], "is of another model"),
    ],
)
def test_a_wrong_call_writes_nothing(more: Sequence[object], sentence, capsys, tmp_path) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "other.json").write_text('{"other.pdb": "A1"}')
    filled = [str(word).replace("{}", str(tmp_path)) for word in more]
    assert ligand_mpnn(*filled, "--out_folder", tmp_path / "out") == 2
    assert sentence in said(capsys)
    assert not (tmp_path / "out").exists()


def test_legacy_leaves_out_what_is_not_there_as_the_original_does(tmp_path) -> None:
    (tmp_path / "bias.json").write_text('{"Q7": {"G": 1.0}, "A3": {"?": 2.0}}')
    code = ligand_mpnn(
        *UBI, "--out_folder", tmp_path, "--fixed_residues", "A1 Q7", "--omit_AA", "BC",
        "--bias_AA_per_residue", tmp_path / "bias.json", "--legacy",
    )  # fmt: skip
    assert code == 0
    (native, *_) = titles_of(tmp_path / "seqs" / "pdb1ubi.fa")
    assert native["num_res"] == "75"


def test_zero_indexed_is_what_it_says_and_in_legacy_any_text_is_yes(tmp_path) -> None:
    for more, first in ((["0"], 1), (["1"], 0), (["0", "--legacy"], 0)):
        out = tmp_path / "-".join(more)
        assert ligand_mpnn(*UBI, "--out_folder", out, "--zero_indexed", *more) == 0
        assert titles_of(out / "seqs" / "pdb1ubi.fa")[1]["id"] == str(first)
    out = tmp_path / "legacy"
    assert ligand_mpnn(*UBI, "--out_folder", out, "--legacy") == 0
    assert titles_of(out / "seqs" / "pdb1ubi.fa")[1]["id"] == "1"


def test_seed_0_draws_a_seed_and_the_last_of_two_options_counts(tmp_path) -> None:
    seeds = set()
    for n in range(2):
        assert ligand_mpnn(*UBI, "--seed", 0, "--out_folder", tmp_path / str(n)) == 0
        seeds.add(titles_of(tmp_path / str(n) / "seqs" / "pdb1ubi.fa")[0]["seed"])
    assert len(seeds) == 2
    assert "1" not in seeds


def test_one_wrong_structure_of_several_is_said_and_the_others_are_designed(
    capsys, tmp_path
) -> None:
    good, bad = path_of("pdb1ubi"), tmp_path / "bad.pdb"
    bad.write_text("nothing\n")
    (tmp_path / "paths.json").write_text(json.dumps({str(bad): "", str(good): ""}))
    code = ligand_mpnn(
        "--pdb_path_multi", tmp_path / "paths.json", "--out_folder", tmp_path / "out", "--seed", 1
    )
    assert code == 1
    assert "bad.pdb: not a structure" in said(capsys)
    assert [p.name for p in (tmp_path / "out" / "seqs").iterdir()] == ["pdb1ubi.fa"]


def test_redesigned_residues_are_designed_unless_they_are_fixed(tmp_path) -> None:
    """The original lets the first option win over the second; so does legacy."""
    counts = []
    for legacy in ([], ["--legacy"]):
        code = ligand_mpnn(
            *UBI, "--out_folder", tmp_path, "--redesigned_residues", "A1 A2 A3",
            "--fixed_residues", "A2", *legacy,
        )  # fmt: skip
        assert code == 0
        counts.append(titles_of(tmp_path / "seqs" / "pdb1ubi.fa")[0]["num_res"])
    assert counts == ["2", "3"]


def test_a_residue_is_buried_or_at_the_interface() -> None:
    complex = read_complex(path_of("pdb1ubi"))
    labels = ligand_options.membrane_labels(complex, ["A2"], ["A3", "A4"])
    assert labels[:5].tolist() == [0, 2, 1, 1, 0]
    with pytest.raises(ConstraintError, match="A3 is in --transmembrane_buried and in"):
        ligand_options.membrane_labels(complex, ["A3"], ["A3"])
    assert not ligand_options.membrane_labels(complex, ["A3"], ["A3"], legacy=True).any()


def test_in_legacy_a_file_of_score_py_names_residues_by_parts_of_its_text(tmp_path) -> None:
    path = str(path_of("pdb1ubi"))
    (tmp_path / "fixed.json").write_text(json.dumps({path: "A12 A30"}))
    kept = []
    for legacy in ([], ["--legacy"]):
        file = score(
            tmp_path / str(len(legacy)), "--autoregressive_score", 1, "--fixed_residues_multi",
            tmp_path / "fixed.json", *legacy,
        )  # fmt: skip
        kept.append([file["residue_names"][i] for i in np.flatnonzero(file["chain_mask"] == 0)])
    assert kept == [["A12", "A30"], ["A1", "A3", "A12", "A30"]]


def test_the_context_is_left_out_where_it_is_not_to_be_used(tmp_path) -> None:
    """And the confidence near the ligand is of the same residues as with it."""
    found = []
    for use in (1, 0):
        out = tmp_path / str(use)
        code = ligand_mpnn(
            "--model_type", "ligand_mpnn", "--pdb_path", path_of("1pwc"), "--seed", 1,
            "--out_folder", out, "--ligand_mpnn_use_atom_context", use, "--temperature", 0.01,
        )  # fmt: skip
        assert code == 0
        native, design = titles_of(out / "seqs" / "1pwc.fa")
        assert native["use_ligand_context"] == str(bool(use))
        found.append((native["num_ligand_res"], design["ligand_confidence"]))
    (near, with_it), (same, without) = found
    assert near == same
    assert 0 < int(near) < 100
    assert with_it != without
