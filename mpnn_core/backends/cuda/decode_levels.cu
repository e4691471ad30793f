// All levels of a set of sequences in one thread block, for the fast tier and H = 128.
//
// One of sixteen warps sends for the weights, in the order of their use, which come through a ring in
// shared memory, some blocks ahead, so that nobody waits for them. Of the others
//
// - all take messages, 16 edges of a row at a time: first activations are one operand of the product
//   with W2, made in the registers that it takes; second ones are summed where it leaves them;
// - eight take what acts on nodes: 16 columns of every product each, of up to ROWS rows.
//
// Every product is W x^T, of mma.m16n8k16. A "fragment" is what a lane holds of an operand: lane is
// 4 g + t, and holds columns 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of each 16 of W's rows g and g + 8, or of
// x's row g. Of a result it holds W's rows g and g + 8 for x's rows 2 t and 2 t + 1.
//
// The functions of one instruction each come from ptx.cuh. Constants of a compilation: LAYERS, K, TILES
// (of 16 edges, of a row), ROW_TILES (of 8 rows, of a batch), STAGES (of the ring), KNOWN (messages of
// the first layer come from a table), WHOLE (all edges are valid), SHARED_BYTES (given to a block).

constexpr int H = 128, LANES = 32;
constexpr int WORKERS = 15, NODE_WARPS = 8, SEARCHERS = WORKERS - NODE_WARPS;  // warps
constexpr int ROWS = 8 * ROW_TILES;
constexpr int STEPS = H / 16;          // of 16 in the inner dimension of a product
constexpr int PADDED = H + 8;          // float16 of a row in shared memory, clear of bank conflicts
constexpr int LETTERS = 21, COLUMNS = 32, STATES = 22;
constexpr int BLOCK = H * H / 8;       // uint4 of a block of weights
constexpr int BLOCKS = 12;             // of a layer: D, A, W2, W3, four of W_in, four of W_out
constexpr int FIRST = KNOWN ? 3 : 0;   // block: with known messages the first layer needs no D, A, W2
constexpr float MESSAGE_SCALE = 30, EPSILON = 1e-5f;

// Vectors of a layer, (12, H) float32, as compiled.py packs them.
enum Vector { B1, B2, B3, NORM1, BIAS1, B_IN, B_OUT = B_IN + 4, NORM2, BIAS2, VECTORS };

struct Args {
  const int *order, *bounds, *depth;   // (M,), (teams, levels + 1), (teams,)
  const int *nodes, *reads;            // (M,), (M, K)
  const float* encoded;                // (N, H)
  half_bits* table;                    // (LAYERS, N + M, H)
  const half_bits* edges;              // (LAYERS, N, K, H)
  const half_bits* messages;           // (N, K, STATES, H), if KNOWN
  const unsigned char* valid;          // (N, K)
  const float* degree;                 // (N,)
  const uint4* weights;                // LAYERS * BLOCKS blocks and a fourth of one, of letters
  const float* vectors;                // (LAYERS, VECTORS, H)
  const float* residues;               // (LAYERS, LETTERS, H)
  const float* b_letters;              // (COLUMNS,)
  const float *temperature, *bias;     // (M,), (M, LETTERS)
  const unsigned char* omit;           // (M, LETTERS)
  const double* uniform;               // (M,)
  const unsigned char* designed;       // (M,)
  long long* tokens;                   // (M,)
  float *logits, *probabilities;       // (M, LETTERS)
  int M, N, levels;
};

struct Rows {
  int row[ROWS], node[ROWS], reads[ROWS][K];
};

struct Shared {
  uint4 ring[STAGES][BLOCK];
  uint4 input[ROW_TILES][STEPS / 2][LANES];  // fragments: sums of messages, or states
  union {
    float partial[ROWS][TILES * H + 8];      // sums of messages of 16 edges
    struct {
      uint4 hidden[ROW_TILES][4 * STEPS / 2][LANES];  // fragments
      float2 moments[NODE_WARPS][ROWS];      // of 16 columns: sums, and of squares
      float logits[ROWS][COLUMNS];
    };
  };
  half_bits of_node[ROWS][PADDED];           // A h + b1
  half_bits known[LAYERS - KNOWN][ROWS][PADDED];  // D h
  float vectors[LAYERS][VECTORS][H];
  Rows batch[2];                             // this one, and the next
  barrier full[STAGES], empty[STAGES];
};
static_assert(sizeof(Shared) <= SHARED_BYTES);

// The ring as a warp sees it that takes blocks from it, or lets others do so.
struct Ring {
  Shared& s;
  int stage = 0;
  unsigned parity = 0;

  DEVICE Ring(Shared& s) : s(s) {}
  DEVICE const uint4* next() {
    wait(&s.full[stage], parity);
    return s.ring[stage];
  }
  DEVICE void skip(int blocks = 1) {
    for (; blocks; blocks--)
      if (++stage == STAGES) stage = 0, parity ^= 1;
  }
  // The block taken last may be overwritten.
  DEVICE void done() {
    warp_sync();
    if (thread_index() % LANES == 0) arrive(&s.empty[stage]);
    skip();
  }
  // Fills it with what a batch takes.
  DEVICE void send(const uint4* weights) {
    for (int block = FIRST; block <= LAYERS * BLOCKS; block++) {
      const int bytes = block < LAYERS * BLOCKS ? BLOCK * 16 : BLOCK * 4;
      wait(&s.empty[stage], parity ^ 1);
      copy_in(s.ring[stage], weights + block * BLOCK, bytes, &s.full[stage]);
      skip();
    }
  }
};

// Sum of the first layer's messages of row r, from the table: into `input`.
DEVICE void known_messages(Shared& s, const Args& a, const Rows& batch, int r, int lane) {
  int place[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int k = lane + LANES * i < K ? lane + LANES * i : 0;
    const int at = batch.reads[r][k] - a.N;
    // No residue is 0, letters count from 1 on.
    const int state = at < 0 ? 0 : 1 + (int)a.tokens[at];
    place[i] = (batch.node[r] * K + k) * STATES + state;
  }
  const int odd = lane / 16, column = lane % 16;
  constexpr int IN_FLIGHT = 12;  // loads of two edges
  float total[8] = {};
#pragma unroll 1
  for (int first = 0; first < K; first += 2 * IN_FLIGHT)
#pragma unroll
    for (int k = 0; k < IN_FLIGHT; k++) {
      const int edge = first + 2 * k + odd;
      const int at = shuffle(first + 2 * k < LANES ? place[0] : place[1], edge % LANES);
      const uint4 x = ((const uint4*)(a.messages + (long long)at * H))[column];
      const unsigned pairs[4] = {x.x, x.y, x.z, x.w};
      const bool inside = K % (2 * IN_FLIGHT) == 0 || edge < K;
#pragma unroll
      for (int c = 0; c < 4; c++) {
        total[2 * c] += inside ? low_half(pairs[c]) : 0;
        total[2 * c + 1] += inside ? high_half(pairs[c]) : 0;
      }
    }
#pragma unroll
  for (int c = 0; c < 8; c++) total[c] += shuffle_xor(total[c], 16);
#pragma unroll
  for (int c = 0; c < 4; c++)
    if (c / 2 == odd)
      ((unsigned*)&s.input[r / 8][column / 4][r % 8 * 4 + c])[column % 4] =
          pack(total[2 * c], total[2 * c + 1]);
}

// Sum of the messages of the i-th 16 edges of row r: into `partial`.
DEVICE void summed_messages(
    Shared& s, const Args& a, const Rows& batch, int layer, int r, int i, const uint4* W2,
    int lane) {
  const int g = lane / 4, t = lane % 4, node = batch.node[r];
  const half_bits* table = a.table + (long long)layer * (a.N + a.M) * H;
  const half_bits* edges = a.edges + ((long long)layer * a.N + node) * K * H;
  // A lane reads 8 columns at a time, which are 4 of each of two steps: W2's are in that order.
  uint4 y[2][4], z[2][4];
#pragma unroll
  for (int e = 0; e < 2; e++) {
    const int k = 16 * i + 8 * e + g, inside = K % 16 == 0 || k < K ? k : 0;
    const long long at = batch.reads[r][inside];
#pragma unroll
    for (int q = 0; q < 4; q++) {
      y[e][q] = ((const uint4*)(table + at * H))[4 * q + t];
      z[e][q] = ((const uint4*)(edges + inside * H))[4 * q + t];
    }
  }
  warp_sync();  // nothing of what follows is to be done before all of it is under way
  unsigned x[STEPS][2][2];
#pragma unroll
  for (int q = 0; q < 4; q++) {
    const uint4 own = *(const uint4*)&s.of_node[r][32 * q + 8 * t];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      x[2 * q][e][0] = gelu_pair(add_pair(add_pair(y[e][q].x, z[e][q].x), own.x));
      x[2 * q][e][1] = gelu_pair(add_pair(add_pair(y[e][q].y, z[e][q].y), own.y));
      x[2 * q + 1][e][0] = gelu_pair(add_pair(add_pair(y[e][q].z, z[e][q].z), own.z));
      x[2 * q + 1][e][1] = gelu_pair(add_pair(add_pair(y[e][q].w, z[e][q].w), own.w));
    }
  }
  bool counted[2][2];  // of the edges whose results this lane gets
#pragma unroll
  for (int e = 0; e < 2; e++)
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int k = 16 * i + 8 * e + 2 * t + c;
      counted[e][c] = WHOLE || (k < K && a.valid[node * K + (k < K ? k : 0)]);
    }
  constexpr int AT_ONCE = 4;  // of 16 columns
#pragma unroll
  for (int first = 0; first < STEPS; first += AT_ONCE) {
    float result[AT_ONCE][2][4];
#pragma unroll
    for (int m = 0; m < AT_ONCE; m++) {
      const float* b2 = &s.vectors[layer][B2][16 * (first + m) + g];
#pragma unroll
      for (int e = 0; e < 2; e++) {
        result[m][e][0] = result[m][e][1] = b2[0];
        result[m][e][2] = result[m][e][3] = b2[8];
      }
    }
#pragma unroll
    for (int k = 0; k < STEPS; k++)
#pragma unroll
      for (int m = 0; m < AT_ONCE; m++) {
        const uint4 w = W2[((first + m) * STEPS + k) * LANES + lane];
#pragma unroll
        for (int e = 0; e < 2; e++) multiply_add(result[m][e], w, x[k][e][0], x[k][e][1]);
      }
    float total[2 * AT_ONCE];  // of columns 8 apart
#pragma unroll
    for (int m = 0; m < 2 * AT_ONCE; m++) {
      // GELU is half of y + y tanh(...).
      float sum = 0, bent = 0;
#pragma unroll
      for (int e = 0; e < 2; e++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const float y = result[m / 2][e][2 * (m % 2) + c];
          const float mine = counted[e][c] ? y : 0;
          sum += mine, bent += mine * gelu_tanh(y);
        }
      total[m] = 0.5f * (sum + bent);
    }
    // Over the lanes with these columns: each exchange halves what a lane keeps.
#pragma unroll
    for (int half = AT_ONCE, bit = 2; bit; half /= 2, bit /= 2)
#pragma unroll
      for (int m = 0; m < half; m++) {
        const bool second = t & bit;
        const float given = second ? total[m] : total[m + half];
        total[m] = (second ? total[m + half] : total[m]) + shuffle_xor(given, bit);
      }
#pragma unroll
    for (int m = 0; m < AT_ONCE / 2; m++)
      s.partial[r][i * H + 16 * first + 8 * (t * AT_ONCE / 2 + m) + g] = total[m];
  }
}

// What a node's warp holds of its 16 columns, for 8 rows each.
typedef float Result[4];

// y += x W^T, x being fragments of `tiles` times 8 rows, `size` of them apart.
template <int tiles>
DEVICE void product_of(Result* y, const uint4* x, int size, const uint4* W, int warp, int lane) {
#pragma unroll
  for (int k = 0; k < STEPS; k += 2) {
    const uint4 first = W[(warp * STEPS + k) * LANES + lane];
    const uint4 second = W[(warp * STEPS + k + 1) * LANES + lane];
#pragma unroll
    for (int j = 0; j < tiles; j++) {
      const uint4 rows = x[j * size + k / 2 * LANES + lane];
      multiply_add(y[j], first, rows.x, rows.y);
      multiply_add(y[j], second, rows.z, rows.w);
    }
  }
}

DEVICE void product(
    Result* y, const uint4* x, int size, const uint4* W, int tiles, int warp, int lane) {
  if (ROW_TILES >= 4 && tiles == 4)
    product_of<ROW_TILES < 4 ? 1 : 4>(y, x, size, W, warp, lane);
  else if (ROW_TILES >= 3 && tiles == 3)
    product_of<ROW_TILES < 3 ? 1 : 3>(y, x, size, W, warp, lane);
  else if (ROW_TILES >= 2 && tiles == 2)
    product_of<ROW_TILES < 2 ? 1 : 2>(y, x, size, W, warp, lane);
  else
    product_of<1>(y, x, size, W, warp, lane);
}

DEVICE void fill(Result* y, const float* vector, int warp, int g) {
  const float lower = vector[16 * warp + g], upper = vector[16 * warp + 8 + g];
#pragma unroll
  for (int j = 0; j < ROW_TILES; j++) y[j][0] = y[j][1] = lower, y[j][2] = y[j][3] = upper;
}

// As an operand: columns 2 t, 2 t + 1 of row g, and those 8 further on.
DEVICE uint2 fragment(const Result& y) {
  return {transposed(pack(y[0], y[1])), transposed(pack(y[2], y[3]))};
}

DEVICE void store_fragments(uint4* x, int size, const Result* y, int tiles, int step, int lane) {
#pragma unroll
  for (int j = 0; j < ROW_TILES; j++)
    if (j < tiles)
      ((uint2*)&x[j * size + step / 2 * LANES + lane])[step % 2] = fragment(y[j]);
}

// LayerNorm of states; they go to `input` too.
DEVICE void norm(
    Shared& s, Result* y, const float* weight, const float* bias, int tiles, int warp, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int j = 0; j < ROW_TILES; j++)
    if (j < tiles) {
#pragma unroll
      for (int c = 0; c < 2; c++) {
        float sum = y[j][c] + y[j][c + 2];
        float squares = y[j][c] * y[j][c] + y[j][c + 2] * y[j][c + 2];
#pragma unroll
        for (int i = 4; i < LANES; i *= 2) {
          sum += shuffle_xor(sum, i);
          squares += shuffle_xor(squares, i);
        }
        if (g == 0) s.moments[warp][8 * j + 2 * t + c] = {sum, squares};
      }
    }
  sync_nodes();
  const float w[2] = {weight[16 * warp + g], weight[16 * warp + 8 + g]};
  const float b[2] = {bias[16 * warp + g], bias[16 * warp + 8 + g]};
#pragma unroll
  for (int j = 0; j < ROW_TILES; j++)
    if (j < tiles) {
      float sum[2] = {}, squares[2] = {};
#pragma unroll
      for (int i = 0; i < NODE_WARPS; i++) {
        const float4 two = *(const float4*)&s.moments[i][8 * j + 2 * t];
        sum[0] += two.x, squares[0] += two.y, sum[1] += two.z, squares[1] += two.w;
      }
#pragma unroll
      for (int c = 0; c < 2; c++) {
        const float mean = sum[c] * (1.0f / H);
        const float scale = inverse_root(squares[c] * (1.0f / H) - mean * mean + EPSILON);
#pragma unroll
        for (int upper = 0; upper < 2; upper++)
          y[j][c + 2 * upper] = (y[j][c + 2 * upper] - mean) * scale * w[upper] + b[upper];
      }
    }
  store_fragments(s.input[0][0], STEPS / 2 * LANES, y, tiles, warp, lane);
  sync_nodes();
}

// As float16 of whole rows, which any lane may read.
DEVICE void spread(half_bits (*rows)[PADDED], const Result* y, int tiles, int warp, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int j = 0; j < ROW_TILES; j++)
    if (j < tiles) {
      const uint2 x = fragment(y[j]);
      *(unsigned*)&rows[8 * j + g][16 * warp + 2 * t] = x.x;
      *(unsigned*)&rows[8 * j + g][16 * warp + 8 + 2 * t] = x.y;
    }
}

// Sums of a row's messages: from `partial` to `input`.
DEVICE void sum_partial(Shared& s, int tiles, int warp, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int j = 0; j < ROW_TILES; j++)
    if (j < tiles) {
      float2 lower = {0, 0}, upper = {0, 0};
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        const float* of_tile = &s.partial[8 * j + g][i * H + 16 * warp + 2 * t];
        const float2 x = *(const float2*)of_tile, y = *(const float2*)(of_tile + 8);
        lower.x += x.x, lower.y += x.y, upper.x += y.x, upper.y += y.y;
      }
      ((uint2*)&s.input[j][warp / 2][lane])[warp % 2] = {pack(lower.x, lower.y),
                                                         pack(upper.x, upper.y)};
    }
  sync_nodes();
}

// What a row's residue depends on besides its logits; a lane has a letter.
struct Draw {
  long long row, at;
  float heat, bias;
  bool omitted, chosen;
  double uniform;
  int given;

  DEVICE Draw(const Args& a, const Rows& batch, int r, int lane) {
    row = batch.row[r], at = row * LETTERS + (lane < LETTERS ? lane : 0);
    heat = a.temperature[row], bias = a.bias[at], omitted = a.omit[at];
    chosen = a.designed[row], uniform = a.uniform[row], given = (int)a.tokens[row];
  }
};

// A residue for row r from its logits, and what others will read of it.
DEVICE void draw(Shared& s, const Args& a, const Draw& d, int r, int lane) {
  const bool letter = lane < LETTERS;
  const float logit = s.logits[r][lane];
  if (letter) a.logits[d.at] = logit;
  float x = logit / d.heat + d.bias / d.heat;
  if (!letter || d.omitted) x = -infinity();
  float most = x;
#pragma unroll
  for (int i = 16; i; i /= 2) most = maximum(most, shuffle_xor(most, i));
  x = exponential(x - maximum(most, -1e30f));
  float sum = x;
#pragma unroll
  for (int i = 16; i; i /= 2) sum += shuffle_xor(sum, i);
  const float p = x / maximum(sum, 1e-30f);
  double cumulative = p;
#pragma unroll
  for (int i = 1; i < LANES; i *= 2) {
    const double before = shuffle(cumulative, lane >= i ? lane - i : lane);
    if (lane >= i) cumulative += before;
  }
  const double mark = d.uniform * shuffle(cumulative, LANES - 1);
  const int passed = ones(vote(letter && cumulative <= mark));
  const int last_possible = 31 - leading_zeros(vote(p > 0) | 1);
  const int token = d.chosen ? (passed < last_possible ? passed : last_possible) : d.given;
  if (d.chosen) {
    if (letter) a.probabilities[d.at] = p;
    if (lane == 0) a.tokens[d.row] = token;
  }
#pragma unroll
  for (int layer = KNOWN; layer < LAYERS; layer++) {
    const uint2 known = *(const uint2*)&s.known[layer - KNOWN][r][4 * lane];
    const float4 residue = *(const float4*)&a.residues[(layer * LETTERS + token) * H + 4 * lane];
    half_bits* to = a.table + ((long long)layer * (a.N + a.M) + a.N + d.row) * H + 4 * lane;
    *(uint2*)to = {pack(low_half(known.x) + residue.x, high_half(known.x) + residue.y),
                   pack(low_half(known.y) + residue.z, high_half(known.y) + residue.w)};
  }
}

// D h and A h + b1 of a layer.
DEVICE void terms_of_nodes(Shared& s, Ring& ring, int layer, int tiles, int warp, int lane) {
  Result y[ROW_TILES] = {};
  product(y, s.input[0][0], STEPS / 2 * LANES, ring.next(), tiles, warp, lane);
  ring.done();
  spread(s.known[layer - KNOWN], y, tiles, warp, lane);
  fill(y, s.vectors[layer][B1], warp, lane / 4);
  product(y, s.input[0][0], STEPS / 2 * LANES, ring.next(), tiles, warp, lane);
  ring.done();
  spread(s.of_node, y, tiles, warp, lane);
}

// From sums of messages, in `input`, to states one layer on, there too.
DEVICE void update_nodes(
    Shared& s, const Args& a, const Rows& batch, Ring& ring, Result* h, int layer, int tiles,
    int warp, int lane) {
  const int g = lane / 4, t = lane % 4;
  const float(*v)[H] = s.vectors[layer];
  Result y[ROW_TILES];
  const float b3[2] = {v[B3][16 * warp + g], v[B3][16 * warp + 8 + g]};
#pragma unroll
  for (int j = 0; j < ROW_TILES; j++)
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const float degree = a.degree[batch.node[8 * j + 2 * t + c]];
      y[j][c] = degree * b3[0], y[j][c + 2] = degree * b3[1];
    }
  product(y, s.input[0][0], STEPS / 2 * LANES, ring.next(), tiles, warp, lane);
  ring.done();
#pragma unroll
  for (int j = 0; j < ROW_TILES; j++)
#pragma unroll
    for (int c = 0; c < 4; c++) h[j][c] += y[j][c] * (1 / MESSAGE_SCALE);
  norm(s, h, v[NORM1], v[BIAS1], tiles, warp, lane);
#pragma unroll 1
  for (int part = 0; part < 4; part++) {
    fill(y, v[B_IN + part], warp, g);
    product(y, s.input[0][0], STEPS / 2 * LANES, ring.next(), tiles, warp, lane);
    ring.done();
#pragma unroll
    for (int j = 0; j < ROW_TILES; j++)
      if (j < tiles) {
#pragma unroll
        for (int c = 0; c < 4; c++) y[j][c] = gelu(y[j][c]);
      }
    store_fragments(
        s.hidden[0][part * STEPS / 2], 2 * STEPS * LANES, y, tiles, warp, lane);
  }
  sync_nodes();
  fill(y, v[B_OUT], warp, g);
#pragma unroll 1
  for (int part = 0; part < 4; part++) {
    product(
        y, s.hidden[0][part * STEPS / 2], 2 * STEPS * LANES, ring.next(), tiles, warp, lane);
    ring.done();
  }
#pragma unroll
  for (int j = 0; j < ROW_TILES; j++)
#pragma unroll
    for (int c = 0; c < 4; c++) h[j][c] += y[j][c];
  norm(s, h, v[NORM2], v[BIAS2], tiles, warp, lane);
}

// Up to ROWS rows of a level at a time.
struct Batches {
  const int* bounds;
  int levels, level = -1, first = 0, end = 0;

  DEVICE Batches(const int* bounds, int levels) : bounds(bounds), levels(levels) {}
  // How many rows are in the next one; 0 after the last.
  DEVICE int next() {
    first += ROWS;
    if (first >= end) {
      if (++level >= levels) return 0;
      first = uniform(bounds[level]), end = uniform(bounds[level + 1]);
    }
    return end - first < ROWS ? end - first : ROWS;
  }
  // What is known of them, found by warps that have nothing else to do.
  DEVICE void find(Rows& batch, const Args& a, int count, int searcher, int lane) const {
#pragma unroll
    for (int i = 0; i < (ROWS + SEARCHERS - 1) / SEARCHERS; i++) {
      const int r = searcher + SEARCHERS * i;
      if (r < ROWS) {
        const int row = a.order[first + (r < count ? r : count - 1)];
        const int node = a.nodes[row];
        if (lane == 0) batch.row[r] = row, batch.node[r] = node;
#pragma unroll
        for (int k = 0; k < K; k += LANES)
          if (k + lane < K) batch.reads[r][k + lane] = a.reads[(long long)row * K + k + lane];
      }
    }
  }
};

struct Block {
  Shared& s;
  const Args& a;
  const int warp, lane;
  Ring ring;

  DEVICE Block(Shared& s, const Args& a)
      : s(s), a(a), warp(uniform(thread_index() / LANES)), lane(thread_index() % LANES), ring(s) {}

  // The rows of a batch through all layers.
  DEVICE void decode(const Rows& batch, int count, const Batches& following, Rows& next, int more) {
    const int g = lane / 4, t = lane % 4, tiles = (count + 7) / 8;
    const bool of_nodes = warp < NODE_WARPS;
    Result h[ROW_TILES];  // states
    if (of_nodes) {
#pragma unroll
      for (int j = 0; j < ROW_TILES; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const long long node = batch.node[8 * j + 2 * t + c];
          const float* encoded = a.encoded + node * H + 16 * warp + g;
          h[j][c] = encoded[0], h[j][c + 2] = encoded[8];
        }
      if (!KNOWN) {
        store_fragments(s.input[0][0], STEPS / 2 * LANES, h, tiles, warp, lane);
        sync_nodes();
      }
    }
#pragma unroll 1
    for (int layer = 0; layer < LAYERS; layer++) {
      const bool known = KNOWN && layer == 0;
      if (known) {
        for (int r = warp; r < count; r += WORKERS) known_messages(s, a, batch, r, lane);
        sync();
      } else {
        if (of_nodes)
          terms_of_nodes(s, ring, layer, tiles, warp, lane);
        else
          ring.skip(2);
        sync();
        const uint4* W2 = ring.next();
#pragma unroll 1
        for (int u = warp; u < count * TILES; u += WORKERS)
          summed_messages(s, a, batch, layer, u / TILES, u % TILES, W2, lane);
        sync();
      }
      if (of_nodes) {
        if (!known) {
          ring.done();
          sum_partial(s, tiles, warp, lane);
        }
        update_nodes(s, a, batch, ring, h, layer, tiles, warp, lane);
      } else {
        if (layer == 0 && more) following.find(next, a, more, warp - NODE_WARPS, lane);
        ring.skip(known ? 9 : 10);
      }
    }
    Draw own(a, batch, warp < count ? warp : 0, lane);
    if (of_nodes) {
      const uint4* W_letters = ring.next();
      if (warp < COLUMNS / 16) {
        Result y[ROW_TILES];
        fill(y, a.b_letters, warp, g);
        product(y, s.input[0][0], STEPS / 2 * LANES, W_letters, tiles, warp, lane);
#pragma unroll
        for (int j = 0; j < ROW_TILES; j++)
#pragma unroll
          for (int c = 0; c < 4; c++)
            s.logits[8 * j + 2 * t + c % 2][16 * warp + c / 2 * 8 + g] = y[j][c];
      }
      ring.done();
    } else {
      ring.skip();
    }
    sync();
    if (warp < count) draw(s, a, own, warp, lane);
#pragma unroll 1
    for (int r = warp + WORKERS; r < count; r += WORKERS) draw(s, a, Draw(a, batch, r, lane), r, lane);
    sync();
  }

  DEVICE void run() {
    if (thread_index() == 0)
      for (int i = 0; i < STAGES; i++) init(&s.full[i], 1), init(&s.empty[i], NODE_WARPS);
    for (int i = thread_index(); i < LAYERS * VECTORS * H; i += (WORKERS + 1) * LANES)
      (&s.vectors[0][0][0])[i] = a.vectors[i];
    Batches batches(a.bounds + block_index() * (a.levels + 1), uniform(a.depth[block_index()]));
    int count = batches.next(), turn = 0;
    if (count && warp >= NODE_WARPS && warp < WORKERS)
      batches.find(s.batch[0], a, count, warp - NODE_WARPS, lane);
    sync_all();
    if (warp == WORKERS) {
      for (; count; count = batches.next())
        if (lane == 0) ring.send(a.weights);
      return;
    }
    while (count) {
      const int more = batches.next();
      decode(s.batch[turn], count, batches, s.batch[turn ^ 1], more);
      count = more, turn ^= 1;
    }
  }
};

KERNEL decode_levels(const Args a) { Block(*(Shared*)shared_memory(), a).run(); }
