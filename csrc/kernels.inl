// Every function of the table, written once. kernels.cpp includes this file once for each instruction set.
// Of what headers offer, use only intrinsics and C functions here: a template would be compiled for this region.
namespace openlstm::ISA {
namespace {

#include "vec.h"
#include "functions.inl"
#include "product.inl"
#include "pointwise.inl"
#include "walk.inl"

int lanes() { return N; }

// A multiple of 1/2 or of 1/128 (halves are what round() can get wrong), of both signs, 16 at most, never 0.
FN float number(std::uint32_t &state) {
  state = state * 1664525u + 1013904223u;
  const bool halves = state >> 31;
  const float size = static_cast<float>((state >> 8) % (halves ? 32u : 2048u) + 1) / (halves ? 2.f : 128.f);
  return state >> 30 & 1 ? size : -size;
}

// The larger of `worst` and the error of `got` relative to `size`. A NaN is right only where one is wanted.
FN double worse(double worst, float got, double want, double size) {
  if (got != got || want != want) return got != got && want != want ? worst : HUGE_VAL;
  const double error = fabs(got - want) / size;
  return error > worst ? error : worst;
}

// x, y and z are the lanes of a, b and c. The scalar side is in double precision.
double selftest() {
  double worst = check_functions();
  std::uint32_t state = 1;
  for (int trial = 0; trial < 100; trial++) {
    float as[N], bs[N], cs[N], got[N];
    for (int k = 0; k < N; k++) as[k] = number(state), bs[k] = number(state), cs[k] = number(state);
    const V a = load(as), b = load(bs), c = load(cs);
    const int n = trial % (N + 1);  // lanes in a part
#define COMPARE(expression, size)                            \
  for (int k = 0; k < N; k++) {                              \
    const double x = as[k], y = bs[k], z = cs[k];            \
    const double want = expression;                          \
    (void)x, (void)y, (void)z;                               \
    worst = worse(worst, got[k], want, size);                \
  }
#define CHECK(vector, expression, size) store(got, vector); COMPARE(expression, size)
    CHECK(a, x, 1)
    CHECK(part_load(as, n), k < n ? x : 0, 1)
    store(got, b);
    part_store(got, a, n);
    COMPARE(k < n ? x : y, 1)
    CHECK(set(as[0]), as[0], 1)
    CHECK(add(a, b), x + y, fabs(x) + fabs(y))
    CHECK(sub(a, b), x - y, fabs(x) + fabs(y))
    CHECK(mul(a, b), x * y, fabs(want))
    CHECK(div(a, b), x / y, fabs(want))
    CHECK(fma(a, b, c), x * y + z, fabs(x * y) + fabs(z))
    CHECK(min(a, b), x < y ? x : y, 1)
    CHECK(max(a, b), x > y ? x : y, 1)
    CHECK(min(a, set(NAN)), NAN, 1)
    CHECK(max(a, set(NAN)), NAN, 1)
    CHECK(fnma(a, b, c), z - x * y, fabs(x * y) + fabs(z))
    CHECK(inverse(a), 1 / x, fabs(want))
    CHECK(greater(a, b), x > y, 1)
    CHECK(at_least(a, b), x >= y, 1)
    CHECK(greater(a, set(NAN)), 0, 1)
    CHECK(at_least(set(NAN), a), 0, 1)
    CHECK(cut(a, b, c), y < z ? 0 : x, 1)
    CHECK(cut(a, set(NAN), c), x, 1)
    CHECK(hold(a), x, 1)
    std::uint16_t halves[N];
    std::int8_t bytes[2 * N];
    const std::int16_t whole[2] = {static_cast<std::int16_t>(2000 * as[0]), static_cast<std::int16_t>(-2000 * as[1])};
    for (int k = 0; k < N; k++) halves[k] = narrow(as[k]), bytes[2 * k] = static_cast<std::int8_t>(8 * as[k]), bytes[2 * k + 1] = static_cast<std::int8_t>(8 * bs[k]);
    CHECK(widen(halves), x, fabs(x) * 32768)  // 8 bits are kept
    CHECK(floats(dots(dots(nothing(), pairs(bytes), whole), pairs(bytes), whole)), 2 * (bytes[2 * k] * whole[0] + bytes[2 * k + 1] * whole[1]), fabs(want))
    CHECK(round(a), nearbyint(x), 1)
    CHECK(pow2(round(mul(a, set(7.875f)))), ldexp(1.0, static_cast<int>(nearbyint(x * 7.875))), want)
    V square[N];
    float before[N][N];
    for (int k = 0; k < N; k++) {
      for (int j = 0; j < N; j++) before[k][j] = number(state);
      square[k] = load(before[k]);
    }
    transpose(square);
    for (int j = 0; j < N; j++) {
      store(got, square[j]);
      for (int k = 0; k < N; k++) worst = worse(worst, got[k], before[k][j], 1);
    }
#undef CHECK
#undef COMPARE
    double total = 0, size = 0;
    for (int k = 0; k < N; k++) total += as[k], size += fabs(as[k]);
    worst = worse(worst, sum(a), total, size);
  }
  return worst;
}

}  // namespace

const Kernels table = {NAME(ISA), usable, lanes, selftest, size, pack, workspace, walk, fingerprint, draw};

}  // namespace openlstm::ISA
#undef UNROLL
