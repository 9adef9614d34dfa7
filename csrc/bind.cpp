// The Python module openlstm._core. The only file that knows Python. It keeps no state, so threads need no lock.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "core.h"

namespace nb = nanobind;
using openlstm::Kernels;

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

static const Kernels &chosen() {
  // Through os.environ: C's getenv is not safe while another thread changes the environment.
  nb::object forced = nb::module_::import_("os").attr("environ").attr("get")("OPENLSTM_ISA", "");
  std::string isa = nb::cast<std::string>(forced);
  return find(isa.empty() ? names(true).front() : isa, "The environment variable OPENLSTM_ISA",
              "Set it to one of these, or unset it to use the best.");
}

NB_MODULE(_core, m) {
  m.def("built", [] { return names(false); });
  m.def("usable", [] { return names(true); });
  m.def("isa", [] { return chosen().isa; });
  m.def("lanes", [] { return chosen().lanes(); });
  m.def("selftest", [](const std::string &isa) { return find(isa, "isa", "Pass one of these.").selftest(); }, nb::arg("isa"));
}
