#pragma once
// The C++ core seen from outside: plain pointers, and one table of functions for each instruction set.

namespace openlstm {

struct Kernels {
  const char *isa;
  bool (*usable)();      // can this processor run the functions below
  int (*lanes)();        // floats in one vector
  double (*selftest)();  // largest relative error of the vector operations against plain scalar code
};

extern const Kernels *const built[];  // best first; a null pointer ends it

}  // namespace openlstm
