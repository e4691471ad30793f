"""The adapter of ColabDesign's shape: what programs that call ColabDesign get from it.

fixtures/colabdesign.npz has what ColabDesign 1.1.1 answers (fixtures/make_colabdesign_goldens.py);
with `--proof` it is asked again, in the environment of the peer.
"""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from colabdesign_cases import CASES, STRUCTURES, answers_of

from mpnn_core import ConstraintError, StructureError, colabdesign
from mpnn_core.colabdesign import THEIRS, aa_order, mk_mpnn_model
from mpnn_core.peers import environments

FIXTURES = STRUCTURES.parent
GOLDENS = FIXTURES / "colabdesign.npz"
TOLERANCE = 1e-4  # nats
EXACT = {
    "lengths", "len", "S", "mask", "residue_idx", "chain_idx", "fix_pos", "removed", "required",
    "residue", "chain",
}  # fmt: skip
COMPLEX = STRUCTURES / "4GYT.pdb"


@pytest.fixture(scope="module")
def adapter() -> mk_mpnn_model:
    return mk_mpnn_model(seed=0)


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as stored:
        return dict(stored)


def worst(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest difference of what is computed; what is read must be the same."""
    assert ours.keys() == theirs.keys()
    differences = [0.0]
    for key, expected in theirs.items():
        assert ours[key].shape == expected.shape, key
        if key in EXACT:
            np.testing.assert_array_equal(ours[key], expected, key)
        else:
            differences.append(float(np.abs(ours[key] - expected).max()))
    return max(differences)


@pytest.mark.parametrize("case", CASES)
def test_what_is_deterministic_is_colabdesigns(adapter, goldens, case):
    file, arguments = CASES[case]
    adapter.prep_inputs(pdb_filename=str(STRUCTURES / file), **arguments)
    prefix = f"{case}/"
    theirs = {k.removeprefix(prefix): v for k, v in goldens.items() if k.startswith(prefix)}
    difference = worst(answers_of(adapter), theirs)
    assert difference <= TOLERANCE, f"{difference:.1e} nats from ColabDesign"


def test_samples_have_colabdesigns_shapes_and_frequencies(adapter, goldens):
    adapter.prep_inputs(pdb_filename=str(STRUCTURES / "6MRR.pdb"))
    sampled = adapter.sample(num=2, batch=32, temperature=0.5)
    shapes = {k.removeprefix("shape/"): tuple(v) for k, v in goldens.items() if "shape/" in k}
    assert {key: value.shape for key, value in sampled.items()} == shapes
    assert ["".join(THEIRS[t] for t in row.argmax(-1)) for row in sampled["S"]] == list(
        sampled["seq"]
    )
    for key in ("score", "seqid"):
        theirs = goldens[f"sampled/{key}"]
        error = np.hypot(theirs.std(), sampled[key].std()) / np.sqrt(len(theirs))
        assert abs(theirs.mean() - sampled[key].mean()) <= 4 * error, key
    counts = [np.bincount(s.ravel(), minlength=21) for s in (
        goldens["sampled/S"], sampled["S"].argmax(-1)
    )]  # fmt: skip
    distance = np.abs(counts[0] / counts[0].sum() - counts[1] / counts[1].sum()).sum() / 2
    assert distance <= 0.05, f"frequencies of letters are {distance:.3f} apart"


@pytest.mark.proof
def test_goldens_are_what_colabdesign_says_live(tmp_path, goldens):
    python = environments.python_of("colabdesign", print)
    target = tmp_path / "again.npz"
    script = FIXTURES / "make_colabdesign_goldens.py"
    subprocess.run([python, script, target], check=True)
    with np.load(target) as again:
        assert set(again.files) == goldens.keys()
        for key in again.files:
            if not key.startswith("sampled/"):
                np.testing.assert_allclose(again[key], goldens[key], atol=1e-5, err_msg=key)


# What callers do, with the module's name alone changed.


def bindcraft(trajectory_pdb: str, binder_chain: str, interface: str, settings: dict) -> dict:
    """The calls of BindCraft's `mpnn_gen_sequence`."""
    model = mk_mpnn_model(
        backbone_noise=settings["backbone_noise"],
        model_name=settings["model_path"],
        weights=settings["mpnn_weights"],
    )
    chains = "A," + binder_chain
    fixed = "A," + interface if settings["mpnn_fix_interface"] else "A"
    model.prep_inputs(
        pdb_filename=trajectory_pdb, chain=chains, fix_pos=fixed, rm_aa=settings["omit_AAs"]
    )
    return model.sample(temperature=settings["sampling_temp"], num=1, batch=settings["num_seqs"])


@pytest.mark.parametrize("noise, interface", [(0.0, "B40,B41,B60"), (0.1, "")])
def test_bindcraft_gets_binders(noise, interface):
    settings = {
        "backbone_noise": noise, "model_path": "v_48_020", "mpnn_weights": "soluble",
        "mpnn_fix_interface": True, "omit_AAs": "C", "sampling_temp": 0.1, "num_seqs": 4,
    }  # fmt: skip
    trajectories = bindcraft(str(COMPLEX), "B", interface, settings)
    native = mk_mpnn_model()
    native.prep_inputs(pdb_filename=str(COMPLEX), chain="A,B")
    target, binder = native._divided("".join(THEIRS[t] for t in native._inputs["S"])).split("/")
    length = len(binder)
    numbers = native.pdb["idx"]["residue"][native.pdb["idx"]["chain"] == "B"].tolist()
    kept = [numbers.index(int(label[1:])) for label in interface.split(",") if label]
    found = [trajectories["seq"][n] for n in range(settings["num_seqs"])]
    assert len(set(found)) == len(found), "random numbers repeat"
    for sequence in found:
        assert sequence.startswith(target + "/")
        design = sequence[-length:]
        assert [design[i] for i in kept] == [binder[i] for i in kept]
        assert "C" not in [letter for i, letter in enumerate(design) if i not in kept]
    ranked = sorted(zip(trajectories["score"], trajectories["seqid"], found, strict=True))
    assert 0.3 < ranked[0][0] < ranked[-1][0] < 1.6
    assert all(0.2 < seqid < 0.8 for _, seqid, _ in ranked)


def test_a_changed_bias_counts(adapter):
    """As ColabDesign's README tells its users to bias and to fix residues."""
    adapter.prep_inputs(pdb_filename=str(STRUCTURES / "6MRR.pdb"))
    adapter._inputs["bias"][:5, aa_order["W"]] = 1e7
    adapter._inputs["bias"][5:, aa_order["E"]] -= 1e6
    for sequence in adapter.sample_parallel(batch=2)["seq"]:
        assert sequence[:5] == "WWWWW"
        assert "E" not in sequence[5:]


def test_tied_chains_get_one_sequence(adapter):
    arguments = {"pdb_filename": str(COMPLEX), "chain": "A,B", "homooligomer": True}
    adapter.prep_inputs(**arguments, fix_pos="A20-24")
    L = adapter._len
    native = "".join(THEIRS[t] for t in adapter._inputs["S"])
    at = adapter.pdb["idx"]["residue"].tolist().index(20)
    sampled = adapter.sample(batch=2)
    tokens = sampled["S"].argmax(-1).reshape(2, 2, L)
    np.testing.assert_array_equal(tokens[:, 0], tokens[:, 1])
    for sequence in sampled["seq"]:
        assert len(sequence) == L
        assert sequence[at : at + 5] == native[at : at + 5]
    order = sampled["decoding_order"]
    assert order.shape == (2, L, 2)
    assert (order[..., 1] - order[..., 0] == L).all()
    scores = [adapter.score(seq=seq, decoding_order=np.arange(2 * L))["score"] for seq in (
        sampled["seq"][0], "/".join([sampled["seq"][0]] * 2)
    )]  # fmt: skip
    assert scores[0] == scores[1]


def test_a_seed_gives_the_same_again_and_the_next_call_others():
    found = []
    for _ in range(2):
        model = mk_mpnn_model(seed=7)
        model.prep_inputs(pdb_filename=str(STRUCTURES / "6MRR.pdb"))
        found.append([model.sample(batch=2)["seq"].tolist() for _ in range(2)])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_rescoring_is_scoring_the_finished_sequence(adapter):
    adapter.prep_inputs(pdb_filename=str(COMPLEX), chain="A,B", fix_pos="A")
    sampled = adapter.sample(batch=2, rescore=True)
    for n in range(2):
        scored = adapter.score(
            seq=sampled["seq"][n], decoding_order=sampled["decoding_order"][n].ravel()
        )
        assert scored["score"] == pytest.approx(sampled["score"][n], abs=TOLERANCE)


def test_noise_changes_scores_and_its_seed_repeats_them():
    model = mk_mpnn_model(backbone_noise=0.2)
    model.prep_inputs(pdb_filename=str(STRUCTURES / "6MRR.pdb"))
    order = np.arange(68)
    scores = [float(model.score(decoding_order=order, key=k)["score"]) for k in (1, 1, 2)]
    assert scores[0] == scores[1] != scores[2]


def test_a_mixture_of_letters_is_scored(adapter):
    adapter.prep_inputs(pdb_filename=str(STRUCTURES / "6MRR.pdb"))
    order = np.arange(68)
    native = np.eye(20)[adapter._inputs["S"]]
    plain = adapter.score(decoding_order=order)
    one_hot = adapter.score(S=native, decoding_order=order)
    np.testing.assert_allclose(one_hot["logits"], plain["logits"], atol=1e-6)
    mixed = adapter.score(S=(native + 0.05) / 2, decoding_order=order)
    assert np.abs(mixed["logits"] - plain["logits"]).max() > 0.1


def test_a_model_of_afdesign_gives_its_inputs(adapter):
    class AfDesign:
        protocol, _target_len, _len, _lengths = "binder", 177, 177, [177, 177]
        _args = {"homooligomer": False}  # noqa: RUF012
        opt: dict = {}  # noqa: RUF012

    adapter.prep_inputs(pdb_filename=str(COMPLEX), chain="A,B", fix_pos="A")
    expected = adapter.get_unconditional_logits()
    af = AfDesign()
    af._inputs = {
        "residue_index": adapter._inputs["residue_idx"], "asym_id": adapter._inputs["chain_idx"],
        "bias": np.zeros((177, 20)), "batch": adapter.pdb["batch"],
    }  # fmt: skip
    fixed = adapter._inputs["fix_pos"]
    adapter._inputs = {}
    adapter.get_af_inputs(af)
    np.testing.assert_array_equal(adapter._inputs["fix_pos"], fixed)
    np.testing.assert_array_equal(adapter.get_unconditional_logits(), expected)
    af._inputs["offset"] = np.zeros((354, 354))
    with pytest.raises(ValueError, match="'offset'"):
        adapter.get_af_inputs(af)


def test_the_text_of_a_file_is_read_too(adapter):
    adapter.prep_inputs(pdb_filename=COMPLEX.read_text("utf-8"), chain="B")
    text = adapter._inputs["X"]
    adapter.prep_inputs(pdb_filename=COMPLEX, chain=["B"])
    np.testing.assert_array_equal(adapter._inputs["X"], text)


def test_insertion_codes_are_residues(adapter, tmp_path):
    """ColabDesign drops them."""
    lines = (STRUCTURES / "6MRR.pdb").read_text("utf-8").splitlines()
    third = [line.startswith("ATOM") and line[22:26] == "   3" for line in lines]
    coded = [
        f"{line[:22]}   2A{line[27:]}" if is_third else line
        for line, is_third in zip(lines, third, strict=True)
    ]
    path = tmp_path / "coded.pdb"
    path.write_text("\n".join(coded) + "\n", "utf-8")
    adapter.prep_inputs(pdb_filename=path, fix_pos="2A")
    assert adapter._len == 68
    (at,) = adapter._inputs["fix_pos"]
    assert adapter.pdb["icode"][at] == "A"
    adapter.prep_inputs(pdb_filename=path, fix_pos="2")
    assert adapter._inputs["fix_pos"].tolist() == [at - 1]


def test_a_residue_without_its_oxygen_is_kept_and_not_designed(adapter, tmp_path):
    """ColabDesign puts the atom at the origin."""
    lines = (STRUCTURES / "6MRR.pdb").read_text("utf-8").splitlines()
    path = tmp_path / "lacking.pdb"
    path.write_text(
        "\n".join(line for line in lines if not (line[12:16] == " O  " and line[22:26] == "  30"))
    )
    adapter.prep_inputs(pdb_filename=path)
    native = "".join(THEIRS[t] for t in adapter._inputs["S"])
    at = adapter.pdb["idx"]["residue"].tolist().index(30)
    sampled = adapter.sample(batch=4, temperature=2.0)
    assert [sequence[at] for sequence in sampled["seq"]] == [native[at]] * 4
    scored = adapter.score()
    others = np.delete(np.arange(adapter._len), at)
    normal = np.log(np.exp(scored["logits"]).sum(1)) - (scored["logits"] * scored["S"]).sum(1)
    assert scored["score"] == pytest.approx(normal[others].mean(), abs=1e-5)


@pytest.mark.parametrize(
    "arguments, error, said",
    [
        ({"chain": "A,Q"}, StructureError, "4GYT.pdb: no protein chain Q; protein chains there: A"),
        ({}, StructureError, "protein chains there: A, B; name some"),
        ({"chain": "A", "fix_pos": "B"}, ConstraintError, "names chain B; chains read: A"),
        ({"chain": "A", "fix_pos": "A9999"}, ConstraintError, "A9999, which is not there; chain A"),
        ({"chain": "A", "fix_pos": "A1:3"}, ConstraintError, "'A1:3'; expected a chain"),
        ({"chain": "A", "rm_aa": "C,Z"}, ConstraintError, "rm_aa has 'Z'; expected letters of"),
        ({"pdb_filename": "nowhere.pdb"}, StructureError, "nowhere.pdb"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(adapter, arguments, error, said):
    with pytest.raises(error, match=said):
        adapter.prep_inputs(**{"pdb_filename": str(COMPLEX), **arguments})


def test_chains_of_other_lengths_are_no_homo_oligomer(adapter):
    with pytest.raises(StructureError, match=r"have 1.., 1.. residues; expected equal"):
        adapter.prep_inputs(str(STRUCTURES / "3HTN.pdb"), chain="A,B", homooligomer=True)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"weights": "membrane"}, "expected 'original' or 'soluble'"),
        ({"dropout": 0.1}, "dropout is 0.1; expected 0"),
        ({"backbone_noise": -1.0}, "backbone_noise is -1.0"),
        ({"model_name": "v_48_020_nomem"}, "v_48_020_nomem"),
    ],
)
def test_a_model_that_there_is_not_is_said(arguments, said):
    with pytest.raises(ValueError, match=said):
        mk_mpnn_model(**arguments)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"seq": "ACD"}, "has 3 letters; expected 68"),
        ({"seq": "1" * 68}, "has '1'; expected letters of"),
        ({"ar_mask": np.zeros((3, 3))}, r"ar_mask has shape \(3, 3\)"),
        ({"decoding_order": [0, 0]}, "does not list each of the positions 0 to 67 once"),
        ({"offset": np.zeros((68, 68))}, "'offset'"),
    ],
)
def test_a_score_that_cannot_be_is_said(adapter, arguments, said):
    adapter.prep_inputs(pdb_filename=str(STRUCTURES / "6MRR.pdb"))
    with pytest.raises(ValueError, match=said):
        adapter.score(**arguments)


def test_nothing_is_designed_before_a_structure_is_read():
    with pytest.raises(ValueError, match="call prep_inputs"):
        mk_mpnn_model().sample()


def test_a_misspelt_argument_is_said(adapter):
    with pytest.warns(UserWarning, match="takes no homooligomeric"):
        adapter.prep_inputs(str(COMPLEX), chain="A,B", homooligomeric=True)
    assert not adapter._tied_lengths


def test_the_module_has_colabdesigns_alphabet():
    assert colabdesign.order_aa[4] == "C"
    assert [aa_order[letter] for letter in THEIRS[:20]] == list(range(20))


@pytest.mark.parametrize("removed", ["G,L,Y", "A,R,G", "H,I,S"])
def test_removed_letters_that_spell_a_name_are_letters(removed):
    model = mk_mpnn_model(seed=1)
    model.prep_inputs(pdb_filename=str(STRUCTURES / "6MRR.pdb"), chain="A", rm_aa=removed)
    (sequence,) = model.sample(num=1, batch=1)["seq"]
    assert not set(sequence) & set(removed.split(","))
