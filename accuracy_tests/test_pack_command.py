"""Full-atom models as commands write them: `pack`, `design --pack`, and `ligand-mpnn`."""

from __future__ import annotations

import gzip
import os
import subprocess
import warnings
from pathlib import Path

import gemmi
import numpy as np
import pytest
from Bio.PDB import MMCIFParser, PDBParser
from Bio.PDB.PDBExceptions import PDBConstructionWarning
from ligandmpnn_files import SCRIPT
from oracles import NEEDS, python_of_oracle
from proteins import COMPLEXES, path_of, protein

import mpnn_core as mpnn
from mpnn_core.commands.main import main
from mpnn_core.commands.packing import kept
from mpnn_core.constants import ALPHABET
from mpnn_core.design.packing import KEPT_LOG_DENSITY
from mpnn_core.structures.side_chains import ATOM_NAMES, CHI_COUNTS, measured_chi
from mpnn_core.structures.writers import NAMES

SMALL, COMPLEX = path_of("6MRR"), COMPLEXES / "3mht.pdb.gz"
AT_CB = {"ILE": "CG1", "THR": "OG1"}
LETTERS = {name: letter for letter, name in NAMES.items()}


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def said(capsys) -> str:
    return capsys.readouterr().err


Residues = dict[tuple[str, str], tuple[str, dict[str, np.ndarray], dict[str, float]]]


def by_gemmi(path: Path, flag: str = "A") -> Residues:
    """(chain, number) -> name, places and B-factors of atoms, of ATOM residues or others."""
    found: Residues = {}
    for chain in gemmi.read_structure(str(path))[0]:
        for residue in chain:
            if residue.het_flag == flag:
                places = {a.name: np.array(a.pos.tolist()) for a in residue}
                b_factors = {a.name: a.b_iso for a in residue}
                found[chain.name, str(residue.seqid)] = residue.name, places, b_factors
    return found


def by_biopython(path: Path) -> Residues:
    parser = (PDBParser if path.suffix == ".pdb" else MMCIFParser)(QUIET=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PDBConstructionWarning)
        model = parser.get_structure("x", str(path))[0]
    return {
        (chain.id, f"{residue.id[1]}{residue.id[2].strip()}"): (
            residue.get_resname(),
            {a.get_name(): a.coord.astype(float) for a in residue},
            {a.get_name(): a.bfactor for a in residue},
        )
        for chain in model
        for residue in chain
        if residue.id[0] == " "
    }


def is_left_handed(places: dict[str, np.ndarray], centre: str, *around: str) -> bool:
    a, b, c = (places[name] - places[centre] for name in around)
    return bool(np.cross(a, b) @ c < 0)


def wrong_ones(residues: Residues) -> list[str]:
    """What a full-atom model must not have: residues with other atoms than theirs, or of another
    chirality."""
    wrong = []
    for (chain, number), (name, places, _) in residues.items():
        label = f"{chain}{number} {name}"
        if set(places) != set(ATOM_NAMES[ALPHABET.index(LETTERS[name])]):
            wrong.append(f"{label}: {sorted(places)}")
        elif name != "GLY" and is_left_handed(places, "CA", "N", "C", "CB"):
            wrong.append(f"{label}: CA")
        elif name in AT_CB and is_left_handed(places, "CB", "CA", AT_CB[name], "CG2"):
            wrong.append(f"{label}: CB")
    return wrong


@pytest.mark.parametrize("ending", ["pdb", "cif"])
@pytest.mark.filterwarnings("ignore::mpnn_core.StructureWarning")
def test_a_designed_and_packed_complex_is_whole_to_biopython_and_gemmi(ending, tmp_path) -> None:
    """A methyltransferase, its DNA, and its cofactor."""
    assert run(
        "design", COMPLEX, "--weights", "ligand", "--seed", 3, "--pack", "--structures", ending,
        "--repack", "everything", "--out", tmp_path,
    ) == 0  # fmt: skip
    structure = mpnn.read_structure(COMPLEX)
    [path] = (tmp_path / "packed").iterdir()
    assert path.name == f"3mht_1_1.{ending}"
    sequence = (tmp_path / "seqs" / "3mht.fa").read_text().split("\n")[3].replace("/", "")
    for residues in (by_gemmi(path), by_biopython(path)):
        assert wrong_ones(residues) == []
        keys = zip(structure.chain_ids.tolist(), structure.residue_numbers.tolist(), strict=True)
        assert list(residues) == list(keys)
        assert "".join(LETTERS[name] for name, *_ in residues.values()) == sequence
    context = structure.context
    found = mpnn.read_structure(path).context
    order, rank = (np.lexsort(around.coords.T) for around in (found, context))
    np.testing.assert_array_equal(found.coords[order], context.coords[rank])
    assert set(context.residue_names) == set(found.residue_names) >= {"SAH", "DC"}


@pytest.mark.parametrize("ending", ["pdb", "cif"])
def test_files_hold_what_the_packer_gives(ending, tmp_path, capsys) -> None:
    assert run(
        "pack", SMALL, "--out", tmp_path, "--seed", 4, "--packs", 2, "--samples", 4, "--steps", 2,
        "--format", ending,
    ) == 0  # fmt: skip
    header, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert header == ["model", "clashes", "log_density"]
    assert [row[0] for row in rows] == [f"6MRR_1_{i}.{ending}" for i in (1, 2)]
    structure = protein("6MRR")
    packed = mpnn.load_packer().pack(structure, packs=2, seed=4, samples=4, steps=2)
    for i, row in enumerate(rows):
        residues = by_gemmi(tmp_path / row[0])
        assert wrong_ones(residues) == [] and len(residues) == len(structure)
        for r, (_, places, b_factors) in enumerate(residues.values()):
            token = ALPHABET.index(structure.sequence[r])
            names = ATOM_NAMES[token]
            xyz = packed.coordinates[i, r, : len(names)]
            np.testing.assert_allclose([places[n] for n in names], xyz, atol=6e-4)
            density = packed.log_densities[i, r]
            # Backbone and CB have that of chi1; the last atom that of the last angle.
            assert b_factors["CA"] == pytest.approx(density[0], abs=0.006)
            last = max(CHI_COUNTS[token] - 1, 0)
            assert b_factors[names[-1]] == pytest.approx(density[last], abs=0.006)
        there = np.isfinite(packed.chi[i])
        assert float(row[2]) == pytest.approx(packed.log_densities[i][there].mean(), abs=1e-4)


def test_packing_the_designs_of_a_file_again_gives_the_same_models(tmp_path) -> None:
    """Alone, in company, by one command or two."""
    design = ["design", SMALL, "--seed", 5, "-n", 3, "--pack", "--fixed", "A1-30"]
    assert run(*design, "--out", tmp_path / "all") == 0
    assert run(*design, "--top", 1, "--out", tmp_path / "top") == 0
    fasta = tmp_path / "all" / "seqs" / "6MRR.fa"
    records = fasta.read_text().split(">")
    fasta.write_text(">" + ">".join(records[2:]))
    assert run("pack", SMALL, "--fasta", fasta, "--seed", 5, "--out", tmp_path / "again",
               "--repack", "everything") == 0  # fmt: skip
    assert run(*design, "--repack", "everything", "--out", tmp_path / "whole") == 0
    for i in (1, 2, 3):
        name = f"6MRR_{i}_1.pdb"
        whole = (tmp_path / "whole" / "packed" / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == whole
        assert (tmp_path / "all" / "packed" / name).read_bytes() != whole
    [best] = (tmp_path / "top" / "packed").iterdir()
    models = [path.read_bytes() for path in (tmp_path / "all" / "packed").iterdir()]
    assert models.count(best.read_bytes()) == 1


def test_what_is_not_designed_keeps_its_angles_unless_it_is_near(tmp_path) -> None:
    design = ["design", SMALL, "--seed", 5, "--pack", "--redesign", "A30-32"]
    counts = []
    structure = protein("6MRR")
    designed = mpnn.select(structure, "A30-32")
    needed = np.arange(4) < np.array(CHI_COUNTS)[structure.tokens][:, None]
    whole = ~(needed & ~measured_chi(structure)[1]).any(1)
    assert whole.sum() > 50
    for repack in ("designed", "near:6", "everything"):
        assert run(*design, "--repack", repack, "--out", tmp_path / repack[:4]) == 0
        residues = by_gemmi(tmp_path / repack[:4] / "packed" / "6MRR_1_1.pdb")
        stays = np.array([b["CA"] == KEPT_LOG_DENSITY for *_, b in residues.values()])
        wanted = kept(structure, repack, designed)
        # Some side chains of the file are incomplete.
        wanted = whole & (False if wanted is None else wanted)
        assert stays[wanted].all()
        assert stays[~wanted].sum() <= 3  # a packed one may come to 2.00 in a file
        counts.append(wanted.sum())
    assert counts[0] > counts[1] > counts[2] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["design", SMALL, "--packs", 2], "--packs is of packed models; give --pack as well"),
        (["design", SMALL, "--no-pack-ligand"], "--no-pack-ligand is of packed models"),
        (["design", SMALL, "--repack", "designed"], "--repack is of packed models"),
        (["pack", SMALL, "--repack", "designed"], "nothing is designed without --fasta"),
        (["pack", SMALL, "--repack", "near:x"], "'near:x': expected everything, designed or near:"),
        (["pack", SMALL, "--packs", 0], "0 is out of range; expected at least 1, and at most 1000"),
        (["pack", SMALL, SMALL.with_name("5L33.pdb"), "--fasta", "x.fa"], "2 were given"),
        (["pack", SMALL, "--device", "nowhere"], "device 'nowhere' cannot be used here"),
    ],
)  # fmt: skip
def test_wrong_calls_are_refused_before_anything_is_written(
    arguments, words, tmp_path, capsys
) -> None:
    assert run(*arguments, "--out", tmp_path / "out") == 2
    assert words in said(capsys)
    assert not (tmp_path / "out").exists()


def test_models_are_not_printed(capsys) -> None:
    assert run("design", SMALL, "--pack", "--out", "-") == 2
    assert "--pack writes files; give --out a folder instead of -" in said(capsys)


def test_one_wrong_file_stops_no_other(tmp_path, capsys) -> None:
    wrong = tmp_path / "wrong.pdb"
    wrong.write_text("nothing\n")
    assert run("pack", wrong, SMALL, "--out", tmp_path / "out", "--seed", 1, "--steps", 1) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["6MRR_1_1.pdb"]
    assert f"{wrong}" in said(capsys)


def test_a_residue_without_a_whole_backbone_is_said_and_keeps_its_atoms(tmp_path, capsys) -> None:
    lines = SMALL.read_text().splitlines(keepends=True)
    cut = [line for line in lines if not (line[12:16] == " N  " and line[22:26] == "  10")]
    assert cut != lines
    file = tmp_path / "cut.pdb"
    file.write_text("".join(cut))
    assert run("pack", file, "--out", tmp_path / "out", "--seed", 1, "--steps", 1) == 0
    assert "cut: 1 residues with an incomplete backbone are written without" in said(capsys)
    residues = by_gemmi(tmp_path / "out" / "cut_1_1.pdb")
    assert set(residues["A", "10"][1]) == {"CA", "C", "O"}
    assert len(wrong_ones(residues)) == 1


def test_no_pack_ligand_hides_it_and_writes_it(tmp_path) -> None:
    file = path_of("1pwc")
    options = ["--seed", 1, "--steps", 1, "--samples", 2]
    assert run("pack", file, "--out", tmp_path / "seen", *options) == 0
    assert run("pack", file, "--out", tmp_path / "unseen", *options, "--no-pack-ligand") == 0
    seen, unseen = (tmp_path / name / "1pwc_1_1.pdb" for name in ("seen", "unseen"))
    assert list(by_gemmi(seen, "H")) == list(by_gemmi(unseen, "H")) != []
    assert seen.read_bytes() != unseen.read_bytes()


# ------------------------------------------------------------------------- LigandMPNN's options


# Alanine alone, at one residue: no angle is drawn, for all others keep theirs.
FORCED = (
    "--model_type ligand_mpnn --pdb_path {} --seed 1 --redesigned_residues A100 "
    "--omit_AA CDEFGHIKLMNPQRSTVWY --pack_side_chains 1 --number_of_packs_per_design 2 "
    "--sc_num_denoising_steps 1 --sc_num_samples 2 --verbose 0 --file_ending _x --out_folder {}"
)


def test_ligand_mpnn_packs(tmp_path) -> None:
    words = FORCED.format(path_of("1pwc"), tmp_path).split()
    assert run("ligand-mpnn", *words, "--packed_suffix", "_full", "--batch_size", 2) == 0
    names = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert names == [f"1pwc_full_{i}_{pack}_x.pdb" for i in (1, 2) for pack in (1, 2)]
    path = tmp_path / "packed" / names[0]
    assert wrong_ones(by_gemmi(path)) == [] and by_gemmi(path)["A", "100"][0] == "ALA"
    assert ("A", "400") in by_gemmi(path, "H")


@pytest.mark.parametrize("hetatm", [0, 1])
def test_dna_is_atom_and_a_cofactor_hetatm(hetatm, tmp_path) -> None:
    """3MHT has ATOM for its DNA but for a base that is modified, and the cofactor."""
    with gzip.open(COMPLEX, "rt") as file:
        text = file.read().replace("HETATM", "ATOM  ") if not hetatm else file.read()
    (tmp_path / "3mht.pdb").write_text(text)
    words = FORCED.format(tmp_path / "3mht.pdb", tmp_path).split()
    words[words.index("--number_of_packs_per_design") + 1] = "1"
    assert run("ligand-mpnn", *words, "--force_hetatm", hetatm) == 0
    path = tmp_path / "packed" / "3mht_packed_1_1_x.pdb"
    names = {name for name, *_ in by_gemmi(path, "H").values()}
    assert "SAH" in names and not names & {"DA", "DC", "DG", "DT"}


def test_options_of_packing_without_it_are_said(tmp_path, capsys) -> None:
    options = ["--pdb_path", path_of("pdb1ubi"), "--seed", 1, "--out_folder", tmp_path]
    assert run("ligand-mpnn", *options, "--number_of_packs_per_design", 2) == 0
    assert "--number_of_packs_per_design: of no effect without --pack_side_chains 1" in said(capsys)
    wrong = ["--pack_side_chains", 1, "--checkpoint_path_sc", "nothing.pt"]
    assert run("ligand-mpnn", *options, *wrong) == 2
    assert "--checkpoint_path_sc: nothing.pt is not there" in said(capsys)


@pytest.mark.proof
@pytest.mark.parametrize("hetatm", [0, 1])
def test_packed_files_are_those_of_the_original(hetatm, tmp_path) -> None:
    """Names, atoms, places within 0.002 Å, and B-factors, where nothing is drawn."""
    python = python_of_oracle()
    if python is None:
        pytest.skip(NEEDS)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    more = ["--force_hetatm", str(hetatm)]
    done = subprocess.run(
        [str(python), str(SCRIPT), "run", *FORCED.format(path_of("1pwc"), tmp_path / "a").split(),
         *more], capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert run("ligand-mpnn", *FORCED.format(path_of("1pwc"), tmp_path / "b").split(), *more) == 0
    theirs, ours = (sorted((tmp_path / of / "packed").iterdir()) for of in "ab")
    assert [path.name for path in ours] == [path.name for path in theirs] and len(ours) == 2
    for one, other in zip(ours, theirs, strict=True):
        for flag in "AH":
            found, wanted = by_gemmi(one, flag), by_gemmi(other, flag)
            assert list(found) == list(wanted)
            for key, (name, places, b_factors) in found.items():
                assert name == wanted[key][0] and list(places) == list(wanted[key][1])
                for atom, xyz in places.items():
                    assert np.abs(xyz - wanted[key][1][atom]).max() < 0.0021, (key, atom)
                    if key != ("A", "100"):  # its angle, which moves nothing, is drawn
                        assert b_factors[atom] == pytest.approx(wanted[key][2][atom], abs=0.011)
