#pragma once
// Programs with their sizes, weights in a kernel's order, and runs of them. Addresses are numbers, as Python gives them.
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core.h"

namespace openlstm {

using Ints = std::vector<int>;
using Longs = std::vector<Long>;

// Floats that begin at a cache line. If `watched` they are NaN at first, and words around them are looked after.
class Floats {
 public:
  explicit Floats(Long count, bool watched = false);
  Floats(const Floats &) = delete;
  ~Floats() { give(data_, bytes_); }
  float *get() const { return data_ + guard_; }
  void check() const;  // throws where a word around them has changed

 private:
  Long count_, guard_;
  std::size_t bytes_;
  float *data_;
};

// Weights in a kernel's order: see Matrix.
class Packed {
 public:
  // weights: (address, floats between units, floats between terms) for each source and target. biases: addresses that
  // are added up for each target. Without `panels` nothing is copied, and the addresses are read at every run. kind: how
  // panels hold weights.
  Packed(const Kernels &, int width, const Ints &depths, const std::vector<std::tuple<Long, Long, Long>> &weights,
         const std::vector<Longs> &biases, bool panels, int threads, int kind = FLOAT32);
  void add_biases(float *to) const;
  const Kernels *kernels;
  Matrix matrix{};

 private:
  std::vector<Longs> addresses_;
  Floats biases_;
  std::unique_ptr<Floats> panels_, scales_;
  std::vector<Weight> weights_;
};

// form, sync, width, (code, to, a, b, c)s, (s, t)s, sources, targets, accumulate, adjoints, matrix
using SectionData = std::tuple<int, int, int, std::vector<std::tuple<int, int, int, int, int>>,
                               std::vector<std::pair<float, float>>, Ints, Ints, Ints, Ints, int>;

// Where an array is: `offset` floats into the input of that number, and `scaled` more for each step of each sequence;
// with rows of its own that follow one another, or (`own` false) with the input's strides. Input -1: the core's own.
struct Place {
  int input;
  Long offset, scaled;
  bool own;
};

// A program of program.py for one layer's sizes.
class Plan {
 public:
  Plan(const Plan &) = delete;
  // bodies: for each section before, in and after the loop the address of a Body, or 0; empty: none has one.
  // copies: gradients that are the same as another: (its input, offset), (the other's), floats. vectors: gradients that
  // are an array of the last step summed over the sequences: (array, input, offset).
  Plan(const std::vector<std::tuple<int, int, int>> &arrays, const std::vector<std::tuple<int, Long, Long, bool>> &places,
       const std::vector<std::vector<SectionData>> &sections, const std::vector<std::pair<int, int>> &states,
       const std::vector<std::tuple<int, int, int, Long, Long>> &outers,
       const std::vector<std::tuple<int, Long, int, Long, Long>> &copies,
       const std::vector<std::tuple<int, int, Long>> &vectors, int temporaries, bool backward,
       const std::vector<Longs> &bodies = {});

 private:
  friend class Run;
  struct Owned {
    std::vector<Operation> operations;
    Ints sources, targets, accumulate, adjoints;
  };
  std::vector<Array> arrays_;
  std::vector<State> states_;
  std::vector<Outer> outers_;
  std::vector<Place> places_, gradients_;
  std::vector<std::tuple<int, Long, int, Long, Long>> copies_;
  std::vector<std::tuple<int, int, Long>> vectors_;
  int inputs_ = 0;
  std::vector<std::unique_ptr<Owned>> data_;
  std::vector<Section> parts_[3];
  int temporaries_;
  bool backward_;
};

// What one run of a plan works on, as Plan in plans.py lists it. given, masks: address and strides in time and batch of
// each. ends: of each state addresses and strides of what comes before the first step, backward also of the gradient by
// the final state, and of where the result goes. weights, gradients: addresses. begin, end: addresses, or 0.
struct Task {
  const Plan *plan;
  bool reverse;
  std::vector<const Packed *> packed;
  Longs given, ends, masks, weights, gradients;
  Long begin, end;
};

// Runs tasks of so many steps and sequences. `chained`: each reads at a step what the one before it gives there; else
// none reads what another gives. active: an address, or 0.
void run(const Kernels &, int time, int batch, int threads, const std::vector<Task> &, bool chained, Long active);

// One step of a stack of layers without gradients, for whom Python's own work would take longer than the core's. The
// weights are read where they are.
class Step {
 public:
  // layers: of each direction of each layer the plan, the weights as they are, and their addresses. widths: of each
  // layer's output. sizes: of each state.
  using Layers = std::vector<std::vector<std::tuple<const Plan *, std::vector<const Packed *>, Longs>>>;
  Step(const Layers &layers, const Ints &widths, const Longs &sizes) : layers_(layers), widths_(widths), sizes_(sizes) {}
  // Addresses: x, y, and the states before and after the step, which are (directions of all layers, batch, size).
  void run(const Kernels &, int batch, int threads, Long x, Long x_row, Long y, const Longs &before, const Longs &after) const;

 private:
  Layers layers_;
  Ints widths_;
  Longs sizes_;
};

std::uint64_t fingerprint(const Kernels &, const std::vector<std::pair<Long, Long>> &arrays, int threads);
void draw(const Kernels &, Long address, Long count, double probability, float value, std::uint64_t key);
void watch(bool on);  // tests: fill own memory with NaN, and look whether it was left
bool watched();

}  // namespace openlstm
