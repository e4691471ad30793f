"""60 structures with constraints of their own in one call, one of them wrong: 59 are designed.

In every form in which constraints of several structures are written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpnn_core import read_structure
from mpnn_core.commands.main import main

MADE_OF = Path(__file__).parents[1] / "fixtures" / "structures" / "6MRR.pdb"
COUNT, WRONG = 60, 37
ABSENT = 99  # a residue that no structure has


def name(i: int) -> str:
    return f"design_{i:02d}"


def kept(i: int) -> list[int]:
    """The residues that structure i is to keep, by number: each another choice."""
    numbers = [n for n in range(1, 20 + i % 40) if n * (i % 5 + 1) % 7 < 3]
    return [*numbers, ABSENT] if i == WRONG else numbers


def labels(i: int) -> str:
    return " ".join(f"A{n}" for n in kept(i))


def of_ours(folder: Path) -> dict[str, Any]:
    entries = {name(i): {"fixed": labels(i).split()} for i in range(COUNT)}
    return {"version": 1, "structures": {"*": {"omit": "C"}, **entries}}


def of_proteinmpnn(folder: Path) -> dict[str, Any]:
    return {name(i): {"A": kept(i)} for i in range(COUNT)}


def of_ligandmpnn(folder: Path) -> dict[str, Any]:
    return {str(folder / f"{name(i)}.pdb"): labels(i) for i in range(COUNT)}


@pytest.fixture(scope="module")
def structures(tmp_path_factory) -> Path:
    """A folder of backbones of different lengths."""
    folder = tmp_path_factory.mktemp("sixty")
    atoms = [x for x in MADE_OF.read_text("utf-8").splitlines() if x.startswith("ATOM")]
    for i in range(COUNT):
        lines = [line for line in atoms if int(line[22:26]) < 20 + i % 40]
        (folder / f"{name(i)}.pdb").write_text("\n".join([*lines, "END", ""]), "utf-8")
    return folder


@pytest.mark.parametrize(
    "form, file, kind",
    [
        (of_ours, "constraints.json", ""),
        (of_proteinmpnn, "fixed_positions.jsonl", ""),
        (of_ligandmpnn, "fixed_residues_multi.json", "fixed_residues="),
    ],
    ids=["ours", "ProteinMPNN", "LigandMPNN"],
)
def test_one_wrong_entry_of_sixty_stops_its_structure_alone(
    structures, tmp_path, capsys, form, file, kind
):
    path, out = tmp_path / file, tmp_path / "out"
    path.write_text(json.dumps(form(structures)) + "\n", "utf-8")
    code = main([
        "design", str(structures), "--constraints", f"{kind}{path}", "--out", str(out),
        "--seed", "1", "-T", "1.0",
    ])  # fmt: skip
    said = [line for line in capsys.readouterr().err.splitlines() if name(WRONG) in line]
    assert code == 1
    assert len(said) == 1, said
    assert str(path) in said[0] and str(ABSENT) in said[0], said[0]
    designed = {file.stem: file for file in (out / "seqs").iterdir()}
    assert sorted(designed) == [name(i) for i in range(COUNT) if i != WRONG]
    for i in range(COUNT):
        if i == WRONG:
            continue
        native = read_structure(structures / f"{name(i)}.pdb").sequence
        sequence = designed[name(i)].read_text("utf-8").splitlines()[3]
        others = set(range(1, len(native) + 1)) - set(kept(i))
        assert [sequence[n - 1] for n in kept(i)] == [native[n - 1] for n in kept(i)], name(i)
        assert any(sequence[n - 1] != native[n - 1] for n in others), name(i)
