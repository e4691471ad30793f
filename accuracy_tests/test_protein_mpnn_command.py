"""`mpnn-core protein-mpnn`: the flags of protein_mpnn_run.py, what it reads and what it writes.

The original's own inputs and outputs are in ../shared/data/goldens, beside the project; what needs
them is skipped where they are not.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import protein_mpnn_utils as published
import pytest
from proteins import path_of

import mpnn_core as mpnn
from mpnn_core.commands.main import main, parser
from mpnn_core.compatible.protein_inputs import Inputs
from mpnn_core.compatible.reading import CHAINS, from_jsonl, read
from mpnn_core.selecting.originals import PSSMUse, read_constraint_file

ROOT = Path(__file__).parents[1]
GOLDENS = ROOT.parent / "shared" / "data" / "goldens" / "proteinmpnn"
needs_goldens = pytest.mark.skipif(
    not GOLDENS.is_dir(), reason=f"the original authors' examples are not at {GOLDENS}"
)
SMALL = path_of("6MRR")  # 68 residues
A, B = 30, 32  # positions of the chains of TINY
ORDERS = 6  # of which the spread of a score is estimated
SPREADS = 6  # a score of one order is off by less than this many of them
MODES = ("seqs", "scores", "probs", "score_only", "conditional", "unconditional")


def run(out: Path, *flags: object, fails: int = 0) -> Path:
    code = main(["protein-mpnn", *map(str, flags), "--out_folder", str(out)])
    assert code == fails
    return out


def prepare(kind: str, out: Path, *flags: object) -> list[Any]:
    """The lines that a helper script writes, as objects; they are kept as the file `out`."""
    assert main(["protein-mpnn", "prepare", kind, *map(str, flags), f"--output_path={out}"]) == 0
    return lines(out)


def lines(path: Path) -> list[Any]:
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in text.decode().splitlines()]


def fields(header: str) -> dict[str, str]:
    """The fields of a header, as scripts read them."""
    name, rest = re.fullmatch(r">(?:([^,=]+), )?(.*)", header).groups()
    pairs = re.findall(r"(\w+)=(\[.*?\]|[^,]+)", rest)
    return {"name": name, **dict(pairs)} if name else dict(pairs)


def records(path: Path) -> list[tuple[dict[str, str], str]]:
    """(fields, sequence) of each record."""
    text = path.read_text("utf-8").splitlines()
    return [(fields(h), s) for h, s in zip(text[::2], text[1::2], strict=True)]


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as npz:
        return dict(npz)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """Two chains of 6EHB with A and B positions; in B, two numbers are missing, a residue has no O,
    and two have alternate locations. As many are complete as a residue has neighbours: of fewer,
    the original lets incomplete ones be neighbours, and this project does not."""
    kept = []
    for line in path_of("6EHB").read_text().splitlines():
        number = line[22:26].strip()
        if not line.startswith("ATOM") or line[12:16].strip() not in ("N", "CA", "C", "O"):
            continue
        chain, n, atom = line[21], int(number), line[12:16].strip()
        if chain == "A" and n <= A:
            kept.append(line)
        elif chain == "B" and n <= B and n not in (9, 10) and (n, atom) != (15, "O"):
            if (n, atom) in ((18, "CA"), (19, "O")):  # the first is read, whatever its occupancy
                x = float(line[30:38])
                kept.append(f"{line[:16]}A{line[17:56]}0.20{line[60:]}")
                line = f"{line[:16]}B{line[17:30]}{x + 0.9:8.3f}{line[38:56]}0.80{line[60:]}"
            kept.append(line)
    file = tmp_path_factory.mktemp("tiny") / "TINY.pdb"
    file.write_text("\n".join([*kept, "END"]) + "\n")
    return file


# Reading.


AWKWARD = """\
ATOM      1  N   GLY A  -1      11.000  10.000  10.000  1.00  0.00           N
ATOM      2  CA  GLY A  -1      12.000  10.000  10.000  1.00  0.00           C
ATOM      3  C   GLY A  -1      13.000  10.000  10.000  1.00  0.00           C
ATOM      4  O   GLY A  -1      14.000  10.000  10.000  1.00  0.00           O
HETATM    5  N   MSE A   2      21.000  10.000  10.000  1.00  0.00           N
HETATM    6  CA AMSE A   2      22.000  10.000  10.000  0.30  0.00           C
HETATM    7  CA BMSE A   2      22.500  10.000  10.000  0.70  0.00           C
HETATM    8  C   MSE A   2      23.000  10.000  10.000  1.00  0.00           C
HETATM    9  O   MSE A   2      24.000  10.000  10.000  1.00  0.00           O
ATOM     10  N   TRP A   3B     31.000  10.000  10.000  1.00  0.00           N
ATOM     11  N   SER A   3      41.000  10.000  10.000  1.00  0.00           N
ATOM     12  CA  SER A   3      42.000  10.000  10.000  1.00  0.00           C
ATOM     13  C   SER A   3      43.000  10.000  10.000  1.00  0.00           C
ATOM     14  O   SER A   3      44.000  10.000  10.000  1.00  0.00           O
ATOM     15  N   SEP A   4      51.000  10.000  10.000  1.00  0.00           N
ATOM     16  CA  SEP A   4      52.000  10.000  10.000  1.00  0.00           C
ATOM     17  C   SEP A   4      53.000  10.000  10.000  1.00  0.00           C
ATOM     18  O   SEP A   4      54.000  10.000  10.000  1.00  0.00           O
HETATM   19  O   HOH A   9      60.000  10.000  10.000  1.00  0.00           O
ATOM     20  P    DG b   5      60.000  20.000  10.000  1.00  0.00           P
ATOM     21  N   ALA 2   7      60.000  20.000  10.000  1.00  0.00           N
END
"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it closes no file
@pytest.mark.parametrize("ca_only", [False, True], ids=["backbone", "CA"])
def test_a_file_is_parsed_as_the_original_parses_it(tmp_path, ca_only):
    file = tmp_path / "odd.pdb"
    file.write_text(AWKWARD)
    parsed = read(file)
    assert list(parsed.chains) == ["A", "b", "2"]
    for chain, ours in parsed.chains.items():
        atoms = ["CA"] if ca_only else ["N", "CA", "C", "O"]
        xyz, (letters,) = published.parse_PDB_biounits(file, atoms, chain)
        assert ours.letters == letters
        entry = parsed.entry(ca_only)[f"coords_chain_{chain}"]
        stacked = [np.reshape(entry[f"{atom}_chain_{chain}"], (-1, 3)) for atom in atoms]
        np.testing.assert_array_equal(np.stack(stacked, 1), xyz)
    assert parsed.chains["A"].numbers == ("-1", "0", "1", "2", "3", "3B", "4")
    assert parsed.sequence == "G--MSW--A"
    structure = parsed.structure(["A"])
    assert structure.sequence == "GXXMSWX"
    assert structure.mask.tolist() == [True, False, False, True, True, False, True]
    np.testing.assert_array_equal(structure.coords[3, 1], [22.0, 10.0, 10.0])


def test_the_order_of_chains_is_the_originals():
    alphabet = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"abcdefghijklmnopqrstuvwxyz", *"0123456789"]
    assert list(CHAINS) == alphabet


@needs_goldens
@pytest.mark.parametrize(("example", "names"), [
    ("example_1", ("5L33", "6MRR")), ("example_4", ("3HTN", "4YOW")),
    ("example_6", ("4GYT", "6EHB")),
])  # fmt: skip
def test_parsed_structures_are_those_that_the_authors_published(tmp_path, example, names):
    for name in names:
        shutil.copy(path_of(name), tmp_path)
    found = prepare("parse-multiple-chains", tmp_path / "parsed.jsonl", "--input_path", tmp_path)
    expected = {entry["name"]: entry for entry in lines(parsed_of(example))}
    assert [entry["name"] for entry in found] == sorted(names)
    for entry in found:
        assert json.dumps(entry) == json.dumps(expected[entry["name"]])


def test_what_is_read_from_json_is_what_is_read_from_the_file(tmp_path, tiny):
    for ca_only in (False, True):
        out = tmp_path / "parsed.jsonl"
        more = ["--ca_only"] if ca_only else []
        prepare("parse-multiple-chains", out, "--input_path", tiny.parent, *more)
        (entry,) = from_jsonl(out, ca_only)
        of_json, of_file = (p.structure(["B", "A"], ca_only) for p in (entry, read(tiny)))
        atoms = [1] if ca_only else slice(None)
        np.testing.assert_array_equal(of_json.coords[:, atoms], of_file.coords[:, atoms])
        assert of_json.sequence == of_file.sequence
        np.testing.assert_array_equal(of_json.mask, of_file.mask)
        assert of_json.mask.sum() == (A + B - 2 if ca_only else A + B - 3)


def test_a_trace_needs_its_flag(tmp_path, tiny, capsys):
    out = tmp_path / "parsed.jsonl"
    prepare("parse-multiple-chains", out, "--input_path", tiny.parent, "--ca_only")
    run(tmp_path, "--jsonl_path", out, fails=1)
    assert (
        "coords_chain_A has no N_chain_A; a trace is read with --ca_only" in capsys.readouterr()[1]
    )


# The flags.


def of_original(*arguments: str) -> dict[str, Any]:
    """What the original makes of its flags."""
    import protein_mpnn_run

    taken: list[argparse.Namespace] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protein_mpnn_run, "main", taken.append)
        patch.setattr(sys, "argv", ["protein_mpnn_run.py", *arguments])
        protein_mpnn_run.cli()
    return vars(taken[0])


def ours(*arguments: str) -> dict[str, Any]:
    """What we make of them, without what is ours alone."""
    taken = vars(parser().parse_args(["protein-mpnn", *arguments]))
    return {name: value for name, value in taken.items() if name not in ("run", "legacy", "device")}


def comparable(taken: dict[str, Any]) -> dict[str, Any]:
    return {name: list(v) if name == "omit_AAs" else v for name, v in taken.items()}


def test_all_34_flags_have_the_originals_defaults():
    assert comparable(ours()) == comparable(of_original())
    assert len(ours()) == 34


def test_flags_are_taken_as_the_original_takes_them():
    given = [
        "--omit_AAs=CX", "--sampling_temp", "0.1 0.2", "--seed", "37", "--seed", "38", "--ca_only",
        "--pdb_path_chains", "A B", "--backbone_noise", "0.1", "--num_seq", "8",
    ]  # fmt: skip
    taken = ours(*given)
    assert taken == of_original(*given)
    assert taken["seed"] == 38  # the last one


# The helper scripts.

POSITIONS = ["--chain_list", "A B", "--position_list"]
PREPARED = {
    "assign_fixed_chains": (
        "assign-fixed-chains", ["--chain_list", "B"], ["--chain_list", ""],
    ),
    "make_fixed_positions_dict": (
        "fixed-positions",
        [*POSITIONS, "1 2 5, 7"], [*POSITIONS, "1 2 5, 7", "--specify_non_fixed"],
    ),
    "make_tied_positions_dict": (
        "tied-positions", [*POSITIONS, "1 2, 3 4"], ["--homooligomer", "1"],
    ),
    "make_pos_neg_tied_positions_dict": (
        "pos-neg-tied", [*POSITIONS, "1 2, 3 4"],
        ["--homooligomer", "1", "--pos_neg_chain_list", "A B", "--pos_neg_chain_betas", "1.0 -0.5"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def dimer(tmp_path_factory, tiny) -> Path:
    """Parsed structures of two chains of one length."""
    folder = tmp_path_factory.mktemp("dimer")
    text = [line for line in tiny.read_text().splitlines() if int(line[22:26] or 0) <= 20]
    (folder / "DIMER.pdb").write_text("\n".join(text) + "\n")
    (folder / "OTHER.pdb").write_text("\n".join(text) + "\n")
    prepare("parse-multiple-chains", folder / "parsed.jsonl", "--input_path", folder)
    return folder / "parsed.jsonl"


@pytest.mark.parametrize("script", list(PREPARED))
@pytest.mark.parametrize("which", [0, 1])
def test_a_helper_script_is_done(tmp_path, dimer, script, which):
    kind, *calls = PREPARED[script]
    # As the helper scripts are run: files, with their own argument parser at their end.
    theirs = tmp_path / "theirs.jsonl"
    file = Path(published.__file__).parent / "helper_scripts" / f"{script}.py"
    given = [f"--input_path={dimer}", *calls[which]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *given, f"--output_path={theirs}"])
        exec(compile(file.read_text(), file, "exec"), {"__name__": "__main__"})
    assert prepare(kind, tmp_path / "ours.jsonl", *given) == lines(theirs)


def test_amino_acids_are_biased_as_in_the_original(tmp_path):
    made = prepare("bias-aa", tmp_path / "b.jsonl", "--AA_list", "D E", "--bias_list", "1.39 -2")
    assert made == [{"D": 1.39, "E": -2.0}]


def test_residues_are_biased_and_barred(tmp_path, dimer):
    at = ["--input_path", dimer, *POSITIONS, "1 2, 20"]
    (made,) = prepare("bias-per-res", tmp_path / "b", *at, "--AA_list", "G", "--bias_list", "1.5")
    found = np.array(made["DIMER"]["A"])
    assert found.shape == (20, 21)
    assert np.argwhere(found == 1.5).tolist() == [[0, 5], [1, 5]]
    assert np.count_nonzero(found) == 2
    (made,) = prepare("omit-aa", tmp_path / "o", *at, "--AA_list", "GPL, WC")
    assert made["OTHER"] == {"A": [[[1, 2], "GPL"]], "B": [[[20], "WC"]]}
    for name, kind in (("b", "bias_by_residue"), ("o", "omit_positions")):
        assert set(read_constraint_file(tmp_path / name, kind).entries) == {"DIMER", "OTHER"}


def test_pssms_are_collected(tmp_path, dimer):
    rng = np.random.default_rng(1)
    given = {
        f"{chain}_{key}": rng.random((20, 21) if key != "coef" else 20)
        for chain in "AB"
        for key in ("coef", "bias", "odds")
    }
    for name in ("DIMER", "OTHER"):
        np.savez(tmp_path / f"{name}.npz", **given)
    flags = ["--jsonl_input_path", dimer, "--PSSM_input_path", tmp_path]
    (made,) = prepare("pssm", tmp_path / "pssm.jsonl", *flags)
    np.testing.assert_array_equal(made["DIMER"]["B"]["pssm_log_odds"], given["B_odds"])
    np.testing.assert_array_equal(made["OTHER"]["A"]["pssm_coef"], given["A_coef"])
    np.testing.assert_array_equal(made["OTHER"]["A"]["pssm_bias"], given["A_bias"])


@pytest.mark.parametrize(("kind", "flags", "sentence"), [
    ("fixed-positions", [*POSITIONS, "1, 21"], "chain B has the positions 1 to 20, gaps counted"),
    ("fixed-positions", [*POSITIONS, "1"], "position_list has 1 entries for 2 of A B"),
    ("tied-positions", [*POSITIONS, "1 2, 3"], "tied one by one; got A 2, B 1"),
    ("fixed-positions", ["--chain_list", "Z", "--position_list", "1"], "DIMER has no chain 'Z'"),
    ("pos-neg-tied", ["--homooligomer", "1"], "pos_neg_chain_list: expected chains"),
    ("omit-aa", [*POSITIONS, "1, 2", "--AA_list", "GP, 4"], "'4' is no residue"),
])  # fmt: skip
def test_what_cannot_be_prepared_is_said(tmp_path, dimer, capsys, kind, flags, sentence):
    out = tmp_path / "out.jsonl"
    call = ["protein-mpnn", "prepare", kind, f"--input_path={dimer}", *flags]
    assert main([*call, f"--output_path={out}"]) == 2
    assert sentence in capsys.readouterr()[1]
    assert not out.exists()


# The files of the original and ours, of one call each.


@pytest.fixture(scope="module")
def calls(tmp_path_factory, tiny) -> dict[str, list[str]]:
    """A call for each kind of file, all of which the original makes in one process."""
    fasta = tmp_path_factory.mktemp("fasta") / "two.fa"
    fasta.write_text(">one\n" + "A" * A + "\n>two\n" + "G" * 10 + "/" + "S" * (A - 10) + "\n")
    of = ["--pdb_path", str(tiny), "--pdb_path_chains", "A", "--batch_size", "2", "--seed", "37"]
    n = ["--num_seq_per_target", "2"]
    return {
        "design": [*of, *n, "--save_score=1", "--save_probs=1", "--sampling_temp", "0.1 0.25"],
        "ca": [*of, "--num_seq_per_target", "2", "--ca_only"],
        "score": [*of, "--num_seq_per_target", "6", "--score_only=1", f"--path_to_fasta={fasta}"],
        "conditional": [*of, *n, "--conditional_probs_only", "1"],
        "backbone": [
            *of, *n, "--conditional_probs_only=1", "--conditional_probs_only_backbone=1",
        ],
        "unconditional": [*of, *n, "--unconditional_probs_only", "1"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def sides(tmp_path_factory, calls) -> tuple[Path, Path]:
    """The folders that the original and ours wrote, with a folder for each call."""
    theirs, our = (tmp_path_factory.mktemp(side) for side in ("theirs", "ours"))
    argv = [
        ["protein_mpnn_run.py", *flags, "--out_folder", str(theirs / name)]
        for name, flags in calls.items()
    ]
    code = (
        "import sys, torch, protein_mpnn_run\ntorch.set_num_threads(1)\n"
        f"for sys.argv in {argv!r}: protein_mpnn_run.cli()"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, flags in calls.items():
        run(our / name, *flags)
    return theirs, our


def test_both_write_the_same_files(sides):
    theirs, our = ({p.relative_to(side) for side in [s] for p in s.rglob("*")} for s in sides)
    assert theirs == our
    assert Path("score/score_only/TINY_fasta_2.npz") in our


def test_both_write_one_form_of_fasta(sides):
    for call, key in (("design", "model_name"), ("ca", "CA_model_name")):
        theirs, our = (records(side / call / "seqs" / "TINY.fa") for side in sides)
        assert [list(of) for of, _ in theirs] == [list(of) for of, _ in our]
        assert len(our) == (5 if call == "design" else 3)
        for (one, native), (other, designed) in zip(theirs, our, strict=True):
            same = ("name", "fixed_chains", "designed_chains", key, "seed", "T", "sample")
            assert {k: one.get(k) for k in same} == {k: other.get(k) for k in same}
            for figure in ("score", "global_score", "seq_recovery"):
                if figure in one:
                    assert re.fullmatch(r"\d\.\d{4}", one[figure])
                    assert re.fullmatch(r"\d\.\d{4}", other[figure])
            assert len(native) == len(designed)
        assert theirs[0][1] == our[0][1]
        assert our[0][0]["git_hash"] == f"mpnn_core-{mpnn.__version__}"


@pytest.mark.parametrize(("call", "path"), [
    ("design", "scores/TINY"), ("design", "probs/TINY"), ("score", "score_only/TINY_pdb"),
    ("score", "score_only/TINY_fasta_1"), ("score", "score_only/TINY_fasta_2"),
    ("conditional", "conditional_probs_only/TINY"), ("backbone", "conditional_probs_only/TINY"),
    ("unconditional", "unconditional_probs_only/TINY"),
])  # fmt: skip
def test_both_write_one_form_of_arrays(sides, call, path):
    theirs, our = (arrays(side / call / f"{path}.npz") for side in sides)
    assert [(k, v.shape, v.dtype) for k, v in theirs.items()] == [
        (k, v.shape, v.dtype) for k, v in our.items()
    ]
    for key in ("mask", "chain_order", "design_mask", "seq_str"):
        if key in our:
            np.testing.assert_array_equal(our[key], theirs[key])
    if call in ("score", "conditional", "backbone", "unconditional"):
        np.testing.assert_array_equal(our["S"], theirs["S"])
    for key in ("probs", "log_p", "log_probs"):
        if key in our:  # where nothing is drawn or asked for, both have zeros
            np.testing.assert_array_equal(our[key].any(2), theirs[key].any(2))


def test_what_needs_no_order_is_the_same_number(sides):
    for call, kind in (("unconditional", call_folder("unconditional")), ("backbone", CONDITIONAL)):
        theirs, our = (arrays(side / call / kind / "TINY.npz") for side in sides)
        np.testing.assert_allclose(our["log_p"], theirs["log_p"], atol=1e-4)


CONDITIONAL = "conditional_probs_only"


def call_folder(kind: str) -> str:
    return f"{kind}_probs_only"


def test_scores_and_conditionals_are_of_one_distribution(sides):
    """Orders are drawn: means over those of a small protein agree within their spread."""
    theirs, our = (arrays(side / "score" / "score_only" / "TINY_pdb.npz") for side in sides)
    for key in ("score", "global_score"):
        spread = np.concatenate([theirs[key], our[key]]).std()
        assert abs(theirs[key].mean() - our[key].mean()) < 3 * spread
    theirs, our = (arrays(side / "conditional" / CONDITIONAL / "TINY.npz") for side in sides)
    designed = our["design_mask"] > 0
    one, two, ours_ = (log_p[designed] for log_p in (*theirs["log_p"], our["log_p"][0]))
    assert np.abs(ours_ - one).mean() < 1.5 * np.abs(two - one).mean()


# The authors' examples, verbatim.


def parsed_of(example: str) -> Path:
    folder = GOLDENS / example
    return next(p for p in sorted(folder.iterdir()) if p.name.startswith("parsed_pdbs.jsonl"))


FIXED = ["--chain_list", "A C", "--position_list"]
DESIGN = [
    "--num_seq_per_target",
    "2",
    "--sampling_temp",
    "0.1",
    "--seed",
    "37",
    "--batch_size",
    "1",
]
# example -> names, helper scripts with the flag of protein_mpnn_run.py that takes what they write,
# and more flags of it: as in the original's examples/submit_example_*.sh.
EXAMPLES: dict[str, tuple[Any, ...]] = {
    "example_1": ((), DESIGN),
    "example_2": (
        [("assigned_pdbs", "chain_id_jsonl", "assign-fixed-chains", ["--chain_list", "A B"])],
        [*DESIGN, "--ca_only"],
    ),
    "example_4": (
        [
            ("assigned_pdbs", "chain_id_jsonl", "assign-fixed-chains", ["--chain_list", "A C"]),
            ("fixed_pdbs", "fixed_positions_jsonl", "fixed-positions", [
                *FIXED, "1 2 3 4 5 6 7 8 23 25, 10 11 12 13 14 15 16 17 18 19 20 40",
            ]),
        ],
        DESIGN,
    ),
    "example_5": (
        [
            ("assigned_pdbs", "chain_id_jsonl", "assign-fixed-chains", ["--chain_list", "A C"]),
            ("fixed_pdbs", "fixed_positions_jsonl", "fixed-positions", [
                *FIXED, "9 10 11 12 13 14 15 16 17 18 19 20 21 22 23, 10 11 18 19 20 22",
            ]),
            ("tied_pdbs", "tied_positions_jsonl", "tied-positions", [
                *FIXED, "1 2 3 4 5 6 7 8, 1 2 3 4 5 6 7 8",
            ]),
        ],
        DESIGN,
    ),
    "example_6": (
        [("tied_pdbs", "tied_positions_jsonl", "tied-positions", ["--homooligomer", "1"])],
        [*DESIGN, "--sampling_temp", "0.2"],
    ),
    "example_8": (
        [("bias_pdbs", "bias_AA_jsonl", "bias-aa", [
            "--AA_list=D E H K N Q R S T W Y",
            "--bias_list=1.39 1.39 1.39 1.39 1.39 1.39 1.39 1.39 1.39 1.39 1.39",
        ])],
        DESIGN,
    ),
    "example_pssm": (
        [
            ("assigned_pdbs", "chain_id_jsonl", "assign-fixed-chains", ["--chain_list", "A B"]),
            ("pssm", "pssm_jsonl", "", []),
        ],
        [*DESIGN, "--pssm_multi", "0.3", "--pssm_bias_flag", "1"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The authors' inputs; those that are compressed, unpacked."""
    folder = tmp_path_factory.mktemp("goldens")
    for path in GOLDENS.glob("example_*/*.jsonl*"):
        target = folder / path.parent.name / path.name.removesuffix(".gz")
        target.parent.mkdir(exist_ok=True)
        content = path.read_bytes()
        target.write_bytes(gzip.decompress(content) if path.suffix == ".gz" else content)
    return folder


def flags_of(unpacked: Path, example: str) -> list[str]:
    files, more = EXAMPLES[example]
    folder = unpacked / example
    given = [f"--{flag}={folder / name}.jsonl" for name, flag, *_ in files]
    return [f"--jsonl_path={folder / 'parsed_pdbs.jsonl'}", *given, *more]


@needs_goldens
@pytest.mark.parametrize("example", list(EXAMPLES))
def test_the_helper_scripts_write_the_authors_files(tmp_path, unpacked, example):
    for name, _, kind, flags in EXAMPLES[example][0]:
        if not kind:
            continue
        source = (
            [] if kind == "bias-aa" else ["--input_path", unpacked / example / "parsed_pdbs.jsonl"]
        )
        found = prepare(kind, tmp_path / "made.jsonl", *source, *flags)
        assert found == lines(unpacked / example / f"{name}.jsonl")


@needs_goldens
@pytest.mark.parametrize("example", list(EXAMPLES))
def test_an_example_runs_as_its_authors_ran_it(tmp_path, unpacked, example):
    flags = flags_of(unpacked, example)
    run(tmp_path, *flags)
    orders = ["--score_only=1", f"--num_seq_per_target={ORDERS}"]
    run(tmp_path, *flags, *orders)
    expected = sorted(GOLDENS.glob(f"{example}/*.fa"))
    assert len(expected) == 2 or example == "example_5"
    for path in expected:
        theirs, our = records(path), records(tmp_path / "seqs" / path.name)
        assert len(theirs) == len(our) == 3
        assert theirs[0][1] == our[0][1]  # the native sequence, with X for gaps
        scored = arrays(tmp_path / "score_only" / f"{path.stem}_pdb.npz")
        for (of_theirs, letters), (of_ours, designed) in zip(theirs, our, strict=True):
            assert list(of_theirs) == list(of_ours)
            same = ("name", "fixed_chains", "designed_chains", "model_name", "CA_model_name",
                    "seed", "T", "sample")  # fmt: skip
            assert {k: of_theirs.get(k) for k in same} == {k: of_ours.get(k) for k in same}
            assert [len(part) for part in letters.split("/")] == [
                len(part) for part in designed.split("/")
            ]
        for key in ("score", "global_score"):
            one = scored[key].std(ddof=1) * np.sqrt(1 + 1 / ORDERS)
            for header in (theirs[0][0], our[0][0]):
                assert abs(float(header[key]) - scored[key].mean()) < SPREADS * one, key


@needs_goldens
def test_scores_of_example_3_are_the_authors(tmp_path):
    """3HTN 1.1526 +- 0.0106 over 10 orders, 1.1994 +- 0.0070 over all chains."""
    flags = ["--pdb_path", path_of("3HTN"), "--pdb_path_chains", "A B", "--num_seq_per_target=10"]
    fasta = GOLDENS / "example_3" / "3HTN.fa"
    run(tmp_path, *flags, "--seed=13", "--score_only=1", "--path_to_fasta", fasta)
    of_native = arrays(tmp_path / "score_only" / "3HTN_pdb.npz")
    for key, mean, spread in (("score", 1.1526, 0.0106), ("global_score", 1.1994, 0.0070)):
        assert abs(of_native[key].mean() - mean) < 4 * spread * np.sqrt(2 / 10)
    headers = records(fasta)
    for n, (header, sequence) in enumerate(headers, start=1):
        found = arrays(tmp_path / "score_only" / f"3HTN_fasta_{n}.npz")
        assert str(found["seq_str"]) == sequence.replace("/", "")
        if n > 1:  # the header's is of the order in which it was drawn, which favours it
            assert 0 < found["score"].mean() - float(header["score"]) < 0.12
    run(tmp_path, *flags[:4], *DESIGN)
    our = records(tmp_path / "seqs" / "3HTN.fa")
    assert our[0][1] == headers[0][1]
    assert [list(of) for of, _ in our] == [list(of) for of, _ in headers]


@needs_goldens
def test_unconditional_probabilities_are_the_authors(tmp_path, unpacked):
    parsed = unpacked / "example_7" / "parsed_pdbs.jsonl"
    flags = ["--sampling_temp", "0.1", "--unconditional_probs_only", "1", "--seed", "37"]
    expected = arrays(GOLDENS / "unconditional-5L33.npz")
    for source in (["--jsonl_path", parsed], ["--pdb_path", path_of("5L33")]):
        run(tmp_path, *source, *flags)
        found = arrays(tmp_path / "unconditional_probs_only" / "5L33.npz")
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_allclose(found[key], value, atol=1e-4)


@needs_goldens
def test_what_is_designed_obeys_the_authors_constraints(tmp_path, unpacked):
    run(tmp_path, *flags_of(unpacked, "example_5"))
    fixed, tied = (
        lines(unpacked / "example_5" / f"{name}_pdbs.jsonl")[0] for name in ("fixed", "tied")
    )
    for name in ("3HTN", "4YOW"):
        (_, native), *designs = records(tmp_path / "seqs" / f"{name}.fa")
        for _, design in designs:
            chains = dict(zip("AC", design.split("/"), strict=True))
            of_native = dict(zip("AC", native.split("/"), strict=True))
            for chain in "AC":
                kept = [n - 1 for n in fixed[name][chain]]
                assert [chains[chain][n] for n in kept] == [of_native[chain][n] for n in kept]
            for group in tied[name]:
                found = {
                    chains[c][n - 1] for c, (n,) in group.items() if of_native[c][n - 1] != "X"
                }
                assert len(found) <= 1
    run(tmp_path, *flags_of(unpacked, "example_6"))
    for name in ("4GYT", "6EHB"):
        for _, design in records(tmp_path / "seqs" / f"{name}.fa")[1:]:
            for letters in zip(*design.split("/"), strict=False):
                assert len(set(letters) - {"X"}) <= 1


@needs_goldens
def test_only_some_residues_are_designed_where_the_others_are_named(tmp_path, unpacked):
    """examples/submit_example_4_non_fixed.sh"""
    parsed = unpacked / "example_4" / "parsed_pdbs.jsonl"
    fixed = tmp_path / "fixed_pdbs.jsonl"
    where = "1 2 3 4 5 6 7 8 9 10, 3 4 5 6 7 8"
    flags = ["--input_path", parsed, *FIXED, where, "--specify_non_fixed"]
    prepare("fixed-positions", fixed, *flags)
    chains = unpacked / "example_4" / "assigned_pdbs.jsonl"
    more = [f"--jsonl_path={parsed}", f"--chain_id_jsonl={chains}", *DESIGN, "--sampling_temp=1.0"]
    run(tmp_path, *more, f"--fixed_positions_jsonl={fixed}")
    for name in ("3HTN", "4YOW"):
        (_, native), *designs = records(tmp_path / "seqs" / f"{name}.fa")
        changed = {
            (chain, n)
            for _, design in designs
            for chain, letters, own in zip("AC", design.split("/"), native.split("/"), strict=True)
            for n, (a, b) in enumerate(zip(letters, own, strict=True), start=1)
            if a != b
        }
        allowed = {("A", n) for n in range(1, 11)} | {("C", n) for n in range(3, 9)}
        assert changed
        assert changed <= allowed


@needs_goldens
@pytest.mark.parametrize("example", list(EXAMPLES))
def test_constraints_are_resolved_as_the_original_resolves_them(unpacked, example):
    """Every array of the original's `tied_featurize` against ours, position by position."""
    files, more = EXAMPLES[example]
    ca_only = "--ca_only" in more
    given = {flag: unpacked / example / f"{name}.jsonl" for name, flag, *_ in files}
    values = {flag: lines(path)[-1] for flag, path in given.items()}
    kinds = {
        "fixed_positions_jsonl": "fixed_positions", "tied_positions_jsonl": "tied_positions",
        "bias_AA_jsonl": "bias", "pssm_jsonl": "pssm",
    }  # fmt: skip
    of_chains = given.get("chain_id_jsonl")
    inputs = Inputs(
        [read_constraint_file(path, kinds[flag]) for flag, path in given.items() if flag in kinds],
        None if of_chains is None else read_constraint_file(of_chains, "chain_ids"),
        pssm=PSSMUse(0.3, 0.0, True, True),
    )
    parsed = unpacked / example / "parsed_pdbs.jsonl"
    for entry, ours in zip(lines(parsed), from_jsonl(parsed, ca_only), strict=True):
        structure, constraints = inputs.of(ours, ca_only)
        resolved = constraints.resolve(structure)
        (
            X, S, mask, _, chain_M, _, letters, _, _, _, chain_M_pos, omit, index, _,
            tied, coefficient, bias, log_odds, bias_at, beta,
        ) = published.tied_featurize(
            [entry], "cpu", values.get("chain_id_jsonl"), values.get("fixed_positions_jsonl"), None,
            values.get("tied_positions_jsonl"), values.get("pssm_jsonl"), None, ca_only=ca_only,
        )  # fmt: skip
        atoms = [1] if ca_only else slice(None)
        complete = structure.mask
        np.testing.assert_array_equal(complete, mask[0] > 0)
        shape = structure.coords[complete][:, atoms].shape
        np.testing.assert_array_equal(
            structure.coords[complete][:, atoms], X[0].float().numpy()[complete].reshape(shape)
        )
        np.testing.assert_array_equal(structure.tokens, S[0])
        assert list(structure.chains) == letters[0]
        np.testing.assert_array_equal(structure.residue_index, index[0])
        np.testing.assert_array_equal(
            resolved.designed, (mask * chain_M * chain_M_pos)[0].bool().numpy()
        )
        assert not omit.any()
        assert not bias_at.any()
        of_tied = [set(group) & set(np.flatnonzero(complete).tolist()) for group in tied[0]]
        assert [set(group) for group in resolved.groups] == [g for g in of_tied if len(g) > 1]
        assert all(w == beta[i] for group in resolved.groups for i, w in group.items())
        if "pssm_jsonl" in given:
            at = resolved.designed  # the original leaves that of kept chains out
            of_bias, weight, factor = (values[at] for values in resolved.pssm)
            np.testing.assert_array_equal(of_bias, bias[0][at])
            np.testing.assert_allclose(weight, 0.3 * coefficient[0].numpy()[at], rtol=1e-6)
            np.testing.assert_allclose(factor, (log_odds[0].numpy()[at] > 0) + 0.001, rtol=1e-6)
        if "bias_AA_jsonl" in given:
            expected = [values["bias_AA_jsonl"].get(a, 0.0) for a in mpnn.ALPHABET]
            np.testing.assert_array_equal(resolved.biases[0], np.float32(expected))


# What the original does unasked, and we do not; and the other way round.


def test_as_many_are_designed_as_are_asked_for(tmp_path, tiny, capsys):
    flags = ["--pdb_path", tiny, "--num_seq_per_target", 5, "--batch_size", 2, "--save_score", 1]
    run(tmp_path / "all", *flags)
    assert "5 sequences, as asked for; the original gives 4" in capsys.readouterr()[1]
    run(tmp_path / "legacy", *flags, "--legacy")
    found = [
        (
            len(records(folder / "seqs" / "TINY.fa")),
            len(arrays(folder / "scores" / "TINY.npz")["score"]),
        )
        for folder in (tmp_path / "all", tmp_path / "legacy")
    ]
    assert found == [(6, 5), (5, 4)]


def test_no_whole_batch_leaves_an_empty_file_as_there(tmp_path, tiny):
    run(tmp_path, "--pdb_path", tiny, "--batch_size", 2, "--legacy", "--save_score", 1)
    assert (tmp_path / "seqs" / "TINY.fa").read_text() == ""
    assert arrays(tmp_path / "scores" / "TINY.npz")["score"].shape == (0,)


def test_seed_0_draws_one_and_another_is_kept(tmp_path, tiny):
    seeds, texts = [], []
    for n, seed in enumerate((0, 0, 0, 37, 37)):
        out = run(tmp_path / str(n), "--pdb_path", tiny, "--seed", seed)
        seeds.append(int(records(out / "seqs" / "TINY.fa")[0][0]["seed"]))
        texts.append((out / "seqs" / "TINY.fa").read_text())
    assert len(set(seeds[:3])) > 1
    assert all(0 <= seed < 999 for seed in seeds)
    assert seeds[3:] == [37, 37]
    assert texts[3] == texts[4]


def written(folder: Path, name: str, *objects: Any) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def test_the_last_line_counts_and_that_is_said(tmp_path, tiny, capsys):
    keep_a, keep_all = [{"TINY": {"A": list(range(1, n)), "B": []}} for n in (2, A + 1)]
    fixed = written(tmp_path, "fixed.jsonl", {**keep_a, "GONE": {"A": [1]}}, keep_all)
    flags = ["--pdb_path", tiny, "--fixed_positions_jsonl", fixed, "--sampling_temp=2.0"]
    run(tmp_path, *flags)
    (_, native), (_, design) = records(tmp_path / "seqs" / "TINY.fa")
    assert native[:A] == design[:A]
    assert native[A + 1 :] != design[A + 1 :]
    assert "the last of 2 lines counts alone" in capsys.readouterr()[1]


def test_a_file_that_is_not_there_is_refused(tmp_path, tiny, capsys):
    flags = ["--pdb_path", str(tiny), "--fixed_positions_jsonl", str(tmp_path / "none.jsonl")]
    call = ["protein-mpnn", *flags, "--out_folder", str(tmp_path / "out")]
    assert main(call) == 2
    assert not (tmp_path / "out").exists()
    assert "none.jsonl" in capsys.readouterr()[1]
    assert main([*call, "--legacy"]) == 0
    assert "counts for nothing" in capsys.readouterr()[1]


@pytest.mark.parametrize(("flags", "sentence"), [
    ([], "expected --pdb_path"),
    (["--pdb_path=TINY", "--sampling_temp=warm"], "expected numbers divided by spaces"),
    (["--pdb_path=TINY", "--sampling_temp=-1"], "expected numbers of at least 0"),
    (["--pdb_path=TINY", "--num_seq_per_target=0"], "expected at least 1"),
    (["--pdb_path=TINY", "--ca_only", "--use_soluble_model"], "there is no such model"),
    (["--pdb_path=TINY", "--path_to_model_weights=/nowhere"], "there is no /nowhere/v_48_020.pt"),
    (["--pdb_path=TINY", "--omit_AAs=A1"], "'1' is no residue"),
    (["--pdb_path=TINY", "--model_name=v_1"], "v_1"),
    (["--pdb_path=TINY", "--model_name=ligand"], "expected one of backbones"),
    (["--pdb_path=TINY", "--legacy", "--batch_size=2", "--score_only=1"], "nothing to write"),
])  # fmt: skip
def test_a_wrong_call_is_refused(tmp_path, tiny, capsys, flags, sentence):
    given = [flag.replace("TINY", str(tiny)) for flag in flags]
    assert main(["protein-mpnn", *given, "--out_folder", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr()[1]
    assert not (tmp_path / "out").exists()


def test_a_structure_that_does_not_fit_is_left_out_alone(tmp_path, dimer, capsys):
    fixed = written(
        tmp_path, "fixed.jsonl", {"DIMER": {"A": [1], "B": []}, "OTHER": {"A": [21], "B": []}}
    )
    flags = ["--jsonl_path", dimer, "--fixed_positions_jsonl", fixed]
    run(tmp_path, *flags, fails=1)
    assert [p.name for p in (tmp_path / "seqs").iterdir()] == ["DIMER.fa"]
    said = capsys.readouterr()[1]
    assert "fixed.jsonl: line 1: OTHER: position 21 of chain A" in said
    assert "1 of 2 structures failed" in said


def test_a_line_that_is_no_structure_is_left_out_alone(tmp_path, dimer, capsys):
    parsed = written(tmp_path, "parsed.jsonl", {"name": "BAD"}, *lines(dimer))
    run(tmp_path, "--jsonl_path", parsed, fails=1)
    assert sorted(p.name for p in (tmp_path / "seqs").iterdir()) == ["DIMER.fa", "OTHER.fa"]
    assert "parsed.jsonl: line 1: BAD has no chain" in capsys.readouterr()[1]


def test_a_file_that_is_no_structure_is_not_parsed_and_the_others_are(tmp_path, tiny, capsys):
    (tmp_path / "BAD.pdb").write_text("nothing\n")
    shutil.copy(tiny, tmp_path)
    out = tmp_path / "parsed.jsonl"
    call = ["protein-mpnn", "prepare", "parse-multiple-chains", f"--input_path={tmp_path}"]
    assert main([*call, f"--output_path={out}"]) == 1
    assert [entry["name"] for entry in lines(out)] == ["TINY"]
    assert "BAD.pdb: not a structure" in capsys.readouterr()[1]


def test_a_name_that_comes_again_is_said(tmp_path, dimer, capsys):
    parsed = written(tmp_path, "parsed.jsonl", *lines(dimer), *lines(dimer)[:1])
    run(tmp_path, "--jsonl_path", parsed)
    assert "DIMER comes again" in capsys.readouterr()[1]


def test_the_score_of_nothing_is_no_number(tmp_path, tiny):
    fixed = written(tmp_path, "fixed.jsonl", {"TINY": {"A": list(range(1, A + 1)), "B": []}})
    flags = ["--pdb_path", tiny, "--pdb_path_chains=A", "--fixed_positions_jsonl", fixed]
    run(tmp_path, *flags, "--score_only=1")
    found = arrays(tmp_path / "score_only" / "TINY_pdb.npz")
    assert np.isnan(found["score"]).all()
    assert np.isfinite(found["global_score"]).all()


def test_longer_structures_are_left_out(tmp_path, dimer, capsys):
    run(tmp_path, "--jsonl_path", dimer, "--max_length", 39)
    assert not list((tmp_path / "seqs").iterdir())
    assert "40 positions, more than --max_length 39" in capsys.readouterr()[1]


def test_x_is_drawn_by_the_original_alone(tmp_path, tiny, capsys):
    favoured = written(tmp_path, "bias.jsonl", {"X": 1000.0})
    flags = ["--pdb_path", tiny, "--omit_AAs", "C", "--bias_AA_jsonl", favoured]
    for more, drawn in ([], False), (["--legacy"], True):
        run(tmp_path, *flags, *more)
        (_, native), (_, design) = records(tmp_path / "seqs" / "TINY.fa")
        assert (design.count("X") > native.count("X")) is drawn
    assert capsys.readouterr()[1].count("X is not drawn either") == 1


def test_omitted_letters_are_not_drawn(tmp_path, tiny):
    barred = written(tmp_path, "omit.jsonl", {"TINY": {"A": [[[1, 2], "DGE"]], "B": []}})
    flags = ["--pdb_path", tiny, "--num_seq_per_target=8", "--sampling_temp=1.5"]
    run(tmp_path, *flags, "--omit_AAs", "CYS", "--omit_AA_jsonl", barred)
    for _, design in records(tmp_path / "seqs" / "TINY.fa")[1:]:
        assert not set(design[:A]) & set("CYS")  # all of A is complete
        assert not set(design[:2]) & set("DGE")


def test_files_are_named_and_printed_as_asked(tmp_path, tiny, capsys):
    flags = ["--pdb_path", tiny, "--score_only", 1, "--num_seq_per_target", 3]
    run(tmp_path, *flags)
    number = r"\d\.\d{4}"
    assert re.fullmatch(
        rf"Score for TINY from PDB, mean: {number}, std: {number}, sample size: 3,  global score, "
        rf"mean: {number}, std: {number}, sample size: 3\n",
        capsys.readouterr()[0],
    )
    run(tmp_path, *flags, "--suppress_print", 1)
    assert capsys.readouterr()[0] == ""


@pytest.mark.parametrize(("letters", "legacy", "sentence"), [
    ("A" * (A - 1), False, "has 29 letters; expected 30, of the designed chains A"),
    ("A" * (A + B + 1), True, "has 63 letters"),
    ("A" * (A - 1) + "-", False, "has '-'"),
])  # fmt: skip
def test_a_sequence_that_does_not_fit_is_refused(tmp_path, tiny, capsys, letters, legacy, sentence):
    fasta = tmp_path / "one.fa"
    fasta.write_text(f">one\n{letters}\n")
    flags = ["--pdb_path", tiny, "--pdb_path_chains", "A", "--score_only=1"]
    more = ["--legacy"] if legacy else []
    run(tmp_path, *flags, "--path_to_fasta", fasta, *more, fails=1)
    assert sentence in capsys.readouterr()[1]
    assert not list((tmp_path / "score_only").iterdir())


def test_weights_are_those_of_the_flags(tmp_path, tiny):
    folder = Path(published.__file__).parent
    named = run(tmp_path / "named", "--pdb_path", tiny, "--seed=1", "--use_soluble_model")
    of_path = run(
        tmp_path / "path", "--pdb_path", tiny, "--seed=1",
        "--path_to_model_weights", folder / "soluble_model_weights",
    )  # fmt: skip
    other = run(tmp_path / "other", "--pdb_path", tiny, "--seed=1", "--model_name", "v_48_002")
    default = run(tmp_path / "default", "--pdb_path", tiny, "--seed=1")
    texts = [
        (out / "seqs" / "TINY.fa").read_text().replace("v_48_002", "v_48_020")
        for out in (named, of_path, other, default)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_noise_moves_every_backbone_by_its_seed(tmp_path, tiny):
    of = ["--pdb_path", tiny, "--num_seq_per_target=3", "--save_probs=1", "--sampling_temp=0.1 0.2"]
    quiet = run(tmp_path / "quiet", *of, "--seed=1")
    noisy = run(tmp_path / "noisy", *of, "--seed=1", "--backbone_noise", 0.3)
    again = run(tmp_path / "again", *of, "--seed=1", "--backbone_noise", 0.3)
    other = run(tmp_path / "other", *of, "--seed=2", "--backbone_noise", 0.3)
    texts = [(out / "seqs" / "TINY.fa").read_text() for out in (quiet, noisy, again, other)]
    assert texts[1] == texts[2]
    assert len(set(texts)) == 3
    assert [len(text.splitlines()) for text in texts] == [14] * 4
    assert arrays(noisy / "probs" / "TINY.npz")["probs"].shape == (6, A + B, 21)
    run(tmp_path, "--pdb_path", tiny, "--unconditional_probs_only=1", "--backbone_noise=0.3",
        "--num_seq_per_target=2")  # fmt: skip
    log_p = arrays(tmp_path / "unconditional_probs_only" / "TINY.npz")["log_p"]
    assert np.abs(log_p[0] - log_p[1]).max() > 0.01


def test_noise_is_on_what_is_scored(tmp_path, tiny):
    flags = ["--pdb_path", tiny, "--score_only=1", "--num_seq_per_target=4", "--seed=1"]
    found = []
    for n, noise in enumerate((0, 1e-6, 0.5)):
        out = run(tmp_path / str(n), *flags, "--backbone_noise", noise)
        found.append(arrays(out / "score_only" / "TINY_pdb.npz")["score"])
    assert [of.shape for of in found] == [(4,)] * 3
    assert abs(found[1].mean() - found[0].mean()) < 0.2
    assert found[2].mean() - found[0].mean() > 0.3


# Conditional probabilities.


@pytest.fixture(scope="module")
def structure(tiny) -> mpnn.Structure:
    return read(tiny).structure()


def test_a_conditional_probability_knows_all_other_residues(model, structure):
    """The residue itself makes no difference; any neighbour's does."""
    i = 5
    (found,) = model.conditional_log_probs(structure, seed=3)
    other = "A" if structure.sequence[i] != "A" else "G"
    letters = structure.sequence
    changed = replace(structure, sequence=letters[:i] + other + letters[i + 1 :])
    again = model.conditional_log_probs(changed, seed=3)[0, i]
    np.testing.assert_allclose(again, found[i], atol=1e-5)
    for j in (i - 1, i + 1):
        changed = replace(structure, sequence=letters[:j] + "W" + letters[j + 1 :])
        moved = model.conditional_log_probs(changed, seed=3)[0, i]
        assert np.abs(moved - found[i]).max() > 1e-3


def test_conditional_probabilities_are_of_what_is_designed(tmp_path, tiny, model):
    for backbone in (0, 1):
        out = run(tmp_path / str(backbone), "--pdb_path", tiny, "--pdb_path_chains", "A",
                  "--conditional_probs_only=1", f"--conditional_probs_only_backbone={backbone}",
                  "--seed=3")  # fmt: skip
        (path,) = (out / "conditional_probs_only").glob("*.npz")
        arrays = np.load(path)
        designed = arrays["design_mask"] > 0
        assert 0 < designed.sum() < len(designed)
        assert not arrays["log_p"][:, ~designed].any()
        assert (arrays["log_p"][:, designed] < 0).all()


def test_a_conditional_probability_is_that_of_the_last_of_an_order(model, structure):
    order = np.random.default_rng([3, 2]).permutation(len(structure))
    found = model.conditional_log_probs(structure, None, order)[0, 7]
    last = np.append(order[order != 7], 7)
    np.testing.assert_allclose(found, model.log_probs(structure, None, last)[0, 7], atol=1e-5)


def test_a_fasta_file_that_is_not_there_is_a_sentence(tmp_path, tiny, capsys):
    run(tmp_path, "--pdb_path", tiny, "--score_only=1", "--path_to_fasta=none.fa", fails=2)
    assert "none.fa" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY"], ids=repr)
def test_a_damaged_matrix_is_a_sentence(content, tmp_path, tiny, capsys):
    prepare("parse-multiple-chains", tmp_path / "parsed.jsonl", f"--input_path={tiny.parent}")
    (tmp_path / "TINY.npz").write_bytes(content)
    flags = [f"--PSSM_input_path={tmp_path}", f"--jsonl_input_path={tmp_path / 'parsed.jsonl'}"]
    out = tmp_path / "pssm.jsonl"
    assert main(["protein-mpnn", "prepare", "pssm", *flags, f"--output_path={out}"]) == 2
    assert "TINY.npz: " in capsys.readouterr().err and not out.exists()
