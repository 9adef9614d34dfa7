// One vector of N floats, as wide as the region's instruction set. No include guard: kernels.inl includes this
// file once for each set. Every operation here is also in selftest().
//   part_*   only the first n lanes, 0 <= n <= N: the others load as 0 and are not stored
//   min max  a NaN in b stays, so a clip written max(low, x) keeps the NaN of x
//   round    to nearest, halves to even, for |a| < 2^22
//   pow2     2^a for whole a in -126..127
//   exponent, mantissa  e and m of a = m 2^e with 1 <= m < 2, for a >= 2^-126
//   inverse  1/a for 2^-126 <= |a| < 2^126, to a rounding or two
//   greater  1 where a > b, else 0; at_least with >=
//   cut      a, but 0 where x < low
//   transpose  turns N rows into N columns
//   prefetch asks for the line at p to be brought to the second cache
//   widen    N weights of 16 bits (the upper half of a float)
//   pairs    N pairs of whole numbers of 8 bits; pair k is for lane k
//   dots     in each lane sum + w[0] x[0] + w[1] x[1], exactly: x is one pair of whole numbers of 16 bits for all lanes
//   floats   N sums as floats
//   hold     a itself, in a register: GCC would load it anew at each use
#if ISA_AVX512
typedef __m512 V;
enum { N = 16 };
FN __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
FN V load(const float *p) { return _mm512_loadu_ps(p); }
FN void store(float *p, V a) { _mm512_storeu_ps(p, a); }
FN V part_load(const float *p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
FN void part_store(float *p, V a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
FN V set(float a) { return _mm512_set1_ps(a); }
FN V add(V a, V b) { return _mm512_add_ps(a, b); }
FN V sub(V a, V b) { return _mm512_sub_ps(a, b); }
FN V mul(V a, V b) { return _mm512_mul_ps(a, b); }
FN V div(V a, V b) { return _mm512_div_ps(a, b); }
FN V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
FN V min(V a, V b) { return _mm512_min_ps(a, b); }
FN V max(V a, V b) { return _mm512_max_ps(a, b); }
FN V round(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FN V pow2(V a) {
  __m512i bits = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
}
FN V exponent(V a) { return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(_mm512_castps_si512(a), 23), _mm512_set1_epi32(127))); }
FN V mantissa(V a) {
  const __m512i bits = _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffff));
  return _mm512_castsi512_ps(_mm512_or_si512(bits, _mm512_set1_epi32(0x3f800000)));
}
FN float sum(V a) { return _mm512_reduce_add_ps(a); }
FN V inverse(V a) {  // a division takes 16 cycles
  V r = _mm512_rcp14_ps(a);
  return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(1)), r);
}
FN void transpose(V (&r)[N]) {
  V t[N], u[N];
  for (int i = 0; i < N; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < N; i++) {  // in each quarter l of u[4 i + j]: the column 4 l + j of the rows 4 i to 4 i + 3
    const __m512d a = _mm512_castps_pd(t[i / 4 * 4 + i % 4 / 2]), b = _mm512_castps_pd(t[i / 4 * 4 + i % 4 / 2 + 2]);
    u[i] = _mm512_castpd_ps(i % 2 ? _mm512_unpackhi_pd(a, b) : _mm512_unpacklo_pd(a, b));
  }
  for (int j = 0; j < 4; j++) {
    const V even = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88), odd = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd);
    const V more = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88), last = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
    r[j] = _mm512_shuffle_f32x4(even, more, 0x88);
    r[4 + j] = _mm512_shuffle_f32x4(odd, last, 0x88);
    r[8 + j] = _mm512_shuffle_f32x4(even, more, 0xdd);
    r[12 + j] = _mm512_shuffle_f32x4(odd, last, 0xdd);
  }
}
FN V greater(V a, V b) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), _mm512_set1_ps(1)); }
FN V at_least(V a, V b) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), _mm512_set1_ps(1)); }
FN V cut(V a, V x, V low) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, low, _CMP_NLT_UQ), a); }
FN V widen(const std::uint16_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))), 16));
}
typedef __m512i Sums;
typedef __m512i Pairs;
FN Sums nothing() { return _mm512_setzero_si512(); }
FN Pairs pairs(const std::int8_t *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
FN Sums dots(Sums sum, Pairs w, const std::int16_t *x) {
  std::int32_t both;
  std::memcpy(&both, x, sizeof both);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(w, _mm512_set1_epi32(both)));
}
FN V floats(Sums a) { return _mm512_cvtepi32_ps(a); }
FN V hold(V a) { return a; }
#elif ISA_AVX2
typedef __m256 V;
enum { N = 8 };
FN __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FN V load(const float *p) { return _mm256_loadu_ps(p); }
FN void store(float *p, V a) { _mm256_storeu_ps(p, a); }
FN V part_load(const float *p, int n) { return _mm256_maskload_ps(p, first(n)); }
FN void part_store(float *p, V a, int n) { _mm256_maskstore_ps(p, first(n), a); }
FN V set(float a) { return _mm256_set1_ps(a); }
FN V add(V a, V b) { return _mm256_add_ps(a, b); }
FN V sub(V a, V b) { return _mm256_sub_ps(a, b); }
FN V mul(V a, V b) { return _mm256_mul_ps(a, b); }
FN V div(V a, V b) { return _mm256_div_ps(a, b); }
FN V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
FN V min(V a, V b) { return _mm256_min_ps(a, b); }
FN V max(V a, V b) { return _mm256_max_ps(a, b); }
FN V round(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FN V pow2(V a) {
  __m256i bits = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
}
FN V exponent(V a) { return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(a), 23), _mm256_set1_epi32(127))); }
FN V mantissa(V a) {
  const __m256i bits = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x3f800000)));
}
FN float sum(V a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
FN V inverse(V a) { return _mm256_div_ps(_mm256_set1_ps(1), a); }
FN void transpose(V (&r)[N]) {
  V t[N], u[N];
  for (int i = 0; i < N; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < N; i++) {
    const __m256d a = _mm256_castps_pd(t[i / 4 * 4 + i % 4 / 2]), b = _mm256_castps_pd(t[i / 4 * 4 + i % 4 / 2 + 2]);
    u[i] = _mm256_castpd_ps(i % 2 ? _mm256_unpackhi_pd(a, b) : _mm256_unpacklo_pd(a, b));
  }
  for (int j = 0; j < 4; j++) {
    r[j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
    r[4 + j] = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
  }
}
FN V greater(V a, V b) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), _mm256_set1_ps(1)); }
FN V at_least(V a, V b) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ), _mm256_set1_ps(1)); }
FN V cut(V a, V x, V low) { return _mm256_andnot_ps(_mm256_cmp_ps(x, low, _CMP_LT_OQ), a); }
FN V widen(const std::uint16_t *p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))), 16));
}
typedef __m256i Sums;
typedef __m256i Pairs;
FN Sums nothing() { return _mm256_setzero_si256(); }
FN Pairs pairs(const std::int8_t *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
FN Sums dots(Sums sum, Pairs w, const std::int16_t *x) {
  std::int32_t both;
  std::memcpy(&both, x, sizeof both);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(w, _mm256_set1_epi32(both)));
}
FN V floats(Sums a) { return _mm256_cvtepi32_ps(a); }
FN V hold(V a) {
  asm("" : "+x"(a));
  return a;
}
#elif ISA_NEON
typedef float32x4_t V;
enum { N = 4 };
FN V load(const float *p) { return vld1q_f32(p); }
FN void store(float *p, V a) { vst1q_f32(p, a); }
FN V set(float a) { return vdupq_n_f32(a); }
FN V add(V a, V b) { return vaddq_f32(a, b); }
FN V sub(V a, V b) { return vsubq_f32(a, b); }
FN V mul(V a, V b) { return vmulq_f32(a, b); }
FN V div(V a, V b) { return vdivq_f32(a, b); }
FN V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
FN V min(V a, V b) { return vminq_f32(a, b); }
FN V max(V a, V b) { return vmaxq_f32(a, b); }
FN V round(V a) { return vrndnq_f32(a); }
FN V pow2(V a) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127)), 23)); }
FN V exponent(V a) { return vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_f32(a), 23)), vdupq_n_s32(127))); }
FN V mantissa(V a) {
  const uint32x4_t bits = vandq_u32(vreinterpretq_u32_f32(a), vdupq_n_u32(0x7fffff));
  return vreinterpretq_f32_u32(vorrq_u32(bits, vdupq_n_u32(0x3f800000)));
}
FN float sum(V a) { return vaddvq_f32(a); }
FN V inverse(V a) { return vdivq_f32(vdupq_n_f32(1), a); }
FN V greater(V a, V b) { return vbslq_f32(vcgtq_f32(a, b), vdupq_n_f32(1), vdupq_n_f32(0)); }
FN V at_least(V a, V b) { return vbslq_f32(vcgeq_f32(a, b), vdupq_n_f32(1), vdupq_n_f32(0)); }
FN V cut(V a, V x, V low) { return vbslq_f32(vcltq_f32(x, low), vdupq_n_f32(0), a); }
FN V widen(const std::uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
typedef int32x4_t Sums;
typedef int16x8_t Pairs;
FN Sums nothing() { return vdupq_n_s32(0); }
FN Pairs pairs(const std::int8_t *p) { return vmovl_s8(vld1_s8(p)); }
FN Sums dots(Sums sum, Pairs w, const std::int16_t *x) {
  std::int32_t both;
  std::memcpy(&both, x, sizeof both);
  const int16x8_t each = vreinterpretq_s16_s32(vdupq_n_s32(both));
  const int32x4_t low = vmull_s16(vget_low_s16(w), vget_low_s16(each)), high = vmull_s16(vget_high_s16(w), vget_high_s16(each));
  return vaddq_s32(sum, vpaddq_s32(low, high));
}
FN V floats(Sums a) { return vcvtq_f32_s32(a); }
FN V hold(V a) { return a; }
#else
// Four lanes in plain C++, which compilers turn into the four lanes that nearly every processor has.
struct V { float lane[4]; };
enum { N = 4 };
#define EACH(expression) V r; for (int k = 0; k < N; k++) r.lane[k] = expression; return r;
FN V load(const float *p) { EACH(p[k]) }
FN void store(float *p, V a) { std::memcpy(p, a.lane, sizeof a); }
FN V set(float a) { EACH(a) }
FN V add(V a, V b) { EACH(a.lane[k] + b.lane[k]) }
FN V sub(V a, V b) { EACH(a.lane[k] - b.lane[k]) }
FN V mul(V a, V b) { EACH(a.lane[k] * b.lane[k]) }
FN V div(V a, V b) { EACH(a.lane[k] / b.lane[k]) }
FN V fma(V a, V b, V c) { EACH(a.lane[k] * b.lane[k] + c.lane[k]) }
FN V min(V a, V b) { EACH(a.lane[k] < b.lane[k] ? a.lane[k] : b.lane[k]) }
FN V max(V a, V b) { EACH(a.lane[k] > b.lane[k] ? a.lane[k] : b.lane[k]) }
FN V round(V a) { EACH((a.lane[k] + 12582912.f) - 12582912.f) }  // 1.5 * 2^23: its last bit is worth 1
FN V pow2(V a) {
  V r;
  for (int k = 0; k < N; k++) {
    std::uint32_t bits = static_cast<std::uint32_t>(static_cast<int>(a.lane[k]) + 127) << 23;
    std::memcpy(&r.lane[k], &bits, sizeof bits);
  }
  return r;
}
FN V exponent(V a) {
  V r;
  for (int k = 0; k < N; k++) {
    std::uint32_t bits;
    std::memcpy(&bits, &a.lane[k], sizeof bits);
    r.lane[k] = static_cast<float>(static_cast<int>(bits >> 23) - 127);
  }
  return r;
}
FN V mantissa(V a) {
  V r;
  for (int k = 0; k < N; k++) {
    std::uint32_t bits;
    std::memcpy(&bits, &a.lane[k], sizeof bits);
    bits = (bits & 0x7fffff) | 0x3f800000;
    std::memcpy(&r.lane[k], &bits, sizeof bits);
  }
  return r;
}
FN float sum(V a) { return (a.lane[0] + a.lane[1]) + (a.lane[2] + a.lane[3]); }
FN V inverse(V a) { EACH(1 / a.lane[k]) }
FN V greater(V a, V b) { EACH(a.lane[k] > b.lane[k] ? 1.f : 0.f) }
FN V at_least(V a, V b) { EACH(a.lane[k] >= b.lane[k] ? 1.f : 0.f) }
FN V cut(V a, V x, V low) { EACH(x.lane[k] < low.lane[k] ? 0.f : a.lane[k]) }
FN V widen(const std::uint16_t *p) {
  V r;
  for (int k = 0; k < N; k++) {
    const std::uint32_t bits = static_cast<std::uint32_t>(p[k]) << 16;
    std::memcpy(&r.lane[k], &bits, sizeof bits);
  }
  return r;
}
struct Sums { std::int32_t lane[N]; };
struct Pairs { std::int16_t lane[2 * N]; };
FN Sums nothing() { return Sums{}; }
FN Pairs pairs(const std::int8_t *p) {
  Pairs r;
  for (int k = 0; k < 2 * N; k++) r.lane[k] = p[k];
  return r;
}
FN Sums dots(Sums sum, Pairs w, const std::int16_t *x) {
  for (int k = 0; k < N; k++) sum.lane[k] += w.lane[2 * k] * x[0] + w.lane[2 * k + 1] * x[1];
  return sum;
}
FN V floats(Sums a) { EACH(static_cast<float>(a.lane[k])) }
FN V hold(V a) { return a; }
#undef EACH
#endif

#if defined(_MSC_VER)
FN void prefetch(const float *) {}
#else
FN void prefetch(const float *p) { __builtin_prefetch(p, 0, 2); }
#endif

FN V widen(const float *p) { return load(p); }
FN V fnma(V a, V b, V c) { return fma(sub(set(0), a), b, c); }

#if !ISA_AVX512 && !ISA_AVX2
FN void transpose(V (&r)[N]) {
  float rows[N][N], columns[N][N];
  for (int k = 0; k < N; k++) store(rows[k], r[k]);
  for (int k = 0; k < N; k++)
    for (int j = 0; j < N; j++) columns[k][j] = rows[j][k];
  for (int k = 0; k < N; k++) r[k] = load(columns[k]);
}
#endif

#if !ISA_AVX512 && !ISA_AVX2  // no masks there: through memory
FN V part_load(const float *p, int n) {
  float all[N] = {};
  std::memcpy(all, p, n * sizeof(float));
  return load(all);
}
FN void part_store(float *p, V a, int n) {
  float all[N];
  store(all, a);
  std::memcpy(p, all, n * sizeof(float));
}
#endif
