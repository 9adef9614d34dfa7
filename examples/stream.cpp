// Runs a model that was exported for C++, without Python.
//
//   python -c "import openlstm; openlstm.Stream.load('model.safetensors').export('model.stream')"
//   cmake -S . -B build/stream -DOPENLSTM_PYTHON=OFF -DCMAKE_BUILD_TYPE=Release && cmake --build build/stream
//   build/stream/example_stream model.stream < numbers.txt
//
// Reads the numbers of one step after another from its input, and prints what the model says at each.
#include <cstdio>
#include <vector>

#include "openlstm.h"

int main(int count, char **arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s MODEL < NUMBERS\n", arguments[0]);
    return 2;
  }
  char message[500];
  openlstm_stream *stream = openlstm_load(arguments[1], 1, 1, message, sizeof message);
  if (!stream) {
    std::fprintf(stderr, "Error: %s.\n", message);
    return 2;
  }
  std::vector<float> x(static_cast<std::size_t>(openlstm_inputs(stream))), y(static_cast<std::size_t>(openlstm_outputs(stream)));
  std::size_t have = 0;
  while (std::scanf("%f", &x[have]) == 1) {
    if (++have < x.size()) continue;
    openlstm_step(stream, x.data(), y.data());
    for (std::size_t k = 0; k < y.size(); k++) std::printf(k ? " %.9g" : "%.9g", double(y[k]));
    std::printf("\n");
    have = 0;
  }
  openlstm_free(stream);
  if (have) std::fprintf(stderr, "Error: the input ends within a step of %zu numbers.\n", x.size());
  return have ? 2 : 0;
}
