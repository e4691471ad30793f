"""Buckets: padded is unpadded, at every length; and the original's way of padding is caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from proteins import TS50, protein, random_order, rows_of
from strategies import CAUGHT, NOISE, Layout, layouts
from torch import Tensor

from mpnn_core import Model, Structure, Variant, load_model
from mpnn_core.backends.contract import Backend
from mpnn_core.backends.coreml.buckets import BUCKETS, Padded, choose_bucket, pad
from mpnn_core.backends.registry import find_backend
from mpnn_core.network.architectures import random_network
from mpnn_core.network.encoding import Copies
from mpnn_core.network.graph import Backbones, Graph, nearest_neighbours
from mpnn_core.peers import original
from mpnn_core.sampling.orders import ranks

TOLERANCE = 1e-4
K = 48


def log_probs(backend: Backend, padded: Padded, tokens: Tensor, rank: Tensor) -> Tensor:
    """Teacher-forced log-probabilities of a padded structure: (length, 21).

    `tokens` and `rank`, (length,) int64, are those of the real residues.
    """
    encoding = backend.encode(padded.backbones, padded.graph)
    copies = Copies.of(encoding.graph, padded.backbones.offsets, [0])
    spare = len(padded.backbones) - padded.length
    # Spare rows are decoded last; no message reads them, whatever their rank.
    ranks = torch.cat([rank, rank.max() + 1 + torch.arange(spare, device=rank.device)])
    logits = backend.decode(encoding, copies, torch.nn.functional.pad(tokens, (0, spare)), ranks)
    return logits[: padded.length].log_softmax(-1)


def unpadded(model: Model, structure: Structure) -> np.ndarray:
    """Log-probabilities of the complete residues: (N, 21)."""
    order = random_order(len(structure))
    return model.log_probs(structure, decoding_order=order)[0, structure.mask]


def backend_or_skip(name: str) -> Model:
    try:
        return load_model(backend=name)
    except ValueError as error:
        pytest.skip(f"not exercised: {error}")


@pytest.fixture(scope="module", params=["torch", "native"])
def model(request) -> Model:
    """Padded and unpadded by the same arithmetic, so that nothing but the padding differs."""
    return backend_or_skip(request.param)


def padded_log_probs(model: Model, structure: Structure, padded: Padded) -> np.ndarray:
    tokens = torch.tensor(structure.tokens[structure.mask])
    rank = torch.tensor(ranks(random_order(len(structure)))[structure.mask])
    with torch.inference_mode():
        return log_probs(model.backend, padded, tokens, rank).numpy()


def pinned(test):
    """The lengths at which something may change: around k, and around every bucket."""
    at = {1, K - 1, K, K + 1, *(b + d for b in BUCKETS for d in (-1, 0, 1))}
    for length in sorted(at - {BUCKETS[-1] + 1}):  # which is refused: see below
        test = example(Layout(length, start=length))(test)
    return test


def check(structure: Structure, model: Model, plain: Model) -> None:
    """The log-probabilities of `model` in the bucket are those of `plain` without one."""
    padded = pad(Backbones.from_structures([structure]), K)
    N = int(structure.mask.sum())
    bucket = min(b for b in BUCKETS if b >= N)
    assert padded.length == N
    assert padded.backbones.coords.shape == (bucket, 4, 3)
    assert padded.graph.neighbours.shape == (bucket, min(K, bucket))
    farthest = np.abs(padded_log_probs(model, structure, padded) - unpadded(plain, structure)).max()
    assert farthest <= NOISE, f"{farthest:.1e}"


@settings(max_examples=25, deadline=None)
@given(layouts(max_length=BUCKETS[-1]))
@pinned
@example(Layout(70, chain_starts=(20, 50), gaps=((10, 3), (60, 40)), missing=(0, 30, 69)))
@example(Layout(64, missing=tuple(range(0, 60, 2))))
def test_padded_is_unpadded(model, layout):
    check(layout.build(), model, model)


@pytest.fixture(scope="module", params=["mlx", "coreml"])
def apple(request, tmp_path_factory) -> tuple[Model, Model]:
    """A small network in a backend that is slow here, and what it is held to without padding.

    Core ML has buckets alone: there it is plain torch that runs unpadded.
    """
    variant = Variant("small", hidden=32, encoder_layers=1, decoder_layers=1)
    plain = Model(random_network(variant), "random", variant, torch.device("cpu"), "torch")
    found = Model(plain.network, "random", variant, torch.device("cpu"), "torch")
    if request.param == "mlx":
        pytest.importorskip("mlx.core")
        found.backend = find_backend("mlx", plain.network, torch.device("cpu"))
        return found, found
    pytest.importorskip("coremltools")
    from mil_evaluator import Evaluator

    from mpnn_core.backends.coreml.backend import CoreMLBackend

    folder = tmp_path_factory.mktemp("packages")
    found.backend = CoreMLBackend(
        plain.network, "float32", folder, opened=lambda path, _: Evaluator(path)
    )
    return found, plain


@settings(max_examples=3, deadline=None)
@given(layouts(max_length=BUCKETS[-1]))
@pinned
@example(Layout(70, chain_starts=(20, 50), gaps=((10, 3), (60, 40)), missing=(0, 30, 69)))
def test_padded_is_unpadded_on_apples_backends(apple, layout):
    check(layout.build(), *apple)


@pytest.mark.parametrize("length", [5, 48, 64, 100])
def test_what_is_in_the_padding_does_not_count(length, model):
    structure = Layout(length).build()
    padded = pad(Backbones.from_structures([structure]), K, (128,))
    clean = padded_log_probs(model, structure, padded)
    coords = padded.backbones.coords.clone()
    coords[length:] = torch.tensor(structure.coords[0]) + 1.0  # among the real residues
    dirty = replace(padded, backbones=replace(padded.backbones, coords=coords))
    farthest = np.abs(padded_log_probs(model, structure, dirty) - clean).max()
    assert farthest <= 1e-6, f"{farthest:.1e}"


@pytest.mark.parametrize("bucket", BUCKETS)
def test_the_bucket_does_not_count(bucket, model):
    structure = protein("6MRR") if bucket > 64 else rows_of(protein("6MRR"), slice(0, 64))
    padded = pad(Backbones.from_structures([structure]), K, (bucket,))
    farthest = np.abs(padded_log_probs(model, structure, padded) - unpadded(model, structure)).max()
    assert farthest <= TOLERANCE, f"{farthest:.1e}"


# ------------------------------------------------------------------------ a test of the test above


@pytest.mark.parametrize("length", [30, 36, 42, 47])
def test_the_originals_padding_is_caught(length, model, published):
    """It lets padding into the neighbours of small proteins, and into the decoder's messages."""
    structure = rows_of(protein("6MRR"), slice(0, length))
    order = np.r_[random_order(length), length : BUCKETS[0]]
    given = original.inputs(structure)
    spare = BUCKETS[0] - length

    def rows(values: torch.Tensor) -> torch.Tensor:
        pad_rows = (0, 0) * (values.dim() - 2) + (0, spare)
        return torch.nn.functional.pad(values, pad_rows)

    padded = original.Inputs(*(rows(values) for values in vars(given).values()))
    found = original.log_probs(published, padded, torch.tensor(order)[None])[0, :length].numpy()
    assert np.abs(found - unpadded(model, structure)).max() > CAUGHT
    [whole] = original.log_probs(published, given, torch.tensor(order[:length])[None]).numpy()
    assert np.abs(whole - unpadded(model, structure)).max() <= TOLERANCE


def neighbours_of_padding(padded: Padded) -> Padded:
    """k-NN over padded coordinates, as if padding were residues."""
    return replace(padded, graph=nearest_neighbours(padded.backbones, K))


def spare_slots_used(padded: Padded) -> Padded:
    """The right neighbours, but the messages of spare slots are not masked."""
    return replace(padded, graph=Graph(padded.graph.neighbours, None))


@pytest.mark.parametrize("bug", [neighbours_of_padding, spare_slots_used])
@pytest.mark.parametrize("length", [30, 47])
def test_padding_that_leaks_into_ours_is_caught(length, bug, model):
    structure = rows_of(protein("6MRR"), slice(0, length))
    padded = bug(pad(Backbones.from_structures([structure]), K))
    found = np.abs(padded_log_probs(model, structure, padded) - unpadded(model, structure)).max()
    assert found > CAUGHT, f"{found:.1e}"


# ------------------------------------------------------------------------------ choice of bucket


def padding_waste(length: int, bucket: int) -> float:
    """Share of a bucket's rows that hold no residue."""
    return (bucket - length) / bucket


increasing = st.sets(st.integers(1, 5000), min_size=1, max_size=6).map(lambda s: tuple(sorted(s)))


@settings(max_examples=200, deadline=None)
@given(increasing, st.data())
def test_the_smallest_bucket_that_holds_the_length_is_chosen(buckets, data):
    length = data.draw(st.integers(1, buckets[-1]))
    chosen = choose_bucket(length, buckets)
    assert chosen in buckets
    assert chosen >= length
    assert all(b < length for b in buckets if b < chosen)


@pytest.mark.parametrize(
    "length, bucket, waste",
    [(1, 64, 63 / 64), (63, 64, 1 / 64), (64, 64, 0), (65, 128, 63 / 128), (127, 128, 1 / 128),
     (128, 128, 0), (129, 256, 127 / 256), (255, 256, 1 / 256), (256, 256, 0),
     (257, 512, 255 / 512), (511, 512, 1 / 512), (512, 512, 0)],
)  # fmt: skip
def test_choice_and_waste_are_exact(length, bucket, waste):
    assert choose_bucket(length) == bucket
    assert padding_waste(length, bucket) == waste


def test_shapes_and_waste_of_ts50_are_exact():
    """What fixed shapes cost on these proteins: two shapes to compile, and a third of the rows."""
    lengths = [int(protein(name).mask.sum()) for name in TS50]
    chosen = [choose_bucket(length) for length in lengths]
    assert (chosen.count(128), chosen.count(256)) == (15, 35)
    assert padding_waste(sum(lengths), sum(chosen)) == (10880 - 6860) / 10880


@pytest.mark.parametrize("length", [BUCKETS[-1] + 1, 10_000])
def test_over_long_input_names_the_largest_bucket(length):
    with pytest.raises(ValueError, match=f"^{length} residues .* largest bucket, {BUCKETS[-1]};"):
        choose_bucket(length)


def test_a_structure_one_over_the_largest_bucket_is_refused():
    backbones = Backbones.from_structures([Layout(BUCKETS[-1] + 1).build()])
    with pytest.raises(ValueError, match=f"largest bucket, {BUCKETS[-1]}"):
        pad(backbones, K)


@pytest.mark.parametrize("length", [0, -3])
def test_no_residue_fits_no_bucket(length):
    with pytest.raises(ValueError, match=f"at least 1 residue, got {length}"):
        choose_bucket(length)


@pytest.mark.parametrize("buckets", [(), (0, 64), (64, 64), (128, 64), (-1,)])
def test_buckets_must_be_positive_and_increasing(buckets):
    with pytest.raises(ValueError, match="positive and strictly increasing, got"):
        choose_bucket(10, buckets)


def test_a_bucket_holds_one_structure():
    two = Backbones.from_structures([Layout(5).build(), Layout(6).build()])
    with pytest.raises(ValueError, match="a bucket holds one structure, got 2"):
        pad(two, K)


def test_a_graph_does_not_fit_into_fewer_nodes_or_slots():
    graph = nearest_neighbours(Backbones.from_structures([Layout(20).build()]), 10)
    for shape in ((19, 10), (20, 9)):
        with pytest.raises(ValueError, match=r"shape \(20, 10\) does not fit into"):
            graph.padded(*shape)
