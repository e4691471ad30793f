"""Readers and damaged files: whatever a file holds, a reader raises its own error or none.

Valid files are mutated: bytes, fields, lines and whole blocks are changed, moved, repeated and cut.
These are proofs, of about a minute in all: `pytest --proof accuracy_tests/test_fuzz.py`.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proteins import path_of, protein
from rich.console import Console
from safetensors.torch import save
from stored_runs import entry, ledger

import mpnn_core as mpnn
from mpnn_core.constants import ALPHABET
from mpnn_core.gate import GateError
from mpnn_core.gate.claims import load_claims
from mpnn_core.gate.history import load_runs, print_history, series
from mpnn_core.gate.ledger import STORED, Ledger
from mpnn_core.gate.pages import markdown
from mpnn_core.gate.printing import print_short, print_whole
from mpnn_core.gate.project import load_project
from mpnn_core.gate.revisions.comparison import Comparison, print_comparison
from mpnn_core.network.checkpoints import build_network, load_checkpoint
from mpnn_core.network.variants import VARIANTS
from mpnn_core.structures.fasta import FastaError, read_sequences
from mpnn_core.training.corpus import CorpusError, read_corpus

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[1]
CLAIMS = load_claims(ROOT / "claims.toml")
# What readers stumble over: ends of ranges, other types, other alphabets, words of the formats.
ODD = [
    b"", b"\0", b"\t", b"\r", b"\n", b" ", b"\xa0", b"\xff", b"\xef\xbb\xbf", "é".encode(), b"?",
    b".", b"*", b"-", b"'", b'"', b"#", b";", b"/", b">", b"[", b"{", b"}", b"0", b"-1", b"nan",
    b"inf", b"1e999", b"1" * 20, b"9" * 400, b"-9223372036854775808", b"null", b"true", b"[]",
    b"{}", b"data_", b"loop_", b"ATOM", b"TER", b"END", b"ENDMDL", b"MODEL", b"HETATM", b"A000",
    b"********", b"[" * 3000, b"{\"a\":" * 3000,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid file after one to four changes."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        size = draw(st.sampled_from([0, 1, 2, 4, 8, 30, 80, 800]))
        block = bytes(content[start : start + size])
        where = draw(st.integers(0, len(content)))
        change = draw(st.sampled_from(["odd", "byte", "delete", "copy", "cut", "field"]))
        if change == "odd":
            content[start : start + size] = draw(st.sampled_from(ODD))
        elif change == "byte" and start < len(content):
            content[start] = draw(st.integers(0, 255))
        elif change == "delete":
            del content[start : start + size]
        elif change == "copy":
            content[where:where] = block
        elif change == "cut" and draw(st.booleans()):
            del content[start:]
        elif change == "field":  # from one sign that ends a field to the next
            ends = [
                i for i in range(start, min(start + 40, len(content))) if content[i] in b' \n,:"'
            ]
            if len(ends) > 1:
                content[ends[0] + 1 : ends[1]] = draw(st.sampled_from(ODD))
    return bytes(content)


def members_mutated(valid: bytes) -> st.SearchStrategy[bytes]:
    """A zip archive with one member mutated and its checksum right, or the whole mutated."""

    @st.composite
    def one(draw: st.DrawFn) -> bytes:
        with zipfile.ZipFile(io.BytesIO(valid)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        chosen = draw(st.sampled_from(sorted(members)))
        members[chosen] = draw(mutated(members[chosen]))
        again = io.BytesIO()
        with zipfile.ZipFile(again, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return again.getvalue()

    return one() | mutated(valid)


@pytest.fixture(autouse=True)
def words_are_no_errors() -> Iterator[None]:
    """What a reader says about a file is no failure here; what numpy and others say is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def fuzz(
    tmp_path: Path,
    files: st.SearchStrategy[bytes],
    name: str,
    read: Callable[[Path], object],
    error: type[Exception] | tuple[type[Exception], ...],
    examples: int,
) -> None:
    """Read mutated files until an exception other than `error` comes out; some must be read."""
    outcomes = {"read": 0, "refused": 0}
    path = tmp_path / name

    @settings(
        max_examples=examples, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(content=files)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read(path)
            outcomes["read"] += 1
        except error as refusal:
            outcomes["refused"] += 1
            assert str(refusal).strip()

    check()
    assert min(outcomes.values()) > examples // 100, f"{outcomes}: nothing was tried"


def small(structure: mpnn.Structure, residues: int = 12) -> mpnn.Structure:
    return mpnn.Structure.from_backbone(
        structure.coords[:residues], structure.sequence[:residues], name="small"
    )


def pdb_lines(kept: int) -> bytes:
    lines = path_of("5L33").read_text().splitlines()
    atoms = [line for line in lines if line.startswith("ATOM")][:kept]
    waters = [line for line in lines if line.startswith("HETATM")][:3]
    return "\n".join([*lines[:3], *atoms, "TER", *waters, "END", ""]).encode()


def mmcif_lines() -> bytes:
    """A short mmCIF, of what readers look at."""
    names = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id "
        "label_entity_id label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy "
        "B_iso_or_equiv auth_seq_id auth_comp_id auth_asym_id auth_atom_id pdbx_PDB_model_num"
    )
    rows = []
    for number, (residue, atoms) in enumerate(zip("GAV", protein("5L33").coords, strict=False), 1):
        code = {"G": "GLY", "A": "ALA", "V": "VAL"}[residue]
        for atom, (x, y, z) in zip(("N", "CA", "C", "O"), atoms, strict=True):
            rows.append(
                f"ATOM {len(rows) + 1} {atom[0]} {atom} . {code} A 1 {number} ? {x:.3f} {y:.3f} "
                f"{z:.3f} 1.00 20.0 {number} {code} A {atom} 1"
            )
    head = "\n".join(f"_atom_site.{name}" for name in names.split())
    return f"data_small\n#\nloop_\n{head}\n{chr(10).join(rows)}\n#\n".encode()


@pytest.mark.parametrize(
    ("name", "valid"), [("small.pdb", pdb_lines(60)), ("small.cif", mmcif_lines())]
)
def test_a_damaged_structure_is_a_structure_error(name: str, valid: bytes, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        structure = mpnn.read_structure(path)
        assert len(structure.sequence) == len(structure) == len(structure.residue_index)
        assert structure.mask.any()

    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / name).write_bytes(valid)
    read(tmp_path / "whole" / name)
    fuzz(tmp_path, mutated(valid), name, read, mpnn.StructureError, 700)


def test_a_damaged_fasta_is_a_fasta_error(tmp_path: Path) -> None:
    structure = small(protein("5L33"))
    sequence = structure.sequence
    valid = f">one, T=0.1\n{sequence[:7]}\n{sequence[7:]}\n>two\n{sequence}\n".encode()

    def read(path: Path) -> None:
        for title, letters in read_sequences(path, structure, ["A"]):
            assert "\n" not in title
            assert len(letters) == len(structure)

    fuzz(tmp_path, mutated(valid), "one.fa", read, FastaError, 1000)


TINY: dict[str, torch.Tensor] = {
    "W_e.weight": torch.ones(4, 4), "W_e.bias": torch.zeros(4), "W_out.bias": torch.zeros(21),
}  # fmt: skip


def weigh(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    assert "\n" not in checkpoint.name
    assert all(value.dtype == torch.float32 for value in checkpoint.state.values())
    try:
        build_network(checkpoint, VARIANTS["minimal"])
    except mpnn.CheckpointError as error:
        assert "does not fit" in str(error)


def test_a_damaged_original_checkpoint_is_a_checkpoint_error(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model_state_dict": TINY, "num_edges": 48, "noise_level": 0.2}
    for legacy in (False, True):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        files = mutated(file.getvalue()) if legacy else members_mutated(file.getvalue())
        fuzz(tmp_path, files, "tiny.pt", weigh, mpnn.CheckpointError, 600)


def test_damaged_safetensors_are_a_checkpoint_error(tmp_path: Path) -> None:
    valid = save(TINY, {"name": "tiny", "neighbours": "48", "noise_level": "0.2"})
    size = int.from_bytes(valid[:8], "little")

    @st.composite
    def header_mutated(draw: st.DrawFn) -> bytes:
        header = draw(mutated(valid[8 : 8 + size]))
        return len(header).to_bytes(8, "little") + header + valid[8 + size :]

    files = header_mutated() | mutated(valid)
    fuzz(tmp_path, files, "tiny.safetensors", weigh, mpnn.CheckpointError, 1500)


def test_a_damaged_corpus_is_a_corpus_error(tmp_path: Path) -> None:
    s = small(protein("5L33"), 20)
    file = io.BytesIO()
    np.savez(
        file, coords=s.coords, aa=s.tokens.astype(np.int8), resnum=np.arange(20, dtype=np.int32),
        offsets=np.array([0, 9, 20]), ids=np.array(["a", "b"]), alphabet=np.array(ALPHABET),
        pdb=np.array(["1abc", "2abc"]), cluster30=np.array([1, 2]),
    )  # fmt: skip

    def read(path: Path) -> None:
        corpus = read_corpus(path)
        assert len(corpus.sha256) == 64
        assert all((np.diff(s.residue_index) > 0).all() for s in corpus.structures)

    errors = (CorpusError, mpnn.StructureError)
    fuzz(tmp_path, members_mutated(file.getvalue()), "two.npz", read, errors, 800)


RECORDS = [entry(CLAIMS["S1"], "time", 138.0), entry(CLAIMS["S9"], "component-2000", 1.2)]


def test_a_damaged_ledger_is_an_error_of_the_gate(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        found, console = Ledger.load(path), Console(file=io.StringIO())
        print_short(found, console)
        print_whole(found, console)
        assert markdown(found, {"S1": CLAIMS["S1"]})

    valid = json.dumps(ledger(RECORDS).to_json(), indent=1).encode()
    fuzz(tmp_path, mutated(valid), "ledger.json", read, GateError, 700)


def test_a_damaged_stored_run_is_an_error_of_the_gate(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        print_history(series(load_runs(path.parent)), Console(file=io.StringIO()))

    content = {
        "commit_info": {"id": "0" * 40, "dirty": False},
        "datetime": "2026-01-01T00:00:00+00:00",
        STORED: {"schema": 1, "ledger": ledger(RECORDS).to_json()},
    }
    fuzz(tmp_path, mutated(json.dumps(content).encode()), "0001.json", read, GateError, 500)


def test_a_damaged_comparison_is_an_error_of_the_gate(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if (comparison := Comparison.load(path)) is not None:
            print_comparison(comparison, Console(file=io.StringIO()))

    content = {
        "schema": 2, "base": "main", "head": "abc", "threshold": 1.03, "seconds": 1.0,
        "outcomes": [
            {"benchmark": "a", "change": "slower", "sessions": 10, "rounds": 50,
             "ratio": {"value": 0.9, "low": 0.8, "high": 1.0},
             "control": {"value": 1.0, "low": 0.9, "high": 1.1}},
        ],
        "answers": [{"name": "5L33", "base": 1e-5, "head": 2e-5, "largest": 6e-5}],
    }  # fmt: skip
    fuzz(tmp_path, mutated(json.dumps(content).encode()), "it.json", read, GateError, 500)


def test_damaged_claims_are_an_error_of_the_gate(tmp_path: Path) -> None:
    text = (ROOT / "claims.toml").read_text("utf-8")
    tables = text.split("[[claim]]")
    valid = "[[claim]]".join(tables[:3]).encode()
    project = load_project(ROOT)
    fuzz(tmp_path, mutated(valid), "claims.toml", lambda p: load_claims(p, project), GateError, 800)


def test_a_damaged_table_of_a_project_is_an_error_of_the_gate(tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    start = text.index("[tool.mpnn_core.gate]")
    valid = ('[project]\nname = "x"\n' + text[start : text.index("# Data flows")]).encode()
    read = lambda path: load_project(path.parent)  # noqa: E731
    fuzz(tmp_path, mutated(valid), "pyproject.toml", read, GateError, 500)
