"""What a person says on the command line: it is taken as meant, or refused with the way out.

The structures are those of fixtures/awkward, from public reports of what people ran into.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from proteins import FIXTURES

from mpnn_core import read_structure
from mpnn_core.commands.main import main, parser

AWKWARD = FIXTURES / "awkward"
NATIVE = "MQIFVKTLTGKTITLEVEPS"
LOOP = "MQIFVKTITLEVEPS"  # residues 8 to 12 are missing
OTHER = "DTIENVKAKIQDKEGIPPDQ"
HLC, CHL = f"{NATIVE}/{OTHER}/QRLIFAGKQLEDGRT", f"QRLIFAGKQLEDGRT/{NATIVE}/{OTHER}"


def file(name: str) -> str:
    folder, _, rest = name.partition("/")
    return str(AWKWARD / folder / (rest or "in.pdb"))


def designs(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> list[str]:
    """The sequences that the command prints, the native one first."""
    assert main(["design", file(name), *arguments, "--seed", "1", "--out", "-"]) == 0
    return capsys.readouterr().out.splitlines()[1::2]


def refusal(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> str:
    """What the command says when it designs nothing."""
    assert main(["design", file(name), *arguments, "--seed", "1", "--out", "-"]) in (1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def kept(native: str, designed: str) -> str:
    """Where two sequences agree: the letters, and a point elsewhere."""
    return "".join(a if a == b else "." for a, b in zip(native, designed, strict=True))


@pytest.mark.parametrize("label", ["A12", "A10-12", "A12-4"])
def test_an_ambiguous_label_is_refused_and_both_ways_out_work(capsys, label) -> None:
    name = "22-ambiguous-labels/in.cif"
    said = refusal(capsys, name, "--fixed", label)
    ways = re.search(r"may mean (A:\S+) or (A1:\S+);", said)
    assert ways, said
    native, designed = designs(capsys, name, "--omit", "K", "--fixed", "A:11,A1:2-4")
    assert designed[10] == native[10] == "K" and designed[22:25] == native[22:25]


@pytest.mark.parametrize("label, length", [("A1-7", 7), ("A1-10", 7), ("A8-13", 1), ("A0-99", 15)])
def test_a_range_over_a_missing_loop_keeps_what_there_is(capsys, label, length) -> None:
    if length == 15:
        assert "every position is fixed" in refusal(capsys, "74-missing-loop", "--fixed", label)
        return
    native, designed = designs(capsys, "74-missing-loop", "--fixed", label)
    assert native == LOOP
    start = 7 if label == "A8-13" else 0
    assert designed[start : start + length] == native[start : start + length]
    assert kept(native, designed) != native


@pytest.mark.parametrize("several", ["A1,A2,A3,B1,B2,B3", "A1 A2 A3 B1 B2 B3", "A1-3, B1-3"])
def test_labels_are_divided_by_commas_or_spaces(capsys, several) -> None:
    native, designed = designs(capsys, "81-fixed-in-two-chains", "--fixed", several)
    for a, b in zip(native.split("/"), designed.split("/"), strict=True):
        assert a[:3] == b[:3] and a != b


def test_author_numbers_are_those_of_the_file(capsys) -> None:
    native, designed = designs(capsys, "82-author-numbers", "--fixed", "A115-117")
    assert designed[:3] == native[:3] and designed != native
    assert "it has A115 to A134" in refusal(capsys, "82-author-numbers", "--fixed", "A1-3")


@pytest.mark.parametrize(
    "name, option, value",
    [
        ("86-tied-numbers-go-on", "--tied-chains", "A,B"),
        ("86-tied-numbers-go-on", "--tied", "A1-20,B21-40"),
        ("111-ranges-tied", "--tied", "A1-20,B1-20"),
        ("111-ranges-tied", "--tied-chains", "A B"),
    ],
)
def test_tied_chains_are_equal_and_no_homopolymers(capsys, name, option, value) -> None:
    _, designed = designs(capsys, name, option, value)
    first, second = designed.split("/")
    assert first == second and len(set(first)) > 3


@pytest.mark.parametrize("option", ["--bias", "--omit", "--omit-at"])
def test_letters_may_be_small(capsys, option) -> None:
    value = {"--bias": "{}=-20,{}=-20", "--omit": "{}{}", "--omit-at": "A1-20={}{}"}[option]
    small = designs(capsys, "88-bias-sign", option, value.format("e", "v"))
    assert small == designs(capsys, "88-bias-sign", option, value.format("E", "V"))
    assert not {*"EV"} & {*small[1]}


@pytest.mark.parametrize(
    "once, twice",
    [
        (["--bias", "A=-20,E=-20"], ["--bias", "A=-20", "--bias", "E=-20"]),
        (["--bias", "A=20"], ["--bias", "A=10", "--bias", "a=10"]),
        (["--bias", "A,E=-20"], ["--bias", "A=-20 E=-20"]),
        (["--omit", "EV"], ["--omit", "E", "--omit", "V"]),
        (["--omit-at", "A1-20=EV"], ["--omit-at", "A1-20=E", "--omit-at", "A1-20=V"]),
        (["--omit-at", "A1-3=EV,A5=EV"], ["--omit-at", "A1-3,A5=E,A1-3=V", "--omit-at", "A5=V"]),
        (["--fixed", "A1,A5"], ["--fixed", "A1", "--fixed", "A5"]),
        (["--redesigned", "A1,A5"], ["--redesigned", "A1", "--redesigned", "A5"]),
        (["-T", "0.1,0.2"], ["-T", "0.1", "-T", "0.2"]),
        (["-T", "0.1 0.2 0.3"], ["-T", "0.1 0.2", "-T", "0.3"]),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_an_option_that_is_given_twice_adds_up(capsys, once, twice) -> None:
    assert designs(capsys, "88-bias-sign", *once) == designs(capsys, "88-bias-sign", *twice)


@pytest.mark.parametrize(
    "once, twice",
    [
        (["--chains", "H,C"], ["--chains", "H", "--chains", "C"]),
        (["--tied", "H1,L1", "--tied", "H2,L2"], ["--tied", "H1-2,L1-2"]),
        (["--tied-chains", "H,L"], ["--tied-chains", "L", "--tied-chains", "H"]),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_an_option_for_chains_that_is_given_twice_adds_up(capsys, once, twice) -> None:
    name = "94-fasta-of-H-L-C/equal.pdb"
    assert designs(capsys, name, *once) == designs(capsys, name, *twice)


AS_THE_ORIGINALS = ("protein-mpnn", "ligand-mpnn", "ligand-mpnn-score")
"""Commands that take a repeated option as the original scripts do: the last one counts."""


def test_every_option_of_every_command_adds_up_or_is_refused_the_second_time(capsys) -> None:
    (commands,) = (a for a in parser()._actions if a.choices)
    checked = 0
    for name, command in commands.choices.items():
        if name in AS_THE_ORIGINALS:
            continue
        for action in command._actions:
            adds_up = type(action).__name__ in ("_AppendAction", "_ExtendAction")
            if not action.option_strings or action.nargs == 0 or adds_up:
                continue
            value = str(next(iter(action.choices))) if action.choices else "7"
            others = {"--budget": "7s", "--pssm-weight": "1", "--repack": "near:6"}
            value = others.get(action.option_strings[-1], value)
            given = [action.option_strings[-1], value] * 2
            with pytest.raises(SystemExit) as stopped:
                main([name, *given])
            said = capsys.readouterr().err
            assert stopped.value.code == 2
            assert "is given twice" in said and action.option_strings[-1] in said, (name, said)
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("several", ["A B", "A, B", "A,B", "B,A", "A,B,A"])
def test_chains_are_divided_by_commas_or_spaces(capsys, several) -> None:
    expected = designs(capsys, "99-chains-spelt-otherwise")
    assert designs(capsys, "99-chains-spelt-otherwise", "--chains", several) == expected


@pytest.mark.parametrize("wrong", ["AB", "a", "", "A,C", "A;B"])
def test_a_chain_that_is_not_there_is_refused_with_the_way_to_write_it(capsys, wrong) -> None:
    said = refusal(capsys, "99-chains-spelt-otherwise", "--chains", wrong)
    assert "it has A, B; several are joined by commas, as in A,B" in said


def test_an_incomplete_residue_keeps_its_letter_and_a_chain_of_them_is_told(capsys) -> None:
    name = "100-incomplete-residue-fixed-or-designed"
    native, designed = designs(capsys, name, "--omit", native_letter(name, 4))
    assert designed[4] == native[4]
    said = refusal(capsys, f"{name}/no_o.pdb", "--chains", "A")
    assert "backbone" in said and "chain A: 20; O missing" in said and "is fixed" not in said


def native_letter(name: str, position: int) -> str:
    return read_structure(file(name)).sequence[position]


@pytest.mark.parametrize("label", ["5", " 5", ":5", " :5"])
def test_a_blank_chain_can_be_named(capsys, label) -> None:
    name = "101-blank-chain-on-the-command-line"
    native, designed = designs(capsys, name, "--chains", " ", "--fixed", label, "--omit", "V")
    assert designed[4] == native[4] == "V" and "V" not in designed[:4] + designed[5:]
    assert "it has ' '" in refusal(capsys, name, "--chains", "A")
    assert "it has :1 to :20" in refusal(capsys, name, "--fixed", "A5")


def test_what_is_designed_can_be_named(capsys) -> None:
    native, designed = designs(capsys, "113-only-some-designed", "--redesigned", "A8-12")
    assert kept(native, designed)[:7] == native[:7] and kept(native, designed)[12:] == native[12:]
    assert native[7:12] != designed[7:12]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--omit", "CYS"], "write C for those, or C,Y,S for the letters one by one"),
        (["--omit", "cys,met"], "'CYS' reads as three-letter names"),
        (["--omit-at", "A1=TRP"], "--omit-at: 'TRP' reads as three-letter names"),
        (["--bias", "TRP=1"], "'TRP' is no residue; .*; write W"),
        (["--omit", "B"], "'B' is no residue; expected one letter of"),
        (["--bias", "W"], "--bias 'W': expected --bias NAME=VALUE"),
        (["--bias", "W=1,"], "--bias '': expected"),
        (["--omit-at", "A1=C,W"], "--omit-at 'W': expected --omit-at NAME=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_file(capsys, arguments, said) -> None:
    given = refusal(capsys, "88-bias-sign", *arguments)
    assert re.search(said, given), given
    assert len(given.splitlines()) == 1, "and not once for each file"


def score(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> tuple[str, str, int]:
    code = main(["score", file(name), "--num-orders", "1", *arguments])
    said = capsys.readouterr()
    return "\n".join(said.out.splitlines()[1:]), said.err, code


@pytest.fixture
def fasta(tmp_path: Path):
    def write(text: str, encoding: str = "utf-8") -> str:
        (tmp_path / "given.fa").write_text(text, encoding)
        return str(tmp_path / "given.fa")

    return write


def test_letters_never_go_to_another_chain(capsys) -> None:
    """H's letters on H, whatever the order of the record and of `--chains`; or no score at all."""
    folder = "94-fasta-of-H-L-C"
    native, _, _ = score(capsys, folder)
    antibody, _, _ = score(capsys, folder, "--chains", "H,L")
    for given, chains, expected in (
        ("hlc", (), native), ("chl", (), native),
        ("hl", ("--chains", "L,H"), antibody), ("lh", ("--chains", "L,H"), antibody),
    ):  # fmt: skip
        found, said, code = score(capsys, folder, "--fasta", file(f"{folder}/{given}.fa"), *chains)
        if code:
            assert not found and "order" in said, (given, said)
        else:
            assert found.split("\t")[2:] == expected.split("\t")[2:], given
    found, said, code = score(
        capsys, f"{folder}/equal.pdb", "--fasta", file(f"{folder}/equal_hlc.fa")
    )
    expected, _, _ = score(capsys, f"{folder}/equal.pdb")
    assert code or found.split("\t")[2:] == expected.split("\t")[2:]
    assert not code or re.search("letters of chain . where chain . is expected; the order", said)


def test_the_order_of_chains_is_that_of_the_title(capsys, fasta) -> None:
    folder = "94-fasta-of-H-L-C"
    native, _, _ = score(capsys, folder)
    for order, letters in (("'C', 'H', 'L'", CHL), ("'H', 'L', 'C'", HLC)):
        title = f">x, designed_chains=[{order}], model_name=y"
        found, said, _ = score(capsys, folder, "--fasta", fasta(f"{title}\n{letters}\n"))
        assert found.split("\t")[2:] == native.split("\t")[2:] and said == ""


def test_designs_are_not_scored_in_a_wrong_order(capsys, fasta) -> None:
    """Designs have less than half of the letters of their chain, and show where they belong."""
    name = "94-fasta-of-H-L-C/equal.pdb"
    _, *sequences = designs(capsys, name, "-T", "0.1,0.2,0.3", "-n", "2")
    for sequence in sequences:
        # Half of the letters of the native chain, as designs of whole proteins have.
        native = read_structure(file(name))
        mixed = [
            "".join(own[i] if i % 2 else letter for i, letter in enumerate(part))
            for own, part in zip(
                ("".join(native.sequence[k : k + 20]) for k in (0, 20, 40)),
                sequence.split("/"), strict=True,
            )
        ]  # fmt: skip
        right = score(capsys, name, "--fasta", fasta(f">x\n{'/'.join(mixed)}\n"))
        assert right[2] == 0 and "the letters of a record go to the chains" in right[1]
        wrong = score(capsys, name, "--fasta", fasta(f">x\n{'/'.join(mixed[::-1])}\n"))
        assert wrong[2] == 1 and "is expected; the order of chains is" in wrong[1]


def test_the_help_says_to_which_chains_letters_go(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "chains joined by '/' in the order of the structure" in said


@pytest.mark.parametrize("letters", [LOOP, f"{LOOP[:7]}XXXXX{LOOP[7:]}", "MQIFVKT-----ITLEVEPS"])
def test_letters_for_missing_numbers_may_stand_or_not(capsys, fasta, letters) -> None:
    native, _, _ = score(capsys, "74-missing-loop")
    found, said, code = score(capsys, "74-missing-loop", "--fasta", fasta(f">one\n{letters}\n"))
    assert (code, said) == (0, "")
    assert found.split("\t")[2:] == native.split("\t")[2:]


@pytest.mark.parametrize("letters", [f"{LOOP[:7]}XXAXX{LOOP[7:]}", f"XXXXX{LOOP}", f"{LOOP}X"])
def test_letters_that_belong_nowhere_are_refused(capsys, fasta, letters) -> None:
    found, said, code = score(capsys, "74-missing-loop", "--fasta", fasta(f">one\n{letters}\n"))
    assert (code, found) == (1, "")
    assert "A number that is missing from a chain has no letter here, or an X" in said


@pytest.mark.parametrize("start", ["\ufeff", "\n\n", "\ufeff\n  \n", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_first_record_is_never_lost(capsys, fasta, start, end) -> None:
    text = end.join([f"{start}>one", LOOP, ">two", LOOP, ""])
    found, _, code = score(capsys, "74-missing-loop", "--fasta", fasta(text))
    assert code == 0
    assert [row.split("\t")[1] for row in found.splitlines()] == ["one", "two"]


@pytest.mark.parametrize("text", ["MQIF\n>two\nMQIF\n", "; old\n>one\nMQIF\n", "{}\n"])
def test_a_file_that_does_not_begin_with_a_record_is_refused(capsys, fasta, text) -> None:
    found, said, code = score(capsys, "74-missing-loop", "--fasta", fasta(text))
    assert (code, found) == (1, "") and "is not a FASTA file: it begins with" in said


def test_a_colon_joins_chains_too(capsys, fasta) -> None:
    native, _, _ = score(capsys, "94-fasta-of-H-L-C")
    text = f">x\n{CHL.replace('/', ':')}\n"
    found, _, _ = score(capsys, "94-fasta-of-H-L-C", "--fasta", fasta(text))
    assert found.split("\t")[2:] == native.split("\t")[2:]


def test_a_setting_has_one_value(tmp_path, capsys) -> None:
    given = ["--set", "steps=2,noise=0", "--set", "steps=3"]
    folder = str(FIXTURES / "structures")
    assert (
        main(["distill", folder, "--student", "minimal", "--out", str(tmp_path / "out"), *given])
        == 2
    )
    assert capsys.readouterr().err == "mpnn-core: --set: steps is given twice; expected once\n"
