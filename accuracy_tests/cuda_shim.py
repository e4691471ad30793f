"""`decode_levels.cu` compiled as C++, where there is no GPU.

CUDA is C++ with threads, barriers, shuffles and matrix products of a warp. Here the threads of a
block are fibers, which a barrier or an exchange among the lanes of a warp switches; whose turn it
is then can be left to chance. Blocks run one after the other; shared memory starts out as NaNs.
That checks the arithmetic, the indices, the exchanges, and that there are barriers enough. It says
nothing about NVIDIA's compiler, or the order in which a GPU's memory shows what was written.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from mpnn_core.backends.cuda import compiled

COMPILER = shutil.which("g++") or shutil.which("clang++")

PRELUDE = r"""
#include <bit>
#include <cmath>
#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#define DEVICE inline
#define KERNEL static void
typedef unsigned short half_bits;
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

// ---------------------------------------------------------------- threads of a block, in turn
constexpr int THREADS = 512;
struct Fiber { jmp_buf at; ucontext_t first; char* stack; bool started, ended; };
static Fiber fibers[THREADS];
static int current, block;
static void* shared;
static ucontext_t scheduler;
static unsigned long long chance;  // 0: all in turn

// Whose turn it may be next: in order, or mostly the same warp's, until another one has luck.
static int next_thread() {
  if (!chance) return (current + 1) % THREADS;
  chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
  const int warp = chance % 24 ? current / 32 : chance / 24 % (THREADS / 32);
  return 32 * warp + (current + 1) % 32;
}

__attribute__((noinline)) static void yield() {
  const int from = current, first = next_thread();
  for (int i = 0; i < THREADS; i++) {
    const int to = (first + i) % THREADS;
    if (fibers[to].ended) continue;
    if (to == from) return;
    current = to;
    if (!_setjmp(fibers[from].at)) {
      if (fibers[to].started) _longjmp(fibers[to].at, 1);
      fibers[to].started = true;
      setcontext(&fibers[to].first);
    }
    return;
  }
}

DEVICE int thread_index() { return current; }
DEVICE int block_index() { return block; }
DEVICE void* shared_memory() { return shared; }

// A barrier of some threads: who comes last lets all go on.
struct Meeting {
  int arrived = 0, generation = 0;
  void meet(int expected) {
    const int mine = generation;
    if (++arrived == expected) arrived = 0, generation++;
    while (generation == mine) yield();
  }
};
static Meeting of_block, of_workers, of_nodes, of_warp[THREADS / 32];
DEVICE void sync_all() { of_block.meet(THREADS); }
DEVICE void sync() { of_workers.meet(THREADS - 32); }
DEVICE void sync_nodes() { of_nodes.meet(THREADS / 2); }
DEVICE void warp_sync() { of_warp[current / 32].meet(32); }

// What the lanes of a warp show each other. Two boards in turn: who writes on one again has seen
// all others write on the other, so they have read this one.
struct Board { float a[32][8], b[32][4]; double value[32]; };
static Board boards[THREADS / 32][2];
static int turn[THREADS];
static Board& board() { return boards[current / 32][turn[current] & 1]; }
static Board& shown() {
  Board& here = board();
  turn[current]++;
  warp_sync();
  return here;
}

template <typename T>
static T shuffle(T x, int lane) {
  board().value[current % 32] = x;
  return (T)shown().value[lane & 31];
}
template <typename T>
static T shuffle_xor(T x, int mask) { return shuffle(x, current % 32 ^ mask); }
static int uniform(int x) { return shuffle(x, 0); }
static unsigned vote(bool x) {
  board().value[current % 32] = x;
  const Board& seen = shown();
  unsigned bits = 0;
  for (int i = 0; i < 32; i++) bits |= (unsigned)(seen.value[i] != 0) << i;
  return bits;
}

// ---------------------------------------------------------------- barriers of copies
struct barrier { int expected, pending, ended; };
static void init(barrier* b, int arrivals) { *b = {arrivals, arrivals, 0}; }
static void arrive(barrier* b) {
  if (--b->pending == 0) b->pending = b->expected, b->ended++;
}
static bool has_ended(barrier* b, unsigned parity) { return (b->ended & 1) != (int)parity; }
static void wait(barrier* b, unsigned parity) { while (!has_ended(b, parity)) yield(); }
static void copy_in(void* to, const void* from, int bytes, barrier* b) {
  memcpy(to, from, bytes);
  arrive(b);
}

// ---------------------------------------------------------------- arithmetic
static float of_half(half_bits x) { return (float)std::bit_cast<_Float16>(x); }
static half_bits to_half(float x) { return std::bit_cast<half_bits>((_Float16)x); }
static float infinity() { return INFINITY; }
static float exponential(float x) { return std::exp(x); }
static float maximum(float x, float y) { return std::fmax(x, y); }
static float inverse_root(float x) { return 1 / std::sqrt(x); }
static int ones(unsigned bits) { return std::popcount(bits); }
static int leading_zeros(unsigned bits) { return std::countl_zero(bits); }
static float low_half(unsigned pair) { return of_half(pair & 0xffff); }
static float high_half(unsigned pair) { return of_half(pair >> 16); }
static unsigned pack(float low, float high) { return to_half(low) | (unsigned)to_half(high) << 16; }
static unsigned add_pair(unsigned x, unsigned y) {
  return pack(low_half(x) + low_half(y), high_half(x) + high_half(y));
}
static float gelu_tanh(float x) { return std::tanh(x * (0.7978845608f + 0.0356774081f * x * x)); }
static float gelu(float x) { return 0.5f * x * (1 + gelu_tanh(x)); }
static unsigned gelu_pair(unsigned x) { return pack(gelu(low_half(x)), gelu(high_half(x))); }

static unsigned transposed(unsigned pair) {
  const int lane = current % 32, g = lane / 4, t = lane % 4;
  board().value[lane] = pair;
  const Board& seen = shown();
  unsigned found = 0;
  for (int e = 0; e < 2; e++)
    found |= ((unsigned)seen.value[4 * (2 * t + e) + g / 2] >> 16 * (g % 2) & 0xffff) << 16 * e;
  return found;
}
static void multiply_add(float* d, const uint4& w, unsigned b0, unsigned b1) {
  const unsigned a[4] = {w.x, w.y, w.z, w.w};
  const int lane = current % 32, g = lane / 4, t = lane % 4;
  Board& mine = board();
  for (int i = 0; i < 4; i++) {
    mine.a[lane][2 * i] = low_half(a[i]);
    mine.a[lane][2 * i + 1] = high_half(a[i]);
  }
  mine.b[lane][0] = low_half(b0), mine.b[lane][1] = high_half(b0);
  mine.b[lane][2] = low_half(b1), mine.b[lane][3] = high_half(b1);
  const Board& seen = shown();
  for (int row = 0; row < 2; row++)
    for (int column = 0; column < 2; column++) {
      float sum = 0;
      for (int i = 0; i < 4; i++)
        for (int e = 0; e < 2; e++)
          for (int upper = 0; upper < 2; upper++)
            sum += seen.a[4 * g + i][2 * (row + 2 * upper) + e] *
                   seen.b[4 * (2 * t + column) + i][2 * upper + e];
      d[2 * row + column] += sum;
    }
}
"""

MAIN = r"""
static const Args* given;
static void body() {
  decode_levels(*given);
  fibers[current].ended = true;
  yield();
  setcontext(&scheduler);  // the last one
}

extern "C" void run(int blocks, const Args* args, unsigned long long seed) {
  given = args;
  chance = seed;
  shared = std::aligned_alloc(128, (sizeof(Shared) + 127) / 128 * 128);
  constexpr int STACK = 256 << 10;
  for (Fiber& f : fibers) f.stack = (char*)std::malloc(STACK);
  for (block = 0; block < blocks; block++) {
    memset(shared, 0xff, sizeof(Shared));
    for (Fiber& f : fibers) {
      f.started = f.ended = false;
      getcontext(&f.first);
      f.first.uc_stack.ss_sp = f.stack, f.first.uc_stack.ss_size = STACK;
      f.first.uc_link = nullptr;
      makecontext(&f.first, body, 0);
    }
    current = 0;
    fibers[0].started = true;
    swapcontext(&scheduler, &fibers[0].first);
  }
  for (Fiber& f : fibers) std::free(f.stack);
  std::free(shared);
}
extern "C" int shared_bytes() { return sizeof(Shared); }
"""


@cache
def built(constants: compiled.Constants) -> ctypes.CDLL:
    """The kernel as a library."""
    kernel = (Path(compiled.__file__).parent / "decode_levels.cu").read_text()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cpp"
        file.write_text(PRELUDE + kernel + MAIN)
        library = file.with_suffix(".so")
        subprocess.run(
            [str(COMPILER), "-std=c++20", "-O2", "-march=native", "-U_FORTIFY_SOURCE", "-w",
             "-shared", "-fPIC", *constants.definitions,
             str(file), "-o", str(library)],
            check=True,
        )  # fmt: skip
        return ctypes.CDLL(str(library))


def launch(
    blocks: int,
    arguments: compiled.Arguments,
    constants: compiled.Constants,
    device: torch.device,
    seed: int = 0,
) -> None:
    """What `compiled.launch` does, on the CPU.

    seed : of whose turn it is; warps get far ahead of each other, where nothing holds them. With 0
        all threads have turns.
    """
    library = built(constants)
    spare = constants.shared_bytes - library.shared_bytes()
    assert 0 <= spare <= 64, spare
    library.run(blocks, ctypes.byref(arguments), ctypes.c_ulonglong(seed))
