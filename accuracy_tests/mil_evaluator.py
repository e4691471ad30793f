"""Runs a saved Core ML package op by op, where Core ML is not.

Core ML's `predict` exists on macOS alone, but a package can be read anywhere: its operations, their
declared types and its file of weights. Each operation is computed in float32 and rounded to the
type that the package declares for its result. That checks the graph, the weights and what float16
does to them; it says nothing about how the Neural Engine sums.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


class UnknownOperationError(NotImplementedError):
    """The package holds an operation that this module does not compute; the message names it."""


def conv(x, weight, strides, dilations, pad_type, groups, pad=None, bias=None):
    assert (weight.shape[2:], groups) == ((1, 1), 1), "expected 1x1 convolutions"
    assert tuple(strides) == tuple(dilations) == (1, 1), "expected neither strides nor dilations"
    return F.conv2d(x, weight, bias)


def gelu(x, mode):
    assert mode == "EXACT", f"expected the exact GELU, found {mode}"
    return F.gelu(x)


def matmul(x, y, transpose_x, transpose_y):
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def layer_norm(x, axes, epsilon, gamma=None, beta=None):
    axes = tuple(int(axis) for axis in axes)
    centred = x - x.mean(axes, keepdim=True)
    found = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    assert gamma is None and beta is None, "expected the scale in an operation of its own"
    return found


def concat(values, axis, interleave):
    assert not interleave
    return torch.cat(values, axis)


def split(x, axis, num_splits=None, split_sizes=None):
    if split_sizes is not None:
        return x.split([int(size) for size in split_sizes], axis)
    return x.chunk(num_splits, axis)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "abs": lambda x: x.abs(),
    "add": lambda x, y: x + y,
    "concat": concat,
    "conv": conv,
    "gelu": gelu,
    "layer_norm": layer_norm,
    "matmul": matmul,
    "mul": lambda x, y: x * y,
    "reduce_mean": lambda x, axes, keep_dims: x.mean([int(a) for a in axes], keepdim=keep_dims),
    "reduce_sum": lambda x, axes, keep_dims: x.sum([int(a) for a in axes], keepdim=keep_dims),
    "relu": lambda x: x.relu(),
    "reshape": lambda x, shape: x.reshape([int(n) for n in shape]),
    "rsqrt": lambda x, epsilon: torch.rsqrt(x + epsilon),
    "split": split,
    "sub": lambda x, y: x - y,
}


class Evaluator:
    """A package on disk as a function of its inputs.

    Raises
    ------
    UnknownOperationError
        When the package is read, not when it is run.
    """

    def __init__(self, path: Path) -> None:
        with warnings.catch_warnings():
            # coremltools and numpy deprecate things in each other.
            warnings.simplefilter("ignore")
            import coremltools as ct
            from coremltools.converters.mil.frontend.milproto.load import load

            model = ct.models.MLModel(str(path), skip_model_load=True)
            self.spec = model.get_spec()
            program = load(
                self.spec,
                specification_version=self.spec.specificationVersion,
                file_weights_dir=model.weights_dir,
            )
        self.path = path
        self.function = program.functions["main"]
        self.constants = {
            var: _value(var.val)
            for op in self.function.operations
            if op.op_type == "const"
            for var in op.outputs
        }
        self.operations = [op for op in self.function.operations if op.op_type != "const"]
        for op in self.operations:
            if op.op_type not in OPERATIONS:
                raise UnknownOperationError(
                    f"{path}: operation {op.op_type!r} ({op.name}) is none of "
                    f"{', '.join(OPERATIONS)}; teach it to {Path(__file__).name}"
                )

    @property
    def counts(self) -> dict[str, int]:
        """How many operations of each type there are."""
        found = [op.op_type for op in self.operations]
        return {name: found.count(name) for name in sorted(set(found))}

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        expected = self.function.inputs
        assert inputs.keys() == expected.keys(), f"expected {list(expected)}, got {list(inputs)}"
        values = dict(self.constants)
        for name, var in expected.items():
            given = torch.from_numpy(inputs[name])
            assert tuple(given.shape) == tuple(var.shape), f"{name}: {given.shape}, {var.shape}"
            assert given.dtype == _dtype(var), f"{name}: expected {_dtype(var)}, got {given.dtype}"
            values[var] = given.float()
        with torch.inference_mode():
            for op in self.operations:
                arguments = {
                    name: [values[v] for v in var] if isinstance(var, list | tuple) else values[var]
                    for name, var in op.inputs.items()
                    if var is not None
                }
                found = OPERATIONS[op.op_type](**arguments)
                for var, value in zip(
                    op.outputs, [found] if isinstance(found, Tensor) else found, strict=True
                ):
                    assert tuple(value.shape) == tuple(var.shape), f"{op.op_type} {op.name}"
                    values[var] = value.to(_dtype(var)).float()
        return {var.name: values[var].to(_dtype(var)).numpy() for var in self.function.outputs}


def _value(constant: Any) -> Any:
    """A tensor of a float array, in float32; other constants as plain Python values or arrays."""
    if isinstance(constant, np.generic):
        return constant.item()
    if isinstance(constant, np.ndarray) and constant.dtype.kind == "f":
        return torch.from_numpy(constant.astype(np.float32))
    return constant


def _dtype(var: Any) -> torch.dtype:
    from coremltools.converters.mil.mil import types

    return DTYPES[types.builtin_to_string(var.dtype)]
