"""The same answers whatever torch was told: defaults, autocast, the precision of products."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from proteins import protein, rows_of
from torch.utils._python_dispatch import TorchDispatchMode

import mpnn_core as mpnn
from mpnn_core import PSSM, Constraints, Model
from mpnn_core.backends.float32 import VECTOR_FUNCTIONS, choose_kernels, in_float32
from mpnn_core.backends.native import instruction_sets

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are first imported

STRUCTURE = rows_of(protein("5L33"), slice(0, 9))
UNLIKE = Constraints(
    fixed=[2], omit="CX", bias={"A": 0.5}, tied=[[3, 7]],
    pssm=PSSM(np.full((9, 21), 1 / 21), np.full(9, 0.5), 0.5),
)  # fmt: skip


@contextmanager
def told(tell: Callable, now, before) -> Iterator[None]:
    tell(now)
    try:
        yield
    finally:
        tell(before)


ODD: dict[str, Callable[[], AbstractContextManager]] = {
    "float64": partial(told, torch.set_default_dtype, torch.float64, torch.float32),
    "float16": partial(told, torch.set_default_dtype, torch.float16, torch.float32),
    "bfloat16": partial(told, torch.set_default_dtype, torch.bfloat16, torch.float32),
    "meta": partial(told, torch.set_default_device, "meta", None),
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "medium": partial(told, torch.set_float32_matmul_precision, "medium", "highest"),
}


def loaded(name: str, tmp_path) -> Model:
    """A model as callers load it, or in a backend that its own machine alone has."""
    if name == "native" and not instruction_sets():
        pytest.skip("no native code was built here")
    if name.startswith("mlx"):
        pytest.importorskip("mlx.core")
    if name in ("torch", "native", "mlx"):
        return mpnn.load_model(backend=name)
    model = mpnn.load_model(backend="torch")
    if name == "coreml":
        pytest.importorskip("coremltools")
        from mil_evaluator import Evaluator

        from mpnn_core.backends.coreml.backend import CoreMLBackend

        with in_float32(model.device):  # as `find_backend` makes it on a Mac
            model.backend = CoreMLBackend(
                model.network, "float32", tmp_path, opened=lambda path, _: Evaluator(path)
            )
        return model
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    from mpnn_core.backends import cuda

    with in_float32(model.device):  # as `find_backend` makes it where there is a GPU
        model.backend = cuda.CudaBackend(model.network)
    model.backend.triton = model.backend.triton and name == "cuda"
    return model


def answers(model: Model, whole: bool) -> list[np.ndarray]:
    """Of everything that a model computes; Triton's interpreter takes seconds for each."""
    found = [model.log_probs(STRUCTURE)]
    if whole:
        found.append(model.unconditional_log_probs(STRUCTURE))
        for arguments in ({}, {"constraints": UNLIKE}, {"decoding_order": "coloured"}):
            designs = model.design(STRUCTURE, 2, 0.5, seed=3, **arguments)
            found += [designs.log_probs, designs.probabilities, designs.scores]
    return found


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
@pytest.mark.parametrize(
    "name",
    [
        "torch", "native", "mlx", "cuda, unfused",
        *(pytest.param(name, marks=pytest.mark.proof) for name in ("coreml", "cuda")),  # 20 s each
    ],
)  # fmt: skip
def test_answers_do_not_depend_on_what_torch_was_told(name, tmp_path) -> None:
    whole = name != "cuda"
    expected = answers(loaded(name, tmp_path), whole)
    for setting, tell in ODD.items():
        with tell():
            found = answers(loaded(name, tmp_path), whole)
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            np.testing.assert_array_equal(ours, theirs, f"answer {i} under {setting}")
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_the_caller_told_torch_is_told_again_afterwards() -> None:
    with ODD["medium"](), torch.autocast("cpu", torch.bfloat16):
        mpnn.load_model(backend="torch").log_probs(STRUCTURE)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.is_autocast_enabled("cpu")


def test_the_list_of_vector_functions_is_that_of_torch():
    header = Path(torch.__file__).parent / "include" / "ATen" / "cpu" / "vml.h"
    named = re.findall(r"^IMPLEMENT_VML_MKL\((\w+),", header.read_text("utf-8"), re.MULTILINE)
    assert len(named) >= 16 and set(VECTOR_FUNCTIONS) == set(named)


class FirstSizes(TorchDispatchMode):
    """How many elements each of MKL's vector functions was first called with, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__.removesuffix("_")
        if name in VECTOR_FUNCTIONS:
            self.sizes.setdefault(name, args[0].numel())
        return function(*args, **(kwargs or {}))


def test_a_vector_function_chooses_its_kernel_before_threads_call_it():
    """Threads that call one for the first time together may get a kernel of low accuracy."""
    structure = protein("5L33")
    choose_kernels.cache_clear()
    with FirstSizes() as first:
        model = mpnn.load_model(backend="torch")
        model.design(structure, 2, seed=1)
        model.log_probs(structure)
        model.score(structure)
    assert {"exp", "sqrt", "log"} <= first.sizes.keys(), "the model calls none of them any more"
    assert set(first.sizes.values()) == {1}, first.sizes
