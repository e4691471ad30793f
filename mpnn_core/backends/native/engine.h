// What module.cpp hands to the kernels: plain pointers to row-major arrays, and their shapes.
// Each instruction set is a module of its own, compiled from the same sources, so that no code of
// one can be linked into another.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace mpnn {

// A parameter as the checkpoint has it: (out, in) for a matrix, (n,) for a vector.
struct Parameter {
  const float* data;
  std::vector<int64_t> shape;
};
using Parameters = std::map<std::string, Parameter>;

struct Graph {
  int64_t nodes;              // N
  int64_t slots;              // K
  const int64_t* neighbours;  // (N, K)
  const uint8_t* valid;       // (N, K), or null where every slot is a neighbour
};

struct Backbones {
  const float* coords;           // (N, 4, 3), N CA C O, in ångström; or (N, 3, 3), CA of three rows
  const int64_t* residue_index;  // (N,)
  const int64_t* chain;          // (N,)
  const float* frames;           // (N, 3, 3) of a CA-only network, or null
};

// The atoms around the structures, and which of them each node sees (network/context.py).
struct Surroundings {
  const float* xyz;              // (A, 3)
  const int64_t* element;        // (A,)
  int64_t sets, most;            // S, M
  const int64_t* atoms;          // (S, M), ascending, then -1
  const int64_t* set_of_node;    // (N,)
};

struct Encoding {
  float* h_V;        // (N, H)
  float* edges;      // (layers, N, K, H), B h_E
  float* undecoded;  // (layers, N, H), D h_V
};

// Sequences decoded together; row m of sequence s is the node first_node[s] + m - starts[s].
struct Rows {
  int64_t sequences;          // S
  const int64_t* starts;      // (S + 1,), the last is M
  const int64_t* first_node;  // (S,)
  const int64_t* rank;        // (M,), comparable within a sequence
};

struct Drawing {
  const uint8_t* designed;   // (M,)
  const double* uniform;     // (M,)
  const float* temperature;  // (M,)
  const float* bias;         // (M, 21)
  const uint8_t* omit;       // (M, 21)
  // Rows that share one residue, and the weight of each one's logits; null for no groups.
  const int64_t* group;  // (M,), -1 for none
  const float* weight;   // (M,)
  // p <- (1 - pssm_weight) p + pssm_weight pssm, then p <- p pssm_factor; null for no PSSM.
  const float* pssm;         // (M, 21)
  const float* pssm_weight;  // (M,)
  const float* pssm_factor;  // (M, 21)
};

struct Samples {
  int64_t* tokens;       // (M,), given where a row is not designed, drawn where it is
  float* logits;         // (M, 21)
  float* probabilities;  // (M, 21)
};

// Where all atoms of residues are, for the side-chain packer (network/packer.py).
struct Placed {
  const float* atoms;      // (N, 14, 3), the first `counts` of each
  const int64_t* counts;   // (N,)
  int64_t most;            // M
  const float* around;     // (N, M, 3)
  const uint8_t* filled;   // (N, M)
};

// What the steps of the packer need to know; the names are those of `PackerEncoding`.
struct Packing {
  const float* h_V;        // (N, H)
  const float* edges;      // (3, N, K, H)
  const float* edge_base;  // (N, K, H)
  const float* node_base;  // (N, H)
};

constexpr int kLetters = 21;

class Engine {
 public:
  virtual ~Engine() = default;
  // From the states `initial` (N, H), or from zeros if it is null.
  virtual void encode(const Backbones&, const Graph&, const float* initial, const Encoding&) = 0;
  // From the states h_V (N, H) to what decoding starts from, by the atoms around; in place.
  virtual void see(const Backbones&, int64_t nodes, const Surroundings&, float* h_V) = 0;
  // Logits (M, 21) of given tokens.
  virtual void decode(const Graph&, const Encoding&, const Rows&, const int64_t* tokens,
                      float* logits) = 0;
  // Logits (M, 21) of given tokens, each row's as if it were decoded after all others.
  virtual void condition(const Graph&, const Encoding&, const Rows&, const int64_t* tokens,
                         float* logits) = 0;
  // Draws tokens level by level; the number of levels.
  virtual int64_t sample(const Graph&, const Encoding&, const Rows&, const Drawing&,
                         const Samples&) = 0;
  // Of the packer: adds what no angle moves to edge_base (N, K, H) and node_base (N, H).
  virtual void place(const Graph&, const Placed&, float* edge_base, float* node_base) = 0;
  // Of the packer: the last layer's output (N, 36).
  virtual void step(const Graph&, const Placed&, const Packing&, float* torsions) = 0;
};

// Lives as long as one computation, which has the threads to itself: others wait, and so does a fork.
class Computation {
 public:
  explicit Computation(int threads);
  ~Computation();
  Computation(const Computation&) = delete;
  Computation& operator=(const Computation&) = delete;
};

// Runs body(index) for every index in [0, count), on as many threads as the computation asked for.
// What a body throws is thrown here, once all others are done.
void parallel_for(int64_t count, const std::function<void(int64_t)>& body);
int thread_count();

std::unique_ptr<Engine> make_engine(const Parameters&);

}  // namespace mpnn
