"""Scans of mutations: the numbers are those of the network, and the rows say which."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from family_goldens import load_golden
from proteins import path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.design.scan import COLUMNS, LETTERS, parse_mutations
from mpnn_core.sampling.labels import ConstraintError
from mpnn_core.sampling.noise import digest
from mpnn_core.sampling.orders import drawn_orders

SMALL, COMPLEX = "6MRR", "3HTN"


def order_of(structure: mpnn.Structure, seed: int = 0) -> np.ndarray:
    return drawn_orders(seed, 1, structure.mask, digest(structure))[0]


def scanned(*arguments: object) -> list[dict[str, str]]:
    """The rows that the command writes to a table."""
    table = arguments[-1]
    assert main(["scan", *map(str, arguments[:-1]), "--table", str(table)]) == 0
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def test_a_logit_difference_is_that_of_the_last_of_an_order(model) -> None:
    structure = protein(SMALL)
    scan = model.scan(structure, seed=3)
    order = order_of(structure, 3)
    for i in (0, 20, 67):
        last = np.append(order[order != i], i)
        log_probs = model.log_probs(structure, decoding_order=last)[0, i]
        expected = log_probs[:20] - log_probs[mpnn.ALPHABET.index(structure.sequence[i])]
        np.testing.assert_allclose(scan.logit_difference[i], expected, atol=2e-5)
    native = [LETTERS.index(letter) for letter in structure.sequence]
    assert (scan.logit_difference[range(68), native] == 0).all()


def test_orders_are_averaged_and_methods_differ(model) -> None:
    structure = protein(SMALL)
    several = model.scan(structure, num_orders=3, seed=1)
    orders = drawn_orders(1, 3, structure.mask, digest(structure))
    each = model.conditional_log_probs(structure, decoding_order=orders)
    np.testing.assert_allclose(several.log_probs, each.mean(0), atol=1e-6)
    backbone = model.scan(structure, method="unconditional")
    np.testing.assert_array_equal(backbone.log_probs, model.unconditional_log_probs(structure))
    tied = model.scan(structure, method="tied", seed=1)
    expected = model.conditional_log_probs(structure, decoding_order=orders[0], tied=True)[0]
    np.testing.assert_array_equal(tied.log_probs, expected)
    with pytest.raises(ValueError, match="method 'last': expected one of conditional, tied, uncon"):
        model.scan(structure, method="last")


def test_a_charge_in_the_core_is_worse_than_on_the_surface(model) -> None:
    structure = protein("5L33")
    core, surface = mpnn.select(structure, "core"), mpnn.select(structure, "surface")
    hydrophobic = np.isin(list(structure.sequence), list("VILFM"))
    difference = model.scan(structure).logit_difference[:, LETTERS.index("D")]
    assert np.median(difference[core & hydrophobic]) < -3
    assert np.median(difference[surface]) > np.median(difference[core & hydrophobic]) + 2


def test_what_is_apart_is_each_group_by_itself(model) -> None:
    structure = protein(COMPLEX)
    scan = model.scan(structure, split=[["A"], ["B", "C"]], seed=2)
    alone = structure.of_chains(["A"])
    order = order_of(structure, 2)
    keep = structure.chain_ids == "A"
    own = (keep.cumsum() - 1)[order[keep[order]]]
    expected = model.conditional_log_probs(alone, decoding_order=own)[0]
    np.testing.assert_allclose(scan.apart[keep & structure.mask], expected[alone.mask], atol=1e-5)
    # A residue whose surroundings are of its own chain does not notice the others.
    at_interface = mpnn.select(structure, "interface:A/B:8 + interface:A/C:8")
    size = np.abs(scan.logit_difference).max(1)
    assert np.nanmedian(size[at_interface]) > 2 * np.nanmedian(size[~at_interface])
    every = model.scan(structure, split=[], seed=2)
    assert np.abs(every.apart - scan.apart)[structure.chain_ids != "A"].max() > 1e-2


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ([["A"], ["Z"]], "no chain 'Z' to take apart; it has A, B, C"),
        ([["A", "B"], ["A"]], "chain 'A' is in two groups"),
        ([["A", "B", "C"]], "one group of chains, A, B, C; expected at least two"),
    ],
)
def test_groups_that_do_not_fit_are_refused(model, split, said) -> None:
    with pytest.raises(ConstraintError, match=said):
        model.scan(protein(COMPLEX), split=split)


def test_the_residue_by_itself_is_subtracted(model) -> None:
    structure = protein(SMALL)
    scan = model.scan(structure, alone=True)
    single = mpnn.Structure.from_backbone(structure.coords[[9]], "A")
    alone = model.unconditional_log_probs(single)[0]
    native = mpnn.ALPHABET.index(structure.sequence[9])
    expected = scan.logit_difference[9] - (alone[:20] - alone[native])
    np.testing.assert_allclose(scan.corrected[9], expected, atol=1e-5)
    assert "logit_difference_ddg" in scan.to_pandas().columns


def test_one_mutation_is_the_scan_and_several_are_the_chain_rule(model) -> None:
    structure = protein(SMALL)
    scan = model.scan(structure, seed=5, num_orders=2)
    a, b = f"{structure.sequence[9]}10W", f"{structure.sequence[30]}31D"
    one, both, reverse = model.score_mutations(
        structure, [a, f"{a},{b}", f"A31:{b[0]}>D A10:{a[0]}>W"], num_orders=2, seed=5
    )
    assert one == pytest.approx(scan.logit_difference[9, LETTERS.index("W")], abs=2e-5)
    assert both == reverse
    # By hand, from passes in which the two come last.
    total = 0.0
    for order in drawn_orders(5, 2, structure.mask, digest(structure)):
        own = np.concatenate([order[~np.isin(order, [9, 30])], order[np.isin(order, [9, 30])]])
        mutant = structure.sequence[:9] + "W" + structure.sequence[10:30] + "D"
        mutant += structure.sequence[31:]
        for sequence, sign in ((mutant, 1), (structure.sequence, -1)):
            log_probs = model.log_probs(structure, sequence, own)[0]
            total += sign * sum(log_probs[i, mpnn.ALPHABET.index(sequence[i])] for i in (9, 30))
    assert both == pytest.approx(total / 2, abs=5e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10W", "'10W' is no mutation; expected a form such as A:K13A"),
        ("A:W10D", "but residue A:10 is"),
        ("Z:A10D", "Z"),
        ("A:{10}9999D", "9999"),
        ("A:{10}10B", "B is no amino acid"),
        ("A:{10}10D,A:{10}10E", "twice"),
        ("", "'' is no mutation"),
    ],
)
def test_what_is_no_mutation_is_refused(text, said) -> None:
    structure = protein(SMALL)
    text = text.replace("{10}", structure.sequence[9])
    with pytest.raises(ConstraintError, match=said):
        parse_mutations(text, structure)


def test_a_chain_must_be_named_where_there_are_several() -> None:
    structure = protein(COMPLEX)
    first = f"{structure.sequence[0]}{structure.residue_numbers[0]}A"
    with pytest.raises(
        ConstraintError, match=f"names no chain, and there are A, B, C; .* A:{first}"
    ):
        parse_mutations(first, structure)


def test_author_numbers_have_their_insertion_codes() -> None:
    structure = protein(SMALL)
    numbers = structure.residue_numbers.astype("<U4")
    numbers[12] = "12A"
    coded = replace(structure, residue_numbers=numbers)
    assert parse_mutations(f"A:{structure.sequence[12]}12AW", coded) == [(12, "W")]
    assert parse_mutations(f"A12A:{structure.sequence[12]}>W", coded) == [(12, "W")]


def test_the_table_of_a_file(tmp_path, model) -> None:
    rows = scanned(path_of(SMALL), "--seed", "3", tmp_path / "t.csv")
    structure = protein(SMALL)
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 20 * 68
    expected = model.scan(structure, seed=3).logit_difference
    found = np.array([float(row["logit_difference"]) for row in rows]).reshape(68, 20)
    np.testing.assert_allclose(found, expected, atol=6e-6)
    assert [row["post"] for row in rows[:20]] == list(LETTERS)
    assert {(row["chain"], row["pos"], row["pre"]) for row in rows[40:60]} == {
        ("A", structure.residue_numbers[2], structure.sequence[2])
    }


def test_parquet_has_the_same_rows(tmp_path) -> None:
    pandas = pytest.importorskip("pandas")
    files = [str(path_of(SMALL)), str(path_of("5L33"))]
    tables = [tmp_path / f"t.{ending}" for ending in ("csv", "parquet")]
    for table in tables:
        assert main(["scan", *files, "--chains", "A", "--table", str(table)]) == 0
    text = pandas.read_csv(tables[0], dtype={"pos": str})
    whole = pandas.read_parquet(tables[1])
    assert set(whole["structure"]) == {SMALL, "5L33"}
    pandas.testing.assert_frame_equal(text, whole, check_dtype=False)
    assert {p.name for p in tmp_path.iterdir()} == {"t.csv", "t.parquet"}


def test_only_what_is_asked_for_is_scanned_and_the_rest_is_said(tmp_path, capsys) -> None:
    lines = path_of(SMALL).read_text().splitlines(True)
    (tmp_path / "s.pdb").write_text(
        "".join(line for line in lines if line[12:16] != " N  " or line[22:26] != "   5")
    )
    rows = scanned(tmp_path / "s.pdb", "--redesign", "A4-7", tmp_path / "t.csv")
    assert len(rows) == 20 * 3 and {row["pos"] for row in rows} == {"4", "6", "7"}
    assert "1 residues have no rows, for an incomplete backbone or no letter: A5" in (
        capsys.readouterr().err
    )


def test_a_ligand_changes_the_residues_beside_it(tmp_path) -> None:
    structure = load_golden("1pwc").structure
    model = mpnn.load_model("ligand")
    near = mpnn.select(structure, "near:ligand:5")
    with_it = model.scan(structure).logit_difference
    without = model.scan(structure.with_ligands(())).logit_difference
    change = np.nanmax(np.abs(with_it - without), 1)
    assert np.nanmedian(change[near]) > 3 * np.nanmedian(change[~near])


def test_mutations_of_a_file(tmp_path, capsys, model) -> None:
    structure = protein(SMALL)
    a, b = f"A:{structure.sequence[9]}10W", f"A:{structure.sequence[30]}31D"
    (tmp_path / "m.txt").write_text(f"{a}\n\n{a},{b}  # both\n")
    assert main(["scan", str(path_of(SMALL)), "--mutations", str(tmp_path / "m.txt")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    expected = model.score_mutations(structure, [a, f"{a},{b}"])
    assert [row["mutations"] for row in rows] == [a, f"{a},{b}"]
    assert [row["n_mutations"] for row in rows] == ["1", "2"]
    found = [float(row["logit_difference"]) for row in rows]
    np.testing.assert_allclose(found, expected, atol=6e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "A"], "--split 'A': expected groups of chains"),
        (["--unconditional", "--orders", "2"], "--orders: --unconditional knows no residue"),
        (["--mutations", "none.txt"], "--mutations none.txt: not read: No such file"),
        (["--table", "t.xlsx"], "--table: t.xlsx: a table is called"),
        (["--no-ligand"], "--no-ligand"),
    ],
)
def test_wrong_calls_are_refused(arguments, said, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["scan", str(path_of(SMALL)), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_fails_does_not_cost_the_others(tmp_path, capsys) -> None:
    bad = tmp_path / "bad.pdb"
    bad.write_text("no structure")
    files = [str(bad), str(path_of(SMALL))]
    assert main(["scan", *files, "--table", str(tmp_path / "t.csv")]) == 1
    assert "bad.pdb" in capsys.readouterr().err
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + 20 * 68


def test_some_chains_by_themselves_keep_their_numbers_and_what_is_around_them() -> None:
    structure = mpnn.read_structure(path_of("3HTN"))
    part = structure.of_chains(["B"])
    keep = structure.chain_ids == "B"
    np.testing.assert_array_equal(part.coords, structure.coords[keep])
    np.testing.assert_array_equal(part.residue_numbers, structure.residue_numbers[keep])
    np.testing.assert_array_equal(part.residue_index, structure.residue_index[keep])
    assert set(part.context.chain_ids) == set(structure.context.chain_ids) - {"A", "C"}
    with pytest.raises(mpnn.StructureError, match="no chain 'Q'; it has A, B, C"):
        structure.of_chains(["Q"])


def test_a_chain_far_away_changes_nothing(model) -> None:
    """Planted: the same protein twice, 500 Å apart."""
    one = protein(SMALL)
    L = len(one)
    both = mpnn.Structure.from_backbone(
        np.concatenate([one.coords, one.coords + 500]), one.sequence * 2, "A" * L + "B" * L
    )
    assert np.abs(model.scan(both, split=[["A"], ["B"]], seed=1).logit_difference).max() < 1e-5
    beside = replace(both, coords=np.concatenate([one.coords, one.coords + 12]))
    assert np.abs(model.scan(beside, split=[["A"], ["B"]], seed=1).logit_difference).max() > 0.1


def test_chains_in_no_group_are_said_and_ligands_once(tmp_path, capsys) -> None:
    rows = scanned(path_of(COMPLEX), "--split", "A/B", tmp_path / "t.csv")
    assert {row["chain"] for row in rows} == {"A", "B"}
    said = capsys.readouterr().err
    assert "143 residues have no rows, for their chain is in no group of --split: C43" in said
    assert "incomplete" not in said
    assert said.count("does not see what is around the protein") == 1


def test_a_residue_without_a_letter_is_said(tmp_path, capsys) -> None:
    text = path_of(SMALL).read_text()
    (name,) = {line[17:20] for line in text.splitlines() if line[22:26] == "   5"}
    (tmp_path / "s.pdb").write_text(
        "".join(
            line.replace(name, "UNK") if line[22:26] == "   5" else line
            for line in text.splitlines(True)
        )
    )
    rows = scanned(tmp_path / "s.pdb", "--redesign", "A4-6", tmp_path / "t.csv")
    assert {row["pos"] for row in rows} == {"4", "6"}
    said = capsys.readouterr().err
    assert "or no letter: A5" in said and "no group" not in said


@pytest.mark.parametrize("weights", ["ca", "membrane"])
def test_other_models_scan_what_they_read(weights, tmp_path) -> None:
    rows = scanned(path_of(SMALL), "--weights", weights, "--seed", "2", tmp_path / "t.csv")
    model, structure = mpnn.load_model(weights), protein(SMALL)
    read = structure.as_trace() if model.ca_only else structure.with_membrane(np.zeros(68, int))
    expected = model.conditional_log_probs(read, seed=2)[0].astype(np.float64)
    expected = expected[:, :20] - np.take_along_axis(expected, structure.tokens[:, None], 1)
    found = np.array([float(row["logit_difference"]) for row in rows]).reshape(68, 20)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_two_methods_are_refused(capsys) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["scan", str(path_of(SMALL)), "--method", "tied", "--unconditional"])
    assert exit.value.code == 2
    assert "--unconditional: not allowed with argument --method" in capsys.readouterr().err


def test_a_mutation_of_another_letter_costs_its_structure_alone(tmp_path, capsys) -> None:
    (tmp_path / "m.txt").write_text("A:W2D\n")
    files = [str(path_of(name)) for name in ("5L33", SMALL)]
    assert main(["scan", *files, "--mutations", str(tmp_path / "m.txt")]) == 1
    out, err = capsys.readouterr()
    assert [row["structure"] for row in csv.DictReader(io.StringIO(out))] == [SMALL]
    assert "5L33: 'A:W2D', but residue A:2 is E" in err
