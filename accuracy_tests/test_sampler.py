"""Sampling: the original's sequences from the original's random numbers, and its distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from proteins import protein, without_backbone
from scipy.stats import t as student_t
from strategies import layouts

from mpnn_core import ALPHABET, PSSM, Constraints, Designs, Model, Structure, load_model
from mpnn_core.backends.plain import TorchLevels
from mpnn_core.network.encoding import Copies
from mpnn_core.network.graph import Backbones
from mpnn_core.peers import original
from mpnn_core.sampling.noise import COMMON, digest, order_noise, residue_noise
from mpnn_core.sampling.orders import draw_order, ranks
from mpnn_core.sampling.sampler import Distribution, draw, sample
from mpnn_core.sampling.schedule import sequential, wavefront

BACKENDS = ("torch", "native")
PROBABILITY_TOLERANCE = 1e-4
CONFIDENCE = 0.999  # of the interval in which the two samplers' means must agree
# The widest interval that still says something: what these numbers of sequences must resolve.
RECOVERY_RESOLUTION, SCORE_RESOLUTION = 0.04, 0.04
SEQUENCES = 32
PINNED_RESIDUE = [0.8369842476299684, 0.4523495122889183, 0.91040649531278]
PINNED_ORDER = [1.1651397661685665, 1.0637723640860988, 2.6401093803293705]
PINNED_DIGEST = 1547446009450596939
PINNED_RESIDUE_OF_5L33 = [0.6085413340115083, 0.988065591420069, 0.7650740158206191]


# ------------------------------------------------------------- the same sequence, token by token


def original_sequences(
    published: torch.nn.Module,
    structure: Structure,
    designs: Designs,
    monkeypatch: pytest.MonkeyPatch,
    omit: str,
    bias: np.ndarray | None,
    pssm: PSSM | None = None,
    tied: Sequence[Mapping[int, float]] = (),
) -> dict[str, torch.Tensor]:
    """The original's `sample` with our random numbers: its order noise is ours, and the call that
    draws a residue inverts the cumulative distribution at our number for that position."""
    n, L = designs.decoding_order.shape
    key = digest(structure)
    noise = np.stack([order_noise(designs.seed, i, L, key) for i in range(n)])
    uniform = np.stack([residue_noise(designs.seed, i, L, key) for i in range(n)])
    # Of a group the one that is visited last draws.
    group_of = {i: g for g, group in enumerate(tied) for i in group}
    order = designs.decoding_order[0].tolist()
    draws = [
        step
        for step, i in enumerate(order)
        if i not in group_of or step + 1 == L or group_of[i] != group_of.get(order[step + 1])
    ]
    step = iter(draws)

    def inverted(probabilities: torch.Tensor, _: int) -> torch.Tensor:
        position = designs.decoding_order[:, next(step)]
        at = torch.tensor(uniform[np.arange(n), position])
        cumulative = probabilities.double().cumsum(-1)
        return (cumulative <= at[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)

    monkeypatch.setattr(torch, "multinomial", inverted)
    found = original.sample(
        published,
        original.inputs(structure, n, designed=designs.designed),
        designs.temperature,
        omit,
        torch.tensor(noise),
        None if bias is None else torch.tensor(bias).expand(n, L, 21),
        pssm,
        tied,
    )
    assert next(step, None) is None, "the original has not drawn once per position"
    return found


def a_bias(structure: Structure) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 1, (len(structure), 21)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(
    "name, chains, fixed, omit, biased, n",
    [
        pytest.param("5L33", None, (), "X", False, 3, id="5L33"),
        pytest.param("6MRR", None, range(0, 68, 3), "X", False, 4, id="6MRR-fixed"),
        pytest.param("6MRR", None, (), "XAGC", True, 4, id="6MRR-omit-bias"),
        pytest.param("3HTN", "A", (), "X", False, 1, id="3HTN-chain-A"),
    ],
)
def test_the_same_random_numbers_give_the_originals_sequences(
    name, chains, fixed, omit, biased, n, temperature, model, published, monkeypatch
):
    structure = protein(name)
    bias = a_bias(structure) if biased else None
    constraints = Constraints(chains, tuple(fixed), omit, bias_at={} if bias is None else bias)
    ours = model.design(structure, n, temperature, seed=37, constraints=constraints)
    theirs = original_sequences(published, structure, ours, monkeypatch, omit, bias)
    np.testing.assert_array_equal(theirs["decoding_order"], ours.decoding_order)
    letters = ["".join(ALPHABET[i] for i in row) for row in theirs["S"]]
    assert ours.sequences == letters
    farthest = np.abs(ours.probabilities - theirs["probs"].numpy()).max()
    assert farthest <= PROBABILITY_TOLERANCE, f"{farthest:.1e}"


def a_pssm(structure: Structure, log_odds: bool) -> PSSM:
    rng = np.random.default_rng(6)
    L = len(structure)
    bias = rng.dirichlet(np.ones(21), L)
    bias[:, 20] = 0  # X, which we never draw and the original would
    return PSSM(
        bias / bias.sum(1, keepdims=True),
        rng.uniform(0, 1, L),
        0.7,
        rng.normal(0, 1, (L, 21)) if log_odds else None,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("log_odds", [False, True])
def test_a_pssm_counts_as_in_the_original(log_odds, backend, published, monkeypatch):
    structure = protein("6MRR")
    pssm = a_pssm(structure, log_odds)
    model = load_model(backend=backend)
    ours = model.design(structure, 2, 0.5, seed=37, constraints=Constraints(pssm=pssm))
    theirs = original_sequences(published, structure, ours, monkeypatch, "X", None, pssm)
    assert ours.sequences == ["".join(ALPHABET[i] for i in row) for row in theirs["S"]]
    farthest = np.abs(ours.probabilities - theirs["probs"].numpy()).max()
    assert farthest <= PROBABILITY_TOLERANCE, f"{farthest:.1e}"
    assert ours.sequences != model.design(structure, 2, 0.5, seed=37).sequences


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name, constraints",
    [
        pytest.param(
            "6EHB", Constraints(tied_chains="A,B,C"), id="6EHB-homotrimer",
            # Its chains are not of one length.
            marks=pytest.mark.filterwarnings("ignore::mpnn_core.sampling.labels.ConstraintWarning"),
        ),
        pytest.param(
            "6MRR",
            Constraints(
                tied=({3: 1.0, 40: -0.5, 10: 2.0}, range(20, 26), (60, 1)),
                fixed=range(30, 35),
                bias_at=np.tile(np.linspace(-1, 1, 21, dtype=np.float32), (68, 1)),
            ),
            id="6MRR-groups-weights-fixed",
        ),
    ],
)  # fmt: skip
def test_tied_positions_are_the_originals(name, constraints, backend, published, monkeypatch):
    structure = protein(name)
    groups = constraints.groups(structure)
    model = load_model(backend=backend)
    ours = model.design(structure, 1, 0.3, seed=37, constraints=constraints)
    bias = constraints.biases(structure)
    theirs = original_sequences(published, structure, ours, monkeypatch, "X", bias, None, groups)
    np.testing.assert_array_equal(theirs["decoding_order"], ours.decoding_order)
    assert ours.sequences == ["".join(ALPHABET[i] for i in row) for row in theirs["S"]]
    farthest = np.abs(ours.probabilities - theirs["probs"].numpy())[:, ours.designed].max()
    assert farthest <= PROBABILITY_TOLERANCE, f"{farthest:.1e}"
    for group in groups:
        assert len({ours.sequences[0][i] for i in group}) == 1


def test_another_number_gives_another_sequence_than_the_original(model, published, monkeypatch):
    structure = protein("6MRR")
    ours = model.design(structure, 1, 1.0, seed=37)
    other = model.design(structure, 1, 1.0, seed=38, decoding_order=ours.decoding_order)
    theirs = original_sequences(published, structure, ours, monkeypatch, "X", None)
    assert other.sequences[0] != "".join(ALPHABET[i] for i in theirs["S"][0])


# ------------------------------------------------------------------------- the same distribution


def welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Difference of means, and half the width of its interval at CONFIDENCE."""
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return a.mean() - b.mean(), student_t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(va + vb)


@pytest.fixture(scope="module")
def original_samples(published) -> tuple[np.ndarray, np.ndarray]:
    """Recovery and score of sequences from the original's own `sample`, 5L33, T = 0.1."""
    structure = protein("5L33")
    recovery, score = [], []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(SEQUENCES // 8):
            given = original.inputs(structure, 8)
            found = original.sample(published, given, temperature=0.1)
            again = original.inputs(structure, 8, found["S"].numpy())
            lp = original.log_probs(published, again, found["decoding_order"])
            score.append(-lp.gather(2, found["S"][..., None])[..., 0].mean(1))
            recovery.append((found["S"] == given.S).double().mean(1))
    return torch.cat(recovery).numpy(), torch.cat(score).numpy()


def test_designs_recover_and_score_as_the_originals_do(original_samples, model):
    designs = model.design(protein("5L33"), SEQUENCES, 0.1, seed=0)
    for what, theirs, ours, resolution in (
        ("recovery", original_samples[0], designs.recovery, RECOVERY_RESOLUTION),
        ("score", original_samples[1], designs.scores, SCORE_RESOLUTION),
    ):
        difference, half_width = welch(ours, theirs)
        told = f"{what}: {difference:+.4f} +- {half_width:.4f} at {CONFIDENCE:.1%}"
        assert half_width < resolution, told
        assert abs(difference) < half_width, told


def test_another_temperature_is_told_from_the_originals(original_samples, model):
    designs = model.design(protein("5L33"), SEQUENCES, 0.5, seed=0)
    for theirs, ours in zip(original_samples, (designs.recovery, designs.scores), strict=True):
        difference, half_width = welch(ours, theirs)
        assert abs(difference) > half_width, f"{difference:+.4f} +- {half_width:.4f}"


# -------------------------------------------------------------------------------- random numbers


def test_random_numbers_are_keyed_by_seed_structure_sequence_and_position():
    for noise in (order_noise, residue_noise):
        first = noise(37, 2, 50, 5)
        np.testing.assert_array_equal(noise(37, 2, 80, 5)[:50], first)
        for other in (noise(38, 2, 50, 5), noise(37, 3, 50, 5), noise(37, 2, 50, 6)):
            assert not np.isin(other, first).any()
    assert not np.isin(order_noise(37, 0, 50), residue_noise(37, 0, 50)).any()


def test_random_numbers_are_those_of_every_release():
    # A change here changes every seeded design. Common ones are those of 0.1.
    np.testing.assert_allclose(residue_noise(37, 0, 3, COMMON), PINNED_RESIDUE, rtol=1e-15)
    np.testing.assert_allclose(order_noise(37, 0, 3, COMMON), PINNED_ORDER, rtol=1e-12)
    assert digest(protein("5L33")) == PINNED_DIGEST
    np.testing.assert_allclose(residue_noise(37, 0, 3, PINNED_DIGEST), PINNED_RESIDUE_OF_5L33)


def renamed(structure: Structure) -> Structure:
    """Other names of the structure, of its chains and of its residues, and another sequence."""
    ids = np.array([f"{chain}-{chain}" for chain in structure.chain_ids.tolist()])
    numbers = np.char.add(structure.residue_numbers, "Z")
    return replace(
        structure, name="other", chain_ids=ids, residue_numbers=numbers, sequence="A" * len(ids)
    )


def reordered_ids(structure: Structure) -> Structure:
    """Chain ids that sort the other way round."""
    last = ord(max(structure.chain_ids))
    return replace(
        structure, chain_ids=np.array([chr(last - ord(c) + 65) for c in structure.chain_ids])
    )


def shifted(structure: Structure) -> Structure:
    """Residue indices from another number on, which the network takes differences of."""
    return replace(structure, residue_index=structure.residue_index + 1000)


def with_negative_zeros(structure: Structure) -> Structure:
    coords = structure.coords.copy()
    coords[0, 0] = -0.0
    return replace(structure, coords=coords)


def with_zeros(structure: Structure) -> Structure:
    return replace(with_negative_zeros(structure), coords=with_negative_zeros(structure).coords + 0)


def moved_by_one_bit(structure: Structure) -> Structure:
    coords = structure.coords.copy()
    coords[-1, -1, -1] = np.nextafter(coords[-1, -1, -1], np.float32(np.inf))
    return replace(structure, coords=coords)


def as_one_chain(structure: Structure) -> Structure:
    return replace(structure, chain_ids=np.full(len(structure), "A"))


def with_a_gap(structure: Structure) -> Structure:
    index = structure.residue_index.copy()
    index[10:] += 1
    return replace(structure, residue_index=index)


def with_an_incomplete_residue(structure: Structure) -> Structure:
    return without_backbone(structure, [7])


@pytest.mark.parametrize("change", [renamed, reordered_ids, shifted])
def test_a_digest_does_not_depend_on_what_the_network_is_not_given(change):
    structure = protein("6EHB")
    assert digest(change(structure)) == digest(structure), change.__name__


def test_zero_of_either_sign_is_zero():
    structure = protein("6EHB")
    negative, positive = with_negative_zeros(structure), with_zeros(structure)
    assert np.signbit(negative.coords[0, 0]).all() and not np.signbit(positive.coords[0, 0]).any()
    assert digest(negative) == digest(positive)


@pytest.mark.parametrize(
    "change", [moved_by_one_bit, as_one_chain, with_a_gap, with_an_incomplete_residue]
)
def test_a_digest_depends_on_what_the_network_is_given(change):
    structure = protein("6EHB")
    assert digest(change(structure)) != digest(structure), change.__name__


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_order_noise_is_half_normal_and_the_residue_noise_uniform(seed):
    n = 20_000
    uniform, normal = residue_noise(seed, 0, n), order_noise(seed, 0, n)
    assert uniform.min() >= 0 and uniform.max() < 1
    # Standard errors: 0.289 / sqrt(n) = 0.002 and 0.603 / sqrt(n) = 0.0043; five of each.
    assert abs(uniform.mean() - 0.5) < 0.0102
    assert abs(normal.mean() - np.sqrt(2 / np.pi)) < 0.0213


def test_fixed_positions_come_first_almost_always():
    designed = np.arange(200) >= 100
    late = 0
    for i in range(50):
        order = draw_order(order_noise(1, i, 200), designed)
        assert sorted(order) == list(range(200))
        late += int(designed[order[:100]].sum())
    assert late < 50  # of 5,000


# ----------------------------------------------------------------------------------------- draw

probabilities = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-30, 1.0)), min_size=21, max_size=21
).filter(lambda values: sum(values) > 0)
uniforms = st.floats(0, 1, exclude_max=True)


@settings(max_examples=300, deadline=None)
@given(probabilities, uniforms)
@example([0.0] * 20 + [1.0], 0.0)
@example([1.0] + [0.0] * 20, float(np.nextafter(1.0, 0.0)))
@example([0.0] + [1 / 3] * 3 + [0.0] * 17, float(np.nextafter(1.0, 0.0)))
def test_a_residue_of_probability_zero_is_never_drawn(values, u):
    p = torch.tensor([values]).float()
    p /= p.sum()
    [drawn] = draw(p, torch.tensor([u], dtype=torch.float64)).tolist()
    assert p[0, drawn] > 0


@settings(max_examples=300, deadline=None)
@given(probabilities, uniforms)
def test_a_draw_inverts_the_cumulative_distribution(values, u):
    p = torch.tensor([values]).float()
    p /= p.sum()
    [drawn] = draw(p, torch.tensor([u], dtype=torch.float64)).tolist()
    exact = p[0].double().numpy()
    below, upto = exact[:drawn].sum() / exact.sum(), exact[: drawn + 1].sum() / exact.sum()
    assert below - 1e-12 <= u <= upto + 1e-12


def test_draws_come_as_often_as_they_should():
    p = torch.tensor([0.5, 0.0, 0.2, 0.3] + [0.0] * 17)
    n = 10_000
    # Stratified: one number in each of n equal strips, so counts are exact but for the strips cut.
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    counts = draw(p.expand(n, 21), u).bincount(minlength=21)
    assert counts[:4].tolist() == pytest.approx([5000, 0, 2000, 3000], abs=1)


# ------------------------------------------------------------------------------------- schedules


def sampled(model: Model, structure: Structure, steps, rank: torch.Tensor, temperature: float):
    backbones = Backbones.from_structures([structure])
    encoding = model.network.encode(backbones)
    copies = Copies.of(encoding.graph, backbones.offsets, [0])
    M = len(rank)
    return sample(
        TorchLevels(model.network, encoding, copies, rank),
        rank,
        steps(rank, copies),
        Distribution(
            torch.full((M,), temperature), torch.zeros(M, 21), torch.zeros(M, 21, dtype=torch.bool)
        ),
        torch.tensor(residue_noise(3, 0, M)),
        torch.zeros(M, dtype=torch.int64),
        torch.ones(M, dtype=torch.bool),
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_decoding_by_level_is_decoding_one_by_one(temperature, model):
    structure = protein("4CUP")
    M = int(structure.mask.sum())
    rank = torch.tensor(ranks(draw_order(order_noise(3, 0, M), np.ones(M, dtype=bool))))
    with torch.inference_mode():
        plain = sampled(model, structure, lambda r, c: sequential(r, c.starts), rank, temperature)
        fast = sampled(model, structure, lambda r, c: wavefront(r, c.neighbours), rank, temperature)
    assert plain.tokens.tolist() == fast.tokens.tolist()
    assert (plain.logits - fast.logits).abs().max().item() <= 1e-4


@settings(max_examples=25, deadline=None)
@given(layouts(max_length=120), st.integers(0, 1000))
def test_levels_decode_every_row_once_after_the_neighbours_before_it(model, layout, seed):
    backbones = Backbones.from_structures([layout.build()])
    neighbours = model.network.encode(backbones).graph.neighbours
    rank = torch.tensor(np.random.default_rng(seed).permutation(len(backbones)))
    steps = wavefront(rank, neighbours)
    assert all(step.rows is step.drawn for step in steps)
    assert torch.cat([step.rows for step in steps]).sort().values.tolist() == list(range(len(rank)))
    level = torch.empty_like(rank)
    for i, step in enumerate(steps):
        level[step.rows] = i
    before = rank[neighbours] < rank[:, None]
    assert (level[neighbours] < level[:, None])[before].all()
    # No level is empty or could be earlier: each holds a row that waits for the one before.
    for i in range(1, len(steps)):
        rows = steps[i].rows
        waits = before[rows] & (level[neighbours[rows]] == i - 1)
        assert waits.any(1).all()
