"""What `Model.design`, `log_probs` and `score` promise."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from proteins import protein, random_order, rows_of, without_backbone

from mpnn_core import ALPHABET, ConstraintError, Constraints, Designs, Structure, load_model
from mpnn_core.design import execution, memory
from mpnn_core.network.encoding import sorted_within
from mpnn_core.network.graph import run_of_each
from mpnn_core.sampling.noise import COMMON, digest
from mpnn_core.sampling.orders import COLOURED, drawn_orders

# The same numbers by another batching, hence in another blocking of float32 sums.
REBATCHED = 5e-5
GIVEN_BACK = 1e-5


def tokens_of(designs: Designs) -> np.ndarray:
    return np.array([[ALPHABET.index(c) for c in sequence] for sequence in designs.sequences])


@contextmanager
def threads(n: int):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(model) -> Designs:
    return model.design(protein("6MRR"), 6, 1.0, seed=37)


# ------------------------------------------------------- a sequence depends on (seed, index) alone


def test_the_first_sequences_do_not_depend_on_how_many_there_are(alone, model):
    few = model.design(protein("6MRR"), 2, 1.0, seed=37)
    assert few.sequences == alone.sequences[:2]
    assert np.abs(few.log_probs - alone.log_probs[:2]).max() <= REBATCHED


def test_nor_on_what_is_designed_beside_them(alone, model):
    beside = [rows_of(protein("5L33"), slice(0, 20)), protein("6MRR"), protein("1A8O")]
    for structures in (beside, beside[::-1]):
        found = model.design(structures, 6, 1.0, seed=37)[1]
        assert found.structure is protein("6MRR")
        assert found.sequences == alone.sequences


@pytest.mark.parametrize("budget", [1, 5 << 20])
def test_nor_on_how_the_work_is_cut(budget, alone, model, monkeypatch):
    monkeypatch.setattr(execution, "MEMORY_BUDGET_BYTES", budget)
    groups = list(model.executor.batches([protein("6MRR"), protein("1A8O")], [6, 2]))
    assert len(groups) > 1 or len(groups[0][1]) > 1
    found = model.design([protein("6MRR"), protein("1A8O")], 6, 1.0, seed=37)[0]
    assert found.sequences == alone.sequences
    assert np.abs(found.log_probs - alone.log_probs).max() <= REBATCHED


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [4, 1, 6, 4]])
def test_sequences_are_sorted_each_by_itself(lengths):
    """Side by side where they are equally long, and otherwise; of equal keys the first is first."""
    starts = np.cumsum([0, *lengths]).tolist()
    key = torch.from_numpy(np.random.default_rng(0).integers(0, 3, starts[-1]))
    found = sorted_within(key, run_of_each(np.array(lengths), torch.device("cpu")), starts)
    parts = [a + np.argsort(key[a:b].numpy(), kind="stable") for a, b in pairwise(starts)]
    assert found.tolist() == np.concatenate(parts).tolist()


@pytest.mark.parametrize("n", [1, 2])
def test_nor_on_the_number_of_threads(n, alone, model):
    with threads(n):
        assert model.design(protein("6MRR"), 6, 1.0, seed=37).sequences == alone.sequences


def test_nor_on_torchs_own_generator(alone, model):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        assert model.design(protein("6MRR"), 6, 1.0, seed=37).sequences == alone.sequences
        assert torch.equal(torch.get_rng_state(), before)


def test_other_seeds_and_other_indices_give_other_sequences(alone, model):
    seeds = [model.design(protein("6MRR"), 1, 1.0, seed=s).sequences[0] for s in (0, 1, 2, 38)]
    assert len({*seeds, *alone.sequences}) == len(seeds) + len(alone)


def test_seed_zero_is_seed_zero(model):
    a, b = (model.design(protein("6MRR"), 1, 1.0, seed=0) for _ in range(2))
    assert a.seed == b.seed == 0
    assert a.sequences == b.sequences


def test_a_drawn_seed_is_named_and_gives_the_same_again(model):
    drawn = model.design(protein("6MRR"), 1, 1.0)
    assert model.design(protein("6MRR"), 1, 1.0, seed=drawn.seed).sequences == drawn.sequences
    assert model.design(protein("6MRR"), 1, 1.0).seed != drawn.seed


# ----------------------------------------------------------- two structures, two sets of numbers


def moved(structure: Structure) -> Structure:
    """The structure with every atom moved, by 0.3 Å in each direction (standard deviation)."""
    noise = np.random.default_rng(0).normal(0, 0.3, structure.coords.shape)
    return replace(structure, coords=structure.coords + noise.astype(np.float32))


def agreement(a: Designs, b: Designs, shift: int = 0) -> float:
    """Share of letters that sequences of equal index have in common, or of index `shift` later."""
    return float((tokens_of(a) == np.roll(tokens_of(b), shift, 0)).mean())


def test_similar_structures_agree_as_independent_draws_do(model):
    """Draws shared by all structures made the designs of two alike agree in 8 points more."""
    pair = [protein("6MRR"), moved(protein("6MRR"))]
    own = model.design(pair, 256, 0.1, seed=37)
    independent = np.mean([agreement(*own, shift) for shift in range(1, 6)])
    found = agreement(*own)
    common = agreement(*model.design(pair, 256, 0.1, seed=37, common_random_numbers=True))
    told = f"{found:.3f}, independent {independent:.3f}, common {common:.3f}"
    # The standard error of an agreement of 256 pairs is about half a point.
    assert abs(found - independent) < 0.025, told
    assert common > independent + 0.05, told


@pytest.mark.parametrize("order", [None, COLOURED])
def test_orders_are_a_structures_own_unless_they_are_common(order, model):
    pair = [protein("6MRR"), moved(protein("6MRR"))]

    def orders(**options: bool) -> list[np.ndarray]:
        designs = model.design(pair, 4, seed=37, decoding_order=order, **options)
        return [d.decoding_order for d in designs]

    a, b = orders()
    assert not (a == b).all(1).any()
    if order is None:  # coloured ones depend on the neighbours too
        a, b = orders(common_random_numbers=True)
        assert (a == b).all()


def test_log_probabilities_and_scores_have_a_structures_own_orders_too(model):
    """A copy in other names is the same structure; a moved one is not."""
    structure = protein("6MRR")
    copy, other = replace(structure, name="copy"), moved(structure)
    order, _ = (drawn_orders(4, 1, structure.mask, key) for key in (digest(structure), COMMON))
    np.testing.assert_array_equal(
        model.log_probs(structure, seed=4), model.log_probs(structure, decoding_order=order)
    )
    for computed in (lambda s, **o: model.log_probs(s, seed=4, **o),
                     lambda s, **o: model.score(s, seed=4, **o).score):  # fmt: skip
        np.testing.assert_array_equal(computed(copy), computed(structure))
        same = computed(structure, common_random_numbers=True)
        assert (same != computed(structure)).any()
    common = drawn_orders(4, 3, other.mask, COMMON)
    expected = model.log_probs(other, decoding_order=common)
    found = model.log_probs(other, [other.sequence] * 3, seed=4, common_random_numbers=True)
    assert np.abs(found - expected).max() <= REBATCHED


# -------------------------------------------------------------------------------- what is obeyed


def test_fixed_positions_and_chains_keep_their_residues(model):
    structure = protein("3HTN")
    fixed = ["A60-70", 5, 6, 7]
    designs = model.design(
        structure, 2, 1.0, seed=1, constraints=Constraints(chains="A", fixed=fixed)
    )
    kept = ~designs.designed
    assert kept[structure.chain_ids != "A"].all()
    assert kept[5:8].all()
    assert designs.design_chains == ("A",)
    assert (tokens_of(designs) == structure.tokens)[:, kept].all()
    assert (tokens_of(designs) != structure.tokens)[:, designs.designed].any()
    assert (designs.probabilities[:, kept] == 0).all()
    np.testing.assert_allclose(designs.probabilities[:, designs.designed].sum(-1), 1, rtol=1e-5)


def test_omitted_letters_never_appear(model):
    structure = protein("6MRR")
    constraints = Constraints(omit="XEKL", omit_at={0: "AGMS", "A5": "DN"})
    designs = model.design(structure, 20, 2.0, seed=1, constraints=constraints)
    first = {sequence[0] for sequence in designs.sequences}
    assert not set("XEKL") & set("".join(designs.sequences))
    assert not set("AGMS") & first
    at = list(structure.residue_numbers).index("5")
    assert not set("DN") & {sequence[at] for sequence in designs.sequences}
    assert set("DN") & set("".join(designs.sequences))
    barred = [ALPHABET.index(c) for c in "XEKL"]
    assert (designs.probabilities[:, :, barred] == 0).all()


def test_a_large_bias_forces_a_letter(model):
    structure = protein("6MRR")
    constraints = Constraints(bias={"W": 50.0}, bias_at={3: {"W": -200.0, "H": 50.0}})
    [sequence] = model.design(structure, 1, 1.0, seed=1, constraints=constraints).sequences
    assert sequence == "WWWH" + "W" * (len(structure) - 4)


def test_a_bias_is_divided_by_the_temperature_as_in_the_original(model):
    structure = protein("6MRR")
    order = random_order(len(structure))
    bias = {"A": 0.7, "L": -0.4}
    designs = model.design(
        structure, 1, 0.5, seed=1, constraints=Constraints(bias=bias), decoding_order=order
    )
    logits = designs.log_probs[0].astype(np.float64)
    for letter, value in bias.items():
        logits[:, ALPHABET.index(letter)] += value
    logits[:, ALPHABET.index("X")] = -np.inf
    expected = np.exp(logits / 0.5)
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(designs.probabilities[0], expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [0, 1e-6])
def test_at_temperature_zero_the_likeliest_residue_is_taken(temperature, model):
    structure = protein("6MRR")
    designs = model.design(structure, 3, temperature, seed=1)
    allowed = designs.log_probs.copy()
    allowed[..., ALPHABET.index("X")] = -np.inf
    np.testing.assert_array_equal(tokens_of(designs), allowed.argmax(-1))


def test_a_given_decoding_order_is_followed(model):
    structure = protein("6MRR")
    orders = np.stack([random_order(68, seed) for seed in range(2)])
    designs = model.design(structure, 2, 1.0, seed=1, decoding_order=orders)
    np.testing.assert_array_equal(designs.decoding_order, orders)
    one = model.design(structure, 2, 1.0, seed=1, decoding_order=orders[0])
    np.testing.assert_array_equal(one.decoding_order, orders[[0, 0]])
    assert one.sequences[0] == designs.sequences[0]
    assert one.sequences[1] != designs.sequences[1]


def test_residues_without_a_backbone_keep_their_letter(model):
    structure = without_backbone(protein("6MRR"), [0, 30, 31])
    designs = model.design(structure, 3, 1.0, seed=1)
    assert not designs.designed[[0, 30, 31]].any()
    assert (tokens_of(designs) == structure.tokens)[:, [0, 30, 31]].all()


# ------------------------------------------------------------------------------- what is returned


@pytest.mark.parametrize("name, chains", [("6MRR", None), ("3HTN", "A,C")])
def test_the_log_probabilities_of_a_design_are_those_of_its_sequence(name, chains, model):
    structure = protein(name)
    designs = model.design(structure, 2, 0.3, seed=2, constraints=Constraints(chains))
    again = model.log_probs(structure, designs.sequences, designs.decoding_order)
    farthest = np.abs(designs.log_probs - again).max()
    assert farthest <= REBATCHED, f"{farthest:.1e}"


def test_scores_and_recovery_are_what_their_definitions_say(model):
    structure = without_backbone(protein("3HTN"), [3, 200])
    designs = model.design(structure, 2, 0.3, seed=2, constraints=Constraints("B"))
    tokens = tokens_of(designs)
    for i in range(2):
        nll = -designs.log_probs[i, np.arange(len(structure)), tokens[i]]
        chosen = [
            j for j in range(len(structure)) if structure.chain_ids[j] == "B" and structure.mask[j]
        ]
        complete = np.flatnonzero(structure.mask)
        same = [designs.sequences[i][j] == structure.sequence[j] for j in chosen]
        assert designs.scores[i] == pytest.approx(nll[chosen].mean(), abs=1e-6)
        assert designs.global_scores[i] == pytest.approx(nll[complete].mean(), abs=1e-6)
        assert designs.recovery[i] == pytest.approx(np.mean(same), abs=1e-6)


def test_shapes_and_types_are_as_documented(model):
    designs = model.design(protein("6MRR"), 3, seed=0)
    assert len(designs) == len(designs.sequences) == 3
    for what, shape, dtype in (
        ("scores", (3,), np.float32),
        ("global_scores", (3,), np.float32),
        ("recovery", (3,), np.float32),
        ("log_probs", (3, 68, 21), np.float32),
        ("probabilities", (3, 68, 21), np.float32),
        ("decoding_order", (3, 68), np.int64),
        ("designed", (68,), np.bool_),
    ):
        values = getattr(designs, what)
        assert (values.shape, values.dtype) == (shape, dtype), what
    assert model.log_probs(protein("6MRR")).shape == (1, 68, 21)
    assert model.unconditional_log_probs(protein("6MRR")).shape == (68, 21)


def test_one_structure_gives_one_result_and_a_list_gives_a_list(model):
    one = protein("6MRR")
    assert isinstance(model.design(one, seed=0), Designs)
    assert [type(d) for d in model.design([one], seed=0)] == [Designs]
    assert isinstance(model.log_probs([one, one]), list)
    assert isinstance(model.unconditional_log_probs([one]), list)


def test_any_form_of_a_sequence_is_the_same_sequence(model):
    structure = protein("6MRR")
    order = random_order(68)
    native = model.log_probs(structure, decoding_order=order)
    for form in (
        structure.sequence,
        [structure.sequence],
        structure.tokens,
        structure.tokens[None],
        structure.tokens.tolist(),
    ):
        np.testing.assert_array_equal(model.log_probs(structure, form, order), native)


def test_one_sequence_under_many_orders_and_many_under_one(model):
    structure = protein("6MRR")
    orders = np.stack([random_order(68, seed) for seed in range(3)])
    many = model.log_probs(structure, structure.sequence, orders)
    assert many.shape == (3, 68, 21)
    for order, found in zip(orders, many, strict=True):
        [alone] = model.log_probs(structure, decoding_order=order)
        assert np.abs(found - alone).max() <= REBATCHED
    sequences = [structure.sequence, "A" * 68]
    pair = model.log_probs(structure, sequences, orders[0])
    assert np.abs(pair[1] - model.log_probs(structure, "A" * 68, orders[0])[0]).max() <= REBATCHED


def test_the_order_of_unseeded_log_probabilities_follows_the_seed(model):
    structure = protein("6MRR")
    a, again, b = (model.log_probs(structure, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).max() > 0.01


def test_scores_are_means_over_each_sequence_and_order(model):
    structure = protein("6MRR")
    sequences = [structure.sequence, "G" * 68]
    scores = model.score(structure, sequences, num_orders=3, seed=4)
    assert scores.score.shape == scores.global_score.shape == (2, 3)
    assert (scores.score[0] < scores.score[1]).all()
    assert np.ptp(scores.score[0]) > 0
    half = model.score(structure, sequences, Constraints(fixed=["A1-30"]), seed=4)
    assert half.score[0, 0] != pytest.approx(float(half.global_score[0, 0]), abs=1e-3)


def test_the_score_of_a_design_is_its_score_again(model):
    structure = protein("6MRR")
    designs = model.design(structure, 1, 0.1, seed=4)
    lp = model.log_probs(structure, designs.sequences, designs.decoding_order)
    nll = -np.take_along_axis(lp[0], tokens_of(designs)[0][:, None], 1).mean()
    assert designs.scores[0] == pytest.approx(nll, abs=GIVEN_BACK)


@pytest.fixture
def encoded(model, monkeypatch):
    """The number of structures in every call of the encoder."""
    counts: list[int] = []
    encode = model.backend.encode

    def counting(backbones, *arguments):
        counts.append(len(backbones.offsets) - 1)
        return encode(backbones, *arguments)

    monkeypatch.setattr(model.backend, "encode", counting)
    return counts


@pytest.mark.parametrize("sequences", [1, 5])
@pytest.mark.parametrize("num_orders", [1, 3])
def test_scores_need_one_encoding(sequences, num_orders, model, encoded):
    structure = protein("6MRR")
    model.score(structure, [structure.sequence] * sequences, num_orders=num_orders)
    assert encoded == [1]


def test_designs_at_all_temperatures_and_scores_need_one_encoding(model, encoded):
    structures = [protein("6MRR"), protein("5L33")]
    constraints = Constraints(fixed=["A1-20"])
    found = list(model.design_and_score(structures, 2, [0.1, 0.5], 37, constraints))
    assert sum(encoded) == 2, f"{sum(encoded)} encodings of 2 structures"
    for s, (designs, scores) in zip(structures, found, strict=True):
        for at, temperature in zip(designs, (0.1, 0.5), strict=True):
            expected = model.design(s, 2, temperature, 37, constraints)
            assert at.temperature == temperature
            assert at.sequences == expected.sequences
            assert np.abs(at.log_probs - expected.log_probs).max() <= REBATCHED
        expected = model.score(s, None, constraints, seed=37)
        assert np.abs(scores.score - expected.score).max() <= GIVEN_BACK
        assert np.abs(scores.global_score - expected.global_score).max() <= GIVEN_BACK


def test_results_come_as_they_are_computed(model, monkeypatch, encoded):
    monkeypatch.setattr(execution, "MEMORY_BUDGET_BYTES", 1)
    stream = model.design_and_score([protein("6MRR"), protein("5L33")], seed=1)
    assert encoded == []
    next(stream)
    assert encoded == [1]


def test_a_score_is_the_mean_of_its_log_probabilities(model):
    structure = without_backbone(protein("3HTN"), [3, 200])
    constraints = Constraints("B")
    sequences = [structure.sequence, "A" * len(structure)]
    scores = model.score(structure, sequences, constraints, num_orders=2, seed=4)
    designed = constraints.designed(structure)
    orders = drawn_orders(4, 2, designed, digest(structure))
    for i, sequence in enumerate(sequences):
        lp = model.log_probs(structure, sequence, orders)
        tokens = [ALPHABET.index(letter) for letter in sequence]
        nll = -lp[:, np.arange(len(structure)), tokens]
        np.testing.assert_allclose(scores.score[i], nll[:, designed].mean(1), atol=1e-5)
        np.testing.assert_allclose(
            scores.global_score[i], nll[:, structure.mask].mean(1), atol=1e-5
        )


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_sequences": 0}, "num_sequences is 0; expected at least 1"),
        ({"temperature": -1.0}, r"temperature is -1\.0; expected a number of at least 0"),
        (
            {"temperature": np.ones(5)},
            r"temperature has shape \(5,\); .* needs one number",
        ),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"seed": -1}, "seed is -1; expected 0 to"),
        ({"seed": 2**63}, f"seed is {2**63}"),
        ({"constraints": [Constraints()] * 2}, "2 constraints for 1 structures"),
        ({"constraints": Constraints(fixed=range(68))}, "6MRR: every position is fixed"),
        ({"decoding_order": np.zeros(68, int)}, r"6MRR: .*each of the positions 0 to 67 once"),
        ({"decoding_order": np.arange(67)}, r"shape \(1, 67\)"),
        (
            {"num_sequences": 3, "decoding_order": np.stack([np.arange(68)] * 2)},
            "2 decoding orders for 3 sequences",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_design_refuses_what_it_cannot_do(arguments, message, model):
    with pytest.raises(ValueError, match=message):
        model.design(protein("6MRR"), **arguments)


def test_more_sequences_than_memory_are_refused_before_any_work(model, monkeypatch):
    monkeypatch.setattr(model.backend, "encode", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(MemoryError, match=r"68 residues are \S+ GB of results, .* design fewer at"):
        model.design(protein("6MRR"), 10**10)


@pytest.mark.parametrize(
    "compute",
    [
        lambda model, s, rows: model.log_probs(s, rows),
        lambda model, s, rows: model.log_probs(s, None, np.tile(np.arange(68), (len(rows), 1))),
        lambda model, s, rows: model.score(s, rows),
        lambda model, s, rows: model.design(s, len(rows)),
        lambda model, s, rows: model.design_and_score([s], len(rows)),
    ],
    ids=["log_probs", "log_probs of many orders", "score", "design", "design_and_score"],
)
def test_no_result_may_be_larger_than_memory(compute, model, monkeypatch):
    monkeypatch.setattr(model.backend, "encode", lambda *_: pytest.fail("work was begun"))
    monkeypatch.setattr(memory, "memory_bytes", lambda: 50_000)
    structure = protein("6MRR")
    with pytest.raises(MemoryError, match=r"100 sequences of 68 .* there are 0\.0 GB of memory"):
        compute(model, structure, np.tile(structure.tokens, (100, 1)))


LIMIT, LARGER = 3 << 30, 5 << 30


@pytest.mark.parametrize(
    ("cgroup", "mount", "files"),
    [
        pytest.param(
            "0::/app", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            {"sys/fs/cgroup/app/memory.max": LIMIT}, id="v2",
        ),
        pytest.param(
            "0::/", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            {"sys/fs/cgroup/memory.max": LIMIT}, id="v2 in a container",
        ),
        pytest.param(
            "0::/slice/app", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            {"sys/fs/cgroup/slice/app/memory.max": "max",
             "sys/fs/cgroup/slice/memory.max": LIMIT}, id="v2 of a group above",
        ),
        pytest.param(
            "0::/../other", "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            {"sys/fs/cgroup/memory.max": LIMIT}, id="v2 of another namespace",
        ),
        pytest.param(
            "5:cpu,cpuacct:/no\n4:memory:/job\n0::/",
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct",
            {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": LIMIT,
             "sys/fs/cgroup/memory/memory.limit_in_bytes": LARGER}, id="v1",
        ),
        pytest.param(
            "4:memory:/docker/abc",
            "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": LIMIT}, id="v1 in a container",
        ),
    ],
)  # fmt: skip
def test_the_memory_is_that_of_the_container(cgroup, mount, files, tmp_path, monkeypatch):
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PHYS_PAGES": LARGER, "SC_PAGE_SIZE": 1}.get)
    assert memory.memory_bytes(tmp_path) == LARGER
    for path, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mount, **files}.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    memory.memory_bytes.cache_clear()  # a container's limits do not change under a process
    assert memory.memory_bytes(tmp_path) == LIMIT


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sequences": "A" * 67}, "6MRR has 68 residues; a sequence of 67 was given"),
        ({"sequences": ["A" * 68, "AB" * 34]}, "6MRR: a sequence holds 'B'"),
        ({"sequences": np.zeros(68)}, "dtype float64"),
        ({"sequences": np.full(68, 21)}, "tokens must be 0 to 20"),
        ({"sequences": np.full(68, -1)}, "tokens must be 0 to 20"),
        ({"sequences": np.zeros((2, 3, 68), int)}, r"shape \(2, 3, 68\)"),
        ({"sequences": []}, "6MRR"),
        ({"decoding_order": np.r_[0, np.arange(67)]}, "each of the positions 0 to 67 once"),
    ],
)
def test_log_probs_refuses_what_does_not_fit(arguments, message, model):
    with pytest.raises(ValueError, match=message):
        model.log_probs(protein("6MRR"), **arguments)


def test_lists_must_have_an_entry_for_each_structure(model):
    pair = [protein("6MRR"), protein("1A8O")]
    with pytest.raises(ValueError, match="2 structures were given; expected a list"):
        model.log_probs(pair, [pair[0].sequence])
    with pytest.raises(ValueError, match="2 structures were given"):
        model.log_probs(pair, pair[0].sequence)
    with pytest.raises(ValueError, match="2 structures were given"):
        model.design(pair, decoding_order=np.arange(68)[None])


def test_what_is_no_structure_is_refused(model):
    with pytest.raises(ValueError, match="list of structures is empty"):
        model.design([])
    with pytest.raises(TypeError, match="got str; read_structure"):
        model.design(["6MRR.pdb"])


def test_what_cannot_be_loaded_is_refused_with_what_can():
    with pytest.raises(ValueError, match="no backend is called 'abacus'; there are auto, torch"):
        load_model(backend="abacus")
    for backend in ("cuda", "cuda-fast"):
        with pytest.raises(ValueError, match=f"'{backend}' needs device='cuda', not 'cpu'"):
            load_model(backend=backend)
    with pytest.raises(ValueError, match="device 'nowhere' cannot be used here"):
        load_model(device="nowhere")


def test_constraint_errors_are_value_errors():
    assert issubclass(ConstraintError, ValueError)
