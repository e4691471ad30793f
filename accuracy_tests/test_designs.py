"""`Designs` as a list of designs, as FASTA and as a table; which of them are kept."""

from __future__ import annotations

import csv
import hashlib
import io
import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from Bio.SeqIO.FastaIO import SimpleFastaParser
from proteins import path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.design.choosing import top, unique, within_mutations
from mpnn_core.design.mutations import LONG_RUN, mutations, odd_composition
from mpnn_core.design.results import format_designs
from mpnn_core.design.table import COLUMNS, TableError, design_names, rows, write_table

SMALL = "6MRR"  # 68 residues, one chain
TWO = "6EHB"  # three chains


@pytest.fixture(scope="module")
def designs(model) -> mpnn.Designs:
    return model.design(protein(SMALL), 4, temperature=0.3, seed=5)


@pytest.fixture(scope="module")
def of_two(model) -> mpnn.Designs:
    chains = mpnn.Constraints(chains=protein(TWO).chains[0])
    return model.design(protein(TWO), 2, seed=5, constraints=chains)


def with_sequences(designs: mpnn.Designs, sequences: Sequence[str]) -> mpnn.Designs:
    """Other sequences, with scores 0, 1, 2, ..."""
    n = len(sequences)
    some = designs.rows([0] * n)
    samples = np.arange(1, n + 1)
    scores = np.arange(n, dtype=np.float32)
    return replace(some, sequences=list(sequences), scores=scores, samples=samples)


def fasta(text: str) -> list[tuple[str, str]]:
    return list(SimpleFastaParser(io.StringIO(text)))


# A list of designs.


def test_designs_are_a_list_of_designs(designs) -> None:
    listed = list(designs)
    assert len(listed) == len(designs) == 4
    assert [design.sequence for design in listed] == designs.sequences
    assert [design.sample for design in listed] == [1, 2, 3, 4]
    assert [design.name for design in listed] == ["6MRR_1", "6MRR_2", "6MRR_3", "6MRR_4"]
    for name in ("recovery", "confidence"):
        assert [getattr(d, name) for d in listed] == getattr(designs, name).tolist()
    assert [d.score for d in listed] == designs.scores.tolist()
    assert [d.global_score for d in listed] == designs.global_scores.tolist()
    assert designs[-1] == listed[3]
    with pytest.raises(IndexError, match="design 4 of 4"):
        designs[4]


def test_a_slice_keeps_the_details(designs) -> None:
    some = designs[1:3]
    assert isinstance(some, mpnn.Designs)
    assert list(some) == list(designs)[1:3], "with the numbers of their samples"
    for name in ("log_probs", "probabilities", "decoding_order", "residue_confidence"):
        assert np.array_equal(getattr(some, name), getattr(designs, name)[1:3])
    assert np.array_equal(pickle.loads(pickle.dumps(some)).log_probs, designs.log_probs[1:3])
    without = designs.without_details()[1:3]
    assert list(without) == list(some)
    with pytest.raises(ValueError, match="details"):
        _ = without.log_probs


def test_a_list_of_structures_gives_a_list(model) -> None:
    found = model.design([protein(SMALL)], seed=1)
    assert isinstance(found, list) and isinstance(found[0], mpnn.Designs)
    assert list(found[0]) == list(model.design(protein(SMALL), seed=1))


def test_chains_of_a_design_are_by_id_and_make_its_sequence(of_two) -> None:
    structure = of_two.structure
    for design in of_two:
        assert list(design.chains) == list(structure.chains)
        for chain, letters in design.chains.items():
            at = (structure.chain_ids == chain).nonzero()[0]
            assert letters == "".join(design.sequence[i] for i in at)


def test_the_mean_confidence_of_residues_is_that_of_the_design(designs) -> None:
    designed = designs.residue_confidence[:, designs.designed]
    assert np.exp(np.log(designed).mean(1)) == pytest.approx(designs.confidence, abs=1e-5)


def test_a_residue_without_a_backbone_has_no_confidence(model) -> None:
    whole = protein(SMALL)
    coords = whole.coords.copy()
    coords[3] = np.nan
    found = model.design(replace(whole, coords=coords), seed=1).residue_confidence
    assert found[0, 3] == 0 and (found[0, whole.mask][:3] > 0).all()


# Mutations.


def test_mutations_are_by_author_number() -> None:
    structure = replace(
        protein(SMALL), residue_numbers=np.array(["52A", *protein(SMALL).residue_numbers[1:]])
    )
    letters = list(structure.sequence)
    first, tenth = letters[0], letters[9]
    letters[0] = "W" if first != "W" else "Y"
    letters[9] = "W" if tenth != "W" else "Y"
    number = structure.residue_numbers[9]
    chain = structure.chain_ids[0]
    assert mutations(structure, "".join(letters)) == (
        f"{chain}52A:{first}>{letters[0]}",
        f"{chain}{number}:{tenth}>{letters[9]}",
    )
    assert mutations(structure, structure.sequence) == ()


def test_recovery_counts_what_mutations_do_not(designs) -> None:
    for design in designs:
        kept = 1 - len(design.mutations) / designs.designed.sum()
        assert design.recovery == pytest.approx(kept, abs=1e-6)


def test_an_unknown_native_residue_is_not_mutated(model) -> None:
    structure = replace(protein(SMALL), sequence="X" * 68)
    (design,) = model.design(structure, seed=1)
    assert design.mutations == ()


# FASTA.


def test_fasta_has_all_chains_joined_as_one_wants(of_two) -> None:
    for separator in "/:":
        records = fasta(of_two.to_fasta(separator))
        assert [title.split()[0] for title, _ in records] == ["6EHB_1", "6EHB_2"]
        for (_, letters), design in zip(records, of_two, strict=True):
            assert letters.split(separator) == list(design.chains.values())
    (title, native), *others = fasta(of_two.to_fasta(native=True))
    assert (title, native.replace("/", "")) == ("6EHB", of_two.structure.sequence)
    assert len(others) == 2


# Which are kept.


def test_of_equal_sequences_the_best_is_kept(designs) -> None:
    a, b = designs.sequences[:2]
    listed = [with_sequences(designs, [a, b, a]), with_sequences(designs, [b, a])]
    better = replace(listed[1], scores=np.float32([-1, 5]))
    kept = unique([listed[0], better])
    assert [of.samples.tolist() for of in kept] == [[1], [1]]
    assert [of.sequences for of in kept] == [[a], [b]]


def test_top_is_by_score_over_temperatures(designs) -> None:
    first = replace(designs, scores=np.float32([4, 1, 3, 9]), temperature=0.1)
    second = replace(designs, scores=np.float32([2, 5, 0, 8]), temperature=0.2)
    kept = top([first, second], 4)
    found = [(of.temperature, d.sample, d.score) for of in kept for d in of]
    assert found == [(0.2, 3, 0), (0.1, 2, 1), (0.2, 1, 2), (0.1, 3, 3)]
    one = top([first, second], 1)
    assert [len(of) for of in one] == [1, 0]
    assert design_names(one)[0] == ["6MRR_T0.2_3"], "named as among several temperatures"


def test_names_differ_where_temperatures_do_by_residue(designs) -> None:
    at = np.full(68, 0.1)
    at[0] = 0.5
    other = np.full(68, 0.1)
    some = [replace(designs[:1], temperature=t) for t in (at, other, 0.2)]
    names = [name for (name,) in design_names(some)]
    assert names == ["6MRR_T0.1_1", "6MRR_T0.1-2_1", "6MRR_T0.2_1"]
    assert rows(some)[0]["temperature"] is None and rows(some)[1]["temperature"] == 0.1


def test_those_within_some_mutations_are_kept(designs) -> None:
    counts = [len(design.mutations) for design in designs]
    most = sorted(counts)[1]
    (kept,) = within_mutations([designs], most)
    assert [len(design.mutations) for design in kept] == [n for n in counts if n <= most]
    (none,) = within_mutations([designs], 0)
    assert len(none) == 0 and list(none) == []


# Composition.


def test_a_run_of_one_residue_is_told_of(designs) -> None:
    native = "ACDEFGHIKLMNPQRSTVWY" * 4
    plain = with_sequences(designs, [native[:68]])
    assert odd_composition([plain]) == ""
    for length in (LONG_RUN - 1, LONG_RUN):
        letters = (native[:20] + "K" * length + native[20:])[:68]
        said = odd_composition([with_sequences(designs, [native[:68], letters])])
        if length < LONG_RUN:
            assert said == ""
        else:
            assert said.startswith("1 of 2 designs have a run of one residue (6 or more), such as")
            numbers = designs.structure.residue_numbers
            assert f"KKKKKK at A{numbers[20]} to A{numbers[25]}" in said


def test_a_run_of_kept_residues_is_not_told_of(designs) -> None:
    tag = with_sequences(designs, ["H" * 6 + designs.sequences[0][6:]])
    kept = np.arange(68) >= 6
    assert "HHHHHH" in odd_composition([tag])
    assert "HHHHHH" not in odd_composition([replace(tag, designed=kept)])


def test_a_frequent_residue_is_told_of(designs) -> None:
    pattern = ("EA" * 40)[:68]
    said = odd_composition([with_sequences(designs, [pattern])])
    assert said == "1 of 1 designs are more than 35% one residue, such as 50% E"
    third = ("EAS" * 40)[:68]
    assert odd_composition([with_sequences(designs, [third])]) == ""


# Tables.


def test_a_row_says_all_of_a_design(of_two) -> None:
    table = rows([of_two], "ab" * 32)
    assert [list(row) for row in table] == [list(COLUMNS)] * 2
    for row, design in zip(table, of_two, strict=True):
        pairs = dict(zip(row["chains"].split("/"), row["sequence"].split("/"), strict=True))
        assert pairs == design.chains
        assert row["designed_chains"] == of_two.structure.chains[0]
        assert tuple(row["mutations"].split()) == design.mutations
        assert row["n_mutations"] == len(design.mutations)
        assert (row["temperature"], row["seed"]) == (0.1, 5)
        assert (row["weights"], row["mpnn_core"]) == ("v_48_020", mpnn.__version__)
        assert row["ligand_confidence"] is None
        assert row["score"] == design.score


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_is_read_back(tmp_path, of_two, ending) -> None:
    path, written = tmp_path / f"t{ending}", rows([of_two], "ab" * 32)
    if ending == ".csv":
        write_table(path, written)
        with path.open(newline="", encoding="utf-8") as file:
            read = list(csv.DictReader(file))
        found = [
            {name: kind(row[name]) if row[name] else None for name, kind in COLUMNS.items()}
            for row in read
        ]
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        write_table(path, written)
        found = parquet.read_table(path).to_pylist()
    assert found == written


def test_a_table_of_another_kind_is_refused(tmp_path) -> None:
    with pytest.raises(TableError, match=r"\*\.csv or \*\.parquet"):
        write_table(tmp_path / "t.xlsx", [])


def test_pandas_gets_the_rows(of_two) -> None:
    pytest.importorskip("pandas")
    frame = of_two.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert frame["score"].tolist() == pytest.approx(of_two.scores.tolist())


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_a_missing_library_is_said(monkeypatch, tmp_path, of_two, library) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises((ImportError, TableError), match=f"needs {library}, .* pip install"):
        if library == "pandas":
            of_two.to_pandas()
        else:
            write_table(tmp_path / "t.parquet", [])


# The command.


def test_the_command_writes_a_table_of_what_it_keeps(tmp_path, capsys) -> None:
    file, out, table = path_of(SMALL), tmp_path / "out", tmp_path / "designs.csv"
    arguments = ["design", file, "-n", 4, "-T", "0.1,0.5", "--seed", 5, "--top", 3, "--out", out]
    assert main([*map(str, arguments), "--table", str(table), "--unique"]) == 0
    with table.open(newline="", encoding="utf-8") as opened:
        read = list(csv.DictReader(opened))
    assert len(read) == 3
    scores = [float(row["score"]) for row in read]
    assert scores == sorted(scores)
    assert {row["input_sha256"] for row in read} == {hashlib.sha256(file.read_bytes()).hexdigest()}
    records = fasta((out / "seqs" / "6MRR.fa").read_text())[1:]
    assert [letters for _, letters in records] == [row["sequence"] for row in read]
    for (title, _), row in zip(records, read, strict=True):
        assert f"sample={row['sample']}," in title
        assert row["name"] == f"6MRR_T{row['temperature']}_{row['sample']}"


def test_what_is_left_out_is_counted(tmp_path, capsys) -> None:
    arguments = ["design", path_of(SMALL), "-n", 3, "-T", 0, "--seed", 5, "--restart",
                 "--out", tmp_path]  # fmt: skip
    assert main([*map(str, arguments), "--unique"]) == 0
    said = capsys.readouterr().err.splitlines()
    found = len(fasta((tmp_path / "seqs" / "6MRR.fa").read_text())) - 1
    if found < 3:
        count = f"left out {3 - found} of 3 designs, which have a sequence that another one has"
        assert f"mpnn-core: note: 6MRR: {count}" in said
    assert main([*map(str, arguments), "--max-mutations", "2"]) == 0
    said = capsys.readouterr().err.splitlines()
    count = "left out 3 of 3 designs, which have more than 2 mutations"
    assert f"mpnn-core: note: 6MRR: {count}" in said
    assert len(fasta((tmp_path / "seqs" / "6MRR.fa").read_text())) == 1, "the native sequence"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--table", "t.txt"], "--table: t.txt: a table is called *.csv or *.parquet"),
        (["--for", "colabfold,af2"], "--for af2: expected some of colabfold, af3"),
        (["--out", "-", "--structures", "pdb"], "--structures writes files; give --out a folder"),
        (["--out", "-", "--for", "af3"], "--for writes files; give --out a folder"),
    ],
    ids=["table", "program", "structures", "inputs"],
)
def test_a_wrong_call_writes_nothing(tmp_path, monkeypatch, capsys, options, said) -> None:
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in options else ["--out", "out"]
    assert main(["design", str(path_of(SMALL)), *options, *out]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_designs_say_the_temperatures_of_their_residues(model) -> None:
    structure = protein(SMALL)
    constraints = mpnn.Constraints(temperature_at={"A1-60": 2.0})
    found = model.design(structure, 2, 0.1, seed=1, constraints=constraints)
    assert found.temperature.shape == (2, 68)
    assert np.unique(found.temperature).tolist() == [np.float32(0.1), 2.0]
    assert rows([found])[0]["temperature"] is None
    header = format_designs([found], model.score(structure), "0").splitlines()[2]
    assert header.startswith(">T=2, "), "that of most residues"


def test_equal_labels_of_different_temperatures_are_told_apart(designs) -> None:
    mostly = np.full(68, 1e-5)
    mostly[0] = 1
    names = design_names([replace(designs[:1], temperature=t) for t in (1e-5, mostly)])
    assert len({name for of in names for name in of}) == 2, names
