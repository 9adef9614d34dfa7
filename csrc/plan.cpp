#include "plan.h"
#include "run.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

namespace openlstm {

static std::atomic<bool> watching{false};
void watch(bool on) { watching = on; }
bool watched() { return watching; }

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
               const std::vector<Longs> &biases, bool panels, int threads, int kind)
    : kernels(&chosen), addresses_(biases), biases_(static_cast<Long>(biases.size()) * width) {
  matrix.targets = static_cast<int>(biases.size());
  matrix.sources = static_cast<int>(depths.size());
  matrix.width = width;
  matrix.kind = kind;
  if (kind < FLOAT32 || kind > INT8 || (kind != FLOAT32 && !panels)) throw std::invalid_argument("Packed: panels hold no such weights");
  if (matrix.targets > MAX_TARGETS || matrix.sources > MAX_SOURCES || weights.size() != depths.size() * biases.size())
    throw std::invalid_argument("Packed: too many sources or targets");
  std::copy(depths.begin(), depths.end(), matrix.depth);
  for (const auto &[at, unit, term] : weights) weights_.push_back({pointer<const float>(at), unit, term});
  matrix.weight = weights_.data();
  matrix.biases = biases_.get();
  if (!panels) return;
  add_biases(matrix.biases);
  const int each = kind == FLOAT32 ? 1 : kind == BFLOAT16 ? 2 : 4;  // weights in the room of a float
  panels_ = std::make_unique<Floats>((kernels->size(matrix) + each - 1) / each);
  if (kind == INT8) scales_ = std::make_unique<Floats>(Long(matrix.sources) * matrix.targets * width), matrix.scales = scales_->get();
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
           const std::vector<std::tuple<int, int, Long>> &vectors, int temporaries, bool backward,
           const std::vector<Longs> &bodies)
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
  for (std::size_t part = 0; part < bodies.size(); part++)
    if (bodies.size() != sections.size() || bodies[part].size() != sections[part].size())
      throw std::invalid_argument("Plan: bodies are not those of its sections");
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
                              own.accumulate.data(), own.adjoints.data(), matrix, nullptr});
      const std::size_t place = parts_[part].size() - 1;
      if (!bodies.empty()) parts_[part].back().body = reinterpret_cast<Body>(static_cast<std::uintptr_t>(bodies[std::size_t(part)][place]));
    }
  }
}

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
