// For tests: loads each file that it is given, runs a few steps where it can, and prints a line for each.
#include <cstdio>
#include <vector>

#include "openlstm.h"

int main(int count, char **paths) {
  for (int k = 1; k < count; k++) {
    char message[500];
    openlstm_stream *stream = openlstm_load(paths[k], 3, 1, message, sizeof message);
    if (!stream) {
      std::printf("refused: %s\n", message);
      continue;
    }
    std::vector<float> x(static_cast<std::size_t>(3 * openlstm_inputs(stream)), 1.f), y(static_cast<std::size_t>(3 * openlstm_outputs(stream)));
    const int which[2] = {2, 0};
    for (int t = 0; t < 3; t++) openlstm_step(stream, x.data(), y.data());
    openlstm_step_some(stream, x.data(), y.data(), which, 2);
    openlstm_free(stream);
    std::printf("ran\n");
  }
}
