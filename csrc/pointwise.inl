// Operations element by element, one after the other on a block of rows and units that stays in the first cache.

struct Block {
  float *const *at;  // of every array: the first row of this step
  const Long *row;
  float *temporaries;
};

struct Place {
  float *p;
  Long row;
};

FN Place find(const Block &b, int array, int row, int unit, int units) {
  if (array < 0) return {b.temporaries + Long(-1 - array) * BLOCK, units};
  return {b.at[array] + row * b.row[array] + unit, b.row[array]};
}

// For every row and vector of the block: `to` = expression of the vectors a, b and c.
#define APPLY(expression)                                            \
  for (int r = 0; r < rows; r++) {                                   \
    float *to = d.p + r * d.row;                                     \
    const float *p = x.p + r * x.row, *q = y.p + r * y.row, *s = z.p + r * z.row; \
    (void)q, (void)s, (void)p;                                       \
    int u = 0;                                                       \
    for (; u + N <= units; u += N) {                                 \
      const LOADS(load(p + u), load(q + u), load(s + u))             \
      store(to + u, expression);                                     \
    }                                                                \
    if (u < units) {                                                 \
      const int n = units - u;                                       \
      const LOADS(part_load(p + u, n), part_load(q + u, n), part_load(s + u, n)) \
      part_store(to + u, expression, n);                             \
    }                                                                \
  }                                                                  \
  break;

// rows b0..b1, units u0..u1
void pointwise(const Operation *operation, int count, const Block &block, int b0, int b1, int u0, int u1) {
  for (int u = u0; u < u1; u += BLOCK) {
    const int units = smaller(BLOCK, u1 - u);
    const int most = BLOCK / units;
    for (int b = b0; b < b1; b += most) {
      const int all_rows = smaller(most, b1 - b), all_units = units;
      for (int k = 0; k < count; k++) {
        const Operation &o = operation[k];
        int rows = all_rows, units = all_units;
        const Place d = find(block, o.to, b, u, units), x = find(block, o.a, b, u, units);
        const Place y = find(block, o.b, b, u, units), z = find(block, o.c, b, u, units);
        if (d.row == units && x.row == units && y.row == units && z.row == units) units *= rows, rows = 1;
        const V s_ = set(o.s), t_ = set(o.t);
        (void)s_, (void)t_;
        switch (o.code) {
#define LOADS(A, B, C) V a = A;
          case COPY: APPLY(a)
          case AFFINE: APPLY(fma(s_, a, t_))
          case OVER: APPLY(div(s_, a))
          case SIGMOID: APPLY(sigmoid(a))
          case TANH: APPLY(tanh(a))
          case RELU: APPLY(max(set(0), a))
          case NEGATIVE: APPLY(min(set(0), a))
          case EXPM1: APPLY(expm1(a))
          case ABS: APPLY(abs(a))
          case SOFTPLUS: APPLY(softplus(a))
          case STEP: APPLY(greater(a, set(0)))
          case CLIP: APPLY(within(s_, t_, a))
          case INSIDE: APPLY(inside(s_, t_, a))
          case EXP: APPLY(exp(a))
          case LOG: APPLY(log(a))
#undef LOADS
#define LOADS(A, B, C) V a = A, b_ = B;
          case ADD: APPLY(add(a, b_))
          case SUB: APPLY(sub(a, b_))
          case MUL: APPLY(mul(a, b_))
          case DIV: APPLY(div(a, b_))
          case MAXIMUM: APPLY(maximum(a, b_))
          case MINIMUM: APPLY(minimum(a, b_))
#undef LOADS
#define LOADS(A, B, C) V a = A, b_ = B, c_ = C;
          case FMA: APPLY(fma(a, b_, c_))
          case FNMA: APPLY(fnma(a, b_, c_))
#undef LOADS
          case CONSTANT:
            for (int r = 0; r < rows; r++)
              for (int i = 0; i < units; i++) d.p[r * d.row + i] = o.s;
            break;
          case ACCUMULATE:
            for (int r = 0; r < rows; r++)
              for (int i = 0; i < units; i++) d.p[r * d.row + i] += x.p[r * x.row + i];
            break;
        }
      }
    }
  }
}
#undef APPLY

// The sum of a row of `width`, in an order that depends on the width alone.
FN float row_sum(const float *p, int width) {
  V sums = set(0);
  int u = 0;
  for (; u + N <= width; u += N) sums = add(sums, load(p + u));
  if (u < width) sums = add(sums, part_load(p + u, width - u));
  return sum(sums);
}

const float EPSILON = 1e-5f;  // NORM_EPSILON in cells.py

// The layer norm of `parts` arrays together, row by row: the units u0..u1 of each, or with adjoints its derivative.
void norm(const Section &s, const Block &block, int b0, int b1, int u0, int u1) {
  const int parts = s.sources, width = s.width;
  const float all = static_cast<float>(parts) * static_cast<float>(width);
  for (int b = b0; b < b1; b++) {
    float mean = 0, variance = 0;
    for (int k = 0; k < parts; k++) mean += row_sum(block.at[s.source[k]] + b * block.row[s.source[k]], width);
    mean /= all;
    for (int k = 0; k < parts; k++) {
      const float *p = block.at[s.source[k]] + b * block.row[s.source[k]];
      V sums = set(0);
      int u = 0;
      for (; u + N <= width; u += N) {
        const V d = sub(load(p + u), set(mean));
        sums = fma(d, d, sums);
      }
      variance += sum(sums);
      for (; u < width; u++) variance += (p[u] - mean) * (p[u] - mean);
    }
    const float scale = 1 / sqrtf(variance / all + EPSILON);
    float about = 0, along = 0;  // the means of the adjoint, and of it times the norm
    for (int k = 0; k < s.adjoints; k++) {
      const float *p = block.at[s.source[k]] + b * block.row[s.source[k]];
      const float *g = block.at[s.adjoint[k]] + b * block.row[s.adjoint[k]];
      about += row_sum(g, width);
      V sums = set(0);
      int u = 0;
      for (; u + N <= width; u += N) sums = fma(sub(load(p + u), set(mean)), load(g + u), sums);
      along += sum(sums);
      for (; u < width; u++) along += (p[u] - mean) * g[u];
    }
    about /= all;
    along = along * scale / all;
    for (int k = 0; k < parts; k++) {
      if (s.target[k] < 0) continue;
      const float *p = block.at[s.source[k]] + b * block.row[s.source[k]];
      float *to = block.at[s.target[k]] + b * block.row[s.target[k]];
      const float *g = s.adjoints ? block.at[s.adjoint[k]] + b * block.row[s.adjoint[k]] : p;
      const V m = set(mean), by = set(scale), first = set(about), second = set(along);
      for (int u = u0; u < u1; u += N) {
        const int n = smaller(N, u1 - u);
        const V normed = mul(sub(n == N ? load(p + u) : part_load(p + u, n), m), by);
        const V d = sub(n == N ? load(g + u) : part_load(g + u, n), first);
        const V result = s.adjoints ? mul(by, fnma(normed, second, d)) : normed;
        if (n == N) store(to + u, result);
        else part_store(to + u, result, n);
      }
    }
  }
}
