"""Three things that others will add, each added here as a toy: a family, an architecture, a field.

And the rule that serves them: what a backend does not know, plain torch computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from proteins import protein, random_order, rows_of
from torch import Tensor, nn

from mpnn_core import CheckpointError, load_model
from mpnn_core.backends.contract import encoded, serves
from mpnn_core.backends.native import NativeBackend, instruction_sets
from mpnn_core.backends.plain import TorchBackend, serving
from mpnn_core.network.architectures import ARCHITECTURES, Architecture, recognise
from mpnn_core.network.checkpoints import (
    Checkpoint,
    build_network,
    load_checkpoint,
    load_network,
    resolve,
)
from mpnn_core.network.encoding import CHANGED_STATES, INITIAL_STATES, Copies
from mpnn_core.network.families import FAMILIES, Family, Source
from mpnn_core.network.graph import Backbones
from mpnn_core.network.mpnn import MPNN
from mpnn_core.network.reference import ReferenceMPNN
from mpnn_core.network.variants import VARIANTS
from mpnn_core.sampling.orders import ranks
from mpnn_core.sampling.sampler import Distribution

TOLERANCE = 1e-4  # nats, any log-probability
SHIFTED = 1e-2  # nats; a state that counts moves some log-probability by more
BASELINE = VARIANTS["baseline"]


def backend_of(name: str, network: MPNN, folder=None):
    """A backend of the network; skips where it cannot run."""
    if name == "torch":
        return TorchBackend(network)
    if name == "native":
        if not instruction_sets():
            pytest.skip("not exercised: no native code was built here")
        return NativeBackend(network)
    if name.startswith("mlx"):
        pytest.importorskip("mlx.core")
        from mpnn_core.backends.mlx import MLXBackend

        return MLXBackend(network)
    if name == "coreml":
        pytest.importorskip("coremltools")
        from mil_evaluator import Evaluator

        from mpnn_core.backends.coreml.backend import CoreMLBackend

        return CoreMLBackend(network, "float32", folder, opened=lambda path, _: Evaluator(path))
    from mpnn_core.backends.cuda import CudaBackend

    backend = CudaBackend(network)
    backend.triton = False  # test_cuda.py has the fused kernels
    return backend


# ---------------------------------------------------------------------- (a) a family of checkpoints


def test_a_family_of_checkpoints_is_a_row_and_its_licence(tmp_path, monkeypatch) -> None:
    ours = load_checkpoint("v_48_020")
    state = {name: value * 1.01 for name, value in ours.state.items()}
    (tmp_path / "toy_weights").mkdir()
    replace(ours, state=state).save(tmp_path / "toy_weights" / "v.safetensors")
    monkeypatch.syspath_prepend(tmp_path)

    source = Source("toy", "1.0", "toy_weights", "{}.safetensors")
    row = Family({"v": 0.2}, (source,), licence="CC0-1.0")
    monkeypatch.setitem(FAMILIES, "toy/", row)

    model = load_model("toy/v")
    assert (model.name, model.loss) == ("toy/v", "")
    assert torch.equal(model.network.state_dict()["W_out.bias"].cpu(), state["W_out.bias"])
    assert len(model.design(protein("6MRR"), seed=1).sequences[0]) == 68
    with pytest.raises(CheckpointError, match=r"published are .*v_48_020, .*toy/v$"):
        load_model("toy/w")


def test_a_family_whose_package_is_missing_says_what_to_install(monkeypatch) -> None:
    row = Family({"v": 0.2}, (Source("toy", "1.0", "toy_weights"),), licence="CC0-1.0")
    monkeypatch.setitem(FAMILIES, "toy/", row)
    with pytest.raises(
        CheckpointError, match=r"package toy, which is .*pip install toy==1.0, or give"
    ):
        load_model("toy/v")


@pytest.mark.parametrize("prefix", FAMILIES)
def test_every_family_names_its_licence_and_architecture(prefix) -> None:
    family = FAMILIES[prefix]
    assert family.licence
    assert family.architecture in ARCHITECTURES


# ------------------------------------------------------------------------------ (b) an architecture


class LabelledMPNN(MPNN):
    """Starts from a row for each label of a residue, and adds half of it after the encoder."""

    requires = frozenset({INITIAL_STATES, CHANGED_STATES})

    def __init__(self, hidden: int, *shape: int) -> None:
        super().__init__(hidden, *shape)
        self.labels = nn.Embedding(3, hidden)

    def initial_states(self, backbones: Backbones, context: Tensor) -> Tensor:
        return self.labels(context)

    def changed_states(self, h_V, graph, backbones, context: Tensor) -> Tensor:
        return h_V + 0.5 * self.labels(context)


@pytest.fixture
def labelled(tmp_path, monkeypatch) -> LabelledMPNN:
    """Read from a file that says nothing of its architecture."""
    row = Architecture(LabelledMPNN, frozenset({"backbone"}), {"labels.weight": (3, 128)})
    monkeypatch.setitem(ARCHITECTURES, "labelled", row)
    ours = load_checkpoint("v_48_020")
    labels = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    state = ours.state | {"labels.weight": labels}
    Checkpoint("labelled", state, 48).save(tmp_path / "labelled.safetensors")
    network, name = load_network(resolve(tmp_path / "labelled.safetensors"), BASELINE)
    assert (type(network), name) == (LabelledMPNN, "labelled")
    return network


class Given:
    """Two structures, three sequences, the labels of residues."""

    def __init__(self) -> None:
        lengths = (30, 12)
        structures = [rows_of(protein("6MRR"), slice(0, n)) for n in lengths]
        self.backbones = Backbones.from_structures(structures)
        self.labels = torch.arange(sum(lengths)) % 3
        self.of = [0, 1, 0]
        self.M = sum(lengths[s] for s in self.of)
        self.tokens = torch.arange(self.M) % 20
        self.rank = torch.cat([torch.tensor(ranks(random_order(lengths[s]))) for s in self.of])

    def log_probs(self, backend, encoding) -> Tensor:
        copies = Copies.of(encoding.graph, self.backbones.offsets, self.of)
        return backend.decode(encoding, copies, self.tokens, self.rank).log_softmax(-1)

    def samples(self, backend, distribution: Distribution):
        encoding = encoded(backend, self.backbones)
        copies = Copies.of(encoding.graph, self.backbones.offsets, self.of)
        uniform = torch.linspace(0.01, 0.99, self.M, dtype=torch.float64)
        every = torch.ones(self.M, dtype=torch.bool)
        return backend.sample(
            encoding, copies, self.rank, distribution, uniform, self.tokens, every
        )


@pytest.fixture
def given() -> Given:
    return Given()


def farthest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def written_out(labelled: LabelledMPNN, given: Given) -> Tensor:
    """The first sequence's log-probabilities (30, 21) by the layers of `network/reference.py`."""
    reference = ReferenceMPNN()
    state = {k: v for k, v in labelled.state_dict().items() if not k.startswith("labels")}
    reference.load_state_dict(state)
    first = slice(0, given.backbones.offsets[1])
    coords, index, chain = (
        x[first] for x in (given.backbones.coords, given.backbones.residue_index,
                           given.backbones.chain)
    )  # fmt: skip
    start, rank = labelled.labels(given.labels[first]), given.rank[first]
    E, E_idx = reference.features(coords, index, chain)
    h_V, h_E = start, reference.W_e(E)
    for layer in reference.encoder_layers:
        h_V, h_E = layer(h_V, h_E, E_idx)
    h_V = h_V + 0.5 * start
    residues = reference.W_s(given.tokens[first])[E_idx]
    unseen = torch.cat([h_E, torch.zeros_like(residues), h_V[E_idx]], -1)
    for layer in reference.decoder_layers:
        seen = torch.cat([h_E, residues, h_V[E_idx]], -1)
        decoded = (rank[E_idx] < rank[:, None])[..., None]
        h_V = layer(h_V, torch.where(decoded, seen, unseen))
    return reference.W_out(h_V).log_softmax(-1)


@pytest.mark.parametrize("name", ["torch", "native", "mlx", "cuda"])
@torch.inference_mode()
def test_an_architecture_starts_and_changes_node_states_on_every_backend(
    name, labelled, given
) -> None:
    backend, plain = backend_of(name, labelled), TorchBackend(labelled)
    assert serves(backend, labelled.requires)
    encoding = encoded(backend, given.backbones, context=given.labels)
    log_probs = given.log_probs(backend, encoding)

    assert farthest(log_probs[:30], written_out(labelled, given)) <= TOLERANCE

    # Each of the two counts.
    start = labelled.labels(given.labels)
    without_start = labelled.encode(given.backbones)
    without_start = labelled.with_states(without_start, without_start.h_V + 0.5 * start)
    without_change = labelled.encode(given.backbones, h_V=start)
    for other in (without_start, without_change):
        assert farthest(log_probs, given.log_probs(plain, other)) > SHIFTED


@pytest.mark.parametrize("name", instruction_sets())
@torch.inference_mode()
def test_initial_states_are_those_of_torch_in_every_instruction_set(name, given) -> None:
    network = load_model(backend="torch").network
    h_V = torch.randn(len(given.backbones), 128, generator=torch.Generator().manual_seed(1))
    ours = NativeBackend(network, name).encode(given.backbones, h_V=h_V)
    theirs = network.encode(given.backbones, h_V=h_V)
    assert farthest(ours.h_V, theirs.h_V) <= 1e-4
    assert farthest(ours.undecoded, theirs.undecoded) <= 2e-4


@torch.inference_mode()
def test_initial_states_of_zero_are_none_on_every_backend(given) -> None:
    network = load_model(backend="torch").network
    zeros = torch.zeros(len(given.backbones), 128)
    for name in ("torch", "native"):
        backend = backend_of(name, network)
        a, b = backend.encode(given.backbones), backend.encode(given.backbones, h_V=zeros)
        assert farthest(a.h_V, b.h_V) <= 1e-5


@torch.inference_mode()
def test_a_backend_that_starts_from_zeros_says_so_and_plain_torch_serves(
    labelled, given, tmp_path
) -> None:
    backend = backend_of("coreml", labelled, tmp_path)
    assert not serves(backend, labelled.requires)
    assert serves(backend, frozenset({CHANGED_STATES}))
    with pytest.raises(ValueError, match="'coreml' does not compute initial states; beyond"):
        encoded(backend, given.backbones, context=given.labels)
    plain = serving(backend, labelled.requires)
    assert isinstance(plain, TorchBackend)
    assert plain.network is labelled


@torch.inference_mode()
def test_core_ml_decodes_from_changed_states(tmp_path) -> None:
    small = replace(BASELINE, hidden=32, encoder_layers=1, decoder_layers=2, neighbours=8)
    network, _ = load_network(resolve("random"), small)
    given = Given()
    backend = backend_of("coreml", network, tmp_path)
    h_V = torch.randn(len(given.backbones), 32, generator=torch.Generator().manual_seed(2))
    ours = backend.with_states(backend.encode(given.backbones), h_V)
    theirs = network.with_states(network.encode(given.backbones), h_V)
    found = given.log_probs(backend, ours)
    assert farthest(found, given.log_probs(TorchBackend(network), theirs)) <= TOLERANCE


def test_an_architecture_is_what_the_file_says_or_its_tensors_have(tmp_path, labelled) -> None:
    ours = load_checkpoint("v_48_020")
    assert ours.architecture == recognise(ours.state) == "ProteinMPNN"
    assert recognise(labelled.state_dict()) == "labelled"
    assert (
        recognise(labelled.state_dict() | {"labels.weight": torch.zeros(4, 128)}) == "ProteinMPNN"
    )
    path = tmp_path / "file.safetensors"
    replace(ours, architecture="labelled").save(path)
    assert load_checkpoint(path).architecture == "labelled"
    with pytest.raises(CheckpointError, match=r"labels\.weight is missing"):
        build_network(load_checkpoint(path), BASELINE)
    replace(ours, architecture="another").save(path)
    with pytest.raises(
        CheckpointError, match="of the architecture 'another'; expected one of Prot"
    ):
        load_checkpoint(path)
    state = ours.state | {name: torch.zeros(1) for name in ("W_c.weight", "W_torsions.weight")}
    replace(ours, state=state | {"W_v_sc.weight": torch.zeros(1)}).save(path)
    with pytest.raises(CheckpointError, match="is a side-chain packer model, which designs no"):
        load_checkpoint(path)


# -------------------------------------------------------------------- (c) a field of Distribution


@dataclass(frozen=True, eq=False)
class Floored(Distribution):
    """No residue is rarer than `floor` (M,), before what is omitted is left out."""

    floor: Tensor | None = None

    def probabilities(self, logits: Tensor) -> Tensor:
        p = super().probabilities(logits)
        p = p if self.floor is None else p.clamp(min=self.floor[:, None])
        p = p.masked_fill(self.omit, 0)
        return p / p.sum(-1, keepdim=True)


def floored(M: int, **fields: Tensor) -> Floored:
    omit = torch.zeros(M, 21, dtype=torch.bool)
    omit[:, 20] = True
    return Floored(torch.full((M,), 0.1), torch.zeros(M, 21), omit, **fields)


def test_the_fields_in_use_are_those_beyond_temperature_bias_and_omissions() -> None:
    M = 4
    assert floored(M).in_use == frozenset()
    ties = {"group": torch.tensor([0, 0, -1, -1]), "weight": torch.ones(M)}
    assert floored(M, floor=torch.zeros(M), **ties).in_use == {"floor", "group", "weight"}


@pytest.mark.parametrize("name", ["native", "mlx", "coreml", "cuda"])
@torch.inference_mode()
def test_a_field_that_no_fast_backend_knows_is_served_by_plain_torch(name, given, tmp_path) -> None:
    small = replace(BASELINE, hidden=64, encoder_layers=1, decoder_layers=1, neighbours=12)
    network, _ = load_network(resolve("random"), small)
    fast = backend_of(name, network, tmp_path)
    for known in (floored(given.M), floored(given.M, weight=torch.ones(given.M))):
        assert serving(fast, known.in_use) is fast
    distribution = floored(given.M, floor=torch.full((given.M,), 0.02))
    assert not serves(fast, distribution.in_use)
    with pytest.raises(ValueError, match=f"backend '{fast.name}' does not compute floor; .* group"):
        given.samples(fast, distribution)
    samples = given.samples(serving(fast, distribution.in_use), distribution)
    assert samples.probabilities[:, :20].min() > 0.01
    assert samples.probabilities[:, 20].max() == 0
    unfloored = given.samples(serving(fast, frozenset()), floored(given.M))
    assert unfloored.probabilities[:, :20].min() < 0.01


@torch.inference_mode()
def test_tied_positions_get_one_residue_by_a_field_of_their_own(given) -> None:
    """The field's values are merged over a group, and so count there too."""
    backend = TorchBackend(load_network(resolve("random"), VARIANTS["extreme-v2"])[0])
    group = torch.full((given.M,), -1)
    for number, (first, second) in enumerate([(2, 5), (40, 41)]):
        group[[first, second]] = number
        given.rank[second] = given.rank[first]  # decoded one after the other
    given.rank = 2 * given.rank
    given.rank[[5, 41]] += 1
    floor = torch.zeros(given.M)
    floor[[2, 5]] = torch.tensor([0.0, 0.08])
    samples = given.samples(
        backend, floored(given.M, floor=floor, group=group, weight=torch.ones(given.M))
    )
    assert samples.tokens[2] == samples.tokens[5]
    assert samples.tokens[40] == samples.tokens[41]
    p = samples.probabilities[2]
    assert torch.equal(p, samples.probabilities[5])
    assert p[:20].min() >= 0.04 / (1 + 20 * 0.04) > samples.probabilities[40, :20].min()


def test_every_order_of_fields_is_kept_by_rows() -> None:
    values = floored(6, floor=torch.arange(6.0), group=torch.arange(6), weight=torch.ones(6))
    rows = values.of(torch.tensor([4, 1]))
    assert isinstance(rows, Floored)
    assert np.array_equal(rows.floor, [4, 1])
    assert rows.group is None
    assert rows.weight is None
