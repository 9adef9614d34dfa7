// All instruction sets in one translation unit. kernels.inl is included once for each, inside a region that lets
// the compiler use that set and no other. Headers come first, outside every region, so that nothing inline from
// them is ever compiled for a newer processor than the baseline.
#include "core.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(_MSC_VER)  // no regions there: baseline only
#define FN static __forceinline
#else
#define FN static inline __attribute__((always_inline))
#if defined(__x86_64__)
#define X86 1
#include <immintrin.h>
#elif defined(__aarch64__)
#define NEON 1
#include <arm_neon.h>
#endif
#endif

#define TEXT(x) #x
#define NAME(x) TEXT(x)
#if defined(__clang__)
#define REGION(features) _Pragma(TEXT(clang attribute push(__attribute__((target(features))), apply_to = function)))
#define END_REGION _Pragma("clang attribute pop")
#else
#define REGION(features) _Pragma("GCC push_options") _Pragma(TEXT(GCC target(features)))
#define END_REGION _Pragma("GCC pop_options")
#endif

#if X86
#define ISA avx512
#define ISA_AVX512 1
#define ISA_ROWS 6
namespace openlstm::ISA {
// __builtin_cpu_supports asks the operating system too: it must save the wide registers.
static bool usable() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}
}
REGION("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "kernels.inl"
END_REGION
#undef ISA_AVX512
#undef ISA_ROWS
#undef ISA

#define ISA avx2
#define ISA_AVX2 1
#define ISA_ROWS 3
namespace openlstm::ISA {
static bool usable() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
}
REGION("avx2,fma")
#include "kernels.inl"
END_REGION
#undef ISA_AVX2
#undef ISA_ROWS
#undef ISA
#endif

#if NEON  // every aarch64 processor has it: no region needed
#define ISA neon
#define ISA_NEON 1
#define ISA_ROWS 6
namespace openlstm::ISA {
static bool usable() { return true; }
}
#include "kernels.inl"
#undef ISA_NEON
#undef ISA_ROWS
#undef ISA
#endif

#define ISA baseline
#define ISA_ROWS 3
namespace openlstm::ISA {
static bool usable() { return true; }
}
#include "kernels.inl"
#undef ISA_ROWS
#undef ISA

namespace openlstm {
const Kernels *const built[] = {
#if X86
    &avx512::table, &avx2::table,
#endif
#if NEON
    &neon::table,
#endif
    &baseline::table, nullptr};
}
