// The network on one instruction set, of vectors of MPNN_WIDTH floats. The algebra is that of
// network/mpnn.py, the levels are those of sampling/schedule.py (docs/explanation/engine.md derives both).
//
// What has an edge axis is made, used and dropped one node at a time, so that it stays in the cache:
// (K, H) is 24 KB at K = 48, H = 128.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <stdexcept>

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "engine.h"

namespace mpnn {
namespace {

// ------------------------------------------------------------------------------- vectors

constexpr int W = MPNN_WIDTH;  // floats per vector
typedef float V __attribute__((vector_size(W * 4)));
typedef int32_t VI __attribute__((vector_size(W * 4)));

// A product keeps MR x NV accumulators, NV vectors of weights and one of input in registers.
constexpr int MR = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int NV = 4;  // 32 registers
#else
constexpr int NV = 2;  // 16 registers
#endif
constexpr int NB = NV * W;  // columns of a block of packed weights

inline V load(const float* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }
inline V splat(float x) { return x - V{}; }  // x + 0 would not be x for x = -0
// x where it is not a number. GCC does not find these instructions in x < low ? low : x.
#if defined(__AVX512F__)
inline V at_least(V x, V low) { return V(_mm512_max_ps(__m512(low), __m512(x))); }
inline V at_most(V x, V high) { return V(_mm512_min_ps(__m512(high), __m512(x))); }
#elif defined(__AVX2__)
inline V at_least(V x, V low) { return V(_mm256_max_ps(__m256(low), __m256(x))); }
inline V at_most(V x, V high) { return V(_mm256_min_ps(__m256(high), __m256(x))); }
#else
inline V at_least(V x, V low) { return x < low ? low : x; }
inline V at_most(V x, V high) { return x > high ? high : x; }
#endif
#if defined(__AVX512F__)
inline float sum(V v) { return _mm512_reduce_add_ps(__m512(v)); }
#else
inline float sum(V v) {
  float lanes[W];
  store(lanes, v);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}
#endif

// x Phi(x). Phi - 1/2 is an odd rational, fitted by minimax on [-5.6, 5.6] to 7e-10: errors that all
// have one sign would add up over the neighbours, those of rounding do not.
inline V gelu(V x) {
  const V c = at_most(at_least(x, splat(-5.6f)), splat(5.6f)), z = c * c;
  V p = splat(-7.467982237e-11f);
  p = p * z + 5.250569932e-08f;
  p = p * z + 8.433297011e-06f;
  p = p * z + 1.695495111e-04f;
  p = p * z + 4.800252630e-03f;
  p = p * z + 3.265251651e-02f;
  p = p * z + 3.989422855e-01f;
  V q = splat(1.991968734e-06f);
  q = q * z + 8.172256742e-05f;
  q = q * z + 1.930459937e-03f;
  q = q * z + 2.845129444e-02f;
  q = q * z + 2.485144899e-01f;
  q = q * z + 1.0f;
  return x * (c * p / q + 0.5f);
}

// e^x for x <= 0: 2^n times a polynomial in the rest, relative error 2e-7; 0 under -87.
inline V exp_negative(V x) {
  const V magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  x = at_least(x, splat(-87.0f));
  const V shifted = x * 1.44269504f + magic;
  const V n = shifted - magic;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  VI exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent + 127) << 23;  // of `shifted` only n is left in the low bits
  V scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return p * scale;
}

// -------------------------------------------------------------------------------- memory

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) { resize(size); }
  Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
    other.size_ = 0;
  }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() { std::free(data_); }
  // Contents are lost, and not initialised.
  void resize(size_t size) {
    if (size <= size_) return;
    std::free(data_);
    size_ = 0;
    const size_t bytes = size * sizeof(float), page = bytes < kHugePage ? 64 : kHugePage;
    const size_t whole = (bytes + page - 1) / page * page;
    data_ = static_cast<float*>(std::aligned_alloc(page, whole));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (page == kHugePage) madvise(data_, whole, MADV_HUGEPAGE);  // advice: it may fail
#endif
    size_ = size;
  }
  float* data() const { return data_; }
  float& operator[](size_t i) const { return data_[i]; }

 private:
  // Rows are read here and there; one entry of the processor's page table serves 4,000 of them.
  static constexpr size_t kHugePage = size_t(2) << 20;
  float* data_ = nullptr;
  size_t size_ = 0;
};

// -------------------------------------------------------------------------------- linear

// (in) -> (out), packed by blocks of NB columns: block, in, column. Zero beyond `out`.
struct Linear {
  int in = 0, out = 0, blocks = 0;
  Buffer weights, bias;

  Linear() = default;
  // `w` is (out, ld) row-major, its columns [first, first + in) are taken.
  Linear(const float* w, int64_t ld, int64_t first, int in_, int out_, const float* b)
      : in(in_), out(out_), blocks((out_ + NB - 1) / NB),
        weights(size_t(blocks) * in_ * NB), bias(size_t(blocks) * NB) {
    for (int c = 0; c < blocks * NB; c++) {
      bias[c] = b && c < out ? b[c] : 0.0f;
      for (int i = 0; i < in; i++)
        weights[(size_t(c / NB) * in + i) * NB + c % NB] = c < out ? w[c * ld + first + i] : 0.0f;
    }
  }
};

// Which inputs of a product count: all of the first `count`, or those that are listed.
struct All {
  int count;
  int operator[](int i) const { return i; }
};
struct Listed {
  int count;
  const int32_t* inputs;
  int operator[](int i) const { return inputs[i]; }
};

// R rows of x times one block of weights. A function of its own, so that nothing around it takes the
// registers that the accumulators need.
template <int R, class Inputs>
__attribute__((noinline)) void product_block(const float* x, int64_t ld, const float* w,
                                             const float* bias, Inputs inputs, V (*out)[NV]) {
  V acc[R][NV];
  for (int v = 0; v < NV; v++)
    for (int r = 0; r < R; r++) acc[r][v] = load(bias + v * W);
#pragma GCC unroll 1
  for (int n = 0; n < inputs.count; n++) {
    const int64_t i = inputs[n];
    V weights[NV];
    for (int v = 0; v < NV; v++) weights[v] = load(w + i * NB + v * W);
    for (int r = 0; r < R; r++) {
      const V input = splat(x[r * ld + i]);
      for (int v = 0; v < NV; v++) acc[r][v] += input * weights[v];
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < NV; v++) out[r][v] = acc[r][v];
}

// At most MR rows of x times one block of weights: out[row][vector].
template <class Inputs>
inline void product_rows(const float* x, int64_t ld, int rows, const Linear& linear, int block,
                         Inputs inputs, V (*out)[NV]) {
  const float* w = linear.weights.data() + size_t(block) * linear.in * NB;
  const float* bias = linear.bias.data() + block * NB;
  switch (rows) {
    case 1: product_block<1>(x, ld, w, bias, inputs, out); break;
    case 2: product_block<2>(x, ld, w, bias, inputs, out); break;
    case 3: product_block<3>(x, ld, w, bias, inputs, out); break;
    case 4: product_block<4>(x, ld, w, bias, inputs, out); break;
    case 5: product_block<5>(x, ld, w, bias, inputs, out); break;
    default: product_block<MR>(x, ld, w, bias, inputs, out);
  }
}

// done(row, column, V[NV]) for the products of `rows` rows of x, each with every block of columns.
// A row's result does not depend on the rows beside it.
template <class Done>
inline void product(const float* x, int64_t ld, int rows, const Linear& linear, Done done) {
  for (int block = 0; block < linear.blocks; block++)
    for (int r = 0; r < rows; r += MR) {
      V out[MR][NV];
      const int count = std::min(MR, rows - r);
      product_rows(x + r * ld, ld, count, linear, block, All{linear.in}, out);
      for (int i = 0; i < count; i++) done(r + i, block * NB, out[i]);
    }
}

inline void product_into(const float* x, int64_t ld, int rows, const Linear& linear, float* y,
                         int64_t ld_y) {
  product(x, ld, rows, linear, [&](int r, int column, V* acc) {
    for (int v = 0; v < NV; v++) {
      const int c = column + v * W, left = linear.out - c;
      if (left >= W) {
        store(y + r * ld_y + c, acc[v]);
      } else {
        for (int i = 0; i < left; i++) y[r * ld_y + c + i] = acc[v][i];
      }
    }
  });
}

struct Norm {
  Buffer weight, bias;
  int size = 0;

  Norm() = default;
  Norm(const float* w, const float* b, int n) : weight(n), bias(n), size(n) {
    std::copy_n(w, n, weight.data());
    std::copy_n(b, n, bias.data());
  }

  // Rows (rows, size), in place, several at a time: each waits for its sums, and not for the others.
  void operator()(float* x, int64_t rows) const {
    constexpr int kTogether = 4;
    int64_t r = 0;
    for (; r + kTogether <= rows; r += kTogether) together<kTogether>(x + r * size);
    for (; r < rows; r++) together<1>(x + r * size);
  }

 private:
  template <int R>
  void together(float* x) const {
    V total[R] = {}, squares[R] = {}, mean[R], scale[R];
    for (int c = 0; c < size; c += W)
      for (int r = 0; r < R; r++) total[r] += load(x + r * size + c);
    for (int r = 0; r < R; r++) mean[r] = splat(sum(total[r]) / size);
    for (int c = 0; c < size; c += W)
      for (int r = 0; r < R; r++) {
        const V centred = load(x + r * size + c) - mean[r];
        squares[r] += centred * centred;
      }
    for (int r = 0; r < R; r++) scale[r] = splat(1.0f / std::sqrt(sum(squares[r]) / size + 1e-5f));
    for (int c = 0; c < size; c += W)
      for (int r = 0; r < R; r++) {
        float* to = x + r * size + c;
        store(to, (load(to) - mean[r]) * scale[r] * load(weight.data() + c) + load(bias.data() + c));
      }
  }
};

// ------------------------------------------------------------------------------- network

constexpr float kMessageScale = 1.0f / 30.0f;
constexpr int kGaussians = 16, kMaxOffset = 32;
constexpr int kOffsets = 2 * kMaxOffset + 2, kOffsetWidth = 16;
constexpr int kTile = 12;  // rows of a node update: two products of MR rows
constexpr int kLineFloats = 16;  // floats of a cache line

// What is read of an edge: pairs of a node's atoms and its neighbour's, in the order of the features'
// weights, and numbers that are no distances.
struct FullBackbone {  // N CA C O CB (constants.py, ATOM_PAIRS)
  static constexpr int kAtoms = 5, kPairs = 25, kFurther = 0, kInputs = kPairs * kGaussians;
  static constexpr int kPairAtoms[kPairs][2] = {
      {1, 1}, {0, 0}, {2, 2}, {3, 3}, {4, 4}, {1, 0}, {1, 2}, {1, 3}, {1, 4}, {0, 2}, {0, 3}, {0, 4}, {4, 2},
      {4, 3}, {3, 2}, {0, 1}, {2, 1}, {3, 1}, {4, 1}, {2, 0}, {3, 0}, {4, 0}, {2, 4}, {3, 4}, {2, 3}};
};
struct Trace {  // the CA before, its own, the one after (CA_PAIRS); a direction and a quaternion
  static constexpr int kAtoms = 3, kPairs = 9, kFurther = 7, kInputs = kPairs * kGaussians + kFurther;
  static constexpr int kPairAtoms[kPairs][2] = {
      {1, 1}, {0, 0}, {2, 2}, {0, 1}, {0, 2}, {1, 0}, {1, 2}, {2, 0}, {2, 1}};
};

class Reader {
 public:
  explicit Reader(const Parameters& parameters) : parameters_(parameters) {}
  const Parameter& operator()(const std::string& name) const {
    const auto found = parameters_.find(name);
    if (found == parameters_.end()) throw std::invalid_argument("parameter " + name + " is missing");
    return found->second;
  }
  bool has(const std::string& name) const { return parameters_.count(name) > 0; }
  Linear linear(const std::string& name, int part = 0, int parts = 1, bool with_bias = true) const {
    const Parameter& w = (*this)(name + ".weight");
    const int out = w.shape[0], in = w.shape[1] / parts;
    const float* bias = with_bias && has(name + ".bias") ? (*this)(name + ".bias").data : nullptr;
    return Linear(w.data, w.shape[1], int64_t(part) * in, in, out, bias);
  }
  Norm norm(const std::string& name) const {
    const Parameter& w = (*this)(name + ".weight");
    return Norm(w.data, (*this)(name + ".bias").data, w.shape[0]);
  }

 private:
  const Parameters& parameters_;
};

// Everything of a layer but the first matrix of its messages.
struct MessageLayer {
  Linear W2, W3, W_in, W_out;
  Buffer b3;
  Norm norm1, norm2;

  MessageLayer(const Reader& read, const std::string& name)
      : W2(read.linear(name + ".W2")), W3(read.linear(name + ".W3", 0, 1, false)),
        W_in(read.linear(name + ".dense.W_in")), W_out(read.linear(name + ".dense.W_out")),
        b3(W3.out), norm1(read.norm(name + ".norm1")), norm2(read.norm(name + ".norm2")) {
    std::copy_n(read(name + ".W3.bias").data, W3.out, b3.data());
  }
};

struct EncoderLayer : MessageLayer {
  Linear A, B, C, edge_A, edge_B, edge_C, W12, W13;  // W1 and W11 act on h_i, h_E, h_j
  Norm norm3;

  EncoderLayer(const Reader& read, const std::string& name)
      : MessageLayer(read, name), A(read.linear(name + ".W1", 0, 3)),
        B(read.linear(name + ".W1", 1, 3, false)), C(read.linear(name + ".W1", 2, 3, false)),
        edge_A(read.linear(name + ".W11", 0, 3)), edge_B(read.linear(name + ".W11", 1, 3, false)),
        edge_C(read.linear(name + ".W11", 2, 3, false)), W12(read.linear(name + ".W12")),
        W13(read.linear(name + ".W13")), norm3(read.norm(name + ".norm3")) {}
};

struct DecoderLayer : MessageLayer {
  Linear A, B, D;   // W1 acts on h_i, h_E, emb(s_j), h_j
  Buffer residues;  // (21, H), C emb(s)

  DecoderLayer(const Reader& read, const std::string& name)
      : MessageLayer(read, name), A(read.linear(name + ".W1", 0, 4)),
        B(read.linear(name + ".W1", 1, 4, false)), D(read.linear(name + ".W1", 3, 4, false)),
        residues(size_t(kLetters) * A.out) {
    const Linear C = read.linear(name + ".W1", 2, 4, false);
    product_into(read("W_s.weight").data, C.in, kLetters, C, residues.data(), C.out);
  }
};

// The network on the atoms around a protein; its weights are those of network/context.py, multiplied
// out there (`Folded`), under the names "context.*".
struct ContextLayers {
  static constexpr int kLayers = 2, kSeen = 5 * 16, kAngles = 4, kInputs = kSeen + kAngles;
  std::vector<MessageLayer> on_atoms, on_nodes;
  Linear seen, first_edge, second_edge, second_own, W_c, V_C;
  Linear own[kLayers], node[kLayers], atom[kLayers];
  Buffer node_table, atom_table, first_table, length;  // (119, H), (119, H), (119, H), (16, 16)
  Norm norm_nodes, V_C_norm;

  explicit ContextLayers(const Reader& read)
      : seen(plain(read, "context.node_inputs")), first_edge(plain(read, "context.first_edge")),
        second_edge(plain(read, "context.second_edge", read("context.second_bias").data)),
        second_own(plain(read, "context.second_own")), W_c(read.linear("W_c")), V_C(read.linear("V_C")),
        node_table(copy(read, "context.node_table")), atom_table(copy(read, "context.atom_table")),
        first_table(copy(read, "context.first_table")), length(copy(read, "context.length")),
        norm_nodes(read.norm("features.norm_nodes")), V_C_norm(read.norm("V_C_norm")) {
    for (int l = 0; l < kLayers; l++) {
      on_atoms.emplace_back(read, "y_context_encoder_layers." + std::to_string(l));
      on_nodes.emplace_back(read, "context_encoder_layers." + std::to_string(l));
      own[l] = plain(read, "context.own", read("context.bias").data + l * W_c.out, l);
      node[l] = plain(read, "context.node", nullptr, l);
      atom[l] = plain(read, "context.atom", nullptr, l);
    }
  }

 private:
  // One matrix (out, in) of those that a parameter (out, in) or (layers, out, in) has.
  static Linear plain(const Reader& read, const std::string& name, const float* bias = nullptr, int layer = 0) {
    const Parameter& w = read(name);
    const int64_t out = w.shape[w.shape.size() - 2], in = w.shape.back();
    return Linear(w.data + layer * out * in, in, 0, in, out, bias);
  }
  static Buffer copy(const Reader& read, const std::string& name) {
    const Parameter& w = read(name);
    int64_t size = 1;
    for (int64_t n : w.shape) size *= n;
    Buffer values(size);
    std::copy_n(w.data, size, values.data());
    return values;
  }
};

// A message of the decoder's first layer that nobody has computed yet.
struct Missing { int row, k, state; int32_t slot; bool mine; float* to; };

// Buffers of one thread; they only grow.
struct Scratch {
  Buffer a, b, c, x, h, agg, hidden, here, slots, there, distances;
  std::vector<Missing> missing;
  std::vector<const float*> found;
};
// Not inlined: the address of a thread's own is a call, which GCC would repeat in the inner loops.
__attribute__((noinline)) Scratch& scratch() {
  static thread_local Scratch buffers;
  return buffers;
}

// The first layer's messages. What an edge (i, k) sends there depends on the structure and on the
// residue at its end alone: one of 22, the last being "not known yet". So each is computed once for
// all sequences of a structure, when it is first asked for. The memory is kept for the next call:
// threads that are the first to touch new memory hold each other up, by up to 4 ms at a time.
class FirstMessages {
 public:
  static constexpr int kStates = kLetters + 1;
  static constexpr size_t kStateBytes = size_t(64) << 20, kSlotBytes = size_t(256) << 20;
  static constexpr int32_t kEmpty = -1;

  // Forgets everything; no messages are shared where the rows are few or the structures large.
  void reset(int64_t nodes, int64_t slots, int64_t rows, int H) {
    const size_t keys = size_t(nodes) * slots * kStates;
    shared_ = rows >= 2 * nodes && keys * sizeof(int32_t) <= kStateBytes;
    if (!shared_) return;
    slots_ = int32_t(std::min({keys, size_t(rows) * slots, kSlotBytes / (H * sizeof(float))}));
    pool_.resize(size_t(slots_) * H);
    if (owner_.size() < size_t(slots_)) owner_.resize(slots_);
    if (keys > keys_) {
      state_.reset(new std::atomic<int32_t>[keys]);
      keys_ = keys;
    }
    for (size_t i = 0; i < keys; i++) state_[i].store(kEmpty, std::memory_order_relaxed);
    used_.store(0);
  }

  // Where the message of `key` is or will be; null where it has no place. `mine` says that the
  // caller (`tile`) must compute it and then publish it.
  float* find(size_t key, int64_t tile, int H, bool& mine, int32_t& slot) {
    mine = false;
    if (!shared_) return nullptr;
    int32_t found = state_[key].load(std::memory_order_acquire);
    if (found == kEmpty) {
      if (used_.load(std::memory_order_relaxed) >= slots_) return nullptr;
      slot = used_.fetch_add(1);
      if (slot >= slots_) return nullptr;
      owner_[slot] = tile;
      if (state_[key].compare_exchange_strong(found, claimed(slot), std::memory_order_acq_rel)) {
        mine = true;
        return pool_.data() + size_t(slot) * H;
      }
    }
    if (found >= 0) return pool_.data() + size_t(found) * H;
    // Claimed: by this tile, which will have computed it in time, or by another, which may not.
    slot = claimed(found);
    return owner_[slot] == tile ? pool_.data() + size_t(slot) * H : nullptr;
  }

  void publish(size_t key, int32_t slot) { state_[key].store(slot, std::memory_order_release); }
  int64_t next_tile() { return tiles_.fetch_add(1); }

 private:
  static int32_t claimed(int32_t slot) { return -2 - slot; }  // its own inverse

  bool shared_ = false;
  int32_t slots_ = 0;
  size_t keys_ = 0;
  Buffer pool_;
  std::vector<int64_t> owner_;
  std::unique_ptr<std::atomic<int32_t>[]> state_;
  std::atomic<int32_t> used_{0};
  std::atomic<int64_t> tiles_{0};
};

// Gaussians farther than this from a distance are under 2^-28 of their height, a sixteenth of what
// float32 rounds off: they are left out.
constexpr float kReach = 5.507f, kWidth = 1.25f, kFirst = 2.0f, kStep = 20.0f / 15.0f;
static_assert(kReach * kReach > 28 * 0.693147f * kWidth * kWidth,
              "a Gaussian is left out where it is under 2^-28 of its height, no earlier");

class Network : public Engine {
 public:
  explicit Network(const Parameters& parameters) {
    const Reader read(parameters);
    const Parameter& w = read("features.edge_embedding.weight");
    H_ = w.shape[0];
    if (H_ % NB != 0) throw std::invalid_argument("hidden width must be a multiple of 64");
    const int inputs = w.shape[1] - kOffsetWidth;
    if (inputs != FullBackbone::kInputs && inputs != Trace::kInputs)
      throw std::invalid_argument("features.edge_embedding.weight has an unexpected width");
    trace_ = inputs == Trace::kInputs;
    rbf_ = Linear(w.data, w.shape[1], kOffsetWidth, inputs, H_, nullptr);
    offsets_ = offset_table(read);
    norm_edges_ = read.norm("features.norm_edges");
    W_e_ = read.linear("W_e");
    W_out_ = read.linear("W_out");
    for (int l = 0; read.has(layer_name("encoder", l) + ".W1.weight"); l++)
      encoders_.emplace_back(read, layer_name("encoder", l));
    for (int l = 0; read.has(layer_name("decoder", l) + ".W1.weight"); l++)
      decoders_.emplace_back(read, layer_name("decoder", l));
    if (encoders_.empty() || decoders_.empty())
      throw std::invalid_argument("the network has no encoder or no decoder layers");
    if (read.has("context.length")) context_ = std::make_unique<ContextLayers>(read);
    if (read.has("first_centre")) shift_ = kFirst - read("first_centre").data[0];
  }

  void encode(const Backbones& backbones, const Graph& graph, const float* initial,
              const Encoding& out) override;
  void see(const Backbones& backbones, int64_t nodes, const Surroundings& around, float* h_V) override;
  void decode(const Graph& graph, const Encoding& encoding, const Rows& rows,
              const int64_t* tokens, float* logits) override;
  void condition(const Graph& graph, const Encoding& encoding, const Rows& rows,
              const int64_t* tokens, float* logits) override;
  int64_t sample(const Graph& graph, const Encoding& encoding, const Rows& rows,
                 const Drawing& drawing, const Samples& samples) override;
  void place(const Graph&, const Placed&, float*, float*) override { throw not_a_packer(); }
  void step(const Graph&, const Placed&, const Packing&, float*) override { throw not_a_packer(); }

 protected:
  friend class Decoding;
  friend class Conditioning;

  static std::invalid_argument not_a_packer() { return std::invalid_argument("the network packs no side chains"); }

  static std::string layer_name(const char* kind, int l) {
    return std::string(kind) + "_layers." + std::to_string(l);
  }

  // The embedding of the offset is linear in its class: (66, H).
  Buffer offset_table(const Reader& read) const {
    const Parameter& embedding = read("features.embeddings.linear.weight");  // (16, 66)
    const float* bias = read("features.embeddings.linear.bias").data;
    const Parameter& w = read("features.edge_embedding.weight");
    Buffer table(size_t(kOffsets) * H_);
    for (int o = 0; o < kOffsets; o++)
      for (int c = 0; c < H_; c++) {
        float total = 0;
        for (int i = 0; i < kOffsetWidth; i++)
          total += w.data[c * w.shape[1] + i] * (embedding.data[i * kOffsets + o] + bias[i]);
        table[size_t(o) * H_ + c] = total;
      }
    return table;
  }

  template <class Features>
  void edge_features(const Backbones&, const float* atoms, const Graph&, int64_t node, float* h_E) const;
  // Sum of gelu(W2 a) over the valid slots, a (K, H): (H,).
  void aggregate(const MessageLayer& layer, const float* a, int64_t K, const uint8_t* valid, float* out) const;
  // h (rows, H) and the aggregates of its messages, to the state after the layer; in place.
  void update(const MessageLayer& layer, float* h, const float* agg, const float* count, int rows) const;

  int H_;
  bool trace_;  // reads a `Trace`, not a `FullBackbone`
  float shift_ = 0;  // of distances, where the first Gaussian is not at kFirst
  Linear rbf_, W_e_, W_out_;
  Buffer offsets_;
  Norm norm_edges_;
  std::vector<EncoderLayer> encoders_;
  std::vector<DecoderLayer> decoders_;
  std::unique_ptr<ContextLayers> context_;  // null where the network sees no atoms around
  FirstMessages first_messages_;
};

// ------------------------------------------------------------------------------- encoder

// N, CA, C, O and the CB of an idealised residue: (nodes, 5, 3).
std::vector<float> with_virtual_cb(const float* coords, int64_t nodes) {
  constexpr int kAtoms = FullBackbone::kAtoms;
  std::vector<float> atoms(size_t(nodes) * kAtoms * 3);
  for (int64_t i = 0; i < nodes; i++) {
    const float *from = coords + i * 12, *n = from, *ca = from + 3, *c = from + 6;
    float* to = atoms.data() + i * kAtoms * 3;
    std::copy_n(from, 12, to);
    float b[3], d[3];
    for (int x = 0; x < 3; x++) { b[x] = ca[x] - n[x]; d[x] = c[x] - ca[x]; }
    for (int x = 0; x < 3; x++) {
      const int y = (x + 1) % 3, z = (x + 2) % 3;
      const float a = b[y] * d[z] - b[z] * d[y];
      to[12 + x] = -0.58273431f * a + 0.56802827f * b[x] - 0.54067466f * d[x] + ca[x];
    }
  }
  return atoms;
}

// Multiplies and adds, each rounded: where frames are symmetric, rounding decides the signs below.
#if defined(__clang__)
#define MPNN_ROUNDED __attribute__((noinline))
#define MPNN_NO_CONTRACTION _Pragma("clang fp contract(off)")
#else
#define MPNN_ROUNDED __attribute__((noinline, optimize("fp-contract=off")))
#define MPNN_NO_CONTRACTION
#endif

// A node's neighbours in its frame: direction and quaternion, (K, 7); see network/ca_only.py.
MPNN_ROUNDED void orientations(const Backbones& backbones, const int64_t* neighbours, int64_t node, int K,
                               float* to) {
  MPNN_NO_CONTRACTION
  const auto normalise = [](float* x, int n, float squares) {
    const float length = std::max(std::sqrt(squares), 1e-12f);
    for (int i = 0; i < n; i++) x[i] /= length;
  };
  const auto sign = [](float x) { return float(x > 0) - float(x < 0); };
  const float *own = backbones.frames + node * 9, *here = backbones.coords + node * 9 + 3;
  for (int k = 0; k < K; k++, to += Trace::kFurther) {
    const float *other = backbones.frames + neighbours[k] * 9, *there = backbones.coords + neighbours[k] * 9 + 3;
    float apart[3], R[3][3];
    for (int x = 0; x < 3; x++) apart[x] = there[x] - here[x];
    for (int m = 0; m < 3; m++) {
      to[m] = own[m * 3] * apart[0] + own[m * 3 + 1] * apart[1] + own[m * 3 + 2] * apart[2];
      for (int n = 0; n < 3; n++)
        R[m][n] = own[m] * other[n] + own[3 + m] * other[3 + n] + own[6 + m] * other[6 + n];
    }
    normalise(to, 3, to[0] * to[0] + to[1] * to[1] + to[2] * to[2]);
    const float x = R[0][0], y = R[1][1], z = R[2][2];
    float* q = to + 3;
    q[0] = sign(R[2][1] - R[1][2]) * 0.5f * std::sqrt(std::fabs(1 + (x - y - z)));
    q[1] = sign(R[0][2] - R[2][0]) * 0.5f * std::sqrt(std::fabs(1 + (-x + y - z)));
    q[2] = sign(R[1][0] - R[0][1]) * 0.5f * std::sqrt(std::fabs(1 + (-x - y + z)));
    q[3] = std::sqrt(std::max(1 + (x + y + z), 0.0f)) / 2;
    normalise(q, 4, q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  }
}

// Class of the offset of one residue from another; their difference may be beyond 64 bits.
inline int64_t offset_class(int64_t index, int64_t other) {
  const bool ahead = index >= other;
  const uint64_t apart = ahead ? uint64_t(index) - uint64_t(other) : uint64_t(other) - uint64_t(index);
  const int64_t clipped = std::min<uint64_t>(apart, kMaxOffset);
  return ahead ? kMaxOffset + clipped : kMaxOffset - clipped;
}

template <class Features>
void Network::edge_features(const Backbones& backbones, const float* atoms, const Graph& graph,
                            int64_t node, float* h_E) const {
  constexpr int kAtoms = Features::kAtoms, kPairs = Features::kPairs, kInputs = Features::kInputs;
  constexpr int kFurther = Features::kFurther;
  const int K = graph.slots;
  const int64_t* neighbours = graph.neighbours + node * K;
  const uint8_t* valid = graph.valid ? graph.valid + node * K : nullptr;
  Scratch& s = scratch();
  s.x.resize(size_t(MR) * kInputs);
  s.b.resize(size_t(K) * H_);
  s.there.resize(size_t(kAtoms) * 3 * K);
  s.distances.resize(size_t(kPairs + kFurther) * K);
  float *x = s.x.data(), *b = s.b.data(), *there = s.there.data(), *distances = s.distances.data();
  for (int k = 0; k < K; k++)
    for (int c = 0; c < kAtoms * 3; c++) there[c * K + k] = atoms[neighbours[k] * kAtoms * 3 + c];
  for (int p = 0; p < kPairs; p++) {
    const float *u = atoms + (node * kAtoms + Features::kPairAtoms[p][0]) * 3;
    const float* v = there + Features::kPairAtoms[p][1] * 3 * K;
    for (int k = 0; k < K; k++) {
      const float dx = u[0] - v[k], dy = u[1] - v[K + k], dz = u[2] - v[2 * K + k];
      distances[p * K + k] = std::sqrt(1e-6f + dx * dx + dy * dy + dz * dz) + shift_;
    }
  }
  float* further = distances + kPairs * K;  // (K, kFurther)
  if constexpr (kFurther > 0) orientations(backbones, neighbours, node, K, further);
  V centres[kGaussians / W];
  for (int g = 0; g < kGaussians; g++) centres[g / W][g % W] = kFirst + g * kStep;

  // Neighbours come by distance, so those of one product need about the same Gaussians.
  for (int first = 0; first < K; first += MR) {
    const int rows = std::min(MR, K - first);
    int32_t near[kInputs];
    int count = 0;
    for (int p = 0; p < kPairs; p++) {
      const float* d = distances + p * K + first;
      float shortest = std::numeric_limits<float>::infinity(), longest = 0;
      for (int r = 0; r < rows; r++) {
        // A spare slot must change nothing for the others: there is none where a structure is alone.
        if (!valid || valid[first + r]) {
          shortest = std::min(shortest, d[r]);
          longest = std::max(longest, d[r]);
        }
        for (int g = 0; g < kGaussians / W; g++) {
          const V scaled = (splat(d[r]) - centres[g]) * (1 / kWidth);
          store(x + r * kInputs + p * kGaussians + g * W, exp_negative(-(scaled * scaled)));
        }
      }
      for (int g = 0; g < kGaussians; g++) {
        near[count] = p * kGaussians + g;
        const float centre = kFirst + g * kStep;
        count += centre > shortest - kReach && centre < longest + kReach;
      }
    }
    for (int f = 0; f < kFurther; f++) {
      near[count++] = kPairs * kGaussians + f;
      for (int r = 0; r < rows; r++)
        x[r * kInputs + kPairs * kGaussians + f] = further[(first + r) * kFurther + f];
    }
    for (int block = 0; block < rbf_.blocks; block++) {
      V out[MR][NV];
      product_rows(x, kInputs, rows, rbf_, block, Listed{count, near}, out);
      for (int r = 0; r < rows; r++) {
        const int64_t j = neighbours[first + r];
        int64_t offset = kOffsets - 1;
        if (backbones.chain[node] == backbones.chain[j])
          offset = offset_class(backbones.residue_index[node], backbones.residue_index[j]);
        const float* embedded = offsets_.data() + offset * H_ + block * NB;
        for (int v = 0; v < NV; v++)
          store(b + size_t(first + r) * H_ + block * NB + v * W, out[r][v] + load(embedded + v * W));
      }
    }
  }
  norm_edges_(b, K);
  product_into(b, H_, K, W_e_, h_E, H_);
}

void Network::aggregate(const MessageLayer& layer, const float* a, int64_t K, const uint8_t* valid,
                        float* out) const {
  std::memset(out, 0, H_ * sizeof(float));
  product(a, H_, K, layer.W2, [&](int k, int column, V* acc) {
    if (valid && !valid[k]) return;
    for (int v = 0; v < NV; v++)
      store(out + column + v * W, load(out + column + v * W) + gelu(acc[v]));
  });
}

void Network::update(const MessageLayer& layer, float* h, const float* agg, const float* count,
                     int rows) const {
  Scratch& s = scratch();
  s.hidden.resize(size_t(rows) * layer.W_in.out);
  product(agg, H_, rows, layer.W3, [&](int r, int column, V* acc) {
    for (int v = 0; v < NV; v++) {
      const int c = column + v * W;
      const V message = acc[v] + load(layer.b3.data() + c) * count[r];
      store(h + r * H_ + c, load(h + r * H_ + c) + message * kMessageScale);
    }
  });
  layer.norm1(h, rows);
  const int64_t wide = layer.W_in.out;
  product(h, H_, rows, layer.W_in, [&](int r, int column, V* acc) {
    for (int v = 0; v < NV; v++) store(&s.hidden[r * wide + column + v * W], gelu(acc[v]));
  });
  product(s.hidden.data(), wide, rows, layer.W_out, [&](int r, int column, V* acc) {
    for (int v = 0; v < NV; v++) {
      float* to = h + r * H_ + column + v * W;
      store(to, load(to) + acc[v]);
    }
  });
  layer.norm2(h, rows);
}

inline float degree(const Graph& graph, int64_t node) {
  if (!graph.valid) return float(graph.slots);
  const uint8_t* valid = graph.valid + node * graph.slots;
  return float(std::accumulate(valid, valid + graph.slots, 0));
}

// What W1 or W11 adds to B h_E for an edge: (A h_i + b) of its node, C h_j of its neighbour.
struct NodeTerms {
  Buffer here, there;
  void resize(size_t size) { here.resize(size); there.resize(size); }
};

void Network::encode(const Backbones& backbones, const Graph& graph, const float* initial,
                     const Encoding& out) {
  const int64_t N = graph.nodes, K = graph.slots, H = H_;
  const size_t edge = size_t(K) * H;
  if (trace_ && !backbones.frames) throw std::invalid_argument("a CA-only network needs frames");
  const std::vector<float> with_cb = trace_ ? std::vector<float>() : with_virtual_cb(backbones.coords, N);
  const float* atoms = trace_ ? backbones.coords : with_cb.data();
  float* h_E = out.edges;  // until the last stage puts the first decoder layer's B h_E there
  // Of the layer's edge update and of the next layer's message; one set is read, one is written.
  NodeTerms edge_terms[2], message_terms[2];
  for (int i = 0; i < 2; i++) { edge_terms[i].resize(size_t(N) * H); message_terms[i].resize(size_t(N) * H); }
  const int layers = encoders_.size(), tile = 6;
  if (initial) {
    std::copy_n(initial, size_t(N) * H, out.h_V);
    parallel_for((N + tile - 1) / tile, [&](int64_t t) {
      const int64_t first = t * tile, rows = std::min<int64_t>(tile, N - first);
      product_into(out.h_V + first * H, H, rows, encoders_[0].A, &message_terms[0].here[first * H], H);
      product_into(out.h_V + first * H, H, rows, encoders_[0].C, &message_terms[0].there[first * H], H);
    });
  } else {
    std::memset(out.h_V, 0, size_t(N) * H * sizeof(float));
  }

  // Stage l: edges after layer l (0: the features), then the messages and nodes of layer l + 1.
  for (int l = 0; l <= layers; l++) {
    const NodeTerms &edges_in = edge_terms[l % 2], &messages_in = message_terms[l % 2];
    NodeTerms &edges_out = edge_terms[(l + 1) % 2], &messages_out = message_terms[(l + 1) % 2];
    parallel_for((N + tile - 1) / tile, [&](int64_t t) {
      Scratch& s = scratch();
      s.a.resize(edge);
      s.c.resize(edge);
      s.agg.resize(size_t(kTile) * H);
      const int64_t first = t * tile, last = std::min(N, first + tile);
      const int rows = last - first;
      float count[kTile];
      for (int64_t i = first; i < last; i++) {
        float* edges = h_E + i * edge;
        const int64_t* neighbours = graph.neighbours + i * K;
        if (l == 0) {
          if (trace_) {
            edge_features<Trace>(backbones, atoms, graph, i, edges);
          } else {
            edge_features<FullBackbone>(backbones, atoms, graph, i, edges);
          }
        } else {
          const EncoderLayer& layer = encoders_[l - 1];
          product(edges, H, K, layer.edge_B, [&](int k, int column, V* acc) {
            const float *here = &edges_in.here[i * H + column], *there = &edges_in.there[neighbours[k] * H + column];
            for (int v = 0; v < NV; v++)
              store(&s.a[k * H + column + v * W], gelu(acc[v] + load(here + v * W) + load(there + v * W)));
          });
          product(s.a.data(), H, K, layer.W12, [&](int k, int column, V* acc) {
            for (int v = 0; v < NV; v++) store(&s.c[k * H + column + v * W], gelu(acc[v]));
          });
          product(s.c.data(), H, K, layer.W13, [&](int k, int column, V* acc) {
            for (int v = 0; v < NV; v++) {
              float* to = edges + k * H + column + v * W;
              store(to, load(to) + acc[v]);
            }
          });
          layer.norm3(edges, K);
        }
        if (l == layers) {
          std::copy_n(edges, edge, s.c.data());
          for (size_t d = 0; d < decoders_.size(); d++)
            product_into(s.c.data(), H, K, decoders_[d].B, out.edges + (d * N + i) * edge, H);
          continue;
        }
        const EncoderLayer& layer = encoders_[l];
        product(edges, H, K, layer.B, [&](int k, int column, V* acc) {
          for (int v = 0; v < NV; v++) {
            const int c = column + v * W;
            V x = acc[v];
            if (l == 0 && !initial)  // the states are zero yet: of A h_i + b the bias is left
              x += load(layer.A.bias.data() + c);
            else
              x += load(&messages_in.here[i * H + c]) + load(&messages_in.there[neighbours[k] * H + c]);
            store(&s.a[k * H + c], gelu(x));
          }
        });
        aggregate(layer, s.a.data(), K, graph.valid ? graph.valid + i * K : nullptr, &s.agg[(i - first) * H]);
        count[i - first] = degree(graph, i);
      }
      if (l == layers) return;
      float* h = out.h_V + first * H;
      update(encoders_[l], h, s.agg.data(), count, rows);
      product_into(h, H, rows, encoders_[l].edge_A, &edges_out.here[first * H], H);
      product_into(h, H, rows, encoders_[l].edge_C, &edges_out.there[first * H], H);
      if (l + 1 < layers) {
        product_into(h, H, rows, encoders_[l + 1].A, &messages_out.here[first * H], H);
        product_into(h, H, rows, encoders_[l + 1].C, &messages_out.there[first * H], H);
      } else {
        for (size_t d = 0; d < decoders_.size(); d++)
          product_into(h, H, rows, decoders_[d].D, out.undecoded + (d * N + first) * H, H);
      }
    });
  }
}

// ------------------------------------------------------------------------------- context

// 16 Gaussians of a distance, 0 under 2^-28: numbers that small would slow every product down.
inline void gaussians_of(float distance, float* to) {
  for (int g = 0; g < kGaussians; g += W) {
    V centre;
    for (int i = 0; i < W; i++) centre[i] = kFirst + (g + i) * kStep;
    const V scaled = (splat(distance) - centre) * (1 / kWidth);
    const V height = exp_negative(-(scaled * scaled));
    store(to + g, height > splat(0x1p-28f) ? height : V{});
  }
}

inline float distance_of(const float* u, const float* v) {
  const float dx = u[0] - v[0], dy = u[1] - v[1], dz = u[2] - v[2];
  return std::sqrt(1e-6f + dx * dx + dy * dy + dz * dz);
}

// The frame of N, CA and C: three unit vectors, as `context.angles` has them.
struct Frame {
  float axes[3][3];
  explicit Frame(const float* atoms) {
    const float *n = atoms, *ca = atoms + 3, *c = atoms + 6;
    float v1[3], v2[3];
    for (int x = 0; x < 3; x++) { v1[x] = n[x] - ca[x]; v2[x] = c[x] - ca[x]; }
    unit(v1, axes[0]);
    const float along = axes[0][0] * v2[0] + axes[0][1] * v2[1] + axes[0][2] * v2[2];
    for (int x = 0; x < 3; x++) v2[x] -= axes[0][x] * along;
    unit(v2, axes[1]);
    for (int x = 0; x < 3; x++) {
      const int y = (x + 1) % 3, z = (x + 2) % 3;
      axes[2][x] = axes[0][y] * axes[1][z] - axes[0][z] * axes[1][y];
    }
  }
  static void unit(const float* v, float* to) {
    const float length = std::max(std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), 1e-12f);
    for (int x = 0; x < 3; x++) to[x] = v[x] / length;
  }
  void angles(const float* ca, const float* atom, float* to) const {
    float local[3], squares = 0;
    for (int a = 0; a < 3; a++) {
      local[a] = 0;
      for (int x = 0; x < 3; x++) local[a] += axes[a][x] * (atom[x] - ca[x]);
      squares += local[a] * local[a];
    }
    const float across = std::sqrt(local[0] * local[0] + local[1] * local[1] + 1e-8f);
    const float whole = std::sqrt(squares) + 1e-8f;
    to[0] = local[0] / across;
    to[1] = local[1] / across;
    to[2] = across / whole;
    to[3] = local[2] / whole;
  }
};

// Some sets of atoms, the distinct ordered pairs in them, and what is computed of both.
struct ContextTile {
  int64_t first, count;          // sets
  std::vector<int32_t> size;     // atoms of each set
  std::vector<int32_t> pair_of;  // (count, M, M)
  std::vector<int32_t> start;    // first pair of each receiving atom, and their number
  std::vector<int32_t> receivers, senders;
  Buffer messages, edges;      // (P, H) each
  Buffer states[2];            // (count, M, H), what the atoms' states add for the nodes
};

// The pairs of a tile: those of one receiving atom follow each other.
void find_pairs(const Surroundings& around, ContextTile& tile) {
  const int64_t M = around.most;
  std::vector<std::pair<int64_t, int64_t>> seats;  // (atom, set * M + place)
  tile.size.assign(tile.count, 0);
  for (int64_t s = 0; s < tile.count; s++)
    for (int64_t m = 0; m < M; m++) {
      const int64_t atom = around.atoms[(tile.first + s) * M + m];
      if (atom < 0) break;
      seats.emplace_back(atom, s * M + m);
      tile.size[s]++;
    }
  std::sort(seats.begin(), seats.end());
  tile.pair_of.assign(size_t(tile.count) * M * M, 0);
  tile.receivers.clear();
  tile.senders.clear();
  tile.start.assign(1, 0);
  std::vector<std::pair<int64_t, int32_t>> known;  // of one receiver: sender, pair
  size_t at = 0;
  std::vector<int32_t> place(seats.empty() ? 0 : size_t(seats.back().first) + 1, -1);
  while (at < seats.size()) {
    const int64_t receiver = seats[at].first;
    const size_t from = tile.senders.size();
    for (; at < seats.size() && seats[at].first == receiver; at++) {
      const int64_t s = seats[at].second / M, m = seats[at].second % M;
      const int64_t* atoms = around.atoms + (tile.first + s) * M;
      for (int32_t j = 0; j < tile.size[s]; j++) {
        int32_t& pair = place[atoms[j]];
        if (pair < 0) {
          pair = int32_t(tile.senders.size());
          tile.senders.push_back(int32_t(atoms[j]));
        }
        tile.pair_of[(s * M + m) * M + j] = pair;
      }
    }
    for (size_t p = from; p < tile.senders.size(); p++) place[tile.senders[p]] = -1;
    tile.receivers.push_back(int32_t(receiver));
    tile.start.push_back(int32_t(tile.senders.size()));
  }
}

void Network::see(const Backbones& backbones, int64_t nodes, const Surroundings& around, float* h_V) {
  if (!context_) throw std::invalid_argument("the network sees no atoms around a protein");
  const ContextLayers& net = *context_;
  const int64_t M = around.most, H = H_;
  constexpr int64_t kSets = 512;
  constexpr int kNodes = 6, kRows = 4 * MR, kAtoms = FullBackbone::kAtoms;
  const std::vector<float> atoms = with_virtual_cb(backbones.coords, nodes);
  // Nodes by their set.
  std::vector<int64_t> begin(around.sets + 1, 0), by_set(nodes);
  for (int64_t i = 0; i < nodes; i++) begin[around.set_of_node[i] + 1]++;
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  {
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t i = 0; i < nodes; i++) by_set[next[around.set_of_node[i]]++] = i;
  }
  ContextTile tile;
  for (tile.first = 0; tile.first < around.sets; tile.first += kSets) {
    tile.count = std::min(kSets, around.sets - tile.first);
    find_pairs(around, tile);
    const size_t pairs = tile.senders.size();
    tile.messages.resize(std::max<size_t>(pairs, 1) * H);
    tile.edges.resize(std::max<size_t>(pairs, 1) * H);
    for (Buffer& states : tile.states) states.resize(size_t(tile.count) * M * H);

    // Of each pair: its message in the first layer, and what its edge adds in the second.
    parallel_for(tile.receivers.size(), [&](int64_t r) {
      Scratch& s = scratch();
      s.x.resize(kRows * kGaussians);
      s.a.resize(size_t(kRows) * H);
      const int64_t receiver = tile.receivers[r];
      const float* table = &net.first_table[around.element[receiver] * H];
      for (int64_t first = tile.start[r]; first < tile.start[r + 1]; first += kRows) {
        const int rows = std::min<int64_t>(kRows, tile.start[r + 1] - first);
        for (int p = 0; p < rows; p++) {
          float* g = &s.x[p * kGaussians];
          const float* sender = around.xyz + tile.senders[first + p] * 3;
          gaussians_of(distance_of(around.xyz + receiver * 3, sender) + shift_, g);
          float variance = 0;
          for (int i = 0; i < kGaussians; i++) {
            float along = 0;
            for (int j = i; j < kGaussians; j++) along += net.length[i * kGaussians + j] * g[j];
            variance += along * along;
          }
          const float scale = 1.0f / std::sqrt(variance + 1e-5f);
          for (int i = 0; i < kGaussians; i++) g[i] *= scale;
        }
        product(s.x.data(), kGaussians, rows, net.first_edge, [&](int p, int column, V* acc) {
          for (int v = 0; v < NV; v++) {
            const int c = column + v * W;
            store(&s.a[p * H + c], gelu(acc[v] + load(table + c)));
          }
        });
        product(s.a.data(), H, rows, net.on_atoms[0].W2, [&](int p, int column, V* acc) {
          for (int v = 0; v < NV; v++) store(&tile.messages[(first + p) * H + column + v * W], gelu(acc[v]));
        });
        product_into(s.x.data(), kGaussians, rows, net.second_edge, &tile.edges[first * H], H);
      }
    });

    // Of each set: the states of its atoms after each layer, and what they add for the nodes.
    parallel_for(tile.count, [&](int64_t set) {
      Scratch& s = scratch();
      const int n = tile.size[set];
      if (n == 0) return;
      s.h.resize(size_t(n) * H);
      s.agg.resize(size_t(n) * H);
      s.here.resize(size_t(n) * H);
      s.a.resize(size_t(n) * H);
      const std::vector<float> count(n, float(n));
      const int64_t* members = around.atoms + (tile.first + set) * M;
      for (int m = 0; m < n; m++) {
        std::copy_n(&net.atom_table[around.element[members[m]] * H], H, &s.h[m * H]);
        const int32_t* pair_of = &tile.pair_of[(set * M + m) * M];
        for (int column = 0; column < H; column += NB) {
          V total[NV] = {};
          for (int j = 0; j < n; j++) {
            const float* message = &tile.messages[size_t(pair_of[j]) * H + column];
            for (int v = 0; v < NV; v++) total[v] += load(message + v * W);
          }
          for (int v = 0; v < NV; v++) store(&s.agg[m * H + column + v * W], total[v]);
        }
      }
      update(net.on_atoms[0], s.h.data(), s.agg.data(), count.data(), n);
      product_into(s.h.data(), H, n, net.atom[0], &tile.states[0][set * M * H], H);
      product_into(s.h.data(), H, n, net.second_own, s.here.data(), H);
      for (int m = 0; m < n; m++) {
        const int32_t* pair_of = &tile.pair_of[(set * M + m) * M];
        for (int j = 0; j < n; j++) {
          const float* edge = &tile.edges[size_t(pair_of[j]) * H];
          for (int c = 0; c < H; c += W) store(&s.a[j * H + c], gelu(load(edge + c) + load(&s.here[m * H + c])));
        }
        aggregate(net.on_atoms[1], s.a.data(), n, nullptr, &s.agg[m * H]);
      }
      update(net.on_atoms[1], s.h.data(), s.agg.data(), count.data(), n);
      product_into(s.h.data(), H, n, net.atom[1], &tile.states[1][set * M * H], H);
    });

    // Of each node: two layers of messages from the atoms that it sees.
    const int64_t start = begin[tile.first], stop = begin[tile.first + tile.count];
    parallel_for((stop - start + kNodes - 1) / kNodes, [&](int64_t t) {
      Scratch& s = scratch();
      const int64_t first = start + t * kNodes;
      const int rows = std::min<int64_t>(kNodes, stop - first);
      s.x.resize(size_t(MR) * ContextLayers::kInputs);
      s.b.resize(size_t(kNodes) * M * H);
      s.a.resize(size_t(M) * H);
      s.c.resize(size_t(kNodes) * H);
      s.h.resize(size_t(kNodes) * H);
      s.here.resize(size_t(kNodes) * H);
      s.agg.resize(size_t(kNodes) * H);
      float count[kNodes];
      for (int r = 0; r < rows; r++) {
        const int64_t i = by_set[first + r], set = around.set_of_node[i];
        std::copy_n(h_V + i * H, H, &s.c[r * H]);
        const int n = tile.size[set - tile.first];
        count[r] = n;
        const float* own = atoms.data() + i * kAtoms * 3;
        const Frame frame(own);
        float* features = &s.b[r * M * H];
        for (int first_atom = 0; first_atom < n; first_atom += MR) {
          const int together = std::min(MR, n - first_atom);
          const int64_t* seen = around.atoms + set * M + first_atom;
          float shortest[kAtoms], longest[kAtoms];
          std::fill_n(shortest, kAtoms, std::numeric_limits<float>::infinity());
          std::fill_n(longest, kAtoms, 0.0f);
          for (int m = 0; m < together; m++) {
            const float* atom = around.xyz + seen[m] * 3;
            float* inputs = &s.x[m * ContextLayers::kInputs];
            for (int a = 0; a < kAtoms; a++) {
              const float distance = distance_of(own + a * 3, atom) + shift_;
              shortest[a] = std::min(shortest[a], distance);
              longest[a] = std::max(longest[a], distance);
              gaussians_of(distance, inputs + a * kGaussians);
            }
            frame.angles(own + 3, atom, inputs + ContextLayers::kSeen);
          }
          // As for edges: what is under 2^-28 of its height is left out.
          int32_t near[ContextLayers::kInputs];
          int count = 0;
          for (int a = 0; a < kAtoms; a++)
            for (int g = 0; g < kGaussians; g++) {
              near[count] = a * kGaussians + g;
              const float centre = kFirst + g * kStep;
              count += centre > shortest[a] - kReach && centre < longest[a] + kReach;
            }
          for (int a = 0; a < ContextLayers::kAngles; a++) near[count++] = ContextLayers::kSeen + a;
          for (int block = 0; block < net.seen.blocks; block++) {
            V out[MR][NV];
            product_rows(s.x.data(), ContextLayers::kInputs, together, net.seen, block, Listed{count, near}, out);
            for (int m = 0; m < together; m++) {
              const float* table = &net.node_table[around.element[seen[m]] * H + block * NB];
              float* to = features + (first_atom + m) * H + block * NB;
              for (int v = 0; v < NV; v++) store(to + v * W, out[m][v] + load(table + v * W));
            }
          }
        }
        net.norm_nodes(features, n);
      }
      product_into(s.c.data(), H, rows, net.W_c, s.h.data(), H);
      for (int l = 0; l < ContextLayers::kLayers; l++) {
        product_into(s.h.data(), H, rows, net.own[l], s.here.data(), H);
        for (int r = 0; r < rows; r++) {
          const int64_t set = around.set_of_node[by_set[first + r]] - tile.first;
          const int n = tile.size[set];
          const float* states = &tile.states[l][set * M * H];
          product(&s.b[r * M * H], H, n, net.node[l], [&](int m, int column, V* acc) {
            for (int v = 0; v < NV; v++) {
              const int c = column + v * W;
              store(&s.a[m * H + c], gelu(acc[v] + load(states + m * H + c) + load(&s.here[r * H + c])));
            }
          });
          aggregate(net.on_nodes[l], s.a.data(), n, nullptr, &s.agg[r * H]);
        }
        update(net.on_nodes[l], s.h.data(), s.agg.data(), count, rows);
      }
      product_into(s.h.data(), H, rows, net.V_C, s.here.data(), H);
      net.V_C_norm(s.here.data(), rows);
      for (int r = 0; r < rows; r++) {
        float* to = h_V + by_set[first + r] * H;
        for (int c = 0; c < H; c += W) store(to + c, load(to + c) + load(&s.here[r * H + c]));
      }
    });
  }
}

// ------------------------------------------------------------------------------- decoder

// Sequences on their way through the decoder. `table(l)[m]` is what row m contributes to later
// neighbours in layer l > 0, C emb(s) + D h; the first layer's follows from the encoding.
class Decoding {
 public:
  // `readers` rows will be computed in the first layer, the same one again counted again.
  Decoding(Network& network, const Graph& graph, const Encoding& encoding, const Rows& rows,
           const int64_t* tokens, const int64_t* group, int64_t readers)
      : net_(network), graph_(graph), encoding_(encoding), rows_(rows), tokens_(tokens),
        group_(group), H_(network.H_), K_(graph.slots), N_(graph.nodes), layers_(network.decoders_.size()),
        M_(rows.starts[rows.sequences]), node_(M_), shift_(M_), tables_(size_t(layers_ - 1) * M_ * H_),
        here_(size_t(N_) * H_), first_(network.first_messages_) {
    first_.reset(N_, K_, readers, H_);
    for (int64_t s = 0; s < rows.sequences; s++)
      for (int64_t m = rows.starts[s]; m < rows.starts[s + 1]; m++) {
        node_[m] = rows.first_node[s] + m - rows.starts[s];
        shift_[m] = rows.starts[s] - rows.first_node[s];
      }
    parallel_for((N_ + kTile - 1) / kTile, [&](int64_t t) {
      const int64_t first = t * kTile;
      product_into(encoding.h_V + first * H_, H_, std::min<int64_t>(kTile, N_ - first),
                   net_.decoders_[0].A, &here_[first * H_], H_);
    });
  }

  int64_t rows() const { return M_; }
  int64_t node(int64_t m) const { return node_[m]; }
  // All rows by their node: those of the same node side by side share what is in the cache.
  std::vector<int64_t> by_node() const {
    std::vector<int64_t> next(N_ + 1, 0), order(M_);
    for (int64_t m = 0; m < M_; m++) next[node_[m] + 1]++;
    std::partial_sum(next.begin(), next.end(), next.begin());
    for (int64_t m = 0; m < M_; m++) order[next[node_[m]]++] = m;
    return order;
  }
  float* table(int l, int64_t m) { return &tables_[(size_t(l - 1) * M_ + m) * H_]; }

  // States of some rows after the encoder: (rows, H).
  void start(const int64_t* rows, int count, float* h) const {
    for (int r = 0; r < count; r++) std::copy_n(encoding_.h_V + node_[rows[r]] * H_, H_, h + size_t(r) * H_);
  }

  // One layer for at most kTile rows, in place: (count, H).
  void advance(int l, const int64_t* rows, int count, float* h) {
    advance(l, rows, count, h, [&](int r, int64_t j) { return drawn(j, rows[r]); }, [&](int r, int64_t j) {
      return before(j, rows[r]) ? table(l, j) : nullptr;
    });
  }

  // The same where row r of these knows the residue of row j if `known(r, j)`, and reads of it what
  // `decoded(r, j)` points to, or, if that is null, an undecoded neighbour. A first layer asks only
  // the former, and the others only the latter.
  template <class Known, class Decoded>
  void advance(int l, const int64_t* rows, int count, float* h, Known known, Decoded decoded) {
    const DecoderLayer& layer = net_.decoders_[l];
    Scratch& s = scratch();
    s.agg.resize(size_t(kTile) * H_);
    if (l == 0) {
      first_messages(rows, count, known, s.agg.data());
    } else {
      s.here.resize(size_t(kTile) * H_);
      s.a.resize(size_t(K_) * H_);
      product_into(h, H_, count, layer.A, s.here.data(), H_);
      for (int r = 0; r < count; r++)
        messages(l, rows[r], [&](int64_t j) { return decoded(r, j); }, &s.here[size_t(r) * H_],
                 &s.agg[size_t(r) * H_]);
    }
    float degrees[kTile];
    for (int r = 0; r < count; r++) degrees[r] = degree(graph_, node_[rows[r]]);
    net_.update(layer, h, s.agg.data(), degrees, count);
  }

  // D h of the rows' states after layer l - 1, into layer l's table; the residue is added later.
  void write_states(int l, const int64_t* rows, int count, const float* h) {
    product(h, H_, count, net_.decoders_[l].D, [&](int r, int column, V* acc) {
      for (int v = 0; v < NV; v++) store(table(l, rows[r]) + column + v * W, acc[v]);
    });
  }

  void add_residue(int64_t m) {
    for (int l = 1; l < layers_; l++) {
      const float* residue = &net_.decoders_[l].residues[tokens_[m] * H_];
      float* to = table(l, m);
      for (int c = 0; c < H_; c += W) store(to + c, load(to + c) + load(residue + c));
    }
  }

  void logits(const float* h, int count, const int64_t* rows, float* out) const {
    Scratch& s = scratch();
    s.hidden.resize(size_t(kTile) * kLetters);
    product_into(h, H_, count, net_.W_out_, s.hidden.data(), kLetters);
    for (int r = 0; r < count; r++) std::copy_n(&s.hidden[size_t(r) * kLetters], kLetters, out + rows[r] * kLetters);
  }

  // Rows whose residues are all known, layer by layer, all rows in each. The states after each layer
  // but the last are kept in `kept`, (layers - 1, M, H), if that is given; the last layer is left
  // out if `out` is null.
  void teacher_forced(const std::vector<int64_t>& rows, float* out, float* kept = nullptr) {
    const int64_t n = rows.size(), tiles = (n + kTile - 1) / kTile;
    Buffer h(size_t(n) * H_);
    for (int l = 0; l < (out ? layers_ : layers_ - 1); l++) {
      parallel_for(tiles, [&](int64_t t) {
        const int64_t first = t * kTile;
        const int count = std::min<int64_t>(kTile, n - first);
        const int64_t* tile = rows.data() + first;
        float* states = &h[first * H_];
        if (l == 0) start(tile, count, states);
        // This layer reads its own table only; what is written here is read by the next one.
        advance(l, tile, count, states);
        if (kept && l + 1 < layers_)
          for (int r = 0; r < count; r++) std::copy_n(states + r * H_, H_, kept + (l * M_ + tile[r]) * H_);
        if (l + 1 < layers_) {
          const float* residues = net_.decoders_[l + 1].residues.data();
          product(states, H_, count, net_.decoders_[l + 1].D, [&](int r, int column, V* acc) {
            const float* residue = residues + tokens_[tile[r]] * H_ + column;
            for (int v = 0; v < NV; v++)
              store(table(l + 1, tile[r]) + column + v * W, acc[v] + load(residue + v * W));
          });
        } else {
          logits(states, count, tile, out);
        }
      });
    }
  }

 private:
  bool before(int64_t j, int64_t m) const { return rows_.rank[j] < rows_.rank[m]; }
  // Decoded and drawn: a member of the row's own group has its state, and no residue yet.
  bool drawn(int64_t j, int64_t m) const {
    return before(j, m) && !(group_ && group_[m] >= 0 && group_[j] == group_[m]);
  }

  // Aggregate of the messages to row m in a layer beyond the first: (H,).
  template <class Decoded>
  void messages(int l, int64_t m, Decoded decoded, const float* here, float* out) {
    float* a = scratch().a.data();
    const int64_t i = node_[m];
    const int64_t* neighbours = graph_.neighbours + i * K_;
    const float* edges = encoding_.edges + (size_t(l) * N_ + i) * K_ * H_;
    const float* undecoded = encoding_.undecoded + size_t(l) * N_ * H_;
    for (int64_t k = 0; k < K_; k++) {
      const int64_t j = neighbours[k] + shift_[m];
      const float* there = decoded(j);
      if (!there) there = undecoded + neighbours[k] * H_;
      for (int c = 0; c < H_; c += W)
        store(a + k * H_ + c, gelu(load(edges + k * H_ + c) + load(there + c) + load(here + c)));
    }
    net_.aggregate(net_.decoders_[l], a, K_, graph_.valid ? graph_.valid + i * K_ : nullptr, out);
  }

  template <class Known>
  void first_messages(const int64_t* rows, int count, Known known, float* out) {
    Scratch& s = scratch();
    std::vector<Missing>& missing = s.missing;
    std::vector<const float*>& found = s.found;
    const DecoderLayer& layer = net_.decoders_[0];
    const int64_t tile = first_.next_tile();
    found.assign(size_t(count) * K_, nullptr);
    missing.clear();
    s.slots.resize(size_t(kTile) * K_ * H_);
    for (int r = 0; r < count; r++) {
      const int64_t m = rows[r], i = node_[m];
      for (int64_t k = 0; k < K_; k++) {
        if (graph_.valid && !graph_.valid[i * K_ + k]) continue;
        const int64_t j = graph_.neighbours[i * K_ + k] + shift_[m];
        const int state = known(r, j) ? int(tokens_[j]) : kLetters;
        Missing entry{r, int(k), state, 0, false, nullptr};
        float* place = first_.find((size_t(i) * K_ + k) * FirstMessages::kStates + state, tile, H_, entry.mine, entry.slot);
        const size_t at = size_t(r) * K_ + k;
        if (!place || entry.mine) {
          entry.to = place ? place : &s.slots[at * H_];
          missing.push_back(entry);
        }
        found[at] = place ? place : &s.slots[at * H_];
        if (place && !entry.mine)
          for (int c = 0; c < H_; c += kLineFloats) __builtin_prefetch(place + c);
      }
    }
    constexpr size_t kChunk = 8 * MR;
    s.a.resize(kChunk * H_);
    for (size_t first = 0; first < missing.size(); first += kChunk) {
      const Missing* chunk = missing.data() + first;
      const int size = std::min(kChunk, missing.size() - first);
      for (int e = 0; e < size; e++) {
        const Missing& entry = chunk[e];
        const int64_t i = node_[rows[entry.row]], j = graph_.neighbours[i * K_ + entry.k];
        const float *edge = encoding_.edges + (size_t(i) * K_ + entry.k) * H_, *here = &here_[i * H_];
        const float *there = encoding_.undecoded + j * H_, *residue = &layer.residues[entry.state * H_];
        for (int c = 0; c < H_; c += W) {
          V from = load(there + c);
          if (entry.state < kLetters) from += load(residue + c);
          store(&s.a[e * H_ + c], gelu(load(edge + c) + from + load(here + c)));
        }
      }
      product(s.a.data(), H_, size, layer.W2, [&](int e, int column, V* acc) {
        for (int v = 0; v < NV; v++) store(chunk[e].to + column + v * W, gelu(acc[v]));
      });
    }
    for (const Missing& entry : missing)
      if (entry.mine)
        first_.publish((size_t(node_[rows[entry.row]]) * K_ + entry.k) * FirstMessages::kStates + entry.state, entry.slot);
    for (int r = 0; r < count; r++)
      for (int column = 0; column < H_; column += NB) {
        V total[NV] = {};
        for (int64_t k = 0; k < K_; k++)
          if (const float* message = found[size_t(r) * K_ + k])
            for (int v = 0; v < NV; v++) total[v] += load(message + column + v * W);
        for (int v = 0; v < NV; v++) store(out + size_t(r) * H_ + column + v * W, total[v]);
      }
  }

  const Network& net_;
  const Graph& graph_;
  const Encoding& encoding_;
  const Rows& rows_;
  const int64_t* tokens_;
  const int64_t* group_;
  const int H_;
  const int64_t K_, N_;
  const int layers_;
  const int64_t M_;
  std::vector<int64_t> node_, shift_;  // row -> node; row of neighbour j = j + shift
  Buffer tables_, here_;
  FirstMessages& first_;
};

void Network::decode(const Graph& graph, const Encoding& encoding, const Rows& rows,
                     const int64_t* tokens, float* logits) {
  Decoding decoding(*this, graph, encoding, rows, tokens, nullptr, rows.starts[rows.sequences]);
  decoding.teacher_forced(decoding.by_node(), logits);
}

// ----------------------------------------------------------------------- conditional logits

// Each row decoded after all others of its sequence: from one pass in the given order, and what the
// row changes in it by being last (network/conditional.py says what that is, and why no more).
class Conditioning {
 public:
  static constexpr int kTargets = 8;  // that a thread takes together

  Conditioning(Network& network, const Graph& graph, const Encoding& encoding, const Rows& rows,
               const int64_t* tokens)
      : net_(network), graph_(graph), encoding_(encoding), rows_(rows), tokens_(tokens),
        H_(network.H_), K_(graph.slots), layers_(network.decoders_.size()),
        decoding_(network, graph, encoding, rows, tokens, nullptr,
                  rows.starts[rows.sequences] * (1 + graph.slots / 2)),
        kept_(size_t(layers_ - 1) * decoding_.rows() * H_), seen_from_(graph.nodes + 1, 0) {
    decoding_.teacher_forced(decoding_.by_node(), nullptr, kept_.data());
    each_edge([&](int64_t, int64_t j) { seen_from_[j + 1]++; });
    std::partial_sum(seen_from_.begin(), seen_from_.end(), seen_from_.begin());
    source_.resize(seen_from_.back());
    std::vector<int64_t> next(seen_from_.begin(), seen_from_.end() - 1);
    each_edge([&](int64_t i, int64_t j) { source_[next[j]++] = i; });
  }

  void operator()(float* logits) {
    const int64_t M = decoding_.rows();
    parallel_for((M + kTargets - 1) / kTargets, [&](int64_t g) {
      const int64_t first = g * kTargets;
      targets(first, std::min<int64_t>(kTargets, M - first), logits);
    });
  }

 private:
  // A row that is computed anew because target `t` of some is last.
  struct Task { int t; int64_t row; };

  // What is computed anew in one layer, and where each is: `place` has an entry for every target and
  // node, -1 where nothing is.
  struct Layer {
    std::vector<Task> tasks;
    std::vector<int32_t> place;
    std::vector<float> states, tables;  // (tasks, H): after the layer, and for the next one to read
  };

  template <class Body>
  void each_edge(Body body) const {
    for (int64_t i = 0; i < graph_.nodes; i++)
      for (int64_t k = 0; k < K_; k++)
        if (!graph_.valid || graph_.valid[i * K_ + k]) body(i, graph_.neighbours[i * K_ + k]);
  }

  bool before(int64_t j, int64_t m) const { return rows_.rank[j] < rows_.rank[m]; }

  // The tasks of layer l, from those of the layer before. A layer tells which rows change; the last
  // but one computes only what the last reads: each target and its later neighbours.
  void plan(int l, int64_t first, int count, const Layer& earlier, Layer& layer) const {
    const auto add = [&](int t, int64_t row) {
      int32_t& place = layer.place[t * graph_.nodes + decoding_.node(row)];
      if (place >= 0) return;
      place = layer.tasks.size();
      layer.tasks.push_back({t, row});
    };
    const auto add_later_sources = [&](int t, int64_t row) {
      const int64_t node = decoding_.node(row), shift = row - node;
      for (int64_t e = seen_from_[node]; e < seen_from_[node + 1]; e++)
        if (before(row, source_[e] + shift)) add(t, source_[e] + shift);
    };
    for (int t = 0; t < count; t++) add(t, first + t);
    if (l == layers_ - 1) return;
    if (l == layers_ - 2) {
      for (int t = 0; t < count; t++) {
        const int64_t row = first + t, node = decoding_.node(row), shift = row - node;
        for (int64_t k = 0; k < K_; k++) {
          const int64_t at = node * K_ + k, j = graph_.neighbours[at] + shift;
          if ((!graph_.valid || graph_.valid[at]) && before(row, j)) add(t, j);
        }
      }
    } else if (l == 0) {
      for (int t = 0; t < count; t++) add_later_sources(t, first + t);
    } else {
      for (const Task& task : earlier.tasks) {
        add(task.t, task.row);
        if (task.row != first + task.t) add_later_sources(task.t, task.row);
      }
    }
  }

  void targets(int64_t first, int count, float* logits) {
    static thread_local Layer buffers[2];
    const int64_t N = graph_.nodes, M = decoding_.rows();
    for (int l = 0; l < layers_; l++) {
      Layer &layer = buffers[l % 2], &earlier = buffers[(l + 1) % 2];
      layer.tasks.clear();
      layer.place.resize(std::max<size_t>(layer.place.size(), kTargets * N), -1);
      plan(l, first, count, earlier, layer);
      const int n = layer.tasks.size();
      layer.states.resize(size_t(n) * H_);
      layer.tables.resize(size_t(n) * H_);
      for (int begin = 0; begin < n; begin += kTile) {
        const Task* tile = layer.tasks.data() + begin;
        const int size = std::min(kTile, n - begin);
        float* states = &layer.states[size_t(begin) * H_];
        int64_t rows[kTile];
        for (int r = 0; r < size; r++) rows[r] = tile[r].row;
        const auto found = [&](const Task& task, int64_t row) -> int32_t {
          return earlier.place[task.t * N + decoding_.node(row)];
        };
        if (l == 0) decoding_.start(rows, size, states);
        for (int r = 0; l > 0 && r < size; r++) {
          const int32_t place = found(tile[r], rows[r]);
          const float* own = place < 0 ? &kept_[((l - 1) * M + rows[r]) * H_] : &earlier.states[size_t(place) * H_];
          std::copy_n(own, H_, states + r * H_);
        }
        const auto known = [&](int r, int64_t j) {
          const int64_t target = first + tile[r].t;
          return j != target && (rows[r] == target || before(j, rows[r]));
        };
        decoding_.advance(l, rows, size, states, known, [&](int r, int64_t j) -> const float* {
          if (!known(r, j)) return nullptr;
          const int32_t place = found(tile[r], j);
          return place < 0 ? decoding_.table(l, j) : &earlier.tables[size_t(place) * H_];
        });
        if (l + 1 == layers_) {
          decoding_.logits(states, size, rows, logits);
          continue;
        }
        const DecoderLayer& next = net_.decoders_[l + 1];
        product(states, H_, size, next.D, [&](int r, int column, V* acc) {
          const float* residue = &next.residues[tokens_[rows[r]] * H_ + column];
          float* to = &layer.tables[size_t(begin + r) * H_ + column];
          for (int v = 0; v < NV; v++) store(to + v * W, acc[v] + load(residue + v * W));
        });
      }
      if (l > 0) forget(earlier);
    }
    forget(buffers[(layers_ - 1) % 2]);
  }

  void forget(Layer& layer) const {
    for (const Task& task : layer.tasks) layer.place[task.t * graph_.nodes + decoding_.node(task.row)] = -1;
    layer.tasks.clear();
  }

  const Network& net_;
  const Graph& graph_;
  const Encoding& encoding_;
  const Rows& rows_;
  const int64_t* tokens_;
  const int H_;
  const int64_t K_;
  const int layers_;
  Decoding decoding_;
  Buffer kept_;                      // (layers - 1, M, H)
  std::vector<int64_t> seen_from_;   // (N + 1,), where each node's part of `source_` starts
  std::vector<int64_t> source_;      // the nodes that have it as a neighbour
};

void Network::condition(const Graph& graph, const Encoding& encoding, const Rows& rows,
                        const int64_t* tokens, float* logits) {
  Conditioning(*this, graph, encoding, rows, tokens)(logits);
}

// ------------------------------------------------------------------------------- sampler

constexpr int64_t kPrefix = -1;

// The level of every row (M,); kPrefix for the run of given residues at the start of an order.
// A group is drawn after the last of its members: who reads one of them waits for all.
std::vector<int64_t> levels(const Graph& graph, const Rows& rows, const Drawing& drawing) {
  const int64_t M = rows.starts[rows.sequences], K = graph.slots;
  std::vector<int64_t> level(M);
  int64_t groups = 0;
  if (drawing.group) groups = 1 + *std::max_element(drawing.group, drawing.group + M);
  std::vector<int64_t> drawn(groups, kPrefix);  // the level that a group is drawn after
  parallel_for(rows.sequences, [&](int64_t s) {
    const int64_t first = rows.starts[s], last = rows.starts[s + 1];
    const int64_t shift = first - rows.first_node[s];
    std::vector<int64_t> order(last - first);
    std::iota(order.begin(), order.end(), first);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return rows.rank[a] < rows.rank[b]; });
    bool prefix = true;
    for (int64_t m : order) {
      const int64_t own = drawing.group ? drawing.group[m] : -1;
      prefix = prefix && !drawing.designed[m];
      int64_t depth = kPrefix;
      if (!prefix) {
        depth = 0;
        const int64_t i = rows.first_node[s] + m - first;
        for (int64_t k = 0; k < K; k++) {
          if (graph.valid && !graph.valid[i * K + k]) continue;
          const int64_t j = graph.neighbours[i * K + k] + shift;
          if (rows.rank[j] >= rows.rank[m]) continue;
          const int64_t theirs = drawing.group ? drawing.group[j] : -1;
          depth = std::max(depth, 1 + (theirs >= 0 && theirs != own ? drawn[theirs] : level[j]));
        }
      }
      level[m] = depth;
      if (own >= 0) drawn[own] = std::max(drawn[own], depth);
    }
  });
  return level;
}

// Inverts the cumulative distribution as sampler.draw does.
int64_t draw(const float* probabilities, double uniform) {
  double cumulative[kLetters], total = 0;
  for (int a = 0; a < kLetters; a++) cumulative[a] = total += probabilities[a];
  int64_t drawn = 0, last_possible = 0;
  for (int a = 0; a < kLetters; a++) {
    drawn += cumulative[a] <= uniform * total;
    last_possible += cumulative[a] < total;
  }
  return std::min(drawn, last_possible);
}

// What a row or a group is drawn from.
struct Distribution {
  float logits[kLetters], bias[kLetters], pssm[kLetters], pssm_factor[kLetters];
  float temperature, pssm_weight;
  bool omit[kLetters], has_pssm;

  // The weighted mean over the members of a group, or one row alone; what one omits, none may be.
  Distribution(const Drawing& drawing, const float* all_logits, const int64_t* rows, int64_t count)
      : logits{}, bias{}, pssm{}, pssm_factor{}, temperature(drawing.temperature[rows[count - 1]]),
        pssm_weight(0), omit{}, has_pssm(drawing.pssm != nullptr) {
    const float share = 1.0f / count;
    for (int64_t r = 0; r < count; r++) {
      const int64_t m = rows[r];
      const float weight = drawing.weight ? drawing.weight[m] * share : share;
      if (has_pssm) pssm_weight += drawing.pssm_weight[m] * share;
      for (int a = 0; a < kLetters; a++) {
        const int64_t at = m * kLetters + a;
        logits[a] += all_logits[at] * weight;
        bias[a] += drawing.bias[at] * share;
        omit[a] |= drawing.omit[at] != 0;
        if (has_pssm) {
          pssm[a] += drawing.pssm[at] * share;
          pssm_factor[a] += drawing.pssm_factor[at] * share;
        }
      }
    }
  }

  // softmax((logits + bias) / temperature), the PSSM mixed in, what is omitted left out.
  void probabilities(float* out) const {
    float largest = -std::numeric_limits<float>::infinity();
    for (int a = 0; a < kLetters; a++) {
      out[a] = logits[a] / temperature + bias[a] / temperature;
      if (!omit[a]) largest = std::max(largest, out[a]);
    }
    for (int a = 0; a < kLetters; a++) out[a] = omit[a] ? 0.0f : std::exp(out[a] - largest);
    normalise(out);
    if (!has_pssm) return;
    for (int a = 0; a < kLetters; a++) {
      out[a] = (1 - pssm_weight) * out[a] + pssm_weight * pssm[a];
      out[a] = omit[a] ? 0.0f : out[a] * pssm_factor[a];
    }
    normalise(out);
  }

  static void normalise(float* p) {
    float total = 0;
    for (int a = 0; a < kLetters; a++) total += p[a];
    for (int a = 0; a < kLetters; a++) p[a] /= total;
  }
};

// The part of every sequence, (S,). A sequence reads no other, so one part a thread needs no waiting
// between levels; all sequences are one part, divided level by level, where the parts would be uneven.
std::vector<int64_t> parts_of(const Rows& rows, int64_t threads) {
  const int64_t S = rows.sequences, M = rows.starts[S];
  std::vector<int64_t> part(S), size(threads);
  for (int64_t s = 0; s < S; s++) {
    part[s] = (rows.starts[s] + rows.starts[s + 1]) * threads / (2 * M + 1);
    size[part[s]] += rows.starts[s + 1] - rows.starts[s];
  }
  const auto [least, most] = std::minmax_element(size.begin(), size.end());
  if (10 * *least < 9 * *most) std::fill(part.begin(), part.end(), 0);
  return part;
}

int64_t Network::sample(const Graph& graph, const Encoding& encoding, const Rows& rows,
                        const Drawing& drawing, const Samples& samples) {
  Decoding decoding(*this, graph, encoding, rows, samples.tokens, drawing.group,
                    rows.starts[rows.sequences]);
  const int64_t M = decoding.rows();
  std::vector<int64_t> level = levels(graph, rows, drawing);
  const int64_t depth = M ? 1 + *std::max_element(level.begin(), level.end()) : 0;

  // One part after the other: from here on part p has the levels p * depth to (p + 1) * depth.
  const std::vector<int64_t> part = parts_of(rows, thread_count());
  const int64_t parts = part.empty() ? 1 : part.back() + 1, steps = parts * depth;
  for (int64_t s = 0; s < rows.sequences; s++)
    for (int64_t m = rows.starts[s]; m < rows.starts[s + 1]; m++)
      if (level[m] != kPrefix) level[m] += part[s] * depth;

  // Rows by level, and there by node.
  std::vector<int64_t> starts(steps + 2, 0), order(M);
  for (int64_t m = 0; m < M; m++) starts[level[m] + 2]++;
  std::partial_sum(starts.begin(), starts.end(), starts.begin());
  {
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t m : decoding.by_node()) order[next[level[m] + 1]++] = m;
  }
  if (starts[1] > 0)
    decoding.teacher_forced({order.begin(), order.begin() + starts[1]}, samples.logits);

  // Groups by the level that they are drawn after.
  std::vector<std::vector<int64_t>> members, drawn_after(steps);
  if (drawing.group) {
    members.resize(1 + *std::max_element(drawing.group, drawing.group + M));
    for (int64_t m = 0; m < M; m++)
      if (drawing.group[m] >= 0) members[drawing.group[m]].push_back(m);
    for (size_t g = 0; g < members.size(); g++) {
      // In the order of their visits: the last one's temperature and random number are the group's.
      std::sort(members[g].begin(), members[g].end(),
                [&](int64_t a, int64_t b) { return rows.rank[a] < rows.rank[b]; });
      int64_t after = kPrefix;
      for (int64_t m : members[g]) after = std::max(after, level[m]);
      if (after >= 0) drawn_after[after].push_back(g);
    }
  }

  const auto draw_rows = [&](const int64_t* of, int64_t count) {
    float probabilities[kLetters];
    Distribution(drawing, samples.logits, of, count).probabilities(probabilities);
    const int64_t token = draw(probabilities, drawing.uniform[of[count - 1]]);
    for (int64_t r = 0; r < count; r++) {
      samples.tokens[of[r]] = token;
      std::copy_n(probabilities, kLetters, samples.probabilities + of[r] * kLetters);
    }
  };

  const int layers = decoders_.size();
  const auto decode_tile = [&](const int64_t* tile, int count) {
    Scratch& s = scratch();
    s.h.resize(size_t(kTile) * H_);
    decoding.start(tile, count, s.h.data());
    for (int l = 0; l < layers; l++) {
      decoding.advance(l, tile, count, s.h.data());
      if (l + 1 < layers) decoding.write_states(l + 1, tile, count, s.h.data());
    }
    decoding.logits(s.h.data(), count, tile, samples.logits);
    for (int r = 0; r < count; r++) {
      const int64_t m = tile[r];
      if (drawing.group && drawing.group[m] >= 0) continue;
      if (drawing.designed[m]) draw_rows(&m, 1);
      decoding.add_residue(m);
    }
  };
  parallel_for(parts, [&](int64_t p) {
    for (int64_t d = p * depth; d < (p + 1) * depth; d++) {
      const int64_t first = starts[d + 1], n = starts[d + 2] - first;
      const int64_t threads = parts > 1 ? 1 : thread_count();
      const int64_t waves = (n + threads * kTile - 1) / (threads * kTile), tiles = std::min(n, waves * threads);
      const auto body = [&](int64_t t) {
        const int64_t begin = n * t / tiles, end = n * (t + 1) / tiles;
        decode_tile(order.data() + first + begin, end - begin);
      };
      if (parts > 1) {
        for (int64_t t = 0; t < tiles; t++) body(t);
      } else {
        parallel_for(tiles, body);
      }
      for (int64_t g : drawn_after[d]) {
        if (drawing.designed[members[g].back()]) draw_rows(members[g].data(), members[g].size());
        for (int64_t m : members[g]) decoding.add_residue(m);
      }
    }
  });
  return depth;
}

#include "packer.h"

}  // namespace

std::unique_ptr<Engine> make_engine(const Parameters& parameters) {
  if (parameters.count("packer.features")) return std::make_unique<PackerNetwork>(parameters);
  return std::make_unique<Network>(parameters);
}

}  // namespace mpnn
