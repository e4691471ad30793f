"""Corpora: folders and npz files of chains, and every file that is not what it should be."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from proteins import TS50, path_of, protein

from mpnn_core import StructureError
from mpnn_core.constants import ALPHABET
from mpnn_core.training.corpus import Corpus, CorpusError, corpus_of, read_corpus

OWN_ALPHABET = ALPHABET[::-1]


def fields(names=("1A8O", "4ZHL"), **changed) -> dict[str, np.ndarray]:
    """The fields of an npz of the first chains of some structures, in an alphabet of its own."""
    chains = []
    for name in names:
        s = protein(name)
        chains.append((s, s.chain_ids == s.chains[0]))
    numbers = [
        int("".join(filter(str.isdigit, n))) for s, rows in chains for n in s.residue_numbers[rows]
    ]
    letters = [np.array(list(s.sequence))[rows] for s, rows in chains]
    return {
        "coords": np.concatenate([s.coords[rows] for s, rows in chains]),
        "aa": np.array([OWN_ALPHABET.index(a) for part in letters for a in part], dtype=np.int8),
        "resnum": np.array(numbers, dtype=np.int32),
        "offsets": np.cumsum([0] + [rows.sum() for _, rows in chains]),
        "ids": np.array([f"{name}_first" for name in names]),
        "alphabet": np.array(OWN_ALPHABET),
        "pdb": np.array([name.lower() for name in names]),
        "cluster30": np.array([7, 9], dtype=np.int32),
        "post_cutoff": np.array([True, False]),
    } | changed


@pytest.fixture
def write(tmp_path):
    def written(**content) -> Path:
        path = tmp_path / "chains.npz"
        np.savez_compressed(path, **content)
        return path

    return written


def test_the_chains_of_an_npz_are_those_of_their_files(write):
    corpus = read_corpus(write(**fields()))
    assert (corpus.name, len(corpus), corpus.pdb) == ("chains", 2, ("1a8o", "4zhl"))
    assert corpus.cluster.tolist() == [7, 9]
    assert corpus.post_cutoff.tolist() == [True, False]
    for found, name in zip(corpus.structures, ("1A8O", "4ZHL"), strict=True):
        s = protein(name)
        rows = s.chain_ids == s.chains[0]  # 4ZHL has insertion codes: numbers that come twice
        assert found.name == f"{name}_first"
        assert found.sequence == "".join(np.array(list(s.sequence))[rows])
        np.testing.assert_array_equal(found.coords, s.coords[rows])
        expected = s.residue_index[rows]
        np.testing.assert_array_equal(found.residue_index, expected - expected[0])


def test_a_missing_number_counts_and_one_that_falls_is_the_next(write):
    given = fields(("1A8O", "1A8O"))
    given["resnum"][:5] = [10, 13, 13, 2, 3]
    index = read_corpus(write(**given)).structures[0].residue_index
    assert index[:5].tolist() == [0, 3, 4, 5, 6]


def test_what_is_not_known_has_a_default(write):
    given = fields()
    for key in ("pdb", "cluster30", "post_cutoff"):
        del given[key]
    corpus = read_corpus(write(**given))
    assert corpus.pdb == ("", "")
    assert corpus.cluster.tolist() == [0, 1]
    assert not corpus.post_cutoff.any()


def test_a_folder_is_read_by_name_gzipped_or_not(tmp_path):
    for name in ("2OFG", "1A8O"):
        (tmp_path / f"{name}.cif.gz").write_bytes(gzip.compress(path_of(name).read_bytes()))
    (tmp_path / "5L33.pdb").write_bytes(path_of("5L33").read_bytes())
    (tmp_path / "notes.txt").write_text("not a structure")
    corpus = read_corpus(tmp_path)
    assert [s.name for s in corpus.structures] == ["1A8O", "2OFG", "5L33"]
    assert corpus.residues == sum(int(protein(n).mask.sum()) for n in ("1A8O", "2OFG", "5L33"))
    assert repr(corpus) == f"<Corpus {tmp_path.name}, 3 structures, {corpus.residues} residues>"


def test_a_corpus_is_known_by_its_content(write):
    names = ("1A8O", "6MRR")
    path = write(**fields(names, ids=np.array(names)))
    one, other = read_corpus(path), corpus_of("other", [protein(name) for name in names])
    assert one.sha256 == other.sha256
    assert one.sha256 != one.subset([1, 0]).sha256


def test_a_subset_keeps_what_is_known_of_its_chains(write):
    corpus = read_corpus(write(**fields()))
    assert corpus.subset(corpus.post_cutoff, "post").structures == corpus.structures[:1]
    picked = corpus.subset([1])
    assert (picked.name, picked.pdb, picked.cluster.tolist()) == ("chains", ("4zhl",), [9])
    assert picked.post_cutoff.tolist() == [False]
    assert corpus.subset(corpus.post_cutoff, "post").name == "post"


def test_ts50_has_fifty_chains():
    corpus = read_corpus(path_of(TS50[0]).parent)
    assert len(corpus) == 50
    assert {len(s.chains) for s in corpus.structures} == {1}


# ------------------------------------------------------------------------------------ what is not


@pytest.mark.parametrize("missing", ["coords", "aa", "resnum", "offsets", "ids", "alphabet"])
def test_a_field_that_is_missing_is_named(write, missing):
    given = fields()
    del given[missing]
    with pytest.raises(CorpusError, match=rf"chains\.npz is not an npz.*: {missing} missing"):
        read_corpus(write(**given))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"coords": np.zeros((5, 3))}, r"coords has shape \(5, 3\).*expected \(\d+, 4, 3\)"),
        ({"coords": np.zeros((9, 4, 3), np.int64)}, "dtype int64; expected"),
        ({"resnum": np.arange(3)}, r"resnum has shape \(3,\)"),
        ({"cluster30": np.arange(3)}, r"cluster30 has shape \(3,\).*expected \(2,\)"),
        ({"ids": np.array([["a", "b"]])}, "ids has shape"),
        ({"ids": np.array(["a", "b\n>c"])}, "ids holds signs that cannot be printed"),
        ({"pdb": np.array([2**31, 2**31], "<u4").view("<U1")}, "pdb holds signs that cannot"),
        ({"offsets": np.array([0, 5, 6])}, r"offsets must rise from 0 to \d+"),
        ({"offsets": np.array([1, 5, 273])}, "offsets must rise"),
        ({"alphabet": np.array("ACD")}, r"aa runs from \d+ to \d+ in the alphabet 'ACD'"),
        ({"alphabet": np.array(ALPHABET[:-1] + "-")}, "in the alphabet 'ACDEFGHIKLMNPQRSTVWY-'"),
    ],
)
def test_a_field_that_is_wrong_is_named(write, changed, message):
    with pytest.raises(CorpusError, match=message):
        read_corpus(write(**fields(**changed)))


def test_no_chain_is_refused(write):
    empty = {key: value[:0] for key, value in fields().items() if key != "alphabet"}
    empty |= {"offsets": np.array([0]), "alphabet": np.array(ALPHABET)}
    with pytest.raises(CorpusError, match="each of 0 chains"):
        read_corpus(write(**empty))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"ATOM      1  N   MET A   1"])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "other.npz").write_bytes(content)
    with pytest.raises(CorpusError, match=r"other\.npz is not an npz of chains"):
        read_corpus(tmp_path / "other.npz")


def test_an_array_alone_and_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(3))
    with pytest.raises(CorpusError, match=r"one\.npy is not an npz of chains: File is not a zip"):
        read_corpus(tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", ids=np.array([{}], dtype=object))
    with pytest.raises(CorpusError, match="not an npz of chains: Object arrays cannot be loaded"):
        read_corpus(tmp_path / "objects.npz")


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_arrays_far_larger_than_their_file_are_refused_unread(write, share):
    """Whether all of it is such, or one array that nobody would read."""
    zeros = np.zeros(int(share * 2**28), np.int8)
    path = write(**fields(), other=zeros) if share < 1 else write(aa=zeros)
    assert path.stat().st_size < 2**20
    if share < 1:
        assert len(read_corpus(path)) == 2, "what fits into memory anywhere is read"
        return
    with pytest.raises(CorpusError, match=r"chains\.npz is not.*268,435,\d+ bytes once unpacked"):
        read_corpus(path)


def test_a_number_that_no_residue_has_is_refused(write):
    with pytest.raises(CorpusError, match="resnum runs from -9223372036854775808 to"):
        numbers = fields()["resnum"].astype(np.int64)
        numbers[0] = np.iinfo(np.int64).min
        read_corpus(write(**fields(resnum=numbers)))


@pytest.mark.parametrize("field", ["coords", "aa"])
def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path, field):
    path, given = tmp_path / "claims.npz", fields()
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in given.items():
            array = io.BytesIO()
            np.save(array, value)
            content = array.getvalue()
            if key == field:
                shape = str(value.shape).encode()
                larger = b"(%d, 4, 3)" % 10**13 if key == "coords" else b"(%d,)" % 10**14
                start = content.index(shape)
                content = content.replace(shape, larger, 1).replace(
                    b" " * (len(larger) - len(shape)) + b"\n", b"\n", 1
                )
                assert content[start:].startswith(larger)
            archive.writestr(f"{key}.npy", content)
    with pytest.raises(CorpusError, match=r"claims\.npz is not an npz of chains"):
        read_corpus(path)


def test_a_path_to_nothing_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"there is no .*nowhere; expected a folder"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"holds no structure; expected .pdb"):
        read_corpus(tmp_path)


def test_a_chain_that_cannot_be_used_is_named_or_left_out(write):
    given = fields()
    given["coords"][: given["offsets"][1], 1] = np.nan
    path = write(**given)
    with pytest.raises(StructureError, match=r"chains.npz: 1A8O_first: none of the \d+ residues"):
        read_corpus(path)
    said: list[str] = []
    corpus = read_corpus(path, said.append)
    assert corpus.pdb == ("4zhl",)
    assert corpus.cluster.tolist() == [9]
    assert len(said) == 1
    assert "1A8O_first" in said[0]
    given["coords"][:] = np.nan
    with pytest.raises(CorpusError, match="none of its 2 structures can be used"):
        read_corpus(write(**given), said.append)


def test_a_file_that_cannot_be_used_is_named_or_left_out(tmp_path):
    (tmp_path / "5L33.pdb").write_bytes(path_of("5L33").read_bytes())
    (tmp_path / "cut.pdb").write_text("ATOM      1  N   MET A   1      10.0")
    with pytest.raises(StructureError, match=r"cut\.pdb.*truncated"):
        read_corpus(tmp_path)
    said: list[str] = []
    corpus: Corpus = read_corpus(tmp_path, said.append)
    assert [s.name for s in corpus.structures] == ["5L33"]
    assert "cut.pdb" in said[0]
