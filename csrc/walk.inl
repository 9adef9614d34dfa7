// One layer in one direction over all steps, by one of the threads that share it.

struct Span {
  int from, to;
};
FN Span share(int all, int unit, int thread, int threads) {
  const Long pieces = divided_up(all, unit);
  return {smaller(all, static_cast<int>(pieces * thread / threads) * unit),
          smaller(all, static_cast<int>(pieces * (thread + 1) / threads) * unit)};
}

struct Runner {
  const Walk &w;
  int thread, threads;
  Span rows;
  float *temporaries;
  int lowest;  // the least t of the chunk
  float *at[MAX_ARRAYS];
  Long row[MAX_ARRAYS];
};

FN Span units(const Runner &r, int width) {
  return r.w.by_rows ? Span{0, width} : share(width, 4 * N, r.thread, r.threads);
}
// The time of the e-th step that runs, in the order in which the equations walk or against it.
FN int time_of(const Walk &w, int e) { return (w.reverse != 0) != (w.backward != 0) ? w.time - 1 - e : e; }
FN int earlier(const Walk &w, int t) { return w.reverse ? t + 1 : t - 1; }
FN int active(const Walk &w, int t) { return w.active ? w.active[t] : w.batch; }

void locate(Runner &r, int array, int e) {
  const Walk &w = r.w;
  const Array &a = w.array[array];
  const int t = time_of(w, e);
  r.row[array] = a.row;
  switch (a.kind) {
    case TIME: r.at[array] = a.base + t * a.time; break;
    case CHUNK: r.at[array] = a.base + (t - r.lowest) * a.time; break;
    case PAIR: r.at[array] = a.base + (e & 1) * a.time; break;
    case BEFORE: {
      const int before = earlier(w, t);
      const bool none = before < 0 || before >= w.time;
      r.at[array] = none ? a.first : w.array[a.of].base + before * w.array[a.of].time;
      r.row[array] = none ? a.first_row : w.array[a.of].row;
      break;
    }
    case CARRY:
      r.at[array] = e == 0 ? a.first : w.array[a.of].base + ((e - 1) & 1) * w.array[a.of].time;
      r.row[array] = e == 0 ? a.first_row : w.array[a.of].row;
      break;
  }
}

void run_product(Runner &r, const Section &s, Span rows) {
  const float *source[MAX_SOURCES];
  float *target[MAX_TARGETS];
  Long source_row[MAX_SOURCES], target_row[MAX_TARGETS];
  for (int k = 0; k < s.sources; k++) {
    source_row[k] = r.row[s.source[k]];
    source[k] = r.at[s.source[k]] + rows.from * source_row[k];
  }
  for (int k = 0; k < s.targets; k++) {
    target_row[k] = r.row[s.target[k]];
    target[k] = r.at[s.target[k]] + rows.from * target_row[k];
  }
  const Span u = units(r, s.width);
  product({&r.w.matrix[s.matrix], source, source_row, target, target_row, s.accumulate, r.w.rows + r.thread * r.w.rows_room, nullptr, 0, nullptr},
          rows.to - rows.from, u.from, u.to);
}

void run_section(Runner &r, const Section &s, int e) {
  const int here = active(r.w, time_of(r.w, e));
  const Span rows = {smaller(r.rows.from, here), smaller(r.rows.to, here)};
  if (rows.from >= rows.to) return;
  if (s.form == PRODUCT) return run_product(r, s, rows);
  const Span u = units(r, s.width);
  if (u.from >= u.to) return;
  if (s.body) return s.body(r.at, r.row, rows.from, rows.to, u.from, u.to);
  const Block block = {r.at, r.row, r.temporaries};
  if (s.form == POINTWISE)
    pointwise(s.operation, s.operations, block, rows.from, rows.to, u.from, u.to);
  else
    norm(s, block, rows.from, rows.to, u.from, u.to);
}

void wait(const Runner &r, const Section &s) {
  if (s.sync && !r.w.by_rows && r.threads > 1) meet(r.w.barrier, r.threads);
}

// Sections of which every step of the chunk e0..e1 can run at once.
void run_chunk(Runner &r, const Section *sections, int count, int e0, int e1) {
  const Walk &w = r.w;
  const int t0 = time_of(w, e0), t1 = time_of(w, e1 - 1);
  for (int k = 0; k < count; k++) {
    const Section &s = sections[k];
    wait(r, s);
    // A product whose steps follow one another in memory has as many rows as they have together.
    bool joined = s.form == PRODUCT && !w.active && r.rows.to - r.rows.from == w.batch;
    for (int i = 0; joined && i < s.sources + s.targets; i++) {
      const Array &a = w.array[i < s.sources ? s.source[i] : s.target[i - s.sources]];
      joined = (a.kind == TIME || a.kind == CHUNK) && (w.batch == 1 || a.time == w.batch * a.row);
    }
    if (joined) {
      for (int a = 0; a < w.arrays; a++) locate(r, a, t0 < t1 ? e0 : e1 - 1);
      Long kept[MAX_ARRAYS];
      for (int a = 0; a < w.arrays; a++) kept[a] = r.row[a];
      if (w.batch == 1)
        for (int a = 0; a < w.arrays; a++) r.row[a] = w.array[a].time;
      run_product(r, s, {0, (e1 - e0) * w.batch});
      for (int a = 0; a < w.arrays; a++) r.row[a] = kept[a];
      continue;
    }
    for (int e = e0; e < e1; e++) {
      for (int a = 0; a < w.arrays; a++) locate(r, a, e);
      run_section(r, s, e);
    }
  }
}

void copy_row(float *to, const float *from, Span u) {
  std::memcpy(to + u.from, from + u.from, static_cast<std::size_t>(u.to - u.from) * sizeof(float));
}

// What comes into step e of a ragged walk: the states of the step before, or where a piece begins the initial ones.
// Backward it is the derivative: where a piece ends that of the final states.
void fill_states(Runner &r, int e) {
  const Walk &w = r.w;
  const int t = time_of(w, e), here = active(w, t);
  for (int k = 0; k < w.states; k++) {
    const State &s = w.state[k];
    const Span u = units(r, w.array[s.in].width);
    const Array &out = w.array[s.out];
    const int last = e > 0 ? time_of(w, e - 1) : 0;
    const float *from = out.kind == PAIR ? out.base + ((e - 1) & 1) * out.time : out.base + last * out.time;
    for (int b = r.rows.from; b < smaller(r.rows.to, here); b++) {
      float *to = r.at[s.in] + b * r.row[s.in];
      const Long i = Long(t) * w.batch + b;
      if (w.backward ? w.end[i] : w.begin[i])
        copy_row(to, s.initial + b * s.initial_row, u);
      else if (w.backward && w.begin[Long(last) * w.batch + b])
        std::memset(to + u.from, 0, static_cast<std::size_t>(u.to - u.from) * sizeof(float));
      else
        copy_row(to, from + b * out.row, u);
    }
  }
}

// What leaves step e: the final states of the sequences that end there; backward the derivative by the initial ones.
void take_states(Runner &r, int e) {
  const Walk &w = r.w;
  const int t = time_of(w, e), here = active(w, t);
  const bool ragged = w.begin != nullptr;
  if (!ragged && e < w.time - 1) return;
  for (int k = 0; k < w.states; k++) {
    const State &s = w.state[k];
    if (!s.last) continue;
    const Span u = units(r, w.array[s.in].width);
    for (int b = r.rows.from; b < smaller(r.rows.to, here); b++) {
      const Long i = Long(t) * w.batch + b;
      float *to = s.last + b * s.last_row;
      const float *from = r.at[s.out] + b * r.row[s.out];
      if (!ragged || (!w.backward && w.end[i]))
        copy_row(to, from, u);
      else if (w.backward && w.begin[i])
        for (int j = u.from; j < u.to; j++) to[j] += from[j];
    }
  }
}

FN Long outer_panels(const Walk &w) {
  Long most = 0;
  for (int k = 0; k < w.outers; k++)
    if (w.outer[k].source >= 0) {
      const Long wide = Long(divided_up(w.array[w.outer[k].source].width, 4 * N)) * 4 * N * DEPTH;
      if (wide > most) most = wide;
    }
  return most;
}
Long workspace(const Walk &w) { return outer_panels(w); }

// The gradients of weights and biases, summed over all steps and sequences in blocks of DEPTH. Threads share the rows
// of the result, so that each element's sum has one order.
void outers(Runner &r) {
  const Walk &w = r.w;
  float *panels = r.temporaries;
  const float *a[DEPTH], *b[DEPTH];
  for (int first = 0; first < w.outers;) {
    int next = first + 1;  // those with the same source
    while (next < w.outers && w.outer[next].source == w.outer[first].source) next++;
    const int source = w.outer[first].source;
    const int n = source < 0 ? 0 : w.array[source].width;
    int all = 0;  // tiles of rows, of which this thread has a part
    for (int o = first; o < next; o++) all += divided_up(w.array[w.outer[o].adjoint].width, TILE);
    const int tiles_from = Long(all) * r.thread / r.threads, tiles_to = Long(all) * (r.thread + 1) / r.threads;
    int steps = 0, sequences = 0;  // where in time and batch the next block begins
    for (bool begin = true; steps < w.time; begin = false) {
      int depth = 0;
      const int start = steps, begun = sequences;
      while (depth < DEPTH && steps < w.time) {
        if (sequences >= active(w, steps)) {
          steps++, sequences = 0;
          continue;
        }
        if (source >= 0) {
          locate(r, source, time_of(w, steps));
          b[depth] = r.at[source] + sequences * r.row[source];
        }
        depth++, sequences++;
      }
      if (depth == 0 && !begin) break;
      if (source >= 0)
        for (int u = 0; u < n; u += N) {
          float *to = panels + Long(u / (4 * N)) * 4 * N * DEPTH + u % (4 * N);
          for (int k = 0; k < depth; k++)
            store(to + Long(k) * 4 * N, u + N <= n ? load(b[k] + u) : part_load(b[k] + u, n - u));
        }
      for (int o = first, passed = 0; o < next; o++) {
        const Outer &outer = w.outer[o];
        const Array &adjoint = w.array[outer.adjoint];
        const int tiles = divided_up(adjoint.width, TILE);
        const int from = (tiles_from > passed ? tiles_from - passed : 0) * TILE;
        const int end = smaller(smaller(tiles, tiles_to - passed) * TILE, adjoint.width);
        passed += tiles;
        if (source >= 0 && from >= end) continue;
        int t = start, s = begun;
        for (int k = 0; k < depth; s++) {
          if (s >= active(w, t)) {
            t++, s = -1;
            continue;
          }
          a[k++] = adjoint.base + t * adjoint.time + s * adjoint.row;
        }
        if (source >= 0) {
          for (int m = from; m < end; m += GROUP)
            outer_rows(a, panels, depth, m, smaller(GROUP, end - m), outer.to, outer.row, n, begin);
          continue;
        }
        const Span u = share(adjoint.width, N, r.thread, r.threads);
        for (int i = u.from; i < u.to; i += N) {
          const int lanes = smaller(N, u.to - i);
          V sums = set(0);
          for (int k = 0; k < depth; k++) sums = add(sums, lanes == N ? load(a[k] + i) : part_load(a[k] + i, lanes));
          if (!begin) sums = add(part_load(outer.to + i, lanes), sums);
          part_store(outer.to + i, sums, lanes);
        }
      }
    }
    first = next;
  }
}

void walk(const Walk &w, int thread, int threads) {
  Runner r = {w, thread, threads, {0, w.batch}, w.temporaries + thread * w.temporary, 0, {}, {}};
  if (w.by_rows) r.rows = share(w.batch, 1, thread, threads);
  for (int e0 = 0; e0 < w.time; e0 += w.chunk) {
    const int e1 = smaller(w.time, e0 + w.chunk);
    r.lowest = smaller(time_of(w, e0), time_of(w, e1 - 1));
    if (w.ahead) await(w.ahead, e1);
    run_chunk(r, w.before, w.befores, e0, e1);
    for (int e = e0; e < e1; e++) {
      for (int a = 0; a < w.arrays; a++) locate(r, a, e);
      if (w.begin) fill_states(r, e);
      for (int k = 0; k < w.loops; k++) {
        wait(r, w.loop[k]);
        run_section(r, w.loop[k], e);
      }
      take_states(r, e);
    }
    run_chunk(r, w.after, w.afters, e0, e1);
    if (w.done) announce(w.done, e1);
  }
  if (w.outers) {
    if (threads > 1) meet(w.barrier, threads);
    outers(r);
  }
}

// A number that changes with every change of any float: 32 chains of an invertible step.
std::uint64_t fingerprint(const float *p, Long count) {
  enum { LANES = 128 };
  std::uint32_t state[LANES];
  for (int k = 0; k < LANES; k++) state[k] = static_cast<std::uint32_t>(k + 1);
  Long i = 0;
  for (; i + LANES <= count; i += LANES) {
    std::uint32_t bits[LANES];
    std::memcpy(bits, p + i, sizeof bits);
    for (int k = 0; k < LANES; k++) state[k] = (state[k] ^ bits[k]) * 0x9E3779B1u;
  }
  std::uint64_t all = static_cast<std::uint64_t>(count);
  for (; i < count; i++) {
    std::uint32_t bits;
    std::memcpy(&bits, p + i, sizeof bits);
    all = (all ^ bits) * 0x9E3779B97F4A7C15ull;
    all ^= all >> 29;
  }
  for (int k = 0; k < LANES; k++) {
    all = (all ^ state[k]) * 0x9E3779B97F4A7C15ull;
    all ^= all >> 29;
  }
  return all;
}

// `value` with a probability of rate / 2^32, else 0: numbers by counting, each mixed twice with a key.
void draw(float *to, Long count, std::uint32_t rate, float value, std::uint64_t key) {
  for (Long first = 0; first < count; first += 1 << 30) {
    const std::uint32_t a = static_cast<std::uint32_t>(key) + static_cast<std::uint32_t>(first >> 30) * 0x632BE5ABu;
    const std::uint32_t b = static_cast<std::uint32_t>(key >> 32);
    const int n = static_cast<int>(count - first < 1 << 30 ? count - first : 1 << 30);
    float *p = to + first;
    for (int k = 0; k < n; k++) {
      std::uint32_t x = static_cast<std::uint32_t>(k) * 0x9E3779B9u + a;
      x = (x ^ x >> 16) * 0x85EBCA6Bu;
      x = (x ^ x >> 13) * 0xC2B2AE35u;
      x = (x ^ x >> 16) + b;
      x = (x ^ x >> 16) * 0x7FEB352Du;
      x = (x ^ x >> 15) * 0x846CA68Bu;
      x ^= x >> 16;
      p[k] = x < rate ? value : 0.f;
    }
  }
}
