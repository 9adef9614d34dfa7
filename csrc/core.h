#pragma once
// The C++ core seen from outside: plain pointers, and one table of functions for each instruction set.
//
// A walk is one layer in one direction over all steps. What a step computes is data: sections of instructions that
// program.py derives from the equations, on arrays that are numbered. No variant is known here.
#include <cstddef>
#include <cstdint>

namespace openlstm {

using Long = std::int64_t;

// How an array is found at a step: KINDS in sections.py.
enum Kind { TIME, CHUNK, PAIR, BEFORE, CARRY };

// (B, width) floats at each step: those of sequence b begin at b * row.
struct Array {
  float *base;
  Long time, row;     // floats from one step, and from one sequence, to the next
  float *first;       // of BEFORE and CARRY: what they hold before anything is there
  Long first_row;
  int kind, of, width;
};

// OPERATIONS in sections.py.
enum Code {
  COPY, ADD, SUB, MUL, DIV, FMA, FNMA, AFFINE, OVER, SIGMOID, TANH, RELU, NEGATIVE, EXPM1, ABS, SOFTPLUS, STEP, CLIP,
  INSIDE, CONSTANT, ACCUMULATE, EXP, LOG, MAXIMUM, MINIMUM, CODES
};

// Arrays are numbered from 0; the temporary k is -1 - k.
struct Operation {
  int code, to, a, b, c;
  float s, t;
};

enum { MAX_TARGETS = 4, MAX_SOURCES = 16, MAX_ARRAYS = 256, MAX_STATES = 8 };

// The unit u and the term k of a block of weights stand at u * unit + k * term.
struct Weight {
  const float *at;
  Long unit, term;
};

// How panels hold weights: WEIGHTS in plans.py. INT8 has one scale for each unit of each source and target.
enum Weights { FLOAT32, BFLOAT16, INT8 };

// Weights in the order in which a product reads them, for one instruction set; without panels, as they were given.
// Panels of `blocks` times N units follow one another; for each k a panel has N weights of each target of each block.
struct Matrix {
  void *panels;
  float *biases, *scales;  // (targets, width), (sources, targets, width)
  const Weight *weight;    // of source s and target g the one numbered s * targets + g
  int targets, sources, width, kind;
  int depth[MAX_SOURCES];  // the length of each sum
};

enum Form { POINTWISE, PRODUCT, NORM };

// What a compiler made of a pointwise section (compiled.py): rows b0..b1 and units u0..u1 of arrays found as in a step.
using Body = void (*)(float *const *at, const Long *row, int b0, int b1, int u0, int u1);

struct Section {
  int form, sync, width;
  int operations, sources, targets, adjoints;
  const Operation *operation;
  const int *source, *target, *accumulate, *adjoint;
  int matrix;
  Body body;  // null: the operations are interpreted
};

// What a step takes and what it gives: of a ragged walk the core fills `in` itself.
struct State {
  int in, out;
  const float *initial;
  Long initial_row;
  float *last;  // or null
  Long last_row;
};

// The gradient of a block of weights, (width of adjoint, width of source), or with source -1 of a bias.
struct Outer {
  int adjoint, source;
  float *to;
  Long row;
};

struct Walk {
  int time, batch, reverse, backward, chunk;
  const int *active;                  // sequences that step t has, the first ones; null: all, always
  const std::uint8_t *begin, *end;    // (time, batch): is t the first, or the last, step of a piece in walking order
  Array *array;
  int arrays, states, outers;
  State state[MAX_STATES];
  const Section *before, *loop, *after;
  int befores, loops, afters;
  const Matrix *matrix;
  const Outer *outer;
  float *temporaries;  // for each thread `temporary` floats
  Long temporary;
  float *rows;         // for each thread room for the sources of a product
  Long rows_room;
  int by_rows;         // threads share the sequences, and else the units
  void *barrier;
  const int *ahead;    // steps that are done of the walk that this one follows; null: none
  int *done;           // where to say how many of this one are; null: nowhere
};

enum { BLOCK = 512, DEPTH = 128 };  // floats in a temporary; terms in one chain of sums

struct Kernels {
  const char *isa;
  bool (*usable)();      // can this processor run the functions below
  int (*lanes)();        // floats in one vector
  double (*selftest)();  // largest relative error of the vector operations against plain scalar code
  Long (*size)(const Matrix &);  // weights in its panels
  void (*pack)(const Matrix &, int thread, int threads);
  Long (*workspace)(const Walk &);  // floats in `temporary`, without those of operations
  void (*walk)(const Walk &, int thread, int threads);
  std::uint64_t (*fingerprint)(const float *, Long);
  void (*draw)(float *, Long count, std::uint32_t rate, float value, std::uint64_t key);
};

extern const Kernels *const built[];  // best first; a null pointer ends it

// memory.cpp: at least so many bytes, and how many they are; what was taken goes back with that number.
float *take(std::size_t &bytes);
void give(float *, std::size_t bytes);

// threads.cpp
void parallel(int threads, void (*work)(void *, int thread, int threads), void *);
void meet(void *barrier, int threads);
void await(const int *done, int steps);  // until so many are
void announce(int *done, int steps);
struct Barrier {
  alignas(64) int waiting = 0;
  alignas(64) int round = 0;
};

}  // namespace openlstm
