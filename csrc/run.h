#pragma once
// A task with its arrays in place: plan.cpp runs it once, stream.cpp one step after another.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "plan.h"
#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace openlstm {

template <class T>
T *pointer(Long address) { return reinterpret_cast<T *>(static_cast<std::uintptr_t>(address)); }
inline Long address(const float *p) { return static_cast<Long>(reinterpret_cast<std::uintptr_t>(p)); }

// While it lives, this thread takes numbers below 1.2e-38 for 0. Gradients that vanish pass through them on their way to
// 0, and each operation on one takes a hundred cycles and more. What the caller's thread does with them is as before.
class Flushing {
 public:
  Flushing(const Flushing &) = delete;
#if defined(__x86_64__) || defined(_M_X64)
  Flushing() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // results (FTZ) and operands (DAZ)
  ~Flushing() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
#elif defined(__aarch64__)
  Flushing() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
    set(before_ | 1u << 24);  // FZ: both
  }
  ~Flushing() { set(before_); }

 private:
  static void set(std::uint64_t to) { __asm__ volatile("msr fpcr, %0" : : "r"(to) : "memory"); }
  std::uint64_t before_;
#else
  Flushing() {}
  ~Flushing() {}
#endif
};

class Run {
 public:
  Run(const Kernels &chosen, int time, int batch, const Task &task, Long active)
      : plan_(*task.plan), kernels_(task.packed.empty() ? chosen : *task.packed.front()->kernels), inputs_(task.given), arrays_(plan_.arrays_), outers_(plan_.outers_) {
    const std::size_t each = plan_.backward_ ? 6 : 4;
    const Longs &ends = task.ends;
    if (ends.size() != each * plan_.states_.size()) throw std::invalid_argument("run: the states do not fit this plan");
    for (std::size_t part = 0; part + 2 < each; part += 2)
      for (std::size_t k = part; k < ends.size(); k += each) inputs_.insert(inputs_.end(), {ends[k], 0, ends[k + 1]});
    inputs_.insert(inputs_.end(), task.masks.begin(), task.masks.end());
    for (const Longs *addresses : {&task.weights, &task.gradients})
      for (Long at : *addresses) inputs_.insert(inputs_.end(), {at, 0, 0});
    if (Long(inputs_.size()) < 3 * plan_.inputs_) throw std::invalid_argument("run: the inputs do not fit this plan");
    for (const Packed *p : task.packed) {
      matrices_.push_back(p->matrix);
      size_ += kernels_.size(p->matrix), widest_ = std::max(widest_, p->matrix.width);
      if (p->matrix.panels) continue;
      biases_.push_back(std::make_unique<Floats>(Long(p->matrix.targets) * p->matrix.width));
      matrices_.back().biases = biases_.back()->get();
      p->add_biases(biases_.back()->get());
    }
    for (std::size_t k = 0; k < arrays_.size(); k++) {
      const Place &place = plan_.places_[k];
      if (place.input < 0) continue;
      Array &array = arrays_[k];
      float *base = pointer<float>(inputs_[3 * place.input]);
      if (array.kind == BEFORE || array.kind == CARRY) {
        array.first = base, array.first_row = inputs_[3 * place.input + 2];
        continue;
      }
      array.base = base + place.offset + place.scaled * time * batch;
      array.row = place.own ? array.width : inputs_[3 * place.input + 2];
      array.time = place.own ? Long(batch) * array.width : inputs_[3 * place.input + 1];
    }
    for (std::size_t k = 0; k < outers_.size(); k++)
      outers_[k].to = pointer<float>(inputs_[3 * plan_.gradients_[k].input]) + plan_.gradients_[k].offset;
    walk_.time = time, walk_.batch = batch, walk_.reverse = task.reverse, walk_.backward = plan_.backward_;
    walk_.active = pointer<const int>(active);
    walk_.begin = pointer<const std::uint8_t>(task.begin), walk_.end = pointer<const std::uint8_t>(task.end);
    walk_.array = arrays_.data(), walk_.arrays = int(arrays_.size());
    walk_.states = int(plan_.states_.size());
    for (std::size_t k = 0; k < plan_.states_.size(); k++) {
      const Long *last = &ends[each * k + each - 2], *first = last - 2;
      walk_.state[k] = {plan_.states_[k].in, plan_.states_[k].out, pointer<const float>(first[0]), first[1], pointer<float>(last[0]), last[1]};
    }
    walk_.before = plan_.parts_[0].data(), walk_.befores = int(plan_.parts_[0].size());
    walk_.loop = plan_.parts_[1].data(), walk_.loops = int(plan_.parts_[1].size());
    walk_.after = plan_.parts_[2].data(), walk_.afters = int(plan_.parts_[2].size());
    walk_.matrix = matrices_.data();
    walk_.outer = outers_.data(), walk_.outers = int(outers_.size());
    walk_.barrier = &barrier_;
  }
  Run(const Run &) = delete;

  // Multiplications in the products of one step, or a little more.
  double work() const { return double(walk_.batch) * double(size_); }
  // The most threads that can share the units.
  int pieces() const { return (widest_ + 4 * kernels_.lanes() - 1) / (4 * kernels_.lanes()); }
  // Do threads share sequences? That needs no meeting of theirs; sharing units reads each weight once.
  bool by_rows(int threads) const { return walk_.batch >= (size_ < 600000 ? 4 : 8) * threads || pieces() < threads; }

  // Says how the work is shared, and takes the memory for it. Returns the number of threads. `chained`: another run
  // waits for the steps of this one, or this one for another's.
  int share(int threads, bool chained = false) {
    if (walk_.time * work() < 100000) threads = 1;
    walk_.by_rows = by_rows(threads);
    threads = std::min(threads, walk_.by_rows ? walk_.batch : std::max(pieces(), walk_.batch >= threads ? threads : 1));
    if (!walk_.by_rows && pieces() < threads) walk_.by_rows = 1;
    const int rows = walk_.by_rows ? (walk_.batch + threads - 1) / threads : walk_.batch;
    walk_.chunk = std::max(1, std::min(walk_.time, 96 / std::max(rows, 1)));
    if (chained) walk_.chunk = std::min(walk_.chunk, std::max(6, walk_.time / 16));
    walk_.temporary = (std::max(kernels_.workspace(walk_), Long(plan_.temporaries_) * BLOCK) + 63) / 16 * 16;
    Long deepest = 0;
    for (const Matrix &m : matrices_) {
      Long depth = 0;
      for (int k = 0; k < m.sources; k++) depth += std::max(m.depth[k], 2);  // 8 bits: inputs in pairs, and their scale
      deepest = std::max(deepest, depth);
    }
    walk_.rows_room = (deepest * std::max(Long(rows) * walk_.chunk, Long(walk_.batch)) + 63) / 16 * 16;
    Long at = (walk_.temporary + walk_.rows_room) * threads;
    std::vector<std::pair<std::size_t, Long>> own;
    for (std::size_t k = 0; k < arrays_.size(); k++) {
      const Array &a = arrays_[k];
      if (plan_.places_[k].input >= 0 || (a.kind != TIME && a.kind != CHUNK && a.kind != PAIR)) continue;
      own.push_back({k, at});
      at += (Long(a.kind == PAIR ? 2 : a.kind == CHUNK ? walk_.chunk : walk_.time) * walk_.batch * a.width + 15) / 16 * 16;
    }
    memory_ = std::make_unique<Floats>(at, watched());
    walk_.temporaries = memory_->get(), walk_.rows = memory_->get() + walk_.temporary * threads;
    for (auto [k, place] : own) {
      Array &a = arrays_[k];
      a.base = memory_->get() + place, a.row = a.width, a.time = Long(walk_.batch) * a.width;
    }
    return threads;
  }
  // For a run of one step that is made again and again: where an input is now, a state before and after the step, and how
  // many of the sequences there are.
  void place(int input, const float *base) {
    for (std::size_t k = 0; k < arrays_.size(); k++)
      if (plan_.places_[k].input == input) arrays_[k].base = const_cast<float *>(base) + plan_.places_[k].offset;
  }
  void state(int k, const float *first, float *last) {
    walk_.state[k].initial = first, walk_.state[k].last = last;
    for (std::size_t i = 0; i < arrays_.size(); i++)
      if (plan_.places_[i].input == 3 + k) arrays_[i].first = const_cast<float *>(first);
  }
  void batch(int count) { walk_.batch = count; }
  void follow(Run &other) { walk_.ahead = &other.done_; }
  void announce() { walk_.done = &done_; }
  // The only door to the kernels of a walk, for every thread.
  void walk(int thread, int threads) const {
    const Flushing flushing;
    kernels_.walk(walk_, thread, threads);
  }

  void finish() const {
    memory_->check();
    for (auto [to, to_offset, from, from_offset, count] : plan_.copies_) {
      const float *source = pointer<const float>(inputs_[3 * from]) + from_offset;
      std::copy(source, source + count, pointer<float>(inputs_[3 * to]) + to_offset);
    }
    for (auto [array, input, offset] : plan_.vectors_) {
      float *to = pointer<float>(inputs_[3 * input]) + offset;
      const Array &from = arrays_[array];
      std::copy(from.base, from.base + from.width, to);
      for (int b = 1; b < walk_.batch; b++)
        for (int u = 0; u < from.width; u++) to[u] += from.base[b * from.row + u];
    }
  }

 private:
  const Plan &plan_;
  const Kernels &kernels_;
  Longs inputs_;
  std::vector<Array> arrays_;
  std::vector<Outer> outers_;
  std::vector<Matrix> matrices_;
  std::vector<std::unique_ptr<Floats>> biases_;
  std::unique_ptr<Floats> memory_;
  Long size_ = 0;
  int widest_ = 1;
  Walk walk_{};
  Barrier barrier_;
  int done_ = 0;
};

}  // namespace openlstm
