"""E12 to E14: the model family against the authors' LigandMPNN, as its authors run it.

The original runs in an environment of its own (fixtures/oracles.py) and is told what to do by a
line of text, which takes less than a millisecond; where there is no such environment, its figures
are not exercised. It is given featurised atoms; ours begin with the arrays of a structure. The
coordinates of ours differ between runs, by 1e-3 Å, so that nothing is won by remembering one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import family_goldens
import numpy as np
import pytest
import torch
from family_goldens import FOLDER, LIGAND, WEIGHTS, Golden
from oracles import NEEDS, LigandOracle, given, python_of_oracle
from proteins import FIXTURES, protein
from timing import jittered

import mpnn_core as mpnn
from mpnn_core.backends.contract import encoded
from mpnn_core.gate.intervals import paired_mean

HOST = torch.device("cpu")
ORACLES_NAME = "ligandmpnn_v_32_010_25"
TEMPERATURE = 0.1


@pytest.fixture(scope="session")
def model() -> mpnn.Model:
    return mpnn.load_model(WEIGHTS)


@pytest.fixture(scope="session")
def oracle() -> Iterator[LigandOracle | None]:
    """The authors' code in a process of its own; None where there is none."""
    python = python_of_oracle()
    if python is None:
        yield None
        return
    with LigandOracle(python) as oracle:
        yield oracle


def encode(model: mpnn.Model, structure: mpnn.Structure) -> object:
    """All that decoding needs, from the structure's arrays, its atoms included."""
    designed = [np.zeros(len(structure), bool)]
    with torch.inference_mode(), model.backend.computing():
        backbones = model.network.backbones([structure], HOST)
        context = model.network.context([structure], designed, HOST)
        return encoded(model.backend, backbones, context=context)


def computed_by(model: mpnn.Model) -> dict[str, object]:
    """The backend, for the ledger; the figures are about native code, others are only recorded."""
    backend = model.backend
    instructions = getattr(backend, "instruction_set", "")
    return {
        "note": f"{backend.name} {instructions}".strip(),
        "only_record": backend.name != "native",
    }


def agree(model: mpnn.Model, golden: Golden) -> None:
    """A fast wrong answer has no speed."""
    answer = golden.answers[LIGAND]
    ours = model.log_probs(golden.structure, decoding_order=golden.order)[0, answer.rows]
    assert np.abs(ours - answer.log_probs).max() < 1e-4


# Figure, file, what of the two is timed, and about how many seconds of each fresh process.
RACES = (
    ("encode-1pwc", "1pwc", "encode", 0, 25),
    ("encode-1hvr", "1hvr", "encode", 0, 20),
    ("encode-3mht", "3mht", "encode", 0, 25),
    ("encode-19hc", "19hc", "encode", 0, 35),
    ("log-probs-1pwc", "1pwc", "score", 0, 25),
    ("one-1pwc", "1pwc", "sample", 1, 30),
    ("eight-1pwc", "1pwc", "sample", 8, 60),
    ("eight-3mht", "3mht", "sample", 8, 60),
)


@pytest.mark.parametrize(
    ("name", "call", "n"),
    [
        pytest.param(
            name, call, n, id=figure,
            marks=[pytest.mark.claim("E12", figure), pytest.mark.costly(cost)],
        )
        for figure, name, call, n, cost in RACES
    ],
)  # fmt: skip
def test_a_complex_beats_the_original(name, call, n, model, oracle, paired, not_exercised) -> None:
    if oracle is None:
        not_exercised(NEEDS)
    golden = family_goldens.load_golden(name)
    agree(model, golden)
    with np.load(FOLDER / f"{name}.npz") as stored:
        arrays = given(family_goldens.unpack(dict(stored)))
    oracle.ask("give", arrays, weights=ORACLES_NAME, model_type="ligand_mpnn")
    move = jittered(golden.structure)
    message = {"n": n, "temperature": TEMPERATURE, "orders": True} if n else {}
    ours = {
        "encode": lambda: encode(model, move()),
        "score": lambda: model.log_probs(move()),
        "sample": lambda: model.design(move(), max(n, 1), TEMPERATURE),
    }[call]

    def warm_up() -> None:
        oracle.ask("encode")  # the products of all its calls; sampling takes many seconds
        ours()

    paired(
        lambda: oracle.ask("run", call=call, **message),
        ours,
        workload=f"{ {'encode': 'encoding', 'score': 'log_probs'}.get(call, f'{n} designs') } of "
        f"{name}, {int(golden.structure.mask.sum())} residues, "
        f"{len(golden.structure.context)} atoms",
        warm_up=warm_up,
        **computed_by(model),
    )


@pytest.mark.parametrize(
    ("weights", "label"),
    [
        pytest.param(weights, label, id=figure, marks=pytest.mark.claim("E14", figure))
        for figure, weights, label in (
            ("membrane", "membrane/per_residue_v_48_020", 2),
            ("soluble", "soluble/v_48_020", None),
            ("ca", "ca/v_48_020", None),
        )
    ],
)
def test_another_family_takes_the_time_of_proteinmpnn(weights, label, study_protein, paired):
    ours, theirs = mpnn.load_model("v_48_020"), mpnn.load_model(weights)
    structure = study_protein
    if label is not None:
        structure = structure.with_membrane(np.full(len(structure), label))
    move, move_labelled = jittered(study_protein), jittered(structure)
    paired(
        lambda: ours.design(move(), num_sequences=8),
        lambda: theirs.design(move_labelled(), num_sequences=8),
        **computed_by(theirs),
    )


# Recovery near what is no protein.

WITHIN = 5.0  # Å, from a side chain to an atom of the context
NUCLEOTIDES = frozenset({"DA", "DC", "DG", "DT", "DU", "DI", "A", "C", "G", "U", "I", "5CM", "C49"})
METALS = frozenset(
    [3, 4, 11, 12, 13, *range(19, 32), *range(37, 51), *range(55, 85), *range(87, 104)]
)
SMALL, NUCLEOTIDE, METAL = "small", "nucleotide", "metal"
COMPLEXES = {
    SMALL: ("1hvr", "1a28", "1pwc", "pdb3hsy", "6EHB", "3mht", "19hc", "7cth"),
    NUCLEOTIDE: ("3mht",),
    METAL: ("3HTN", "19hc"),
}
SEQUENCES = 16
FEWEST = 5  # structures that say how others may differ; fewer have no interval


def kinds_of(structure: mpnn.Structure) -> np.ndarray:
    """What each atom of the context is of: (A,) of SMALL, NUCLEOTIDE and METAL."""
    context = structure.context
    names = np.array([name.strip() for name in context.residue_names.tolist()], dtype=np.str_)
    kinds = np.full(len(context), SMALL, dtype="<U10")
    kinds[np.isin(names, list(NUCLEOTIDES))] = NUCLEOTIDE
    kinds[np.isin(context.elements, list(METALS))] = METAL
    return kinds


def near(structure: mpnn.Structure, kind: str) -> np.ndarray:
    """The residues with a side-chain atom, or a virtual CB, near atoms of a kind: (L,) bool."""
    xyz = structure.context.coords[kinds_of(structure) == kind]
    n, ca, c = (structure.coords[:, a] for a in range(3))
    a = np.cross(ca - n, c - ca)
    cb = -0.58273431 * a + 0.56802827 * (ca - n) - 0.54067466 * (c - ca) + ca
    side = np.concatenate([cb[:, None], structure.side_chains], 1)  # (L, 33, 3)
    found = np.zeros(len(structure), bool)
    for atom in xyz:
        squared = ((side - atom) ** 2).sum(-1)
        found |= np.nan_to_num(squared, nan=np.inf).min(1) <= WITHIN**2
    return found & structure.mask


def read(name: str) -> mpnn.Structure:
    return mpnn.read_structure(FIXTURES / family_goldens.FILES[name])


def recovered(model: mpnn.Model, structure: mpnn.Structure, rows: np.ndarray) -> float:
    """Mean over designs of the share of `rows` that are native, in %."""
    designs = model.design(structure, SEQUENCES, TEMPERATURE, seed=0)
    native = np.array(list(structure.sequence))
    letters = np.array([list(sequence) for sequence in designs.sequences])
    return float(100 * (letters[:, rows] == native[rows]).mean())


@pytest.mark.filterwarnings("ignore::UserWarning")  # ProteinMPNN does not see what is around
@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        pytest.param(kind, weights, id=f"{kind}-{figure}",
                     marks=pytest.mark.claim("E13", f"{kind}-{figure}"))
        for kind in (SMALL, NUCLEOTIDE, METAL)
        for figure, weights in (("ligand", WEIGHTS), ("protein", "v_48_020"))
    ],
)  # fmt: skip
def test_recovery_near_what_is_no_protein(kind, weights, judge) -> None:
    model = mpnn.load_model(weights)
    names, found, residues = COMPLEXES[kind], [], 0
    for name in names:
        structure = read(name)
        rows = near(structure, kind)
        assert rows.sum() >= 3, f"{name} has {rows.sum()} residues near a {kind}"
        residues += int(rows.sum())
        found.append(recovered(model, structure, rows))
    judge(
        paired_mean(np.array(found)) if len(found) >= FEWEST else float(np.mean(found)),
        workload=f"{', '.join(names)}: {residues} residues within 5 Å, {SEQUENCES} designs each at "
        "T = 0.1",
        note=f"{len(names)} structure{'s' if len(names) > 1 else ''}, perhaps in training",
    )


def test_what_is_near_is_within_five_angstroms() -> None:
    """The helper of the recoveries: one atom beside a residue, and one far away."""
    structure = protein("6MRR")
    beside = structure.coords[10, 1] + np.array([0, 0, 4], np.float32)
    atoms = mpnn.ContextAtoms.of([beside, beside + 100], [6, 30])
    sides = np.full((len(structure), 32, 3), np.nan, np.float32)
    structure = replace(structure, context=atoms, side_chains=sides)
    assert near(structure, SMALL).any() and not near(structure, METAL).any()
