"""The command line: what it writes, what it says, and what it returns."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from proteins import path_of, protein

import mpnn_core as mpnn
from mpnn_core.backends.native import NativeBackend
from mpnn_core.commands import design as design_command
from mpnn_core.commands import designing
from mpnn_core.commands.main import main
from mpnn_core.design import memory
from mpnn_core.design.arguments import DESIGNED_BYTES
from mpnn_core.design.isolation import PLAIN
from mpnn_core.gate.ledger import Entry, Ledger
from mpnn_core.gate.verdicts import GateResult, Verdict
from mpnn_core.network.graph import Backbones
from mpnn_core.sampling.orders import COLOURED

SMALL = path_of("6MRR")  # 68 residues
THREE_CHAINS = path_of("6EHB")


def records(path: Path) -> list[tuple[str, str]]:
    """(header, sequence) of each record, two lines each."""
    lines = path.read_text("utf-8").splitlines()
    assert all(line.startswith(">") for line in lines[::2])
    return list(zip(lines[::2], lines[1::2], strict=True))


def design(out: Path, *arguments: object) -> int:
    return main(["design", *map(str, arguments), "--out", str(out)])


def test_a_design_has_the_originals_header_fields(tmp_path, capsys, model) -> None:
    assert design(tmp_path, SMALL, "-n", 3, "-T", 0.2, "--seed", 37) == 0
    found = records(tmp_path / "seqs" / "6MRR.fa")
    expected = model.design(protein("6MRR"), 3, 0.2, seed=37)
    number = r"\d+\.\d{4}"
    assert re.fullmatch(
        rf">6MRR, score={number}, global_score={number}, fixed_chains=\[\], "
        rf"designed_chains=\['A'\], model_name=v_48_020, mpnn_core={mpnn.__version__}, seed=37",
        found[0][0],
    )
    assert found[0][1] == protein("6MRR").sequence
    assert [sequence for _, sequence in found[1:]] == expected.sequences
    for i, (header, _) in enumerate(found[1:]):
        assert header == (
            f">T=0.2, sample={i + 1}, score={expected.scores[i]:.4f}, global_score="
            f"{expected.global_scores[i]:.4f}, seq_recovery={expected.recovery[i]:.4f}"
        )
    assert capsys.readouterr() == ("", ""), "quiet where nobody watches"


def test_chains_and_constraints_reach_the_design(tmp_path) -> None:
    structure = protein("6EHB")
    first, others = structure.chains[0], list(structure.chains[1:])
    numbers = structure.residue_numbers[structure.chain_ids == first]
    arguments = ["--chains", first, "--fixed", f"{first}{numbers[0]}-{numbers[9]}"]
    constraints = ["--omit", "cw", "--bias", "A=-9,G=-9", "--omit-at", f"{first}{numbers[20]}=DEKR"]
    assert design(tmp_path, THREE_CHAINS, "--seed", 0, *arguments, *constraints) == 0
    (header, native), (_, designed) = records(tmp_path / "seqs" / "6EHB.fa")
    assert f"fixed_chains={others}, designed_chains=['{first}']" in header
    assert header.endswith("seed=0")
    assert len(native) == len(designed) == len(numbers) and designed[:10] == native[:10]
    assert designed[10:] != native[10:]
    assert not set("CWX") & set(designed[10:])
    assert (designed[10:].count("A"), designed[10:].count("G")) == (0, 0)
    assert designed[20] not in "DEKR"


def test_chains_are_joined_by_a_slash(tmp_path) -> None:
    structure = protein("6EHB")
    assert design(tmp_path, THREE_CHAINS, "--seed", 1) == 0
    for _, sequence in records(tmp_path / "seqs" / "6EHB.fa"):
        lengths = [(structure.chain_ids == chain).sum() for chain in structure.chains]
        assert list(map(len, sequence.split("/"))) == lengths


def test_tied_chains_and_two_temperatures(tmp_path) -> None:
    arguments = ["--tied-chains", "A,B,C", "-T", "0.1", "-T", "0.5", "--seed", "1"]
    assert design(tmp_path, THREE_CHAINS, *arguments) == 0
    _, *found = records(tmp_path / "seqs" / "6EHB.fa")
    assert [header.split(",")[0] for header, _ in found] == [">T=0.1", ">T=0.5"]
    structure = protein("6EHB")
    numbers = structure.residue_numbers
    for _, sequence in found:
        letters: dict[str, set[str]] = {}
        for number, letter in zip(numbers, sequence.replace("/", ""), strict=True):
            letters.setdefault(number, set()).add(letter)
        assert all(len(given) == 1 for given in letters.values())
    assert found[0][1] != found[1][1]


def test_the_same_seed_is_the_same_file_and_none_is_another(tmp_path) -> None:
    text = []
    for run, seed in enumerate((["--seed", 5], ["--seed", 5], [], [])):
        assert design(tmp_path / str(run), SMALL, *seed) == 0
        text.append((tmp_path / str(run) / "seqs" / "6MRR.fa").read_text())
    assert text[0] == text[1] and len(set(text)) == 3


def test_probabilities_on_demand(tmp_path, model) -> None:
    assert design(tmp_path, SMALL, "-n", 2, "--seed", 3, "--save-probs") == 0
    expected = model.design(protein("6MRR"), 2, 0.1, seed=3)
    with np.load(tmp_path / "probs" / "6MRR.npz") as found:
        assert np.array_equal(found["probs"], expected.probabilities)
        assert np.array_equal(found["log_probs"], expected.log_probs)
        assert np.array_equal(found["decoding_order"], expected.decoding_order)
        letters = ["".join(found["alphabet"][row]) for row in found["S"]]
        assert letters == expected.sequences
        assert found["mask"].all() and found["designed"].all()
    assert not list(tmp_path.rglob("*.part"))


def test_one_bad_file_does_not_stop_the_others(tmp_path, capsys) -> None:
    bad, cut = tmp_path / "bad.pdb", tmp_path / "cut.pdb"
    bad.write_text("not a structure\n")
    cut.write_text("\n".join(SMALL.read_text().splitlines()[:3])[:-30])
    absent = tmp_path / "absent.pdb"
    out = tmp_path / "out"
    assert design(out, bad, SMALL, absent, path_of("5L33"), cut, "--chains", "A") == 1
    assert sorted(p.name for p in (out / "seqs").iterdir()) == ["5L33.fa", "6MRR.fa"]
    said = capsys.readouterr().err
    for path in (bad, absent, cut):
        assert str(path) in said
    assert said.splitlines()[-1] == "mpnn-core: 3 of 5 files failed"


KINDS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, IndexError, KeyError, MemoryError,
    NotImplementedError, OSError, OverflowError, RecursionError, RuntimeError, StopIteration,
    SystemError, TypeError, UnicodeError, ValueError, ZeroDivisionError,
)  # fmt: skip


def files_of(folder: Path, faults: dict[str, BaseException]) -> list[Path]:
    """Two structures, and between them a copy of a third for every fault, called after it."""
    copies = [folder / f"{name}.pdb" for name in faults]
    for copy in copies:
        shutil.copy(SMALL, copy)
    return [path_of("5L33"), *copies, path_of("1A8O")]


def put_in(monkeypatch, stage: str, faults: dict[str, BaseException]) -> None:
    """Raise the fault that a structure is called after when it is read, encoded or written."""

    def faulty(names: list[str]) -> None:
        for name in names:
            if name in faults:
                raise faults[name]

    if stage == "reading":
        read = mpnn.read_structure
        monkeypatch.setattr(
            mpnn, "read_structure", lambda path: (faulty([Path(path).stem]), read(path))[1]
        )
    elif stage == "computing":
        build = Backbones.from_structures

        def building(structures, *arguments):
            faulty([s.name for s in structures])
            return build(structures, *arguments)

        monkeypatch.setattr(Backbones, "from_structures", building)
    else:
        write = designing.write_designs

        def writing(options, designs, native):
            faulty([designs[0].structure.name])
            write(options, designs, native)

        monkeypatch.setattr(designing, "write_designs", writing)


def faults(said: str) -> list[str]:
    """What was said, but for what is left out of a structure or changed in it."""
    return [line for line in said.splitlines() if "mpnn-core: warning: " not in line]


def is_told(kind: type[Exception], path: Path, lines: list[str]) -> None:
    """One line for the structure, which names it and the fault."""
    [told] = [line for line in lines if f"{path}: " in line]
    assert told.startswith(f"mpnn-core: {path}: "), told
    # Python makes a RuntimeError of it, which says "generator raised StopIteration".
    assert "a fault" in told or kind is StopIteration, told
    assert kind.__name__ in told or issubclass(kind, PLAIN), told


FAULTS = {kind.__name__: kind("a fault\nof one structure") for kind in KINDS}


@pytest.mark.parametrize("stage", ["reading", "computing", "writing"])
def test_any_fault_of_a_structure_is_its_own_in_designing(
    stage, tmp_path, capsys, monkeypatch
) -> None:
    first, *faulty, last = files_of(tmp_path, FAULTS)
    assert design(tmp_path / "whole", first, last, "--seed", 1) == 0
    put_in(monkeypatch, stage, FAULTS)
    assert design(tmp_path / "out", first, *faulty, last, "--seed", 1) == 1
    *told, count = faults(capsys.readouterr().err)
    assert len(told) == len(KINDS)
    for path, kind in zip(faulty, KINDS, strict=True):
        is_told(kind, path, told)
    assert count == f"mpnn-core: {len(KINDS)} of {len(KINDS) + 2} files failed"
    found = sorted((tmp_path / "out" / "seqs").iterdir())
    assert [path.name for path in found] == ["1A8O.fa", "5L33.fa"]
    for path in found:
        assert path.read_text() == (tmp_path / "whole" / "seqs" / path.name).read_text()


@pytest.mark.parametrize("stage", ["reading", "computing"])
def test_any_fault_of_a_structure_is_its_own_in_scoring(
    stage, tmp_path, capsys, monkeypatch
) -> None:
    first, *faulty, last = files_of(tmp_path, FAULTS)
    put_in(monkeypatch, stage, FAULTS)
    assert main(["score", *map(str, [first, *faulty, last])]) == 1
    said = capsys.readouterr()
    *told, _ = faults(said.err)
    assert len(told) == len(KINDS)
    for path, kind in zip(faulty, KINDS, strict=True):
        is_told(kind, path, told)
    assert [row["structure"] for row in table(said.out)] == ["5L33", "1A8O"]


THREE = [path_of("5L33"), SMALL, path_of("1A8O")]


@pytest.mark.parametrize("stage", ["reading", "computing", "writing"])
def test_an_interruption_is_no_fault_of_a_structure(stage, tmp_path, capsys, monkeypatch) -> None:
    put_in(monkeypatch, stage, {"6MRR": KeyboardInterrupt()})
    assert design(tmp_path, *THREE) == 130
    assert len(faults(capsys.readouterr().err)) == 1


def test_a_structure_that_memory_does_not_hold_is_refused_alone(
    tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: 150 * DESIGNED_BYTES)
    large = path_of("3HTN")
    assert design(tmp_path, SMALL, large, path_of("5L33")) == 1
    assert sorted(p.stem for p in (tmp_path / "seqs").iterdir()) == ["5L33", "6MRR"]
    told, _ = faults(capsys.readouterr().err)
    assert told.startswith(f"mpnn-core: {large}: 1 sequences of 425 residues are")


def test_a_structure_is_encoded_once(tmp_path, monkeypatch) -> None:
    """For its designs at every temperature, and for the score of its own sequence."""
    encoded = []
    encode = NativeBackend.encode

    def counting(self, backbones, *arguments):
        encoded.append(len(backbones.offsets) - 1)
        return encode(self, backbones, *arguments)

    monkeypatch.setattr(NativeBackend, "encode", counting)
    assert design(tmp_path, *THREE, "-n", 2, "-T", 0.1, "-T", 0.5) == 0
    assert sum(encoded) == 3, f"{sum(encoded)} encodings of 3 structures"


def test_what_is_done_is_complete_when_the_command_is_killed(tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(40):
        shutil.copy(path_of("5L33"), folder / f"copy-{i:02}.pdb")
    command = [Path(sys.executable).with_name("mpnn-core"), "design", folder, "-n", "64"]
    with subprocess.Popen([*command, "--seed", "1", "--out", tmp_path / "out"]) as running:
        while len(list(tmp_path.glob("out/seqs/*.fa"))) < 3 and running.poll() is None:
            time.sleep(0.01)
        assert running.poll() is None, "it was done before it was killed"
        running.kill()
    done = sorted(tmp_path.glob("out/seqs/*.fa"))
    assert [path.stem for path in done] == [f"copy-{i:02}" for i in range(len(done))]
    assert 3 <= len(done) < 40
    for path in done:
        assert len(records(path)) == 65, f"{path.name} is not complete"


def test_common_random_numbers_are_an_option(tmp_path, capsys, model) -> None:
    structures = [protein("5L33"), protein("6MRR")]
    assert design(tmp_path, *THREE[:2], "--seed", 1, "--common-random-numbers") == 0
    for expected in model.design(structures, seed=1, common_random_numbers=True):
        [_, (_, found)] = records(tmp_path / "seqs" / f"{expected.structure.name}.fa")
        assert [found] == expected.sequences
    arguments = ["--num-orders", "2", "--common-random-numbers"]
    assert main(["score", str(SMALL), *arguments]) == 0
    [row] = table(capsys.readouterr().out)
    expected = model.score(structures[1], num_orders=2, common_random_numbers=True).score.mean()
    assert float(row["score"]) == pytest.approx(expected, abs=1e-4)


def test_a_chain_that_is_in_one_file_only(tmp_path, capsys) -> None:
    assert design(tmp_path, SMALL, THREE_CHAINS, "--chains", "B") == 1
    assert [p.name for p in (tmp_path / "seqs").iterdir()] == ["6EHB.fa"]
    assert f"{SMALL}: 6MRR has no chain 'B'; it has A" in capsys.readouterr().err


def test_many_files_are_as_each_alone(tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("6MRR", "5L33"):
        shutil.copy(path_of(name), folder)
    (folder / "notes.txt").write_text("no structure")
    assert design(tmp_path / "all", folder, "-n", 2, "--seed", 9) == 0
    for name in ("6MRR", "5L33"):
        assert design(tmp_path / name, path_of(name), "-n", 2, "--seed", 9) == 0
        alone = tmp_path / name / "seqs" / f"{name}.fa"
        assert (tmp_path / "all" / "seqs" / f"{name}.fa").read_text() == alone.read_text()


def test_two_files_for_one_output_are_refused(tmp_path, capsys) -> None:
    other = tmp_path / "6MRR.pdb"
    shutil.copy(SMALL, other)
    assert design(tmp_path / "out", SMALL, other) == 2
    assert "would be written to the same output" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "random"], "random weights design nothing"),
        (["--weights", "v_48_999"], "neither a published checkpoint nor a file"),
        (["--variant", "minimal", "--weights", "v_48_010"], "no trained weights"),
        (["--device", "abacus"], "device 'abacus' cannot be used here"),
        (["--backend", "abacus"], "no backend is called 'abacus'"),
        (["--bias", "A"], "--bias 'A': expected --bias NAME=VALUE"),
        (["--bias", "A=x"], "--bias: 'x' is no bias; expected a number"),
    ],
)
def test_a_wrong_call_writes_nothing(tmp_path, capsys, arguments, message) -> None:
    assert design(tmp_path / "out", SMALL, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [["-n", "0"], ["-n", "x"], ["-T", "-1"], ["-T", "nan"], ["--seed", "-1"], ["--variant", "big"]],
)
def test_a_number_out_of_range_is_refused(tmp_path, capsys, arguments) -> None:
    with pytest.raises(SystemExit) as stopped:
        design(tmp_path, SMALL, *arguments)
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_an_empty_folder_is_refused(tmp_path, capsys) -> None:
    assert design(tmp_path / "out", tmp_path) == 2
    assert "holds no structure" in capsys.readouterr().err


def test_a_dash_prints_what_would_be_written(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.pdb"
    bad.write_text("not a structure\n")
    arguments = [SMALL, bad, path_of("5L33"), "-n", 2, "-T", 0.1, "-T", 0.5, "--seed", 4]
    assert design(tmp_path / "out", *arguments) == 1
    capsys.readouterr()
    assert design("-", *arguments) == 1
    printed = capsys.readouterr()
    files = [tmp_path / "out" / "seqs" / f"{name}.fa" for name in ("6MRR", "5L33")]
    assert printed.out == "".join(file.read_text() for file in files)
    assert printed.err.splitlines()[-1] == "mpnn-core: 1 of 3 files failed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pdb", "out"]


def test_probabilities_are_not_printed(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert design("-", SMALL, "--save-probs") == 2
    said = capsys.readouterr()
    assert said.err == ("mpnn-core: --save-probs writes files; give --out a folder instead of -\n")
    assert said.out == "" and not list(tmp_path.iterdir())


def test_the_orders_are_those_of_the_model(tmp_path, model) -> None:
    assert design_command.ORDERS == ("random", COLOURED)
    assert design(tmp_path, SMALL, "--orders", COLOURED, "--seed", 3) == 0
    expected = model.design(protein("6MRR"), seed=3, decoding_order=COLOURED).sequences
    assert records(tmp_path / "seqs" / "6MRR.fa")[1][1] == expected[0]


def test_the_example_can_be_designed(tmp_path, capsys) -> None:
    assert main(["example"]) == 0
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert path.is_relative_to(Path(mpnn.__file__).parent), "it ships with the package"
    assert design(tmp_path, path, "--seed", 1) == 0
    assert [p.name for p in (tmp_path / "seqs").iterdir()] == ["5L33.fa"]


def test_a_lossy_variant_says_what_it_loses(tmp_path, capsys) -> None:
    assert design(tmp_path, SMALL, "--variant", "fast") == 0
    loss = mpnn.VARIANTS["fast"].loss
    assert "points of teacher-forced recovery" in loss
    assert f"variant fast is not exact: it loses {loss}" in capsys.readouterr().err


def table(text: str) -> list[dict[str, str]]:
    header, *rows = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_scores_of_native_sequences(capsys, model) -> None:
    assert main(["score", str(SMALL), str(path_of("5L33")), "--num-orders", "4"]) == 0
    found = table(capsys.readouterr().out)
    assert [(row["structure"], row["sequence"]) for row in found] == [
        ("6MRR", "native"), ("5L33", "native"),
    ]  # fmt: skip
    for row in found:
        expected = model.score(protein(row["structure"]), num_orders=4)
        assert float(row["score"]) == pytest.approx(expected.score.mean(), abs=1e-4)
        assert float(row["global_score"]) == pytest.approx(expected.global_score.mean(), abs=1e-4)


def test_designs_are_scored_from_their_own_file(tmp_path, capsys, model) -> None:
    first = protein("6EHB").chains[0]
    assert design(tmp_path, THREE_CHAINS, "--chains", first, "-n", 2, "--seed", 1) == 0
    path = tmp_path / "seqs" / "6EHB.fa"
    arguments = ["--fasta", str(path), "--chains", first, "--num-orders", "2"]
    assert main(["score", str(THREE_CHAINS), *arguments]) == 0
    native, *designs = table(capsys.readouterr().out)
    assert native["sequence"].startswith("6EHB, score=") and len(designs) == 2
    assert all(float(row["score"]) < float(native["score"]) for row in designs)
    only = mpnn.Constraints(chains=first)
    expected = model.score(protein("6EHB"), None, only, num_orders=2).score.mean()
    assert float(native["score"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no sequence"),
        (">a\nACD\n", "record 'a' has chains of 3 residues; 6MRR needs A 68"),
        (">a\nACD/ACD\n", "record 'a' has chains of 3, 3 residues"),
        (">a\n" + "A" * 67 + "!\n", "6MRR: a sequence holds '!'"),
    ],
)
def test_a_sequence_that_does_not_fit_is_named(tmp_path, capsys, text, message) -> None:
    path = tmp_path / "given.fa"
    path.write_text(text)
    assert main(["score", str(SMALL), "--fasta", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_sequences_are_for_one_structure(tmp_path, capsys) -> None:
    arguments = [str(SMALL), str(THREE_CHAINS), "--fasta", str(tmp_path / "x.fa")]
    assert main(["score", *arguments]) == 2
    assert "--fasta scores sequences on one structure" in capsys.readouterr().err


@pytest.mark.parametrize(("gate", "code"), [(GateResult.PASSED, 0), (GateResult.FAILED, 1)])
def test_the_ledger_is_printed_again(tmp_path, capsys, gate, code) -> None:
    entry = Entry(
        "S9", "speed", "2 x", "a loop", "cpu", Verdict.CONFIRMED, gate, ">= 1.5", "x", 2, 1.9, 2.1
    )
    path = tmp_path / "ledger.json"
    Ledger([entry], {"torch": "2"}, "today").save(path)
    assert main(["claims", "--all", "--ledger", str(path)]) == code
    printed = capsys.readouterr().out
    assert "Claims ledger" in printed and "2 [1.9, 2.1]" in printed


def test_no_ledger_says_how_to_get_one(tmp_path, capsys) -> None:
    assert main(["claims", "--ledger", str(tmp_path / "none.json")]) == 2
    assert "there is no ledger at" in capsys.readouterr().err


def test_the_installed_command(tmp_path) -> None:
    """As a script calls it, with no terminal: standard output is the table alone."""
    command = Path(sys.executable).with_name("mpnn-core")
    found = subprocess.run(
        [command, "score", SMALL], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert table(found.stdout)[0]["structure"] == "6MRR"
    found = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == f"mpnn-core {mpnn.__version__}"


def test_a_bar_on_the_terminal_leaves_standard_output_alone(tmp_path) -> None:
    """`mpnn-core score ... > table.tsv` in a terminal: that shows the bar, and not the table."""
    command = Path(sys.executable).with_name("mpnn-core")
    terminal, side = pty.openpty()
    with open(side, "wb", buffering=0) as stderr:
        found = subprocess.run(
            [command, "score", SMALL], stdout=subprocess.PIPE, stderr=stderr, text=True, check=False
        )
        shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert found.returncode == 0
    assert [row["structure"] for row in table(found.stdout)] == ["6MRR"]
    assert "structures" in shown and "6MRR" not in shown


def test_a_reader_that_has_gone_ends_the_command() -> None:
    command = Path(sys.executable).with_name("mpnn-core")
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    for arguments in (["score", SMALL], ["design", SMALL, "--out", "-"]):
        found = subprocess.run(
            [command, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
            env=buffered,
        )  # fmt: skip
        assert (found.returncode, found.stderr) == (141, "")
    os.close(writer)
