// The functions of cells.py on vectors. All keep NaN, give their limits at infinities, and err by 2 units in the last
// place at most (selftest measures them).

// e^f - 1 for |f| <= ln(2)/2: the polynomial of Cephes' expf.
FN V small_expm1(V f) {
  V p = set(1.9875691500e-4f);
  p = fma(p, f, set(1.3981999507e-3f));
  p = fma(p, f, set(8.3334519073e-3f));
  p = fma(p, f, set(4.1665795894e-2f));
  p = fma(p, f, set(1.6666665459e-1f));
  p = fma(p, f, set(5.0000001201e-1f));
  return fma(mul(p, f), f, f);
}

// x = n ln(2) + f. Two parts of ln(2) keep f exact.
FN V whole(V x) { return round(mul(x, set(1.44269504f))); }
FN V rest(V x, V n) { return fma(n, set(2.12194440e-4f), fma(n, set(-0.693359375f), x)); }

// For |x| <= 87.
FN V bounded_exp(V x) {
  const V n = whole(x), e = pow2(n);
  return fma(e, small_expm1(rest(x, n)), e);
}
FN V bounded_expm1(V x) {
  const V n = whole(x), e = pow2(n);
  return fma(e, small_expm1(rest(x, n)), sub(e, set(1)));
}
FN V within(V low, V high, V x) { return min(high, max(low, x)); }

// 0 where it would be less than 2^-126, as e^-x has no bound.
FN V sigmoid(V x) {
  return cut(inverse(add(set(1), bounded_exp(within(set(-87), set(87), sub(set(0), x))))), x, set(-87));
}

// (e^2x - 1) / (e^2x + 1), precise near 0 too.
FN V tanh(V x) {
  const V y = bounded_expm1(within(set(-40), set(40), add(x, x)));
  return mul(y, inverse(add(y, set(2))));
}

// 2^n in two factors, so that it overflows to infinity where it should.
FN V expm1(V x) {
  x = within(set(-87), set(90), x);
  const V n = whole(x), f = rest(x, n), half = round(mul(n, set(0.5f)));
  const V e = mul(pow2(half), pow2(sub(n, half)));
  return fma(mul(pow2(half), small_expm1(f)), pow2(sub(n, half)), sub(e, set(1)));
}

// As expm1. Below -104 nothing is left.
FN V exp(V x) {
  x = within(set(-104), set(90), x);
  const V n = whole(x), half = round(mul(n, set(0.5f))), e = pow2(sub(n, half));
  return mul(pow2(half), fma(e, small_expm1(rest(x, n)), e));
}

// x = 2^e (1 + f) with 1 + f between sqrt(1/2) and sqrt(2): the polynomial of Cephes' logf. 1/0 and 0/0 make the limits.
FN V log(V x) {
  const V tiny = greater(set(1.17549435e-38f), x), y = mul(x, fma(tiny, set(8388607), set(1)));
  const V large = greater(mantissa(y), set(1.41421356f));
  const V e = add(fnma(tiny, set(23), exponent(y)), large);
  const V f = fma(mantissa(y), fnma(large, set(0.5f), set(1)), set(-1)), z = mul(f, f);
  V p = set(7.0376836292e-2f);
  p = fma(p, f, set(-1.1514610310e-1f));
  p = fma(p, f, set(1.1676998740e-1f));
  p = fma(p, f, set(-1.2420140846e-1f));
  p = fma(p, f, set(1.4249322787e-1f));
  p = fma(p, f, set(-1.6668057665e-1f));
  p = fma(p, f, set(2.0000714765e-1f));
  p = fma(p, f, set(-2.4999993993e-1f));
  p = fma(p, f, set(3.3333331174e-1f));
  p = fma(e, set(-2.12194440e-4f), mul(mul(p, z), f));
  p = fma(e, set(0.693359375f), add(f, fnma(set(0.5f), z, p)));
  const V finite = greater(set(HUGE_VALF), x), positive = greater(x, set(0)), real = at_least(x, set(0));
  return mul(add(p, sub(div(set(1), finite), div(set(1), positive))), div(real, real));
}

// A NaN of either stays.
FN V maximum(V a, V b) { return mul(max(a, b), div(at_least(a, a), at_least(a, a))); }
FN V minimum(V a, V b) { return mul(min(a, b), div(at_least(a, a), at_least(a, a))); }

FN V abs(V x) { return max(sub(set(0), x), x); }

// max(x, 0) + log(1 + y) with y = e^-|x|, as 2 artanh(y / (2 + y)).
FN V softplus(V x) {
  const V a = sub(set(0), abs(x)), y = cut(bounded_exp(max(set(-87), a)), a, set(-87));
  const V z = div(y, add(y, set(2))), w = mul(z, z);
  V p = set(2.f / 17);
  p = fma(p, w, set(2.f / 15));
  p = fma(p, w, set(2.f / 13));
  p = fma(p, w, set(2.f / 11));
  p = fma(p, w, set(2.f / 9));
  p = fma(p, w, set(2.f / 7));
  p = fma(p, w, set(2.f / 5));
  p = fma(p, w, set(2.f / 3));
  p = fma(p, w, set(2));
  return fma(p, z, max(set(0), x));
}

FN V inside(V low, V high, V x) { return mul(at_least(x, low), at_least(high, x)); }

FN double worse(double worst, float got, double want, double size);

// Largest relative error, scaled so that 2 units in the last place are as large as selftest allows.
double check_functions() {
  double worst = 0;
  float got[N];
#define CHECK(vector, expression)                                                             \
  store(got, vector);                                                                         \
  worst = worse(worst, got[0], expression, fabs(expression) * 4 + 1e-35);
  for (int k = -30000; k <= 30000; k++) {
    const float f = k < 0 ? -powf(1.0005f, static_cast<float>(-k) - 25000) : powf(1.0005f, static_cast<float>(k) - 25000);
    const double x = f;
    const V a = set(f);
    CHECK(tanh(a), ::tanh(x))
    CHECK(softplus(a), x > 0 ? x + log1p(::exp(-x)) : log1p(::exp(x)))
    if (f < 88) { CHECK(expm1(a), ::expm1(x)) }
    if (f > -86) { CHECK(sigmoid(a), 1 / (1 + ::exp(-x))) }
    if (f < 88) { CHECK(exp(a), ::exp(x)) }
    if (f > 0) { CHECK(log(a), ::log(x)) }
  }
  const float infinite = HUGE_VALF;
  CHECK(tanh(set(infinite)), 1.0)
  CHECK(tanh(set(-infinite)), -1.0)
  CHECK(sigmoid(set(infinite)), 1.0)
  store(got, add(sigmoid(set(-infinite)), softplus(set(-infinite))));
  if (got[0] != 0) worst = HUGE_VAL;
  CHECK(sub(set(0), inverse(add(set(1e-30f), expm1(set(-infinite))))), 1.0)
  store(got, expm1(set(infinite)));
  if (got[0] != infinite) worst = HUGE_VAL;
  store(got, softplus(set(infinite)));
  if (got[0] != infinite) worst = HUGE_VAL;
  CHECK(sigmoid(set(NAN)), static_cast<double>(NAN))
  CHECK(add(set(1), exp(set(-infinite))), 1.0)
  CHECK(maximum(set(2), set(-3)), 2.0)
  CHECK(minimum(set(2), set(-3)), -3.0)
  store(got, exp(set(infinite)));
  if (got[0] != infinite) worst = HUGE_VAL;
  store(got, log(set(infinite)));
  if (got[0] != infinite) worst = HUGE_VAL;
  store(got, log(set(0)));
  if (got[0] != -infinite) worst = HUGE_VAL;
  const V nans[] = {log(set(-1)), log(set(NAN)), exp(set(NAN)), maximum(set(NAN), set(1)), maximum(set(1), set(NAN)),
                    minimum(set(NAN), set(1)), minimum(set(1), set(NAN))};
  for (const V &nan : nans) CHECK(nan, static_cast<double>(NAN))
  CHECK(tanh(set(NAN)), static_cast<double>(NAN))
  CHECK(expm1(set(NAN)), static_cast<double>(NAN))
  CHECK(softplus(set(NAN)), static_cast<double>(NAN))
  CHECK(abs(set(NAN)), static_cast<double>(NAN))
  CHECK(abs(set(-3)), 3.0)
  CHECK(inside(set(-1), set(2), set(2)), 1.0)
  CHECK(add(set(1), inside(set(-1), set(2), set(2.5f))), 1.0)
  CHECK(add(set(1), inside(set(-1), set(2), set(NAN))), 1.0)
#undef CHECK
  return worst;
}
