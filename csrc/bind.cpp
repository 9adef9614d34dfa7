// The Python module openlstm._core. The only file that knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "core.h"

namespace nb = nanobind;
using namespace openlstm;

static std::vector<std::string> names(bool only_usable) {
  std::vector<std::string> found;
  for (const Kernels *const *k = openlstm::built; *k; k++)
    if (!only_usable || (*k)->usable()) found.push_back((*k)->isa);
  return found;
}

static std::string listed(const std::vector<std::string> &words) {
  std::string text;
  for (const std::string &word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

// The table called `isa`. For the message: where the name came from, and what to do about it.
static const Kernels &find(const std::string &isa, const std::string &source, const std::string &remedy) {
  std::string reason = "which this build does not have (it has " + listed(names(false)) + ")";
  for (const Kernels *const *k = openlstm::built; *k; k++) {
    if (isa != (*k)->isa) continue;
    if ((*k)->usable()) return **k;
    reason = "which this processor cannot run";
  }
  throw std::runtime_error(source + " is '" + isa + "', " + reason + ". Expected one of: " + listed(names(true)) +
                           ". " + remedy);
}

static std::atomic<const Kernels *> in_use{nullptr};

// The set in use: at first what the environment says, or the best.
static const Kernels &chosen() {
  if (const Kernels *k = in_use) return *k;
  // Through os.environ: C's getenv is not safe while another thread changes the environment.
  nb::object forced = nb::module_::import_("os").attr("environ").attr("get")("OPENLSTM_ISA", "");
  std::string isa = nb::cast<std::string>(forced);
  const Kernels &k = find(isa.empty() ? names(true).front() : isa, "The environment variable OPENLSTM_ISA",
                          "Set it to one of these, or unset it to use the best.");
  in_use = &k;
  return k;
}

// Without the GIL while it lives. A daemon thread that asks for it back while the interpreter ends is unwound by force
// (before Python 3.14), which no function of nanobind lets pass: such a thread stops here instead, as later Pythons do.
class Released {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  Released(const Released &) = delete;
  ~Released() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

 private:
  PyThreadState *state_;
};

// Floats that begin at a cache line. If `watched` they are NaN at first, and words around them are looked after.
class Floats {
 public:
  explicit Floats(Long count, bool watched = false)
      : count_(count), guard_(watched ? 64 : 0), bytes_(static_cast<std::size_t>(count + 2 * guard_) * sizeof(float) + 64), data_(take(bytes_)) {
    if (!watched) return;
    std::fill(data_, data_ + count + 2 * guard_, NAN);
    std::fill(data_, data_ + guard_, 77.f), std::fill(get() + count, get() + count + guard_, 77.f);
  }
  Floats(const Floats &) = delete;
  ~Floats() { give(data_, bytes_); }
  float *get() const { return data_ + guard_; }
  void check() const {
    for (Long k = 0; k < guard_; k++)
      if (data_[k] != 77.f || get()[count_ + k] != 77.f) throw std::runtime_error("the core wrote outside its own memory");
  }

 private:
  Long count_, guard_;
  std::size_t bytes_;
  float *data_;
};

static std::atomic<bool> watching{false};  // tests: fill own memory with NaN, and look whether it was left

using Ints = std::vector<int>;
using Longs = std::vector<Long>;

template <class T>
static T *pointer(Long address) { return reinterpret_cast<T *>(static_cast<std::uintptr_t>(address)); }

// Weights in a kernel's order: see Matrix.
class Packed {
 public:
  // weights: (address, floats between units, floats between terms) for each source and target. biases: addresses that
  // are added up for each target. Without `panels` nothing is copied, and the addresses are read at every run.
  Packed(int width, const Ints &depths, const std::vector<std::tuple<Long, Long, Long>> &weights,
         const std::vector<Longs> &biases, bool panels, int threads)
      : kernels(&chosen()), addresses_(biases), biases_(static_cast<Long>(biases.size()) * width) {
    matrix.targets = static_cast<int>(biases.size());
    matrix.sources = static_cast<int>(depths.size());
    matrix.width = width;
    if (matrix.targets > MAX_TARGETS || matrix.sources > MAX_SOURCES || weights.size() != depths.size() * biases.size())
      throw std::invalid_argument("Packed: too many sources or targets");
    std::copy(depths.begin(), depths.end(), matrix.depth);
    for (const auto &[address, unit, term] : weights) weights_.push_back({pointer<const float>(address), unit, term});
    matrix.weight = weights_.data();
    matrix.biases = biases_.get();
    if (!panels) return;
    add_biases(matrix.biases);
    panels_ = std::make_unique<Floats>(kernels->size(matrix));
    matrix.panels = panels_->get();
    Released released;
    parallel(kernels->size(matrix) > 100000 ? threads : 1, [](void *p, int thread, int count) {
      const Packed &own = *static_cast<Packed *>(p);
      own.kernels->pack(own.matrix, thread, count);
    }, this);
  }
  void add_biases(float *to) const {
    for (int g = 0; g < matrix.targets; g++)
      for (int u = 0; u < matrix.width; u++) {
        float sum = 0;
        for (Long address : addresses_[g]) sum += pointer<const float>(address)[u];
        to[Long(g) * matrix.width + u] = sum;
      }
  }
  const Kernels *kernels;
  Matrix matrix{};

 private:
  std::vector<Longs> addresses_;
  Floats biases_;
  std::unique_ptr<Floats> panels_;
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
  // copies: gradients that are the same as another: (its input, offset), (the other's), floats. vectors: gradients that
  // are an array of the last step summed over the sequences: (array, input, offset).
  Plan(const std::vector<std::tuple<int, int, int>> &arrays, const std::vector<std::tuple<int, Long, Long, bool>> &places,
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

  // What Plan in plans.py lists as inputs, in its order. given, masks: address and strides in time and batch of each.
  // ends: of each state addresses and strides of what comes before the first step, backward also of the gradient by
  // the final state, and of where the result goes. weights, gradients: addresses. active, begin, end: addresses, or 0.
  void run(int time, int batch, bool reverse, int threads, const std::vector<const Packed *> &packed, Longs inputs,
           const Longs &ends, const Longs &masks, const Longs &weights, const Longs &gradients, Long active, Long begin,
           Long end) const {
    const Kernels &kernels = packed.empty() ? chosen() : *packed.front()->kernels;
    const std::size_t each = backward_ ? 6 : 4;
    if (ends.size() != each * states_.size()) throw std::invalid_argument("Plan.run: the states do not fit this plan");
    for (std::size_t part = 0; part + 2 < each; part += 2)
      for (std::size_t k = part; k < ends.size(); k += each) inputs.insert(inputs.end(), {ends[k], 0, ends[k + 1]});
    inputs.insert(inputs.end(), masks.begin(), masks.end());
    for (const Longs &addresses : {weights, gradients})
      for (Long address : addresses) inputs.insert(inputs.end(), {address, 0, 0});
    if (Long(inputs.size()) < 3 * inputs_) throw std::invalid_argument("Plan.run: the inputs do not fit this plan");
    Released released;
    std::vector<Array> arrays = arrays_;
    std::vector<Outer> outers = outers_;
    std::vector<Matrix> matrices;
    std::vector<std::unique_ptr<Floats>> biases;
    for (const Packed *p : packed) {
      matrices.push_back(p->matrix);
      if (p->matrix.panels) continue;
      biases.push_back(std::make_unique<Floats>(Long(p->matrix.targets) * p->matrix.width));
      matrices.back().biases = biases.back()->get();
      p->add_biases(biases.back()->get());
    }
    const Long all = Long(time) * batch;
    for (std::size_t k = 0; k < arrays.size(); k++) {
      const Place &place = places_[k];
      if (place.input < 0) continue;
      Array &array = arrays[k];
      float *base = pointer<float>(inputs[3 * place.input]);
      if (array.kind == BEFORE || array.kind == CARRY) {
        array.first = base, array.first_row = inputs[3 * place.input + 2];
        continue;
      }
      array.base = base + place.offset + place.scaled * all;
      array.row = place.own ? array.width : inputs[3 * place.input + 2];
      array.time = place.own ? Long(batch) * array.width : inputs[3 * place.input + 1];
    }
    for (std::size_t k = 0; k < outers.size(); k++) outers[k].to = pointer<float>(inputs[3 * gradients_[k].input]) + gradients_[k].offset;

    Walk walk{};
    walk.time = time, walk.batch = batch, walk.reverse = reverse, walk.backward = backward_;
    walk.active = pointer<const int>(active), walk.begin = pointer<const std::uint8_t>(begin), walk.end = pointer<const std::uint8_t>(end);
    walk.array = arrays.data(), walk.arrays = int(arrays.size());
    walk.states = int(states_.size());
    for (std::size_t k = 0; k < states_.size(); k++) {
      const Long *last = &ends[each * k + each - 2], *first = last - 2;
      walk.state[k] = {states_[k].in, states_[k].out, pointer<const float>(first[0]), first[1], pointer<float>(last[0]), last[1]};
    }
    walk.before = parts_[0].data(), walk.befores = int(parts_[0].size());
    walk.loop = parts_[1].data(), walk.loops = int(parts_[1].size());
    walk.after = parts_[2].data(), walk.afters = int(parts_[2].size());
    walk.matrix = matrices.data();
    walk.outer = outers.data(), walk.outers = int(outers.size());

    // Sharing sequences needs no meeting of the threads; sharing units reads each weight once.
    Long size = 0;
    int widest = 1;
    for (const Matrix &m : matrices) size += kernels.size(m), widest = std::max(widest, m.width);
    if (double(time) * batch * double(size) < 100000) threads = 1;
    const int pieces = (widest + 4 * kernels.lanes() - 1) / (4 * kernels.lanes());
    walk.by_rows = batch >= (size < 600000 ? 4 : 8) * threads || pieces < threads;
    threads = std::min(threads, walk.by_rows ? batch : std::max(pieces, batch >= threads ? threads : 1));
    if (!walk.by_rows && pieces < threads) walk.by_rows = 1;
    const int rows = walk.by_rows ? (batch + threads - 1) / threads : batch;
    walk.chunk = std::max(1, std::min(time, 96 / std::max(rows, 1)));

    walk.temporary = (std::max(kernels.workspace(walk), Long(temporaries_) * BLOCK) + 63) / 16 * 16;
    Long deepest = 0;
    for (const Matrix &m : matrices) {
      Long depth = 0;
      for (int k = 0; k < m.sources; k++) depth += m.depth[k];
      deepest = std::max(deepest, depth);
    }
    walk.rows_room = (deepest * std::max(Long(rows) * walk.chunk, Long(batch)) + 63) / 16 * 16;
    Long total = (walk.temporary + walk.rows_room) * threads;
    const Long start = total;
    const auto steps = [&](const Array &a) { return Long(a.kind == PAIR ? 2 : a.kind == CHUNK ? walk.chunk : time); };
    const auto owned = [&](std::size_t k) {
      return places_[k].input < 0 && (arrays[k].kind == TIME || arrays[k].kind == CHUNK || arrays[k].kind == PAIR);
    };
    for (std::size_t k = 0; k < arrays.size(); k++)
      if (owned(k)) total += (steps(arrays[k]) * batch * arrays[k].width + 15) / 16 * 16;
    Floats memory(total, watching);
    walk.temporaries = memory.get(), walk.rows = memory.get() + walk.temporary * threads;
    Long at = start;
    for (std::size_t k = 0; k < arrays.size(); k++)
      if (owned(k)) {
        Array &a = arrays[k];
        a.base = memory.get() + at, a.row = a.width, a.time = Long(batch) * a.width;
        at += (steps(a) * batch * a.width + 15) / 16 * 16;
      }
    Barrier barrier;
    walk.barrier = &barrier;
    struct Job { const Kernels &k; const Walk &w; } job{kernels, walk};
    parallel(threads, [](void *p, int thread, int count) {
      Job &j = *static_cast<Job *>(p);
      j.k.walk(j.w, thread, count);
    }, &job);
    memory.check();
    for (auto [to, to_offset, from, from_offset, count] : copies_) {
      const float *source = pointer<const float>(inputs[3 * from]) + from_offset;
      std::copy(source, source + count, pointer<float>(inputs[3 * to]) + to_offset);
    }
    for (auto [array, input, offset] : vectors_) {
      float *to = pointer<float>(inputs[3 * input]) + offset;
      const Array &from = arrays[array];
      std::copy(from.base, from.base + from.width, to);
      for (int b = 1; b < batch; b++)
        for (int u = 0; u < from.width; u++) to[u] += from.base[b * from.row + u];
    }
  }

 private:
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

// One step of a stack of layers without gradients, for whom Python's own work would take longer than the core's. The
// weights are read where they are.
class Step {
 public:
  // layers: of each direction of each layer the plan, the weights as they are, and their addresses. widths: of each
  // layer's output. sizes: of each state.
  Step(const std::vector<std::vector<std::tuple<const Plan *, std::vector<const Packed *>, Longs>>> &layers, const Ints &widths, const Longs &sizes)
      : layers_(layers), widths_(widths), sizes_(sizes) {}
  // Addresses: x, y, and the states before and after the step, which are (directions of all layers, batch, size).
  void run(int batch, int threads, Long x, Long x_row, Long y, const Longs &before, const Longs &after) const {
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
        plan->run(1, batch, false, threads, packed, {x, 0, x_row, to, 0, width, 0, 0, 0}, ends, {}, weights, {}, 0, 0, 0);
        walk++;
      }
      x = to, x_row = width;
    }
  }

 private:
  static Long address(const float *p) { return static_cast<Long>(reinterpret_cast<std::uintptr_t>(p)); }
  std::vector<std::vector<std::tuple<const Plan *, std::vector<const Packed *>, Longs>>> layers_;
  Ints widths_;
  Longs sizes_;
};

static std::uint64_t fingerprint(const std::vector<std::pair<Long, Long>> &arrays, int threads) {
  struct Job { const Kernels &k; const std::vector<std::pair<Long, Long>> &arrays; std::vector<std::uint64_t> found; } job{chosen(), arrays, std::vector<std::uint64_t>(arrays.size())};
  Long total = 0;
  for (auto [address, count] : arrays) total += count;
  Released released;
  parallel(total > 500000 ? threads : 1, [](void *p, int thread, int count) {
    Job &j = *static_cast<Job *>(p);
    for (std::size_t k = static_cast<std::size_t>(thread); k < j.arrays.size(); k += static_cast<std::size_t>(count))
      j.found[k] = j.k.fingerprint(pointer<const float>(j.arrays[k].first), j.arrays[k].second);
  }, &job);
  std::uint64_t all = 0;
  for (std::uint64_t one : job.found) all = (all ^ one) * 0x9E3779B97F4A7C15ull, all ^= all >> 29;
  return all;
}

// A tensor of so many floats, in memory that is used again after it.
static nb::object empty(Long count) {
  Floats *own = new Floats(count, watching);
  nb::capsule owner(own, [](void *p) noexcept { delete static_cast<Floats *>(p); });
  const std::size_t shape[1] = {static_cast<std::size_t>(count)};
  return nb::cast(nb::ndarray<nb::pytorch, float>(own->get(), 1, shape, owner));
}

// The whole range is 2^32, which has no 32 bits: there everything is `value`.
static void draw(Long address, Long count, double probability, float value, std::uint64_t key) {
  const double rate = std::round(probability * 4294967296.0);
  float *to = pointer<float>(address);
  const Kernels &kernels = chosen();
  Released released;
  if (rate >= 4294967296.0) std::fill(to, to + count, value);
  else kernels.draw(to, count, static_cast<std::uint32_t>(rate), value, key);
}

NB_MODULE(_core, m) {
  m.def("draw", &draw, nb::arg("address"), nb::arg("count"), nb::arg("probability"), nb::arg("value"), nb::arg("key"));
  m.def("empty", &empty, nb::arg("count"));
  m.def("built", [] { return names(false); });
  m.def("usable", [] { return names(true); });
  m.def("isa", [] { return chosen().isa; });
  m.def("use", [](const std::string &isa) { in_use = &find(isa, "isa", "Pass one of these."); }, nb::arg("isa"));
  m.def("lanes", [] { return chosen().lanes(); });
  m.def("selftest", [](const std::string &isa) { return find(isa, "isa", "Pass one of these.").selftest(); }, nb::arg("isa"));
  m.def("watch", [](bool on) { watching = on; }, nb::arg("on"));
  m.def("fingerprint", &fingerprint, nb::arg("arrays"), nb::arg("threads"));
  nb::class_<Packed>(m, "Packed")
      .def(nb::init<int, const Ints &, const std::vector<std::tuple<Long, Long, Long>> &, const std::vector<Longs> &, bool, int>(),
           nb::arg("width"), nb::arg("depths"), nb::arg("weights"), nb::arg("biases"), nb::arg("panels"), nb::arg("threads"));
  nb::class_<Plan>(m, "Plan")
      .def(nb::init<const std::vector<std::tuple<int, int, int>> &, const std::vector<std::tuple<int, Long, Long, bool>> &,
                    const std::vector<std::vector<SectionData>> &, const std::vector<std::pair<int, int>> &,
                    const std::vector<std::tuple<int, int, int, Long, Long>> &,
                    const std::vector<std::tuple<int, Long, int, Long, Long>> &,
                    const std::vector<std::tuple<int, int, Long>> &, int, bool>(),
           nb::arg("arrays"), nb::arg("places"), nb::arg("sections"), nb::arg("states"), nb::arg("outers"),
           nb::arg("copies"), nb::arg("vectors"), nb::arg("temporaries"), nb::arg("backward"))
      .def("run", &Plan::run, nb::arg("time"), nb::arg("batch"), nb::arg("reverse"), nb::arg("threads"), nb::arg("packed"),
           nb::arg("given"), nb::arg("ends"), nb::arg("masks"), nb::arg("weights"), nb::arg("gradients"), nb::arg("active"),
           nb::arg("begin"), nb::arg("end"));
  nb::class_<Step>(m, "Step")
      .def(nb::init<const std::vector<std::vector<std::tuple<const Plan *, std::vector<const Packed *>, Longs>>> &, const Ints &, const Longs &>(),
           nb::arg("layers"), nb::arg("widths"), nb::arg("sizes"))
      .def("run", &Step::run, nb::arg("batch"), nb::arg("threads"), nb::arg("x"), nb::arg("x_row"), nb::arg("y"), nb::arg("before"), nb::arg("after"));
}
