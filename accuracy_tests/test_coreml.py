"""Core ML packages, as saved, against plain torch; run op by op where Core ML is not.

By default one package per bucket for the baseline and the smallest students' shape; every variant,
bucket, precision and mode, on all chains of TS50 that fit, with `--all-packages` (half an hour).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from models import plain_model
from proteins import TS50, path_of, protein, random_order, rows_of

import mpnn_core as mpnn
from mpnn_core import Constraints, Model
from mpnn_core.backends.contract import UnavailableError
from mpnn_core.backends.coreml.buckets import BUCKETS, Padded, pad
from mpnn_core.backends.registry import find_backend
from mpnn_core.network.graph import Backbones
from mpnn_core.sampling.orders import ranks

coremltools = pytest.importorskip("coremltools")
import mil_evaluator  # noqa: E402  needs coremltools
from mil_evaluator import Evaluator, UnknownOperationError  # noqa: E402

from mpnn_core.backends.coreml import backend as coreml  # noqa: E402
from mpnn_core.backends.coreml import packages  # noqa: E402
from mpnn_core.backends.coreml.backend import CoreMLBackend  # noqa: E402
from mpnn_core.backends.coreml.packages import Export, Precision  # noqa: E402

TOLERANCE = 1e-4  # nats, any log-probability, float32
AGREEMENT, KL = 0.99, 1e-3  # argmax and mean over residues, float16
CAUGHT = 1e-2  # nats; what one wrong weight moves, and more
MAIN, FLOAT32_BUCKET = ("baseline", "minimal"), 256  # by default
# Without the option; TS50 has chains of 79 to 173 residues.
IN_BUCKET = {
    64: ("6MRR",),
    128: ("1ahsA", "1dx5I", "1i8nA"),
    256: ("1bvyF", "1eteA", "1h4aX"),
    512: ("3HTN",),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Where packages are converted to, once for all tests."""
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="session")
def backend(folder):
    """(variant, precision) -> a model that designs through packages."""

    @cache
    def made(variant: str, precision: Precision) -> Model:
        plain = plain_model(variant)
        found = Model(plain.network, plain.name, plain.variant, plain.device, "torch")
        found.backend = CoreMLBackend(
            plain.network, precision, folder / variant, opened=lambda path, _: Evaluator(path)
        )
        return found

    return made


@pytest.fixture(scope="session")
def package(backend):
    """(variant, export) -> the saved package, evaluated op by op."""

    @cache
    def opened(variant: str, export: Export) -> Evaluator:
        return Evaluator(backend(variant, export.precision).backend.package(export))

    return opened


def fitting(bucket: int, everything: bool) -> Iterable[mpnn.Structure]:
    """Chains that this bucket is chosen for; 6MRR has 68 residues, of which the first 64."""
    smaller = max((b for b in BUCKETS if b < bucket), default=0)
    names = IN_BUCKET[bucket] + (TS50 if everything else ())
    for name in dict.fromkeys(names):
        structure = protein(name)
        if name == "6MRR":
            structure = rows_of(structure, slice(0, 64))
        if smaller < structure.mask.sum() <= bucket:
            yield structure


def inputs(network, structure, export: Export, rank: torch.Tensor) -> dict[str, np.ndarray]:
    """Of mode "forward", from the host's own functions."""
    padded: Padded = pad(Backbones.from_structures([structure]), network.neighbours, (export.rows,))
    spare = export.rows - padded.length
    tokens = torch.from_numpy(structure.tokens[structure.mask])
    given = coreml.forward_inputs(
        network, padded, torch.nn.functional.pad(tokens, (0, spare)),
        torch.nn.functional.pad(rank, (0, spare)),
    )  # fmt: skip
    return {name: v.numpy().astype(export.precision) for name, v in given.items()}


def forward(evaluator, network, structure, export, rank) -> np.ndarray:
    """Log-probabilities of the complete residues: (N, 21)."""
    found = evaluator(inputs(network, structure, export, rank))["logits"]
    logits = torch.from_numpy(found[0, :, 0, : len(rank)].T.astype(np.float32))
    return logits.log_softmax(-1).numpy()


def compare(evaluator, plain: Model, structure, export) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (N, 21) of torch and of the package, under one random order."""
    order = random_order(len(structure))
    expected = plain.log_probs(structure, decoding_order=order)[0, structure.mask]
    rank = torch.from_numpy(ranks(order)[structure.mask])
    return expected, forward(evaluator, plain.network, structure, export, rank)


@pytest.fixture(scope="session")
def everything(request) -> bool:
    """Whether the whole matrix was asked for."""
    return bool(request.config.getoption("--all-packages"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "variant" in metafunc.fixturenames:
        whole = metafunc.config.getoption("--all-packages")
        metafunc.parametrize("variant", tuple(mpnn.VARIANTS) if whole else MAIN)


@pytest.mark.parametrize("bucket", BUCKETS)
def test_float16_package_per_bucket(everything, package, variant, bucket) -> None:
    export = Export("forward", bucket, "float16")
    evaluator, plain = package(variant, export), plain_model(variant)
    pairs = [compare(evaluator, plain, s, export) for s in fitting(bucket, everything)]
    p, q = (np.concatenate(side) for side in zip(*pairs, strict=True))
    kl = (np.exp(p) * (p - q)).sum(-1).mean()
    agreement = (p.argmax(-1) == q.argmax(-1)).mean()
    print(f"{variant} {bucket}: KL {kl:.1e}, argmax {100 * agreement:.2f} % of {len(p)}")
    assert kl < KL, f"{kl:.1e} nats"
    if plain.name != "random":  # random weights prefer no letter, so rounding changes the likeliest
        assert agreement >= AGREEMENT, f"{100 * agreement:.1f} % of {len(p)} residues"


@pytest.mark.parametrize("bucket", BUCKETS)
def test_float32_package_per_bucket(everything, package, variant, bucket) -> None:
    if not everything and bucket != FLOAT32_BUCKET:
        pytest.skip("with --all-packages")
    export = Export("forward", bucket, "float32")
    evaluator = package(variant, export)
    for structure in list(fitting(bucket, everything))[: None if everything else 1]:
        p, q = compare(evaluator, plain_model(variant), structure, export)
        farthest = np.abs(p - q).max()
        assert farthest <= TOLERANCE, f"{structure.name}: {farthest:.1e}"


def test_no_order_is_unconditional(package) -> None:
    export = Export("forward", 64, "float32")
    [structure] = fitting(64, False)
    rank = torch.zeros(
        len(structure), dtype=torch.int64
    )  # rows of equal rank do not see each other
    plain = plain_model()
    found = forward(package("baseline", export), plain.network, structure, export, rank)
    farthest = np.abs(found - plain.unconditional_log_probs(structure)).max()
    assert farthest <= TOLERANCE, f"{farthest:.1e}"


def test_a_model_runs_through_packages(backend, folder) -> None:
    """Encoder, decoder and level packages; structures of any lengths, fixed and tied residues."""
    ours, plain = backend("baseline", "float32"), plain_model()
    structures = [rows_of(protein("6MRR"), slice(0, n)) for n in (40, 30)]
    orders = [random_order(len(s)) for s in structures]
    pairs = zip(
        ours.log_probs(structures, decoding_order=orders),
        plain.log_probs(structures, decoding_order=orders),
        strict=True,
    )
    for found, expected in pairs:
        assert np.abs(found - expected).max() <= TOLERANCE
    constraints = Constraints(fixed=[0, 5, 6], tied=[[2, 12, 25]], omit="CX", bias={"A": -1})
    arguments = {"num_sequences": 2, "temperature": 0.3, "seed": 7, "constraints": constraints}
    for found, expected in zip(
        ours.design(structures, **arguments), plain.design(structures, **arguments), strict=True
    ):
        assert found.sequences == expected.sequences
        assert np.abs(found.log_probs - expected.log_probs).max() <= TOLERANCE
    # Two structures in one bucket: one shape of each to compile.
    converted = {path.stem for path in (folder / "baseline").glob("*-float32-*.mlpackage")}
    shapes = {"encoder-64-float32", "decoder-64-float32", "level-32-float32"}
    found = {name.rpartition("-")[0] for name in converted}
    assert {name for name in found if not name.startswith("forward")} == shapes


@pytest.mark.parametrize("precision", packages.PRECISIONS)
@pytest.mark.parametrize("bucket", BUCKETS)
def test_every_variant_designs_in_every_bucket(
    everything, backend, variant, bucket, precision
) -> None:
    """Modes encoder, decoder and level."""
    if not everything:
        pytest.skip("with --all-packages")
    structure = next(iter(fitting(bucket, False)))
    designs = backend(variant, precision).design(structure, 1, 0.5, seed=1)
    order = designs.decoding_order
    exact = plain_model(variant).log_probs(structure, designs.sequences, order)
    given = backend(variant, precision).log_probs(structure, designs.sequences, order)
    for found in (designs.log_probs, given):
        if precision == "float32":
            assert np.abs(found - exact).max() <= TOLERANCE
        assert (np.exp(exact) * (exact - found)).sum(-1).mean() < KL


def test_float16_designs_are_as_good(backend) -> None:
    """Level by level in float16: the log-probabilities of its own designs are torch's."""
    [structure] = fitting(64, False)
    designs = backend("minimal", "float16").design(structure, 1, 0.1, seed=1)
    exact = plain_model("minimal").log_probs(structure, designs.sequences, designs.decoding_order)
    kl = (np.exp(exact) * (exact - designs.log_probs)).sum(-1).mean()
    assert kl < KL, f"{kl:.1e} nats"


def test_one_wrong_weight_is_caught(package, tmp_path) -> None:
    export = Export("forward", 64, "float32")
    path = coreml.convert(plain_model("minimal").network, export, tmp_path / "broken.mlpackage")
    [weights] = path.rglob("weight.bin")
    values = np.fromfile(weights, np.float32)
    at = int(
        np.flatnonzero(np.isclose(values, plain_model("minimal").network.W_out.weight[3, 5]))[0]
    )
    values[at] += 1
    values.tofile(weights)
    [structure] = fitting(64, False)
    p, q = compare(Evaluator(path), plain_model("minimal"), structure, export)
    assert np.abs(p - q).max() > CAUGHT


def test_an_unknown_operation_is_named(package, monkeypatch) -> None:
    path = package("minimal", Export("level", coreml.LEVEL_ROWS, "float16")).path
    monkeypatch.delitem(mil_evaluator.OPERATIONS, "gelu")
    with pytest.raises(UnknownOperationError, match=r"operation 'gelu' \(\w+\) is none of"):
        Evaluator(path)


@pytest.mark.parametrize("name", packages.MODES)
def test_the_stated_schema_is_that_of_the_modules(name) -> None:
    """Names and order of the inputs; a result for each output, in its shape."""
    mode, network = packages.MODES[name], plain_model("minimal").network
    assert mode.inputs == tuple(inspect.signature(mode.module.forward).parameters)[1:]
    export = Export(name, 64, "float32")
    module = export.module(network)
    with torch.inference_mode():
        results = module(*(torch.zeros(port.shape) for port in export.inputs(network)))
    results = results if isinstance(results, tuple) else (results,)
    shapes = [tuple(result.shape) for result in results]
    assert shapes == [port.shape for port in export.outputs(network)]


@pytest.mark.parametrize("mode", ["forward", "encoder", "decoder", "level"])
def test_what_a_package_holds(package, mode) -> None:
    """Operations that the Neural Engine has: no gather, no cast; and what each input is."""
    export = Export(mode, coreml.LEVEL_ROWS if mode == "level" else 64, "float16")
    evaluator, network = package("minimal", export), plain_model("minimal").network
    assert set(evaluator.counts) <= set(mil_evaluator.OPERATIONS)
    assert not {"gather", "gather_along_axis", "cast", "transpose"} & set(evaluator.counts)
    description = evaluator.spec.description
    metadata = description.metadata
    assert (metadata.versionString, metadata.license) == (mpnn.__version__, "MIT")
    assert "Dauparas" in metadata.author
    assert f"{mode} of {export.rows} rows, hidden 64, 2+2 layers" in metadata.shortDescription
    for ports, features in (
        (export.inputs(network), description.input), (export.outputs(network), description.output),
    ):  # fmt: skip
        assert [f.name for f in features] == [port.name for port in ports]
        for feature, port in zip(features, ports, strict=True):
            assert tuple(feature.type.multiArrayType.shape) == port.shape
            shape = " x ".join(map(str, port.shape))
            assert feature.shortDescription == f"{shape}, float16: {port.meaning}"


@pytest.mark.parametrize("name", ["fast", "extreme-v2"])
def test_every_shape_of_the_network(name) -> None:
    """k of 16 and 12, in plain torch: the modules that are converted, before they are."""
    plain, export = plain_model(name), Export("forward", 128, "float32")
    module = export.module(plain.network)

    def run(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {k: torch.from_numpy(v) for k, v in given.items()}
        with torch.inference_mode():
            return {"logits": module(**tensors).numpy()}

    p, q = compare(run, plain, protein("5L33"), export)
    farthest = np.abs(p - q).max()
    assert farthest <= TOLERANCE, f"{farthest:.1e}"


# ------------------------------------------------------------------------------- the command line


def test_export_writes_packages(tmp_path, capsys) -> None:
    from mpnn_core.commands.main import main

    arguments = ["--out", str(tmp_path), "--buckets", "64", "--precision", "float32"]
    arguments += ["--mode", "level", "--mode", "forward"]
    assert main(["export", "coreml", *arguments]) == 0
    written = capsys.readouterr().out.splitlines()
    names = [f"v_48_020-baseline-{m}-float32.mlpackage" for m in ("forward-64", "level-32")]
    assert [Path(path).name for path in written] == names
    spec = coremltools.models.MLModel(written[0], skip_model_load=True).get_spec()
    assert spec.description.metadata.userDefined["mpnn_core.weights"] == "v_48_020"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "encode"], "mode 'encode': expected one of forward, encoder, decoder, level"),
        (["--precision", "int8"], "precision 'int8': expected one of float16, float32"),
        (["--weights", "random"], "random weights design nothing"),
    ],
)
def test_a_wrong_export_says_what_was_expected(tmp_path, capsys, arguments, message) -> None:
    from mpnn_core.commands.main import main

    assert main(["export", "coreml", "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_coremltools_it_says_what_to_install(tmp_path, capsys, monkeypatch) -> None:
    from mpnn_core.commands.main import main

    packages.load_coremltools.cache_clear()
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert main(["export", "coreml", "--out", str(tmp_path)]) == 2
    assert "pip install coremltools" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"'coreml' cannot be used here: .*pip install"):
        mpnn.load_model(backend="coreml")
    assert mpnn.load_model().log_probs(protein("6MRR")).shape == (1, 68, 21)


def test_a_structure_without_a_bucket_fails_alone(tmp_path, capsys, monkeypatch, folder) -> None:
    from mpnn_core.commands import options
    from mpnn_core.commands.main import main

    plain = plain_model("minimal")
    small = Model(plain.network, plain.name, plain.variant, plain.device, "torch")
    small.backend = CoreMLBackend(
        plain.network, "float32", folder, (64,), opened=lambda path, _: Evaluator(path)
    )
    monkeypatch.setattr(options.mpnn, "load_model", lambda *arguments: small)
    assert main(["design", str(path_of("5L33")), "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "5L33.pdb: 106 residues do not fit into the largest bucket, 64; run it unpadded" in error


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")
def test_elsewhere_than_on_macos_it_says_so(tmp_path) -> None:
    with pytest.raises(ValueError, match="Core ML runs on macOS alone; here packages can be"):
        mpnn.load_model(backend="coreml-fast")
    with pytest.raises(UnavailableError, match=re.escape("mpnn-core export coreml")):
        coreml.open_package(tmp_path, "float16")


def test_another_device_is_refused() -> None:
    plain = plain_model("minimal")
    with pytest.raises(ValueError, match="finds its device itself; leave device='cpu'"):
        find_backend("coreml", plain.network, torch.device("meta"))
