// Products of rows with packed weights. Every element of a result has one order of summation: chains of DEPTH terms,
// k ascending, added up in turn. It does not depend on how many rows a tile has, so that a sequence gives the same bits
// in any batch, on any number of threads, and one step at a time.
//
// A tile holds M rows times up to four vectors of sums in registers. For each k it loads four vectors of weights and
// broadcasts M inputs: with 6 rows 24 multiply-adds for 10 loads, where the processor does two of each a cycle.
//
// Weights of 16 bits are made wide as they are loaded: where a row alone is multiplied, time is what memory takes to bring
// weights. Weights of 8 bits are multiplied as whole numbers, for to make them wide would take longer than to bring them:
// a chain's inputs are rounded to whole numbers of 16 bits, of which the greatest is 32767, and summed up exactly, two
// terms at once. A chain's sum is then scaled by its inputs' scale and its unit's. That is 256 times finer than the weights.

enum { TILE = ISA_ROWS };
#if defined(_MSC_VER)
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

FN int blocks_in_panel(int targets) { return targets == 1 ? 4 : targets == 2 ? 2 : 1; }
FN int divided_up(int a, int b) { return (a + b - 1) / b; }
FN int smaller(int a, int b) { return a < b ? a : b; }

// The terms of a source in panels: those of 8 bits stand there two by two.
FN int terms(const Matrix &m, int s) { return m.kind == INT8 ? (m.depth[s] + 1) & ~1 : m.depth[s]; }

Long size(const Matrix &m) {
  const int blocks = blocks_in_panel(m.targets);
  Long depth = 0;
  for (int s = 0; s < m.sources; s++) depth += terms(m, s);
  return Long(divided_up(m.width, blocks * N)) * depth * m.targets * blocks * N;
}

// The terms k..k + depth of source s of panel p, in the order in which tiles read them.
void pack_part(const Matrix &m, int p, int s, int k, int depth, float *to) {
  const int blocks = blocks_in_panel(m.targets), wide = m.targets * blocks * N;
  for (int v = 0; v < blocks * m.targets; v++, to += N) {
    const int first = (p * blocks + v / m.targets) * N, n = smaller(N, m.width - first);
    const Weight &weight = m.weight[s * m.targets + v % m.targets];
    const float *from = weight.at + first * weight.unit + k * weight.term;
    int i = 0;
    if (n == N && weight.unit == 1)
      for (; i < depth; i++) store(to + Long(i) * wide, load(from + i * weight.term));
    else if (n == N && weight.term == 1)
      for (; i + N <= depth; i += N) {
        V square[N];
        UNROLL
        for (int u = 0; u < N; u++) square[u] = load(from + u * weight.unit + i);
        transpose(square);
        UNROLL
        for (int j = 0; j < N; j++) store(to + Long(i + j) * wide, square[j]);
      }
    for (; i < depth; i++)
      for (int u = 0; u < N; u++) to[Long(i) * wide + u] = u < n ? from[u * weight.unit + i * weight.term] : 0.f;
  }
}

// The nearest float of 16 bits, halves to even; a NaN stays one.
FN std::uint16_t narrow(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return static_cast<std::uint16_t>(bits >> 16 | 64);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// The scale of each unit of a panel: its greatest weight becomes 127. It is rounded up to 16 bits, so that a weight times
// its scale is exact, and what was made small once is the same when it is made small again.
void find_scales(const Matrix &m, int p) {
  const int blocks = blocks_in_panel(m.targets), last = smaller(m.width, (p + 1) * blocks * N);
  for (int s = 0; s < m.sources; s++)
    for (int g = 0; g < m.targets; g++)
      for (int u = p * blocks * N; u < last; u++) {
        const Weight &weight = m.weight[s * m.targets + g];
        float most = 0;
        for (int k = 0; k < m.depth[s]; k++) {
          const float size = fabsf(weight.at[u * weight.unit + k * weight.term]);
          most = size > most ? size : most;
        }
        most /= 127;
        std::uint32_t bits;
        std::memcpy(&bits, &most, sizeof bits);
        bits = (bits + 0xFF) & ~0xFFu;
        std::memcpy(&m.scales[Long(s * m.targets + g) * m.width + u], &bits, sizeof bits);
      }
}

void pack(const Matrix &m, int thread, int threads) {
  const int blocks = blocks_in_panel(m.targets), panels = divided_up(m.width, blocks * N), wide = m.targets * blocks * N;
  Long all = 0;
  for (int s = 0; s < m.sources; s++) all += terms(m, s);
  alignas(64) float part[4 * N * DEPTH];
  for (int p = panels * thread / threads; p < panels * (thread + 1) / threads; p++) {
    Long at = Long(p) * all * wide;
    if (m.kind == INT8) find_scales(m, p);
    for (int s = 0; s < m.sources; s++)
      for (int k = 0; k < m.depth[s]; k += DEPTH) {
        const int depth = smaller(DEPTH, m.depth[s] - k), count = depth * wide;
        pack_part(m, p, s, k, depth, m.kind == FLOAT32 ? static_cast<float *>(m.panels) + at : part);
        if (m.kind == BFLOAT16)
          for (int i = 0; i < count; i++) static_cast<std::uint16_t *>(m.panels)[at + i] = narrow(part[i]);
        if (m.kind == INT8) {
          std::int8_t *to = static_cast<std::int8_t *>(m.panels) + at;
          if (depth % 2) std::memset(to + Long(depth - 1) * wide, 0, std::size_t(2 * wide));
          for (int i = 0; i < count; i++) {
            const int term = i / wide, in = i % wide, v = in / N, u = (p * blocks + v / m.targets) * N + in % N;
            const float scale = u < m.width ? m.scales[Long(s * m.targets + v % m.targets) * m.width + u] : 0.f;
            to[term / 2 * 2 * wide + 2 * in + term % 2] = static_cast<std::int8_t>(scale > 0 ? nearbyintf(part[i] / scale) : 0.f);
          }
          at += depth % 2 * wide;
        }
        at += count;
      }
  }
}

FN V input(const float *a, const float *third, Long row, int m) { return set(m < 3 ? a[m * row] : third[(m - 3) * row]); }
template <int V_, class W>
FN V weights(const W *w, Long panel, int v) { return hold(widen(w + v / V_ * panel + v % V_ * N)); }

// sums[m][v] over k of a[m * row + k * step] times the vector v of the weights at k, in P panels side by side. `ahead`:
// where weights stand that come next; one line of them is fetched for each k.
template <int M, int V_, int P, class W>
FN void tile(const W *w, Long wide, Long panel, const float *a, Long row, Long step, int depth, const float *ahead, V (&sums)[M][P * V_]) {
  for (int m = 0; m < M; m++)
    for (int v = 0; v < P * V_; v++) sums[m][v] = set(0);
  const float *third = a + 3 * row;  // two bases: an address may have a row or two on top
  for (int k = 0; k < depth; k++) {
    if (ahead) prefetch(ahead + k * 16);
    // What is needed again stays in registers. Of the sixteen of AVX2 twelve hold sums: three are left for inputs.
    if (TILE > 3) {
      V b[P * V_];
      for (int v = 0; v < P * V_; v++) b[v] = weights<V_>(w, panel, v);
      for (int m = 0; m < M; m++) {
        const V x = input(a, third, row, m);
        for (int v = 0; v < P * V_; v++) sums[m][v] = fma(x, b[v], sums[m][v]);
      }
    } else {
      V x[M];
      for (int m = 0; m < M; m++) x[m] = hold(input(a, third, row, m));
      for (int v = 0; v < P * V_; v++) {
        const V b = weights<V_>(w, panel, v);
        for (int m = 0; m < M; m++) sums[m][v] = fma(x[m], b, sums[m][v]);
      }
    }
    w += wide;
    a += step;
    third += step;
  }
}

struct Rows {
  const Matrix *matrix;
  const float *const *source;
  const Long *source_row;
  float *const *target;
  const Long *target_row;
  const int *accumulate;
  float *packed;  // room for the sources of all rows
  const float *a;  // the first input of a tile
  Long a_row;
  const float *ahead;
};

// One tile: its rows from `row` on, its panels from `panel` on. `begin`: nothing is summed yet.
template <int M, int V_, int P, class W>
FN void place(const Rows &r, const W *w, Long wide, Long panels, int panel, int blocks, int row, int depth, bool begin) {
  V sums[M][P * V_];
  tile<M, V_, P>(w, wide, panels, r.a, r.a_row, 1, depth, r.ahead, sums);
  const int targets = r.matrix->targets, width = r.matrix->width;
  UNROLL
  for (int p = 0; p < P; p++)
    UNROLL
    for (int v = 0; v < V_; v++) {
      // One target, or its own for each vector; two: in turn.
      const int g = targets == 1 ? 0 : targets == 2 ? v % 2 : v, block = targets == 1 ? v : targets == 2 ? v / 2 : 0;
      const int u = ((panel + p) * blocks + block) * N, n = width - u;
      const bool adds = !begin || r.accumulate[g];
      const Long add_row = adds ? r.target_row[g] : 0;
      float *to = r.target[g] + row * r.target_row[g] + u;
      const float *from = adds ? to : r.matrix->biases + Long(g) * width + u;
      UNROLL
      for (int m = 0; m < M; m++, to += r.target_row[g], from += add_row) {
        const V value = add(n >= N ? load(from) : part_load(from, n), sums[m][p * V_ + v]);
        if (n >= N)
          store(to, value);
        else
          part_store(to, value, n);
      }
    }
}

template <int V_, class W>
FN void panel_rows(Rows &r, const W *w, Long wide, int panel, int blocks, int rows, int s, int k, int depth, bool begin) {
  const int tiles = divided_up(rows, TILE);
  for (int i = 0, row = 0; i < tiles; i++) {
    const int n = rows * (i + 1) / tiles - row;  // of nearly one size
    if (r.packed) {
      r.a = r.packed + Long(rows) * k + Long(row) * depth, r.a_row = depth;
    } else {
      r.a = r.source[s] + row * r.source_row[s] + k, r.a_row = r.source_row[s];
    }
    // The next weights have four lines for each k.
    r.ahead = sizeof(W) == sizeof(float) && r.matrix->panels && tiles > 1 && i < 4 ? reinterpret_cast<const float *>(w) + Long(depth) * (wide + i * 16) : nullptr;
#define ROWS(M) case M: place<M, V_, 1>(r, w, wide, 0, panel, blocks, row, depth, begin); break;
    switch (n) {
      ROWS(1) ROWS(2) ROWS(3)
#if ISA_ROWS > 3
      ROWS(4) ROWS(5) ROWS(6)
#endif
    }
#undef ROWS
    row += n;
  }
}

// A row alone has too few chains to keep the multipliers busy: more panels at a time.
template <int V_, int P, class W>
FN void one_row(Rows &r, const W *w, Long wide, Long panels, int panel, int blocks, int s, int k, int depth, bool begin) {
  r.a = r.source[s] + k, r.a_row = 0, r.ahead = nullptr;
  place<1, V_, P>(r, w, wide, panels, panel, blocks, 0, depth, begin);
}

// Copies the sources to where tiles read them one line after the other: rows that are far apart would push each other
// out of the first cache. Parts of DEPTH terms follow one another; in a part, rows.
void gather(const Rows &r, int rows) {
  float *to = r.packed;
  for (int s = 0; s < r.matrix->sources; s++)
    for (int k = 0; k < r.matrix->depth[s]; k += DEPTH) {
      const int depth = smaller(DEPTH, r.matrix->depth[s] - k);
      for (int row = 0; row < rows; row++, to += depth) {
        const float *from = r.source[s] + row * r.source_row[s] + k;
        int i = 0;
        for (; i + N <= depth; i += N) store(to + i, load(from + i));
        if (i < depth) part_store(to + i, part_load(from + i, depth - i), depth - i);
      }
    }
}

// The units u0..u1 of the targets, of which u0 is a multiple of 4 N. W: of the panels.
template <class W>
void product_of(Rows r, int rows, int u0, int u1) {
  const Matrix &m = *r.matrix;
  const int blocks = blocks_in_panel(m.targets), full = blocks * m.targets;
  const Long wide = full * N;
  Long all = 0;
  for (int s = 0; s < m.sources; s++) all += m.depth[s];
  const int last = divided_up(u1, blocks * N);
  if (rows < 2 * TILE || u1 - u0 < 4 * N) r.packed = nullptr;
  if (r.packed) gather(r, rows);
  alignas(64) W part[4 * N * DEPTH];  // weights that are not packed are, just before they are used
  for (int panel = u0 / (blocks * N); panel < last;) {
    const int vectors = smaller(blocks, divided_up(m.width - panel * blocks * N, N)) * m.targets;
    // Panels side by side: all of them whole.
    const int whole_ones = smaller(m.width / (blocks * N), last) - panel;
    const int side = rows > 1 || full < 3 || !m.panels ? 1 : whole_ones >= 4 && TILE > 3 ? 4 : whole_ones >= 2 ? 2 : 1;
    const W *w = m.panels ? static_cast<const W *>(m.panels) + Long(panel) * all * wide : part;
    const Long panels = all * wide;
    bool begin = true;
    int before = 0;  // terms of earlier sources
    for (int s = 0; s < m.sources; before += m.depth[s], s++)
      for (int k = 0; k < m.depth[s]; k += DEPTH) {
        const int depth = smaller(DEPTH, m.depth[s] - k), at = r.packed ? before + k : k;
        if (!m.panels) pack_part(m, panel, s, k, depth, reinterpret_cast<float *>(part)), w = part;
        if (side == 4 && full == 4) one_row<4, 4>(r, w, wide, panels, panel, blocks, s, k, depth, begin);
        else if (side == 4) one_row<3, 4>(r, w, wide, panels, panel, blocks, s, k, depth, begin);
        else if (side == 2 && full == 4) one_row<4, 2>(r, w, wide, panels, panel, blocks, s, k, depth, begin);
        else if (side == 2) one_row<3, 2>(r, w, wide, panels, panel, blocks, s, k, depth, begin);
        else if (vectors == 4) panel_rows<4>(r, w, wide, panel, blocks, rows, s, at, depth, begin);
        else if (vectors == 3) panel_rows<3>(r, w, wide, panel, blocks, rows, s, at, depth, begin);
        else if (vectors == 2) panel_rows<2>(r, w, wide, panel, blocks, rows, s, at, depth, begin);
        else panel_rows<1>(r, w, wide, panel, blocks, rows, s, at, depth, begin);
        w += Long(depth) * wide;
        begin = false;
      }
    panel += side;
  }
}

// The chain of one source that a tile of 8 bits reads.
struct Chain {
  const std::int16_t *x;  // of the tile's first row; rows one after the other
  const float *x_scale;   // of each row of the tile
  const float *scales;    // (targets, width)
  int terms;              // an even number
};

template <int M, int V_, int P>
FN void place_small(const Rows &r, const Chain &chain, const std::int8_t *w, Long wide, Long panels, int panel, int blocks, int row, bool begin) {
  Sums sums[M][P * V_];
  for (int m = 0; m < M; m++)
    for (int v = 0; v < P * V_; v++) sums[m][v] = nothing();
  const std::int16_t *x = chain.x;
  for (int k = 0; k < chain.terms; k += 2, w += 2 * wide, x += 2) {
    Pairs b[P * V_];
    for (int p = 0; p < P; p++)
      for (int v = 0; v < V_; v++) b[p * V_ + v] = pairs(w + p * panels + v * 2 * N);
    for (int m = 0; m < M; m++)
      for (int v = 0; v < P * V_; v++) sums[m][v] = dots(sums[m][v], b[v], x + m * chain.terms);
  }
  const int targets = r.matrix->targets, width = r.matrix->width;
  UNROLL
  for (int p = 0; p < P; p++)
    UNROLL
    for (int v = 0; v < V_; v++) {
      const int g = targets == 1 ? 0 : targets == 2 ? v % 2 : v, block = targets == 1 ? v : targets == 2 ? v / 2 : 0;
      const int u = ((panel + p) * blocks + block) * N, n = width - u;
      const bool adds = !begin || r.accumulate[g];
      const Long add_row = adds ? r.target_row[g] : 0;
      float *to = r.target[g] + row * r.target_row[g] + u;
      const float *from = adds ? to : r.matrix->biases + Long(g) * width + u, *at = chain.scales + Long(g) * width + u;
      const V scale = n >= N ? load(at) : part_load(at, n);
      UNROLL
      for (int m = 0; m < M; m++, to += r.target_row[g], from += add_row) {
        const V before = n >= N ? load(from) : part_load(from, n);
        const V value = fma(mul(floats(sums[m][p * V_ + v]), set(chain.x_scale[m])), scale, before);
        if (n >= N)
          store(to, value);
        else
          part_store(to, value, n);
      }
    }
}

template <int V_>
FN void panel_rows_small(const Rows &r, Chain chain, const std::int8_t *w, Long wide, int panel, int blocks, int rows, bool begin) {
  const int tiles = divided_up(rows, TILE);
  for (int i = 0, row = 0; i < tiles; i++) {
    const int n = rows * (i + 1) / tiles - row;
#define ROWS(M) case M: place_small<M, V_, 1>(r, chain, w, wide, 0, panel, blocks, row, begin); break;
    switch (n) {
      ROWS(1) ROWS(2) ROWS(3)
#if ISA_ROWS > 3
      ROWS(4) ROWS(5) ROWS(6)
#endif
    }
#undef ROWS
    row += n, chain.x += Long(n) * chain.terms, chain.x_scale += n;
  }
}

// A chain's inputs as whole numbers, and what they are to be multiplied by. What is not finite makes the sum a NaN.
FN float round_inputs(const float *from, int depth, std::int16_t *to) {
  V most = set(0), none = set(0);
  int i = 0;
  for (; i < depth; i += N) {
    const V x = depth - i >= N ? load(from + i) : part_load(from + i, depth - i);
    most = max(most, max(x, sub(set(0), x)));
    none = fma(x, set(0), none);  // no number where x is none, or infinite
  }
  float all[N], greatest = 0;
  store(all, most);
  for (int k = 0; k < N; k++) greatest = all[k] > greatest ? all[k] : greatest;
  if (sum(none) != 0) {
    std::memset(to, 0, std::size_t((depth + 1) & ~1) * sizeof *to);
    return NAN;
  }
  const V scale = set(greatest > 1e-30f ? 32767 / greatest : 0.f);
  for (i = 0; i < depth; i += N) {
    const int n = smaller(N, depth - i);
    store(all, round(mul(n == N ? load(from + i) : part_load(from + i, n), scale)));
    for (int k = 0; k < n; k++) to[i + k] = static_cast<std::int16_t>(all[k]);
  }
  if (depth % 2) to[depth] = 0;
  return greatest / 32767;
}

// The same as product_of, with weights of 8 bits.
void product_small(const Rows &r, int rows, int u0, int u1) {
  const Matrix &m = *r.matrix;
  const int blocks = blocks_in_panel(m.targets), full = blocks * m.targets, last = divided_up(u1, blocks * N);
  const Long wide = full * N;
  Long all = 0;
  for (int s = 0; s < m.sources; s++) all += terms(m, s);
  // In r.packed: chain after chain the rows' inputs, and behind them their scales.
  std::int16_t *inputs = reinterpret_cast<std::int16_t *>(r.packed);
  float *scales = r.packed + (all * rows + 1) / 2;
  std::int16_t *x = inputs;
  float *x_scale = scales;
  for (int s = 0; s < m.sources; s++)
    for (int k = 0; k < m.depth[s]; k += DEPTH) {
      const int depth = smaller(DEPTH, m.depth[s] - k);
      for (int row = 0; row < rows; row++, x += (depth + 1) & ~1) *x_scale++ = round_inputs(r.source[s] + row * r.source_row[s] + k, depth, x);
    }
  for (int panel = u0 / (blocks * N); panel < last;) {
    const int vectors = smaller(blocks, divided_up(m.width - panel * blocks * N, N)) * m.targets;
    const int whole_ones = smaller(m.width / (blocks * N), last) - panel;
    const int side = rows > 1 || full < 3 ? 1 : whole_ones >= 4 && TILE > 3 ? 4 : whole_ones >= 2 ? 2 : 1;
    const Long panels = all * wide;
    const std::int8_t *w = static_cast<const std::int8_t *>(m.panels) + Long(panel) * panels;
    Chain chain{inputs, scales, nullptr, 0};
    bool begin = true;
    for (int s = 0; s < m.sources; s++)
      for (int k = 0; k < m.depth[s]; k += DEPTH) {
        chain.terms = (smaller(DEPTH, m.depth[s] - k) + 1) & ~1;
        chain.scales = m.scales + Long(s) * m.targets * m.width;
        if (side == 4 && full == 4) place_small<1, 4, 4>(r, chain, w, wide, panels, panel, blocks, 0, begin);
        else if (side == 4) place_small<1, 3, 4>(r, chain, w, wide, panels, panel, blocks, 0, begin);
        else if (side == 2 && full == 4) place_small<1, 4, 2>(r, chain, w, wide, panels, panel, blocks, 0, begin);
        else if (side == 2) place_small<1, 3, 2>(r, chain, w, wide, panels, panel, blocks, 0, begin);
        else if (vectors == 4) panel_rows_small<4>(r, chain, w, wide, panel, blocks, rows, begin);
        else if (vectors == 3) panel_rows_small<3>(r, chain, w, wide, panel, blocks, rows, begin);
        else if (vectors == 2) panel_rows_small<2>(r, chain, w, wide, panel, blocks, rows, begin);
        else panel_rows_small<1>(r, chain, w, wide, panel, blocks, rows, begin);
        w += Long(chain.terms) * wide;
        chain.x += Long(chain.terms) * rows, chain.x_scale += rows;
        begin = false;
      }
    panel += side;
  }
}

void product(const Rows &r, int rows, int u0, int u1) {
  switch (r.matrix->kind) {
    case BFLOAT16: return product_of<std::uint16_t>(r, rows, u0, u1);
    case INT8: return product_small(r, rows, u0, u1);
    default: return product_of<float>(r, rows, u0, u1);
  }
}

// to (+)= the sum over `depth` rows of a'b: a tile of the gradient of a weight. b: panels.
template <int M, int V_>
FN void outer_tile(const float *a, Long step, const float *b, int depth, float *to, Long row, int n, bool begin) {
  V sums[M][V_];
  tile<M, V_, 1>(b, 4 * N, 0, a, 1, step, depth, nullptr, sums);
  for (int m = 0; m < M; m++)
    for (int v = 0; v < V_; v++) {
      float *q = to + m * row + v * N;
      const int left = n - v * N;
      if (left >= N)
        store(q, begin ? sums[m][v] : add(load(q), sums[m][v]));
      else
        part_store(q, begin ? sums[m][v] : add(part_load(q, left), sums[m][v]), left);
    }
}

// As many rows of a gradient as are whole tiles and whole vectors.
enum { GROUP = TILE * N / (TILE % 2 ? 1 : 2) };

// The rows first..first + rows of the gradient, at most GROUP of them, all n columns. a[k] and the packed b: `depth` rows.
void outer_rows(const float *const *a, const float *b, int depth, int first, int rows, float *to, Long row, int n, bool begin) {
  alignas(64) float group[DEPTH * GROUP];
  for (int k = 0; k < depth; k++)
    for (int m = 0; m < rows; m += N) {
      const float *p = a[k] + first + m;
      store(group + k * GROUP + m, m + N <= rows ? load(p) : part_load(p, rows - m));
    }
  for (int u = 0; u < n; u += 4 * N) {
    const float *panel = b + Long(u) * DEPTH;
    const int vectors = smaller(4, divided_up(n - u, N));
    for (int m = 0; m < rows; m += TILE) {
      float *q = to + (first + m) * row + u;
#define COLUMNS(M, V_) outer_tile<M, V_>(group + m, GROUP, panel, depth, q, row, n - u, begin)
#define ROWS(M)                               \
  case M:                                     \
    if (vectors == 4) COLUMNS(M, 4);          \
    else if (vectors == 3) COLUMNS(M, 3);     \
    else if (vectors == 2) COLUMNS(M, 2);     \
    else COLUMNS(M, 1);                       \
    break;
      switch (smaller(TILE, rows - m)) {
        ROWS(1) ROWS(2) ROWS(3)
#if ISA_ROWS > 3
        ROWS(4) ROWS(5) ROWS(6)
#endif
      }
#undef ROWS
#undef COLUMNS
    }
  }
}
