"""A Metal kernel's body compiled as C++, where there is no Metal.

`metal_kernel` takes what `mx.fast.metal_kernel` takes. Metal's language is C++ with address spaces,
thread positions and barriers; here address spaces are nothing, threadgroup memory is static, the
groups run one after the other, and the threads of a group are threads. That checks the arithmetic,
the indices and the barriers; it says nothing about Metal's compiler or a GPU's rounding.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

COMPILER = shutil.which("g++") or shutil.which("clang++")
C_TYPES = {
    mx.float32: "float", mx.float16: "half", mx.int32: "int32_t", mx.uint8: "uint8_t",
}  # fmt: skip
POSITIONS = ("thread_position_in_threadgroup", "threadgroup_position_in_grid")

PRELUDE = """
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

typedef unsigned int uint;
typedef _Float16 half;
struct uint3 { uint x, y, z; };
enum class mem_flags { mem_threadgroup };
static std::barrier<>* group;
static void threadgroup_barrier(mem_flags) { group->arrive_and_wait(); }
#define threadgroup static
"""

MAIN = """
extern "C" void run(uint groups, uint threads, void** a) {
  std::barrier<> barrier(threads);
  group = &barrier;
  std::vector<std::thread> team;
  for (uint t = 0; t < threads; t++)
    team.emplace_back([=] {
      for (uint g = 0; g < groups; g++) {
        kernel(%s, {t, 0, 0}, {g, 0, 0});
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }
    });
  for (auto& thread : team) thread.join();
}
"""


class Kernel:
    """What `mx.fast.metal_kernel` returns: called with arrays, it returns arrays."""

    def __init__(
        self, input_names: Sequence[str], output_names: Sequence[str], source: str, header: str
    ) -> None:
        for position in POSITIONS:
            assert position in source
        self.names = (*input_names, *output_names)
        self.source, self.header = source, header
        self.built: dict[Any, Any] = {}

    def __call__(
        self,
        inputs: Sequence[mx.array],
        template: Sequence[tuple[str, int]],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        output_shapes: Sequence[tuple[int, ...]],
        output_dtypes: Sequence[Any],
    ) -> list[mx.array]:
        threads = threadgroup[0]
        assert grid[1:] == threadgroup[1:] == (1, 1) and grid[0] % threads == 0
        dtypes = [array.dtype for array in inputs] + list(output_dtypes)
        given = [np.ascontiguousarray(np.array(array)) for array in inputs]
        numpy_types = {mx.float32: np.float32, mx.float16: np.float16}
        outputs = [
            np.full(shape, np.nan, numpy_types[dtype])
            for shape, dtype in zip(output_shapes, output_dtypes, strict=True)
        ]
        key = (tuple(map(str, dtypes)), tuple(template))
        if key not in self.built:
            self.built[key] = self._build([C_TYPES[dtype] for dtype in dtypes], template)
        arrays = [*given, *outputs]
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        self.built[key].run(grid[0] // threads, threads, pointers)
        return [mx.array(output) for output in outputs]

    def _build(self, types: Sequence[str], template: Sequence[tuple[str, int]]) -> ctypes.CDLL:
        inputs = len(types) - 1
        parameters = ", ".join(
            f"{'const ' if i < inputs else ''}{c_type}* {name}"
            for i, (c_type, name) in enumerate(zip(types, self.names, strict=True))
        )
        arguments = ", ".join(f"({c_type}*)a[{i}]" for i, c_type in enumerate(types))
        constants = "".join(f"static const int {name} = {value};\n" for name, value in template)
        positions = ", ".join(f"uint3 {name}" for name in POSITIONS)
        code = (
            f"{PRELUDE}{self.header}{constants}"
            f"static void kernel({parameters}, {positions}) {{{self.source}}}\n{MAIN % arguments}"
        )
        assert COMPILER is not None
        folder = Path(tempfile.mkdtemp(prefix="metal_shim"))
        (folder / "kernel.cpp").write_text(code)
        library = folder / "kernel.so"
        flags = ["-std=c++20", "-O2", "-shared", "-fPIC", "-pthread", "-Wall", "-Werror"]
        subprocess.run(
            [COMPILER, *flags, str(folder / "kernel.cpp"), "-o", str(library)], check=True
        )
        return ctypes.CDLL(str(library))


def metal_kernel(
    name: str, input_names: Sequence[str], output_names: Sequence[str], source: str, header: str
) -> Kernel:
    """In place of `mx.fast.metal_kernel`."""
    return Kernel(input_names, output_names, source, header)
