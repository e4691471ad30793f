// What decode_levels.cu takes of the device, one instruction or a few each: PTX for sm_90 and later.

typedef unsigned short half_bits;
typedef unsigned long long barrier;

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ __launch_bounds__(512, 1) void
DEVICE float infinity() { return __int_as_float(0x7f800000); }

DEVICE int thread_index() { return threadIdx.x; }
DEVICE int block_index() { return blockIdx.x; }

extern __shared__ uint4 dynamic_shared_memory[];
DEVICE void* shared_memory() { return dynamic_shared_memory; }

DEVICE float exponential(float x) { return expf(x); }
DEVICE float maximum(float x, float y) { return fmaxf(x, y); }
DEVICE float inverse_root(float x) { return rsqrtf(x); }
DEVICE int ones(unsigned bits) { return __popc(bits); }
DEVICE int leading_zeros(unsigned bits) { return __clz(bits); }

template <typename T>
DEVICE T shuffle(T x, int lane) {
  return __shfl_sync(0xffffffff, x, lane);
}
template <typename T>
DEVICE T shuffle_xor(T x, int mask) {
  return __shfl_xor_sync(0xffffffff, x, mask);
}
// One value of a warp, which the compiler then knows to be one.
DEVICE int uniform(int x) { return __shfl_sync(0xffffffff, x, 0); }
DEVICE unsigned vote(bool x) { return __ballot_sync(0xffffffff, x); }

DEVICE void warp_sync() { __syncwarp(); }
DEVICE void sync_all() { __syncthreads(); }
DEVICE void sync() { asm volatile("bar.sync 2, 480;" ::: "memory"); }  // of those that work
DEVICE void sync_nodes() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

DEVICE unsigned address(const void* shared) {
  return (unsigned)__cvta_generic_to_shared(shared);
}
DEVICE void init(barrier* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(b)), "r"(arrivals) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
DEVICE void arrive(barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(b)) : "memory");
}
// Until the phase of this parity has ended.
DEVICE void wait(barrier* b, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred ended;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@!ended bra again;\n"
      "}" ::"r"(address(b)), "r"(parity) : "memory");
}
// Bytes to shared memory; they and this call are the barrier's arrival.
DEVICE void copy_in(void* to, const void* from, int bytes, barrier* b) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(b)), "r"(bytes)
      : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          address(to)),
      "l"(from), "r"(bytes), "r"(address(b))
      : "memory");
}

DEVICE unsigned pack(float low, float high) {
  unsigned pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
DEVICE float low_half(unsigned pair) {
  float x;
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(x) : "r"(pair));
  return x;
}
DEVICE float high_half(unsigned pair) {
  float x;
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(x) : "r"(pair));
  return x;
}
DEVICE unsigned add_pair(unsigned x, unsigned y) {
  unsigned sum;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(x), "r"(y));
  return sum;
}
// GELU's tanh form, of two float16.
DEVICE unsigned gelu_pair(unsigned x) {
  unsigned y;
  asm("{\n"
      ".reg .b32 u, v;\n"
      "mul.rn.f16x2 u, %1, %1;\n"
      "fma.rn.f16x2 u, u, %2, %3;\n"
      "mul.rn.f16x2 u, u, %1;\n"
      "tanh.approx.f16x2 u, u;\n"
      "mul.rn.f16x2 v, %1, %4;\n"
      "fma.rn.f16x2 %0, u, v, v;\n"
      "}"
      : "=r"(y)
      : "r"(x), "r"(0x28912891), "r"(0x3A623A62), "r"(0x38003800));
  return y;
}
DEVICE float gelu_tanh(float x) {
  float u = x * (0.7978845608f + 0.0356774081f * x * x);
  asm("tanh.approx.f32 %0, %0;" : "+f"(u));
  return u;
}
DEVICE float gelu(float x) {
  const float v = 0.5f * x;
  return gelu_tanh(x) * v + v;
}
// Of an (8, 8) matrix of float16, of which a lane holds columns 2 t and 2 t + 1 of row g.
DEVICE unsigned transposed(unsigned pair) {
  unsigned y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(pair));
  return y;
}
// d += a b, a (16, 16) and b (16, 8) of float16, d float32.
DEVICE void multiply_add(float* d, const uint4& a, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}
