#include "plan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

namespace openlstm {

static std::atomic<bool> watching{false};
void watch(bool on) { watching = on; }
bool watched() { return watching; }

template <class T>
static T *pointer(Long address) { return reinterpret_cast<T *>(static_cast<std::uintptr_t>(address)); }
static Long address(const float *p) { return static_cast<Long>(reinterpret_cast<std::uintptr_t>(p)); }

Floats::Floats(Long count, bool watched)
    : count_(count), guard_(watched ? 64 : 0), bytes_(static_cast<std::size_t>(count + 2 * guard_) * sizeof(float) + 64), data_(take(bytes_)) {
  if (!watched) return;
  std::fill(data_, data_ + count + 2 * guard_, NAN);
  std::fill(data_, data_ + guard_, 77.f), std::fill(get() + count, get() + count + guard_, 77.f);
}

void Floats::check() const {
  for (Long k = 0; k < guard_; k++)
    if (data_[k] != 77.f || get()[count_ + k] != 77.f) throw std::runtime_error("the core wrote outside its own memory");
}

Packed::Packed(const Kernels &chosen, int width, const Ints &depths, const std::vector<std::tuple<Long, Long, Long>> &weights,
               const std::vector<Longs> &biases, bool panels, int threads)
    : kernels(&chosen), addresses_(biases), biases_(static_cast<Long>(biases.size()) * width) {
  matrix.targets = static_cast<int>(biases.size());
  matrix.sources = static_cast<int>(depths.size());
  matrix.width = width;
  if (matrix.targets > MAX_TARGETS || matrix.sources > MAX_SOURCES || weights.size() != depths.size() * biases.size())
    throw std::invalid_argument("Packed: too many sources or targets");
  std::copy(depths.begin(), depths.end(), matrix.depth);
  for (const auto &[at, unit, term] : weights) weights_.push_back({pointer<const float>(at), unit, term});
  matrix.weight = weights_.data();
  matrix.biases = biases_.get();
  if (!panels) return;
  add_biases(matrix.biases);
  panels_ = std::make_unique<Floats>(kernels->size(matrix));
  matrix.panels = panels_->get();
  parallel(kernels->size(matrix) > 100000 ? threads : 1, [](void *p, int thread, int count) {
    const Packed &own = *static_cast<Packed *>(p);
    own.kernels->pack(own.matrix, thread, count);
  }, this);
}

void Packed::add_biases(float *to) const {
  for (int g = 0; g < matrix.targets; g++)
    for (int u = 0; u < matrix.width; u++) {
      float sum = 0;
      for (Long at : addresses_[g]) sum += pointer<const float>(at)[u];
      to[Long(g) * matrix.width + u] = sum;
    }
}

Plan::Plan(const std::vector<std::tuple<int, int, int>> &arrays, const std::vector<std::tuple<int, Long, Long, bool>> &places,
           const std::vector<std::vector<SectionData>> &sections, const std::vector<std::pair<int, int>> &states,
           const std::vector<std::tuple<int, int, int, Long, Long>> &outers,
           const std::vector<std::tuple<int, Long, int, Long, Long>> &copies,
           const std::vector<std::tuple<int, int, Long>> &vectors, int temporaries, bool backward)
    : copies_(copies), vectors_(vectors), temporaries_(temporaries), backward_(backward) {
  for (auto [kind, of, width] : arrays) arrays_.push_back({nullptr, 0, 0, nullptr, 0, kind, of, width});
  for (auto [input, offset, scaled, own] : places) places_.push_back({input, offset, scaled, own}), inputs_ = std::max(inputs_, input + 1);
  for (auto [in, out] : states) states_.push_back({in, out, nullptr, 0, nullptr, 0});
  for (auto [adjoint, source, input, offset, row] : outers) {
    outers_.push_back({adjoint, source, nullptr, row});
    gradients_.push_back({input, offset, 0, false}), inputs_ = std::max(inputs_, input + 1);
  }
  if (arrays.size() > MAX_ARRAYS || states.size() > MAX_STATES || sections.size() != 3 || places.size() != arrays.size())
    throw std::invalid_argument("Plan: too many arrays or states");
  for (int part = 0; part < 3; part++) {
    for (const SectionData &data : sections[part]) {
      data_.push_back(std::make_unique<Owned>());
      Owned &own = *data_.back();
      const auto &[form, sync, width, operations, numbers, sources, targets, accumulate, adjoints, matrix] = data;
      for (std::size_t k = 0; k < operations.size(); k++) {
        auto [code, to, a, b, c] = operations[k];
        if (code < 0 || code >= CODES) throw std::invalid_argument("Plan: unknown operation");
        own.operations.push_back({code, to, a, b, c, numbers[k].first, numbers[k].second});
      }
      own.sources = sources, own.targets = targets, own.accumulate = accumulate, own.adjoints = adjoints;
      parts_[part].push_back({form, sync, width, int(operations.size()), int(sources.size()), int(targets.size()),
                              int(adjoints.size()), own.operations.data(), own.sources.data(), own.targets.data(),
                              own.accumulate.data(), own.adjoints.data(), matrix});
    }
  }
}

// A task with its arrays in place.
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
      for (int k = 0; k < m.sources; k++) depth += m.depth[k];
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
    memory_ = std::make_unique<Floats>(at, watching);
    walk_.temporaries = memory_->get(), walk_.rows = memory_->get() + walk_.temporary * threads;
    for (auto [k, place] : own) {
      Array &a = arrays_[k];
      a.base = memory_->get() + place, a.row = a.width, a.time = Long(walk_.batch) * a.width;
    }
    return threads;
  }
  void follow(Run &other) { walk_.ahead = &other.done_; }
  void announce() { walk_.done = &done_; }
  void walk(int thread, int threads) const { kernels_.walk(walk_, thread, threads); }

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

// Is it quicker to give each task to one thread, a layer running behind the one below it, than to share every task
// among all threads? Where sequences are shared little is gained. Where units are, threads meet twice a step or more.
static bool apart(const std::vector<std::unique_ptr<Run>> &runs, int time, int batch, int threads) {
  const double MEETING = 20000;  // multiplications in the time in which threads meet
  const int count = int(runs.size());
  if (threads < 2 || count < 2 || time < 2) return false;
  double shared = 0, alone = 0, most = 0;
  for (const auto &run : runs) {
    const bool rows = run->by_rows(threads);
    const int team = time * run->work() < 100000 ? 1 : std::min(threads, rows ? batch : run->pieces());
    shared += run->work() / team + (rows || team < 2 ? 0 : 2 * MEETING);
    most = std::max(most, run->work()), alone += run->work();
  }
  return time * alone >= 100000 && std::max(most * ((count + threads - 1) / threads), alone / threads) < shared;
}

void run(const Kernels &chosen, int time, int batch, int threads, const std::vector<Task> &tasks, bool chained, Long active) {
  std::vector<std::unique_ptr<Run>> runs;
  for (const Task &task : tasks) runs.push_back(std::make_unique<Run>(chosen, time, batch, task, active));
  if (apart(runs, time, batch, threads)) {
    for (std::size_t k = 0; k < runs.size(); k++) {
      runs[k]->share(1, chained);
      if (chained && k + 1 < runs.size()) runs[k]->announce();
      if (chained && k) runs[k]->follow(*runs[k - 1]);
    }
    // A thread's tasks come in their order, so that what a task waits for is done, or on its way.
    parallel(std::min(threads, int(runs.size())), [](void *p, int thread, int count) {
      auto &all = *static_cast<std::vector<std::unique_ptr<Run>> *>(p);
      for (std::size_t k = static_cast<std::size_t>(thread); k < all.size(); k += static_cast<std::size_t>(count)) all[k]->walk(0, 1);
    }, &runs);
    for (const auto &run : runs) run->finish();
    return;
  }
  for (auto &run : runs) {
    parallel(run->share(threads), [](void *p, int thread, int count) { static_cast<Run *>(p)->walk(thread, count); }, run.get());
    run->finish();
    run.reset();
  }
}

void Step::run(const Kernels &chosen, int batch, int threads, Long x, Long x_row, Long y, const Longs &before, const Longs &after) const {
  if (before.size() != sizes_.size() || after.size() != sizes_.size()) throw std::invalid_argument("Step.run: the states do not fit this stack");
  const Long room = Long(batch) * *std::max_element(widths_.begin(), widths_.end());
  Floats hidden(layers_.size() > 1 ? 2 * room : 0, watching);
  Long walk = 0;
  for (std::size_t layer = 0; layer < layers_.size(); layer++) {
    const int width = widths_[layer];
    const Long to = layer + 1 == layers_.size() ? y : address(hidden.get() + Long(layer % 2) * room);
    for (const auto &[plan, packed, weights] : layers_[layer]) {
      Longs ends;
      for (std::size_t k = 0; k < sizes_.size(); k++) {
        const Long place = walk * batch * sizes_[k] * Long(sizeof(float));
        ends.insert(ends.end(), {before[k] + place, sizes_[k], after[k] + place, sizes_[k]});
      }
      Run run(chosen, 1, batch, {plan, false, packed, {x, 0, x_row, to, 0, width, 0, 0, 0}, ends, {}, weights, {}, 0, 0}, 0);
      parallel(run.share(threads), [](void *p, int thread, int count) { static_cast<Run *>(p)->walk(thread, count); }, &run);
      run.finish();
      walk++;
    }
    x = to, x_row = width;
  }
  hidden.check();
}

std::uint64_t fingerprint(const Kernels &kernels, const std::vector<std::pair<Long, Long>> &arrays, int threads) {
  struct Job { const Kernels &k; const std::vector<std::pair<Long, Long>> &arrays; std::vector<std::uint64_t> found; } job{kernels, arrays, std::vector<std::uint64_t>(arrays.size())};
  Long total = 0;
  for (auto [at, count] : arrays) total += count;
  parallel(total > 500000 ? threads : 1, [](void *p, int thread, int count) {
    Job &j = *static_cast<Job *>(p);
    for (std::size_t k = static_cast<std::size_t>(thread); k < j.arrays.size(); k += static_cast<std::size_t>(count))
      j.found[k] = j.k.fingerprint(pointer<const float>(j.arrays[k].first), j.arrays[k].second);
  }, &job);
  std::uint64_t all = 0;
  for (std::uint64_t one : job.found) all = (all ^ one) * 0x9E3779B97F4A7C15ull, all ^= all >> 29;
  return all;
}

// The whole range is 2^32, which has no 32 bits: there everything is `value`.
void draw(const Kernels &kernels, Long at, Long count, double probability, float value, std::uint64_t key) {
  const double rate = std::round(probability * 4294967296.0);
  float *to = pointer<float>(at);
  if (rate >= 4294967296.0) std::fill(to, to + count, value);
  else kernels.draw(to, count, static_cast<std::uint32_t>(rate), value, key);
}

}  // namespace openlstm
