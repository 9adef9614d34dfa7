#ifndef OPENLSTM_H
#define OPENLSTM_H
/* Streams in C and C++, without Python: a file that `Stream.export` wrote, run step by step.

   Compile the .cpp files of this folder, bind.cpp left out, as C++17 (see examples/stream.cpp), or let CMake do it:
   cmake -DOPENLSTM_PYTHON=OFF makes the library openlstm_stream. One stream object is for one thread at a time. */
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct openlstm_stream openlstm_stream;

/* So many streams through the model in a file, at their beginning. threads: at most, for one step. Where the file cannot
   be used this gives NULL, and one sentence in `message`, which has room for so many bytes. */
openlstm_stream *openlstm_load(const char *path, int streams, int threads, char *message, size_t room);
void openlstm_free(openlstm_stream *);

/* Numbers of one step: what it reads (for a model that looks symbols up: 1, a whole number from 0 on) and gives. */
int openlstm_inputs(const openlstm_stream *);
int openlstm_outputs(const openlstm_stream *);
int openlstm_streams(const openlstm_stream *);

/* One step of all streams: x (streams, inputs), y (streams, outputs). Memory is taken at loading alone. A model that
   forecasts a series gives NaN for values that its transform does not take, such as the logarithm of 0. */
void openlstm_step(openlstm_stream *, const float *x, float *y);
/* One step of `count` streams, whose numbers are in `which`, each at most once: x and y have a row for each. */
void openlstm_step_some(openlstm_stream *, const float *x, float *y, const int *which, int count);
/* Puts all streams back to their beginning. */
void openlstm_reset(openlstm_stream *);

/* Where all streams are, as so many numbers: kept and given back, they go on with the same bits. */
size_t openlstm_state_size(const openlstm_stream *);
void openlstm_get_state(const openlstm_stream *, float *state);
void openlstm_set_state(openlstm_stream *, const float *state);

/* The instruction set in use: "avx512", "avx2", "neon" or "baseline". */
const char *openlstm_isa(void);

#ifdef __cplusplus
}
#endif
#endif
