"""What is counted is what fixtures/baseline.json says, and the counts are of what they claim."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_counts import (
    ENVIRONMENT,
    NativeCount,
    Operations,
    context_multiply_adds,
    count,
    encoder_multiply_adds,
    matmul_multiply_adds,
    peak_bytes,
    row_multiply_adds,
)
from family_goldens import load_golden
from proteins import EXAMPLES, protein

from mpnn_core import load_model
from mpnn_core.backends.native import instruction_sets
from mpnn_core.gate.counting import (
    Baseline,
    BaselineError,
    Counter,
)
from mpnn_core.network.context import LigandMPNN, Surroundings, context_sets
from mpnn_core.network.graph import Backbones, nearest_neighbours

PATH = Path(__file__).parents[1] / "fixtures" / "baseline.json"


def test_every_counter_is_what_the_baseline_says() -> None:
    counters = count({name: protein(name) for name in EXAMPLES})
    differences = Baseline.load(PATH).differences(counters, ENVIRONMENT)
    if not instruction_sets():
        differences = [line for line in differences if "native" not in line]
    advice = "`python fixtures/make_baseline.py` shows this, and writes it with a reason"
    assert not differences, "\n".join([*differences, advice])


def test_the_formula_is_what_torch_counts() -> None:
    """Ours is of the shapes; torch's is of the products that it dispatches."""
    model, structure = load_model(backend="torch"), protein("6MRR")
    network, N, K = model.network, len(structure), 48
    found = matmul_multiply_adds(lambda: model.design(structure, 3, seed=1))
    formula = encoder_multiply_adds(network, N, K) + row_multiply_adds(network, 3 * N, K)
    # A table of residue offsets, 66 classes of 16 numbers, that plain torch makes several times.
    table = 66 * 16 * 128
    assert (found - formula) % table == 0 and 0 <= found - formula <= 8 * table, found - formula


@pytest.mark.parametrize("name", ["1pwc", "3mht"])  # one set of 23 atoms; many of 25
def test_the_formula_of_the_context_is_what_torch_counts(name) -> None:
    network, structure = LigandMPNN().eval().requires_grad_(False), load_golden(name).structure
    backbones = Backbones.from_structures([structure])
    graph = nearest_neighbours(backbones, network.neighbours)
    context = Surroundings.of([structure], None)
    sets = context_sets(context, graph, backbones, network.context_atoms)
    h_V = torch.zeros(len(backbones), 128)
    network.folded()
    found = matmul_multiply_adds(lambda: network.changed_states(h_V, graph, backbones, context))
    atoms, set_of_node = sets.atoms.numpy(), sets.set_of_node.numpy()
    # Torch computes the empty places of a set too, and turns into a frame by a product.
    filled = np.where(atoms >= 0, atoms, atoms.max() + 1 + np.arange(atoms.shape[1]))
    turned = 9 * filled.shape[1] * len(backbones)
    few = context_multiply_adds(128, atoms, set_of_node)
    many = context_multiply_adds(128, filled, set_of_node)
    assert few <= found - turned <= many, (few, found - turned, many)
    assert many <= (1.01 if name == "3mht" else 1.2) * few


@pytest.mark.skipif(not instruction_sets(), reason="no native code was built")
def test_native_calls_are_counted_from_their_shapes() -> None:
    model, structure = load_model(backend="native"), protein("6MRR")
    network, N, K = model.network, len(structure), 48
    backend = model.backend
    backend._engine = counted = NativeCount(backend._engine, network)
    model.design(structure, 2, seed=1)
    once = encoder_multiply_adds(network, N, K) + row_multiply_adds(network, 2 * N, K)
    assert counted.multiply_adds == once
    model.log_probs(structure)
    again = encoder_multiply_adds(network, N, K) + row_multiply_adds(network, N, K)
    assert counted.multiply_adds == once + again
    with pytest.raises(LookupError, match=r"Engine\.embed is new"):
        counted.embed()


def test_a_copy_is_an_operation_and_its_bytes_are_written() -> None:
    x = torch.zeros(1000)
    with Operations() as found:
        x.view(10, 100)
        assert (found.calls, found.bytes) == (1, 0)
        x.clone()
        assert (found.calls, found.bytes) == (2, 4000)
        x.add_(1)
        assert (found.calls, found.bytes) == (3, 8000)


def test_the_peak_is_of_what_is_held_together() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(1 << 20)

    def together() -> list[torch.Tensor]:
        return [torch.zeros(1 << 20) for _ in range(3)]

    assert peak_bytes(one_after_the_other) == 4 << 20
    assert peak_bytes(together) == 12 << 20
    assert peak_bytes(lambda: None) == 0


BASELINE = Baseline({"a": 100, "b": 5, "t": 7}, dict.fromkeys("abt", "first"), "counted 0.1")


def test_differences_are_named_with_their_size() -> None:
    counters = [Counter("a", 105, "bytes"), Counter("c", 1, "levels")]
    assert BASELINE.differences(counters, "counted 0.1") == [
        "a: 105 bytes, was 100 (+5.00 %)",
        "c: 1 levels, new",
        "b: gone, was 5",
        "t: gone, was 7",
    ]


def test_what_another_version_counts_is_not_held_against_it() -> None:
    counters = [Counter("a", 100, "x"), Counter("b", 5, "x"), Counter("t", 8, "x", versioned=True)]
    assert BASELINE.differences(counters, "counted 0.2") == []
    assert BASELINE.differences(counters, "counted 0.1") == ["t: 8 x, was 7 (+14.29 %)"]


def test_an_update_gives_its_reason_to_what_changed_alone(tmp_path) -> None:
    counters = [Counter("a", 100, "x"), Counter("b", 6, "x")]
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(BASELINE.updated(counters, "counted 0.2", "because")))
    updated = Baseline.load(path)
    assert updated.values == {"a": 100, "b": 6}
    assert updated.reasons == {"a": "first", "b": "because"}
    assert updated.environment == "counted 0.2"
    assert updated.differences(counters, "counted 0.2") == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"environment": "2", "counters": {"a": 1}}'])
def test_what_is_no_baseline_is_named(tmp_path, content) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(BaselineError, match="there is no"):
        Baseline.load(path)
    path.write_text(content)
    with pytest.raises(BaselineError, match=r"baseline\.json is not a baseline"):
        Baseline.load(path)


def test_every_baseline_has_a_reason() -> None:
    assert all(Baseline.load(PATH).reasons.values())
