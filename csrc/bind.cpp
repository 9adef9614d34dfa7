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

#include "plan.h"
#include "stream.h"

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

// A tensor of so many floats, in memory that is used again after it.
static nb::object empty(Long count) {
  Floats *own = new Floats(count, watched());
  nb::capsule owner(own, [](void *p) noexcept { delete static_cast<Floats *>(p); });
  const std::size_t shape[1] = {static_cast<std::size_t>(count)};
  return nb::cast(nb::ndarray<nb::pytorch, float>(own->get(), 1, shape, owner));
}

using TaskData = std::tuple<const Plan *, bool, std::vector<const Packed *>, Longs, Longs, Longs, Longs, Longs, Long, Long>;

using Input = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using LayerData = std::tuple<const Plan *, std::vector<const Packed *>, Longs, int, int, Longs, bool>;

static void expect(bool fits) {
  if (!fits) throw std::invalid_argument("Stream: the arrays do not fit");
}

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // plans and packed weights are kept in caches until the process ends, by intent
  m.def("draw", [](Long address, Long count, double probability, float value, std::uint64_t key) {
    const Kernels &kernels = chosen();
    Released released;
    draw(kernels, address, count, probability, value, key);
  }, nb::arg("address"), nb::arg("count"), nb::arg("probability"), nb::arg("value"), nb::arg("key"));
  m.def("empty", &empty, nb::arg("count"));
  m.def("built", [] { return names(false); });
  m.def("usable", [] { return names(true); });
  m.def("isa", [] { return chosen().isa; });
  m.def("use", [](const std::string &isa) { in_use = &find(isa, "isa", "Pass one of these."); }, nb::arg("isa"));
  m.def("lanes", [] { return chosen().lanes(); });
  m.def("selftest", [](const std::string &isa) { return find(isa, "isa", "Pass one of these.").selftest(); }, nb::arg("isa"));
  m.def("watch", &watch, nb::arg("on"));
  m.def("fingerprint", [](const std::vector<std::pair<Long, Long>> &arrays, int threads) {
    const Kernels &kernels = chosen();
    Released released;
    return fingerprint(kernels, arrays, threads);
  }, nb::arg("arrays"), nb::arg("threads"));
  nb::class_<Packed>(m, "Packed")
      .def("__init__", [](Packed *self, int width, const Ints &depths, const std::vector<std::tuple<Long, Long, Long>> &weights, const std::vector<Longs> &biases, bool panels, int threads, int kind) {
        const Kernels &kernels = chosen();
        Released released;
        new (self) Packed(kernels, width, depths, weights, biases, panels, threads, kind);
      }, nb::arg("width"), nb::arg("depths"), nb::arg("weights"), nb::arg("biases"), nb::arg("panels"), nb::arg("threads"), nb::arg("kind"));
  nb::class_<Plan>(m, "Plan")
      .def(nb::init<const std::vector<std::tuple<int, int, int>> &, const std::vector<std::tuple<int, Long, Long, bool>> &,
                    const std::vector<std::vector<SectionData>> &, const std::vector<std::pair<int, int>> &,
                    const std::vector<std::tuple<int, int, int, Long, Long>> &,
                    const std::vector<std::tuple<int, Long, int, Long, Long>> &,
                    const std::vector<std::tuple<int, int, Long>> &, int, bool, const std::vector<Longs> &>(),
           nb::arg("arrays"), nb::arg("places"), nb::arg("sections"), nb::arg("states"), nb::arg("outers"),
           nb::arg("copies"), nb::arg("vectors"), nb::arg("temporaries"), nb::arg("backward"), nb::arg("bodies") = std::vector<Longs>());
  m.def("run", [](int time, int batch, int threads, const std::vector<TaskData> &given, bool chained, Long active) {
    std::vector<Task> tasks;
    for (const auto &[plan, reverse, packed, arrays, ends, masks, weights, gradients, begin, end] : given)
      tasks.push_back({plan, reverse, packed, arrays, ends, masks, weights, gradients, begin, end});
    const Kernels &kernels = chosen();
    Released released;
    run(kernels, time, batch, threads, tasks, chained, active);
  }, nb::arg("time"), nb::arg("batch"), nb::arg("threads"), nb::arg("tasks"), nb::arg("chained"), nb::arg("active"));
  nb::class_<Step>(m, "Step")
      .def(nb::init<const Step::Layers &, const Ints &, const Longs &>(), nb::arg("layers"), nb::arg("widths"), nb::arg("sizes"))
      .def("run", [](const Step &self, int batch, int threads, Long x, Long x_row, Long y, const Longs &before, const Longs &after) {
        const Kernels &kernels = chosen();
        Released released;
        self.run(kernels, batch, threads, x, x_row, y, before, after);
      }, nb::arg("batch"), nb::arg("threads"), nb::arg("x"), nb::arg("x_row"), nb::arg("y"), nb::arg("before"), nb::arg("after"));
  nb::class_<Stream>(m, "Stream")
      .def("__init__", [](Stream *self, const std::vector<LayerData> &given, int batch, int threads) {
        std::vector<Stream::Layer> layers;
        for (const auto &[plan, packed, weights, inputs, outputs, sizes, residual] : given)
          layers.push_back({plan, packed, weights, inputs, outputs, sizes, residual});
        new (self) Stream(chosen(), std::move(layers), batch, threads);
      }, nb::arg("layers"), nb::arg("batch"), nb::arg("threads"))
      .def("step", [](Stream &self, const Input &x, const Output &y) {
        expect(x.size() == std::size_t(self.batch()) * self.inputs() && y.size() == std::size_t(self.batch()) * self.outputs());
        Released released;
        self.step(x.data(), y.data());
      }, nb::arg("x"), nb::arg("y").noconvert())
      .def("step_some", [](Stream &self, const Input &x, const Output &y, const Numbers &which) {
        const int count = int(which.size());
        expect(x.size() == std::size_t(count) * self.inputs() && y.size() == std::size_t(count) * self.outputs());
        for (int i = 0; i < count; i++) expect(which.data()[i] >= 0 && which.data()[i] < self.batch());
        Released released;
        self.step(x.data(), y.data(), which.data(), count);
      }, nb::arg("x"), nb::arg("y").noconvert(), nb::arg("which"))
      .def("run", [](Stream &self, int time, const Input &x, const Output &y) {
        const std::size_t all = std::size_t(time) * self.batch();
        expect(time >= 0 && x.size() == all * self.inputs() && y.size() == all * self.outputs());
        Released released;
        self.run(time, x.data(), y.data());
      }, nb::arg("time"), nb::arg("x"), nb::arg("y").noconvert())
      .def("states", [](nb::handle self) {
        Stream &own = nb::cast<Stream &>(self);
        nb::list found;
        const Longs sizes = own.sizes();
        for (std::size_t k = 0; k < sizes.size(); k++) {
          const std::size_t shape[2] = {std::size_t(own.batch()), std::size_t(sizes[k])};
          found.append(nb::cast(nb::ndarray<nb::numpy, float>(own.state(int(k)), 2, shape, self)));
        }
        return found;
      });
}
