// The Python module: arrays in, arrays filled. Who calls it checks shapes (native/__init__.py).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "engine.h"

namespace nb = nanobind;
using namespace mpnn;

namespace {

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <class T>
using Optional = std::optional<Array<T>>;

template <class T>
T* pointer(const Optional<T>& array) {
  return array ? array->data() : nullptr;
}

Graph graph_of(const Array<const int64_t>& neighbours, const Optional<const uint8_t>& valid) {
  return {int64_t(neighbours.shape(0)), int64_t(neighbours.shape(1)), neighbours.data(), pointer(valid)};
}

Rows rows_of(const Array<const int64_t>& starts, const Array<const int64_t>& first_node,
             const Array<const int64_t>& rank) {
  return {int64_t(first_node.shape(0)), starts.data(), first_node.data(), rank.data()};
}

// A computation that leaves Python to other threads.
class Computing {
 public:
  explicit Computing(int threads) : computation_(threads) {}

 private:
  nb::gil_scoped_release release_;  // before the computation starts to wait for its turn
  Computation computation_;
};

class Module {
 public:
  explicit Module(const nb::dict& parameters) {
    std::vector<Array<const float>> arrays;
    Parameters given;
    for (auto [name, value] : parameters) {
      arrays.push_back(nb::cast<Array<const float>>(value, false));
      const auto& array = arrays.back();
      Parameter parameter{array.data(), {}};
      for (size_t i = 0; i < array.ndim(); i++) parameter.shape.push_back(array.shape(i));
      given.emplace(nb::cast<std::string>(name), parameter);
    }
    engine_ = make_engine(given);
  }

  void encode(Array<const float> coords, Array<const int64_t> residue_index, Array<const int64_t> chain,
              Optional<const float> frames, Array<const int64_t> neighbours,
              Optional<const uint8_t> valid, Optional<const float> initial, Array<float> h_V, Array<float> edges,
              Array<float> undecoded, int threads) {
    const Computing computing(threads);
    engine_->encode({coords.data(), residue_index.data(), chain.data(), pointer(frames)},
                    graph_of(neighbours, valid), pointer(initial), {h_V.data(), edges.data(), undecoded.data()});
  }

  void see(Array<const float> coords, Array<const float> xyz, Array<const int64_t> element,
           Array<const int64_t> atoms, Array<const int64_t> set_of_node, Array<float> h_V, int threads) {
    const Computing computing(threads);
    engine_->see({coords.data(), nullptr, nullptr}, h_V.shape(0),
                 {xyz.data(), element.data(), int64_t(atoms.shape(0)), int64_t(atoms.shape(1)), atoms.data(),
                  set_of_node.data()},
                 h_V.data());
  }

  // `compute` is Engine::decode or Engine::condition.
  template <void (Engine::*compute)(const Graph&, const Encoding&, const Rows&, const int64_t*, float*)>
  void logits_of(Array<const int64_t> neighbours, Optional<const uint8_t> valid, Array<float> h_V,
                 Array<float> edges, Array<float> undecoded, Array<const int64_t> starts,
                 Array<const int64_t> first_node, Array<const int64_t> rank, Array<const int64_t> tokens,
                 Array<float> logits, int threads) {
    const Computing computing(threads);
    (engine_.get()->*compute)(graph_of(neighbours, valid), {h_V.data(), edges.data(), undecoded.data()},
                              rows_of(starts, first_node, rank), tokens.data(), logits.data());
  }

  int64_t sample(Array<const int64_t> neighbours, Optional<const uint8_t> valid, Array<float> h_V,
                 Array<float> edges, Array<float> undecoded, Array<const int64_t> starts,
                 Array<const int64_t> first_node, Array<const int64_t> rank,
                 Array<const uint8_t> designed, Array<const double> uniform,
                 Array<const float> temperature, Array<const float> bias, Array<const uint8_t> omit,
                 Optional<const int64_t> group, Optional<const float> weight,
                 Optional<const float> pssm, Optional<const float> pssm_weight,
                 Optional<const float> pssm_factor, Array<int64_t> tokens, Array<float> logits,
                 Array<float> probabilities, int threads) {
    const Computing computing(threads);
    return engine_->sample(
        graph_of(neighbours, valid), {h_V.data(), edges.data(), undecoded.data()},
        rows_of(starts, first_node, rank),
        {designed.data(), uniform.data(), temperature.data(), bias.data(), omit.data(),
         pointer(group), pointer(weight), pointer(pssm), pointer(pssm_weight), pointer(pssm_factor)},
        {tokens.data(), logits.data(), probabilities.data()});
  }

  void place(Array<const int64_t> neighbours, Optional<const uint8_t> valid, Array<const float> atoms,
             Array<const int64_t> counts, Array<const float> around, Array<const uint8_t> filled,
             Array<float> edge_base, Array<float> node_base, int threads) {
    const Computing computing(threads);
    engine_->place(graph_of(neighbours, valid), placed_of(atoms, counts, around, filled), edge_base.data(),
                   node_base.data());
  }

  void step(Array<const int64_t> neighbours, Optional<const uint8_t> valid, Array<const float> atoms,
            Array<const int64_t> counts, Array<const float> around, Array<const uint8_t> filled,
            Array<const float> h_V, Array<const float> edges, Array<const float> edge_base,
            Array<const float> node_base, Array<float> torsions, int threads) {
    const Computing computing(threads);
    engine_->step(graph_of(neighbours, valid), placed_of(atoms, counts, around, filled),
                  {h_V.data(), edges.data(), edge_base.data(), node_base.data()}, torsions.data());
  }

 private:
  static Placed placed_of(const Array<const float>& atoms, const Array<const int64_t>& counts,
                          const Array<const float>& around, const Array<const uint8_t>& filled) {
    return {atoms.data(), counts.data(), int64_t(filled.shape(1)), around.data(), filled.data()};
  }

  std::unique_ptr<Engine> engine_;
};

// Whether this processor runs what the kernels were compiled for.
bool supported() {
#if defined(MPNN_NEEDS_avx512)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(MPNN_NEEDS_avx2)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

// An array of another type is an error: converted, it would be a copy, and what is written there lost.
auto array(const char* name) { return nb::arg(name).noconvert(); }
auto optional(const char* name) { return array(name).none(); }

}  // namespace

NB_MODULE(MPNN_MODULE, m) {
  m.def("supported", &supported);
  nb::class_<Module>(m, "Engine")
      .def(nb::init<const nb::dict&>())
      .def("encode", &Module::encode, array("coords"), array("residue_index"), array("chain"),
           optional("frames"), array("neighbours"), optional("valid"), optional("initial"), array("h_V"), array("edges"),
           array("undecoded"), nb::arg("threads"))
      .def("see", &Module::see, array("coords"), array("xyz"), array("element"), array("atoms"),
           array("set_of_node"), array("h_V"), nb::arg("threads"))
      .def("decode", &Module::logits_of<&Engine::decode>, array("neighbours"), optional("valid"),
           array("h_V"), array("edges"), array("undecoded"), array("starts"), array("first_node"),
           array("rank"), array("tokens"), array("logits"), nb::arg("threads"))
      .def("condition", &Module::logits_of<&Engine::condition>, array("neighbours"), optional("valid"),
           array("h_V"), array("edges"), array("undecoded"), array("starts"), array("first_node"),
           array("rank"), array("tokens"), array("logits"), nb::arg("threads"))
      .def("sample", &Module::sample, array("neighbours"), optional("valid"), array("h_V"),
           array("edges"), array("undecoded"), array("starts"), array("first_node"), array("rank"),
           array("designed"), array("uniform"), array("temperature"), array("bias"), array("omit"),
           optional("group"), optional("weight"), optional("pssm"), optional("pssm_weight"),
           optional("pssm_factor"), array("tokens"), array("logits"), array("probabilities"),
           nb::arg("threads"))
      .def("place", &Module::place, array("neighbours"), optional("valid"), array("atoms"), array("counts"),
           array("around"), array("filled"), array("edge_base"), array("node_base"), nb::arg("threads"))
      .def("step", &Module::step, array("neighbours"), optional("valid"), array("atoms"), array("counts"),
           array("around"), array("filled"), array("h_V"), array("edges"), array("edge_base"),
           array("node_base"), array("torsions"), nb::arg("threads"));
}
