"""Inputs of structure predictors: what each program's own reader asks of its files.

AlphaFold 3's files are read by af3cli where it is installed, and the others by readings of ours,
made after the programs' parsers: `get_queries` of ColabFold 1.5, `parse_boltz_schema` of Boltz 2.2,
`read_inputs` of chai_lab 0.6, and `SequenceComponent` of atomworks 3.0 for RoseTTAFold 3.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from Bio.SeqIO.FastaIO import SimpleFastaParser
from proteins import COMPLEXES, path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.design.programs import IONS, PROGRAMS, contents
from mpnn_core.structures.context import ContextAtoms

Entities = list[tuple[str, list[str], str]]
"""(kind, ids, letters or code) of each entity."""


def designs_on(structure: mpnn.Structure, model: mpnn.Model, n: int = 2) -> mpnn.Designs:
    return model.design(structure, n, seed=5)


def complex_of(name: str) -> mpnn.Structure:
    (path,) = COMPLEXES.glob(f"{name}.*gz")
    return mpnn.read_structure(path)


@pytest.fixture(scope="module")
def on_dna(model) -> mpnn.Designs:
    """A protein chain, two of DNA, and SAH."""
    return designs_on(complex_of("3mht"), model)


@pytest.fixture(scope="module")
def copies(model) -> mpnn.Designs:
    """Two chains, tied, so that they are equal."""
    tied = mpnn.Constraints(tied_chains=["A,B"])
    return model.design(protein("4GYT"), 1, seed=5, constraints=tied)


def fasta(path: Path) -> list[tuple[str, str]]:
    return list(SimpleFastaParser(io.StringIO(path.read_text())))


def by_colabfold(path: Path) -> Entities:
    """A file of a folder is one job, called as the file; chains are between colons."""
    ((title, letters),) = fasta(path)
    assert title == path.stem
    assert "/" not in letters and "|" not in letters
    return [("protein", [], part) for part in letters.split(":")]


def by_af3(path: Path) -> Entities:
    job = json.loads(path.read_text())
    assert job["dialect"] == "alphafold3" and job["version"] == 1
    assert set(job) == {"name", "modelSeeds", "sequences", "dialect", "version"}
    assert job["name"] == path.stem and all(type(s) is int for s in job["modelSeeds"])
    found = []
    for entry in job["sequences"]:
        ((kind, of),) = entry.items()
        assert all(re.fullmatch("[A-Z]+", id_) for id_ in of["id"]), "capitals"
        if kind == "ligand":
            (code,) = of["ccdCodes"]
        else:
            code = of["sequence"]
            assert code.isalpha() and code.isupper()
        found.append((kind, of["id"], code))
    return found


def by_boltz(path: Path) -> Entities:
    schema = yaml.safe_load(path.read_text())
    assert schema["version"] == 1 and set(schema) == {"version", "sequences"}
    found = []
    for entry in schema["sequences"]:
        ((kind, of),) = entry.items()
        code = of["ccd" if kind == "ligand" else "sequence"]
        assert isinstance(code, str) and all(isinstance(id_, str) for id_ in of["id"])
        found.append((kind, of["id"], code))
    return found


def by_chai(path: Path) -> Entities:
    found = []
    for title, letters in fasta(path):
        kind, _, name = title.partition("|name=")
        assert name and kind in {"protein", "dna", "rna", "ligand"}
        found.append((kind, [name], letters))
    assert len({tuple(ids) for _, ids, _ in found}) == len(found), "names are of one entity each"
    return found


def by_rf3(path: Path) -> Entities:
    (job,) = json.loads(path.read_text())
    assert job["name"] == path.stem
    found = []
    for of in job["components"]:
        if "ccd_code" in of:
            found.append(("ligand", [of["chain_id"]], of["ccd_code"]))
            continue
        parts = re.findall(r"\([^)]*\)|\w", of["seq"])
        names = [part.strip("()") for part in parts]
        dna = set(names) <= {"DA", "DC", "DG", "DT"}
        kind = "dna" if dna else "rna" if set(names) <= set("ACGU") else "protein"
        found.append((kind, [of["chain_id"]], "".join(n[-1] for n in names)))
    return found


READERS: dict[str, Callable[[Path], Entities]] = {
    "colabfold": by_colabfold, "af3": by_af3, "boltz": by_boltz, "chai": by_chai, "rf3": by_rf3,
}  # fmt: skip


def flat(entities: Entities) -> list[tuple[str, str]]:
    """(kind, letters) of each chain: those of several ids several times."""
    return sorted((kind, code) for kind, ids, code in entities for _ in ids or [""])


def test_there_is_a_reading_of_each_program() -> None:
    assert list(READERS) == list(PROGRAMS)


@pytest.mark.parametrize("program", READERS)
def test_each_design_is_a_job_with_all_that_it_holds(tmp_path, on_dna, program) -> None:
    said = mpnn.write_inputs(tmp_path, on_dna, [program])
    paths = sorted((tmp_path / program).iterdir())
    assert [path.stem for path in paths] == ["3mht_1", "3mht_2"]
    for path, design in zip(paths, on_dna, strict=True):
        expected = [("protein", design.chains["A"])]
        if program != "colabfold":
            expected += [("dna", "GATAGCGCTATC"), ("dna", "TGATAGCGCTATC")]
        if program not in ("colabfold", "chai"):
            expected += [("ligand", "SAH")]
        assert flat(READERS[program](path)) == sorted(expected)
    assert said == {
        "colabfold": [
            "colabfold: it reads proteins alone; left out: DNA chain C, DNA chain D, SAH"
        ],
        "chai": [
            "chai: it reads ligands as SMILES, which a structure does not have; left out: SAH"
        ],
    }.get(program, [])


@pytest.mark.parametrize("program", READERS)
def test_every_chain_is_there_kept_ones_too(tmp_path, model, program) -> None:
    structure = protein("6EHB")
    kept = mpnn.Constraints(chains=structure.chains[0])
    designs = model.design(structure, 1, seed=5, constraints=kept)
    mpnn.write_inputs(tmp_path, designs, [program])
    (path,) = (tmp_path / program).iterdir()
    found = [(kind, code) for kind, code in flat(READERS[program](path)) if kind == "protein"]
    assert found == sorted(("protein", letters) for letters in designs[0].chains.values())
    native = structure.sequence
    assert sum(code in native for _, code in found) == len(structure.chains) - 1


@pytest.mark.parametrize("program", READERS)
def test_equal_chains_are_copies(tmp_path, copies, program) -> None:
    a, b = copies[0].chains.values()
    both = replace(copies, sequences=[copies.sequences[0]])
    mpnn.write_inputs(tmp_path, both, [program])
    (path,) = (tmp_path / program).iterdir()
    proteins = [e for e in READERS[program](path) if e[0] == "protein"]
    if a == b and program in ("af3", "boltz"):
        assert proteins == [("protein", ["A", "B"], a)]
    else:
        assert [code for *_, code in proteins] == [a, b]


def test_the_chains_of_the_copies_are_equal(copies) -> None:
    a, b = copies[0].chains.values()
    assert a == b, "what the test before this needs"


@pytest.mark.parametrize("program", ["af3", "boltz"])
def test_equal_ligands_are_copies(tmp_path, model, program) -> None:
    designs = designs_on(complex_of("1a28"), model, 1)
    mpnn.write_inputs(tmp_path, designs, [program])
    (path,) = (tmp_path / program).iterdir()
    ligands = [e for e in READERS[program](path) if e[0] == "ligand"]
    assert ligands == [("ligand", ["C", "D"], "STR")]


@pytest.mark.parametrize("program", ["af3", "boltz", "chai", "rf3"])
def test_an_id_is_of_one_chain(tmp_path, model, program) -> None:
    for name in ("7cth", "19hc"):
        designs = designs_on(complex_of(name), model, 1)
        mpnn.write_inputs(tmp_path, designs, [program])
    for path in (tmp_path / program).iterdir():
        ids = [id_ for _, of, _ in READERS[program](path) for id_ in of]
        assert len(set(ids)) == len(ids)


def around(*residues: tuple[str, str, str, str, int]) -> ContextAtoms:
    """Atoms of (chain, number, residue, atom, element), 50 Å apart and far from all else."""
    chains, numbers, names, atoms, elements = zip(*residues, strict=True)
    coords = np.arange(len(residues))[:, None] * [50.0, 0, 0] + 500
    return ContextAtoms(coords, elements, atoms, names, numbers, chains)  # type: ignore[arg-type]


def with_context(structure: mpnn.Structure, *residues: Any) -> mpnn.Structure:
    return replace(structure, context=around(*residues))


@pytest.mark.parametrize("program", ["af3", "boltz", "chai", "rf3"])
def test_ions_are_known_everywhere(tmp_path, model, program) -> None:
    ions = with_context(protein("6MRR"), ("A", "101", "ZN", "ZN", 30), ("A", "102", "ZN", "ZN", 30))
    said = mpnn.write_inputs(tmp_path, designs_on(ions, model, 1), [program])
    (path,) = (tmp_path / program).iterdir()
    code = IONS["ZN"] if program == "chai" else "ZN"
    assert [e for e in flat(READERS[program](path)) if e[0] == "ligand"] == [("ligand", code)] * 2
    assert said == []


def test_rna_is_told_from_dna() -> None:
    found = contents(with_context(
        protein("6MRR"),
        *(("R", str(i), name, "P", 15) for i, name in enumerate("GUAC", start=1)),
        *(("S", str(i), name, "P", 15) for i, name in enumerate(["DA", "DT", "5CM"], start=1)),
    ))  # fmt: skip
    assert [tuple(polymer) for polymer in found.nucleic] == [
        ("rna", "R", "GUAC"), ("dna", "S", "ATC"),
    ]  # fmt: skip
    assert found.notes == (
        "modified nucleotides of chain S are written as the ones they come from: 5CM 3",
    )


def test_a_name_for_any_ligand_is_left_out_aloud() -> None:
    found = contents(with_context(protein("6MRR"), ("A", "1", "LIG", "C1", 6)))
    assert found.ligands == ()
    assert "LIG A1 left out: a name for any ligand" in found.notes[0]


def test_bonds_that_are_not_written_are_said() -> None:
    (note,) = [note for note in contents(complex_of("7cth")).notes if "bonds" in note]
    assert note.startswith("bonds are not written: NAG A501")
    assert not any("bonds" in note for note in contents(complex_of("1hvr")).notes)


def test_missing_residues_are_said() -> None:
    whole = protein("6MRR")
    assert contents(whole).notes == ()
    (note,) = contents(whole.with_cyclic(whole.chains[0])).notes
    assert "the ring of chain A is written as an open chain" in note
    jump = np.arange(68) + 3 * (np.arange(68) > 9)
    assert contents(replace(whole, residue_index=jump)).notes == (
        "residues without coordinates have no letter: chain A is joined where numbers are missing",
    )


@pytest.mark.parametrize(
    ("chains", "ids"),
    [("AB", ("A", "B")), ("ab", ("A", "B")), ("1A", ("B", "A")), (" A", ("B", "A"))],
    ids=["capitals", "small", "digit", "blank"],
)
def test_ids_are_capitals_and_changes_are_said(chains, ids) -> None:
    structure = replace(protein("6MRR"), chain_ids=np.array([chains[0]] * 30 + [chains[1]] * 38))
    found = contents(structure)
    assert found.ids == ids
    assert any("chain ids are capitals" in note for note in found.notes) == (chains != "AB")


def test_after_z_comes_aa(tmp_path, model) -> None:
    many = [("Z", str(i), "ZN", "ZN", 30) for i in range(30)]
    found = contents(with_context(protein("6MRR"), *many))
    assert [ligand.id for ligand in found.ligands][23:27] == ["Y", "Z", "AA", "AB"]


@pytest.mark.parametrize("letters", ["NO", "Y", "N", "ON"])
def test_yaml_takes_no_text_for_a_truth(tmp_path, on_dna, letters) -> None:
    structure = on_dna.structure
    names = np.array([letters] * len(structure))
    odd = replace(on_dna, structure=replace(structure, chain_ids=names))
    mpnn.write_inputs(tmp_path, odd[:1], ["boltz"])
    (path,) = (tmp_path / "boltz").iterdir()
    assert by_boltz(path)[0][1] == [letters]


def test_af3cli_reads_what_is_for_alphafold(tmp_path, on_dna, copies) -> None:
    reading = pytest.importorskip("af3cli.io")
    for designs in (on_dna, copies):
        mpnn.write_inputs(tmp_path, designs, ["af3"])
    paths = sorted((tmp_path / "af3").iterdir())
    assert len(paths) == 3
    for path in paths:
        written, found = json.loads(path.read_text()), reading.read_json(str(path)).to_dict()
        for entry in found["sequences"]:
            ((_, of),) = entry.items()
            of["id"] = [of["id"]] if isinstance(of["id"], str) else of["id"]
        assert found["sequences"] == written["sequences"]
        assert (found["name"], found["modelSeeds"]) == (written["name"], written["modelSeeds"])


def test_an_unknown_program_is_refused(tmp_path, on_dna) -> None:
    with pytest.raises(ValueError, match="'af2'; expected some of colabfold, af3"):
        mpnn.write_inputs(tmp_path, on_dna, ["af3", "af2"])
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_for_several(tmp_path, capsys) -> None:
    arguments = ["design", path_of("6MRR"), "-n", 2, "-T", "0.1,0.2", "--seed", 5]
    assert main([*map(str, arguments), "--for", "af3,boltz", "--for", "rf3",
                 "--out", str(tmp_path)]) == 0  # fmt: skip
    names = ["6MRR_T0.1_1", "6MRR_T0.1_2", "6MRR_T0.2_1", "6MRR_T0.2_2"]
    for program in ("af3", "boltz", "rf3"):
        assert sorted(path.stem for path in (tmp_path / program).iterdir()) == names
    records = fasta(tmp_path / "seqs" / "6MRR.fa")[1:]
    for name, (_, letters) in zip(names, records, strict=True):
        assert by_af3(tmp_path / "af3" / f"{name}.json")[0][2] == letters
