"""Structures of Biopython and biotite, in and out; and what notebooks show."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from family_goldens import load_golden
from proteins import path_of, protein

import mpnn_core as mpnn

biotite = pytest.importorskip("biotite")


def same(one: mpnn.Structure, other: mpnn.Structure) -> None:
    np.testing.assert_allclose(one.coords, other.coords, atol=1e-3)
    assert one.sequence == other.sequence
    for name in ("chain_ids", "residue_numbers", "residue_index", "mask"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["6MRR", "5L33", "3HTN", "4GYT"])
def test_what_biopython_read_is_what_the_file_holds(name) -> None:
    from Bio.PDB.PDBParser import PDBParser

    entity = PDBParser(QUIET=True).get_structure(name, str(path_of(name)))
    found = mpnn.Structure.from_biopython(entity)
    assert found.name == name
    same(found, protein(name))
    assert set(found.context.residue_names) == set(protein(name).context.residue_names)
    chain = next(iter(entity[0]))
    part = mpnn.Structure.from_biopython(chain, name="one")
    assert part.name == "one" and part.chains == (chain.id,)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["6MRR", "5L33"])  # it reads no file of old columns
def test_what_biotite_read_is_what_the_file_holds(name) -> None:
    from biotite.structure.io import pdb

    stack = pdb.PDBFile.read(path_of(name)).get_structure(altloc="occupancy")
    found = mpnn.Structure.from_biotite(stack, name=name)
    same(found, protein(name))
    same(mpnn.Structure.from_biotite(stack[0], name=name), found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["6MRR", "3HTN"])
def test_there_and_back(name) -> None:
    structure = protein(name)
    whole = structure.of_chains(structure.chains) if structure.mask.all() else structure
    same(mpnn.Structure.from_biopython(whole.to_biopython()), whole)
    same(mpnn.Structure.from_biotite(whole.to_biotite()), whole)


@pytest.mark.filterwarnings("ignore")
def test_ligands_come_along() -> None:
    structure = load_golden("1pwc").structure
    array = structure.to_biotite()
    assert set(array.res_name[array.hetero]) == set(structure.context.residue_names)
    residues = {r.get_resname() for r in structure.to_biopython().get_residues()}
    assert set(structure.context.residue_names) <= residues


def test_without_biotite_it_says_what_to_install(monkeypatch) -> None:
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.startswith("biotite"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'mpnn-core\[notebook\]'"):
        protein("6MRR").to_biotite()


def test_notebooks_show_tables_with_escaped_names(model) -> None:
    structure = mpnn.Structure.from_backbone(
        protein("6MRR").coords, protein("6MRR").sequence, name="<i>"
    )
    designs = model.design(structure, 25, seed=1)
    for shown, expected in (
        (structure, "&lt;i&gt;: 68 residues"), (designs, "25 designs of &lt;i&gt;"),
        (model.scan(structure), "1292 mutations of &lt;i&gt;"),
    ):  # fmt: skip
        text = shown._repr_html_()
        assert expected in text and "<i>" not in text
    assert designs._repr_html_().count("<tr>") == 21 and "and 5 more" in designs._repr_html_()


def test_plots_are_of_a_chain(model) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    structure = protein("3HTN")
    designs, scan = model.design(structure, 2, seed=1), model.scan(structure)
    for shown in (designs, scan):
        axes = shown.plot("B")
        (image,) = axes.get_images()
        assert image.get_array().shape == (20, 139)
        pyplot.close(axes.figure)
    with pytest.raises(ValueError, match="no chain 'Z'; it has A, B, C"):
        scan.plot("Z")
