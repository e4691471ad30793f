// The side-chain packer, a part of kernels.cpp: network/packer.py has the algebra. Its encoder is that
// of `Network`, whose Gaussians begin elsewhere (`first_centre`); what is here is what a step computes.
#pragma once

// Pairs of atoms add Gaussians of their distance times (16, H) rows of weights to a sum. The others than
// the 9 that are nearest to a distance are under 2^-28 of their height (`kReach`), and are left out.
class PairSums {
 public:
  // `parameter` is (H, pairs..., 16).
  PairSums(const Parameter& parameter, int H)
      : H_(H), pairs_(count(parameter) / (size_t(H) * kGaussians)), weights_(count(parameter)) {
    if (H % (kColumns * W) != 0) throw std::invalid_argument("hidden width must be a multiple of 128");
    const size_t row = pairs_ * kGaussians;
    for (size_t i = 0; i < row; i++)
      for (int c = 0; c < H; c++) weights_[i * H + c] = parameter.data[c * row + i];
  }
  // The Gaussians of a distance, and the first of those that are near; -1 where there is none.
  static int heights_of(float distance, float* heights) {
    for (int g = 0; g < kGaussians; g += W) {
      V centre;
      for (int i = 0; i < W; i++) centre[i] = (g + i) * kStep;
      const V scaled = (splat(distance) - centre) * (1 / kWidth);
      store(heights + g, exp_negative(-(scaled * scaled)));
    }
    const int lowest = int((distance - kReach) * (1 / kStep) + 1.0f);  // of a negative number: 0, or below
    return distance > (kGaussians - 1) * kStep + kReach ? -1 : std::clamp(lowest, 0, kGaussians - kNear);
  }
  // Adds what `pair` gives at these heights to `to` (H,).
  void add(size_t pair, int first, const float* heights, float* to) const {
    if (first < 0) return;
    const float* w = weights_.data() + (pair * kGaussians + first) * H_;
    for (int c = 0; c < H_; c += kColumns * W) {
      V acc[kColumns];
      for (int v = 0; v < kColumns; v++) acc[v] = load(to + c + v * W);
      for (int g = 0; g < kNear; g++) {
        const V height = splat(heights[first + g]);
        for (int v = 0; v < kColumns; v++) acc[v] += height * load(w + g * H_ + c + v * W);
      }
      for (int v = 0; v < kColumns; v++) store(to + c + v * W, acc[v]);
    }
  }

 private:
  static constexpr int kColumns = 8;  // vectors of a sum that are in registers
  static constexpr int kNear = 9;
  static_assert((kNear - 1) * kStep < 2 * kReach && kNear * kStep >= 2 * kReach, "so many are near at most");
  static size_t count(const Parameter& parameter) {
    size_t n = 1;
    for (int64_t size : parameter.shape) n *= size;
    return n;
  }
  int H_;
  size_t pairs_;
  Buffer weights_;  // (pairs, 16, H)
};

class PackerNetwork : public Network {
 public:
  static constexpr int kAtoms = 14, kStill = 5, kLayers = 3;

  explicit PackerNetwork(const Parameters& parameters) : PackerNetwork(parameters, Reader(parameters)) {}

  void place(const Graph& graph, const Placed& placed, float* edge_base, float* node_base) override {
    parallel_for(graph.nodes, [&](int64_t i) {
      add_edges<true>(graph, placed, i, edge_base + i * graph.slots * H_);
      add_around(placed, i, 0, std::min<int>(kStill, placed.counts[i]), node_base + i * H_);
    });
  }

  void step(const Graph& graph, const Placed& placed, const Packing& packing, float* torsions) override {
    const int64_t N = graph.nodes, K = graph.slots, H = H_;
    const size_t edge = size_t(K) * H;
    states_.resize(size_t(N) * H);
    work_.resize(size_t(N) * edge);
    NodeTerms terms[2];
    for (NodeTerms& t : terms) t.resize(size_t(N) * H);
    constexpr int tile = 6;
    const int64_t count = (N + tile - 1) / tile;
    float *h_V = states_.data(), *work = work_.data();
    parallel_for(count, [&](int64_t t) {
      Scratch& s = scratch();
      const int64_t first = t * tile;
      const int rows = std::min<int64_t>(tile, N - first);
      s.a.resize(size_t(tile) * H);
      s.b.resize(size_t(tile) * 2 * H);
      for (int r = 0; r < rows; r++) {
        const int64_t i = first + r;
        std::copy_n(packing.node_base + i * H, H, &s.a[r * H]);
        add_around(placed, i, kStill, placed.counts[i], &s.a[r * H]);
        std::copy_n(packing.h_V + i * H, H, &s.b[r * 2 * H]);
      }
      norm_nodes_(s.a.data(), rows);
      product_into(s.a.data(), H, rows, W_v_sc_, &s.b[H], 2 * H);
      product_into(s.b.data(), 2 * H, rows, linear_down_, h_V + first * H, H);
      put_terms(0, h_V + first * H, first, rows, terms[0]);
    });
    for (int l = 0; l < kLayers; l++) {
      const NodeTerms& in = terms[l % 2];
      parallel_for(count, [&](int64_t t) {
        Scratch& s = scratch();
        const int64_t first = t * tile;
        const int rows = std::min<int64_t>(tile, N - first);
        s.a.resize(edge);
        s.agg.resize(size_t(kTile) * H);
        float degrees[tile];
        for (int r = 0; r < rows; r++) {
          const int64_t i = first + r;
          const int64_t* neighbours = graph.neighbours + i * K;
          float* features = work + i * edge;
          if (l == 0) {
            std::copy_n(packing.edge_base + i * edge, edge, features);
            add_edges<false>(graph, placed, i, features);
            norm_edges_plain_(features, K);
          }
          const float* constant = packing.edges + (size_t(l) * N + i) * edge;
          product(features, H, K, features_[l], [&](int k, int column, V* acc) {
            const float *here = &in.here[i * H + column], *there = &in.there[neighbours[k] * H + column];
            for (int v = 0; v < NV; v++)
              store(&s.a[k * H + column + v * W],
                    gelu(acc[v] + load(constant + k * H + column + v * W) + load(here + v * W) + load(there + v * W)));
          });
          aggregate(decoders_[l], s.a.data(), K, graph.valid ? graph.valid + i * K : nullptr, &s.agg[r * H]);
          degrees[r] = degree(graph, i);
        }
        float* h = h_V + first * H;
        update(decoders_[l], h, s.agg.data(), degrees, rows);
        if (l + 1 < kLayers)
          put_terms(l + 1, h, first, rows, terms[(l + 1) % 2]);
        else
          product_into(h, H, rows, W_torsions_, torsions + first * W_torsions_.out, W_torsions_.out);
      });
    }
  }

 private:
  PackerNetwork(const Parameters& parameters, const Reader& read)
      : Network(parameters), edge_pairs_(read("packer.edge_pairs"), H_), node_pairs_(read("packer.node_pairs"), H_),
        W_v_sc_(read.linear("W_v_sc")), linear_down_(read.linear("linear_down")),
        W_torsions_(read.linear("W_torsions")), norm_nodes_(read.norm("features.dec_norm_nodes1")) {
    if (decoders_.size() != kLayers) throw std::invalid_argument("the packer has three decoder layers");
    const Parameter& w = read("packer.features");  // (3, H, H)
    for (int l = 0; l < kLayers; l++) features_[l] = Linear(w.data + size_t(l) * H_ * H_, H_, 0, H_, H_, nullptr);
    const std::vector<float> ones(H_, 1.0f), zeros(H_, 0.0f);  // weight and bias are in `features_`
    norm_edges_plain_ = Norm(ones.data(), zeros.data(), H_);
  }

  // What layer l adds to B h_E + C h_F for an edge: (A h_i + b) of its node, D h_j of its neighbour.
  void put_terms(int l, const float* h, int64_t first, int rows, const NodeTerms& out) const {
    product_into(h, H_, rows, decoders_[l].A, &out.here[first * H_], H_);
    product_into(h, H_, rows, decoders_[l].D, &out.there[first * H_], H_);
  }
  // Of the pairs of atoms of node i and its neighbours, (K, H), those that no angle moves, or the others.
  template <bool kStillOnly>
  void add_edges(const Graph& graph, const Placed& placed, int64_t i, float* to) const {
    const int64_t K = graph.slots;
    const int64_t* neighbours = graph.neighbours + i * K;
    const int own_count = kStillOnly ? std::min<int>(kStill, placed.counts[i]) : placed.counts[i];
    // Neighbours with more atoms first, so that those which have atom b are the first ones.
    Scratch& scratch_of = scratch();
    scratch_of.x.resize(size_t(K) * kGaussians);
    float* heights = scratch_of.x.data();
    std::vector<int> by_count(K), first(K);
    std::iota(by_count.begin(), by_count.end(), 0);
    const auto atoms_of = [&](int k) {
      const int count = placed.counts[neighbours[k]];
      return kStillOnly ? std::min(count, kStill) : count;
    };
    std::stable_sort(by_count.begin(), by_count.end(), [&](int k, int l) { return atoms_of(k) > atoms_of(l); });
    for (int a = 0; a < own_count; a++) {
      const float* own = placed.atoms + (i * kAtoms + a) * 3;
      int left = K;
      for (int b = !kStillOnly && a < kStill ? kStill : 0; b < kAtoms; b++) {
        while (left > 0 && atoms_of(by_count[left - 1]) <= b) left--;
        for (int n = 0; n < left; n++) {
          const float* other = placed.atoms + (neighbours[by_count[n]] * kAtoms + b) * 3;
          first[n] = PairSums::heights_of(distance_of(own, other), heights + n * kGaussians);
        }
        for (int n = 0; n < left; n++)
          edge_pairs_.add(a * kAtoms + b, first[n], heights + n * kGaussians, to + size_t(by_count[n]) * H_);
      }
    }
  }
  // Of the atoms [from, last) of node i and those around it: (H,).
  void add_around(const Placed& placed, int64_t i, int from, int last, float* to) const {
    for (int a = from; a < last; a++)
      for (int64_t m = 0; m < placed.most; m++) {
        if (!placed.filled[i * placed.most + m]) continue;
        const float* atom = placed.around + (i * placed.most + m) * 3;
        float heights[kGaussians];
        const int first = PairSums::heights_of(distance_of(placed.atoms + (i * kAtoms + a) * 3, atom), heights);
        node_pairs_.add(a * placed.most + m, first, heights, to);
      }
  }

  PairSums edge_pairs_, node_pairs_;
  Linear W_v_sc_, linear_down_, W_torsions_, features_[kLayers];
  Norm norm_nodes_, norm_edges_plain_;
  Buffer states_, work_;  // kept for the next step: new memory costs
};
