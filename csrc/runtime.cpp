// The functions of openlstm.h: a model from a file, with all that its numbers say checked before anything runs.
#include "openlstm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "stream.h"

using namespace openlstm;

namespace {

constexpr char MAGIC[] = "openlstm stream\n";  // 16 bytes, without the 0
constexpr Long VERSION = 2, MOST = Long(1) << 31;

void expect(bool holds, const char *what) {
  if (!holds) throw std::runtime_error(what);
}

const Kernels &best() {
  const Kernels *const *k = built;
  while (!(*k)->usable()) k++;
  return **k;
}

struct Closer {
  void operator()(std::FILE *file) const { std::fclose(file); }
};

// What `Stream.export` wrote: whole numbers, floats and bytes, each read once and in their order.
class Reader {
 public:
  explicit Reader(const char *path) {
    std::unique_ptr<std::FILE, Closer> file(std::fopen(path, "rb"));
    expect(file != nullptr, "the file cannot be opened");
    char magic[16];
    Long head[4];
    expect(std::fread(magic, 1, 16, file.get()) == 16 && std::memcmp(magic, MAGIC, 16) == 0, "it is not a file that Stream.export wrote");
    expect(std::fread(head, sizeof(Long), 4, file.get()) == 4 && head[0] == VERSION, "it is of another version");
    expect(std::fseek(file.get(), 0, SEEK_END) == 0, "it cannot be read");
    const long end = std::ftell(file.get());
    for (int k = 1; k < 4; k++) expect(head[k] >= 0 && head[k] < MOST, "its sizes are wrong");
    expect(end == long(16 + 4 * 8 + 8 * head[1] + 4 * head[2] + head[3]), "it is cut short, or more follows");
    ints_.resize(std::size_t(head[1])), floats_.resize(std::size_t(head[2])), bytes_.resize(std::size_t(head[3]));
    std::fseek(file.get(), 16 + 4 * 8, SEEK_SET);
    expect(std::fread(ints_.data(), 8, ints_.size(), file.get()) == ints_.size() && std::fread(floats_.data(), 4, floats_.size(), file.get()) == floats_.size() &&
               std::fread(bytes_.data(), 1, bytes_.size(), file.get()) == bytes_.size(), "it cannot be read");
  }
  Long number(Long least, Long most) {
    expect(at_ < ints_.size(), "it ends too early");
    const Long found = ints_[at_++];
    expect(found >= least && found <= most, "a number in it is out of range");
    return found;
  }
  int small(int least, int most) { return int(number(least, most)); }
  Ints many(int most, int low, int high) {
    Ints found(std::size_t(small(0, most)));
    for (int &one : found) one = small(low, high);
    return found;
  }
  // So many floats, wherever they are stored.
  std::vector<float> array(Long rows, Long columns) {
    const int kind = small(FLOAT32, INT8);
    expect(rows > 0 && columns > 0 && rows < MOST / columns, "an array in it is too large");
    const std::size_t count = std::size_t(rows * columns);
    if (kind == FLOAT32) return floats(count);
    expect(bytes_.size() - byte_ >= count * (kind == INT8 ? 1 : 2), "it ends too early");
    std::vector<float> found(count);
    const unsigned char *from = bytes_.data() + byte_;
    byte_ += count * (kind == INT8 ? 1 : 2);
    if (kind == BFLOAT16) {
      for (std::size_t k = 0; k < count; k++) {
        const std::uint32_t bits = std::uint32_t(from[2 * k]) << 16 | std::uint32_t(from[2 * k + 1]) << 24;
        std::memcpy(&found[k], &bits, sizeof bits);
      }
      return found;
    }
    const std::vector<float> scale = floats(std::size_t(rows));
    for (std::size_t k = 0; k < count; k++) {
      std::int8_t whole;
      std::memcpy(&whole, from + k, 1);
      found[k] = float(whole) * scale[k / std::size_t(columns)];
    }
    return found;
  }
  std::vector<float> floats(std::size_t count) {
    expect(floats_.size() - float_ >= count, "it ends too early");
    std::vector<float> found(floats_.begin() + long(float_), floats_.begin() + long(float_ + count));
    float_ += count;
    return found;
  }
  void finish() const { expect(at_ == ints_.size() && float_ == floats_.size() && byte_ == bytes_.size(), "more follows than it should"); }

 private:
  std::vector<Long> ints_;
  std::vector<float> floats_;
  std::vector<unsigned char> bytes_;
  std::size_t at_ = 0, float_ = 0, byte_ = 0;
};

Long as_address(const float *p) { return static_cast<Long>(reinterpret_cast<std::uintptr_t>(p)); }

enum { WIDEST = 1 << 20, PARAMETERS = 64, SECTIONS = 256, OPERATIONS = 4096, TEMPORARIES = 1024 };

// A layer of the file: its plan, its weights in panels, and those of its parameters that a run reads.
struct Layer {
  std::unique_ptr<Plan> plan;
  std::vector<std::unique_ptr<Packed>> packed;
  std::vector<std::vector<float>> parameters, initial;
  Stream::Layer made;
};

Layer read_layer(Reader &r, const Kernels &kernels) {
  Layer layer;
  const int inputs = r.small(1, WIDEST), outputs = r.small(1, WIDEST), residual = r.small(0, 1);
  expect(!residual || inputs == outputs, "a layer adds an input of another size");
  const Ints sizes = r.many(MAX_STATES, 1, WIDEST);
  for (int size : sizes) layer.initial.push_back(r.floats(std::size_t(size)));
  const int count = r.small(0, PARAMETERS);
  for (int k = 0; k < count; k++) {
    const Long rows = r.number(1, WIDEST), columns = r.number(1, WIDEST);
    layer.parameters.push_back(r.array(rows, columns));
  }
  // The program.
  const int arrays = r.small(1, MAX_ARRAYS), first = 3, states = int(sizes.size());
  std::vector<std::tuple<int, int, int>> shapes;
  for (int k = 0; k < arrays; k++) {
    const int kind = r.small(TIME, CARRY), of = r.small(-1, arrays - 1), width = r.small(1, WIDEST);
    shapes.emplace_back(kind, of, width);
  }
  auto kind = [&](int k) { return std::get<0>(shapes[std::size_t(k)]); };
  auto width = [&](int k) { return std::get<2>(shapes[std::size_t(k)]); };
  std::vector<std::tuple<int, Long, Long, bool>> places;
  std::vector<bool> read(std::size_t(count), false);
  for (int k = 0; k < arrays; k++) {
    const int input = r.small(-1, first + states + count - 1);
    const Long offset = r.number(0, MOST);
    const bool before = kind(k) == BEFORE || kind(k) == CARRY;
    const int of = std::get<1>(shapes[std::size_t(k)]);
    Long room = 0;
    if (input == 0) room = inputs;
    if (input == 1) room = outputs;
    if (input >= first && input < first + states) room = sizes[std::size_t(input - first)];
    if (input >= first + states) room = Long(layer.parameters[std::size_t(input - first - states)].size()), read[std::size_t(input - first - states)] = true;
    expect(input == -1 || offset + width(k) <= room, "an array is larger than what it is in");
    expect(before == (input >= first && input < first + states), "an array is of the wrong kind");
    expect(input < 0 || before || kind(k) == TIME, "an array is of the wrong kind");
    expect(!before || (of >= 0 && kind(of) <= PAIR && width(of) == width(k) && offset == 0), "a state follows what it cannot");
    places.emplace_back(input, offset, 0, false);
  }
  auto writable = [&](int k) { const int input = std::get<0>(places[std::size_t(k)]); return (input == -1 || input == 1) && kind(k) <= PAIR; };
  const int temporaries = r.small(0, TEMPORARIES);
  struct Use { int matrix; Ints sources, targets; int width; };
  std::vector<Use> uses;
  std::vector<std::vector<SectionData>> sections(3);
  for (auto &part : sections) {
    const int all = r.small(0, SECTIONS);
    for (int s = 0; s < all; s++) {
      const int form = r.small(POINTWISE, NORM), sync = r.small(0, 1), wide = r.small(1, WIDEST), operations = r.small(0, OPERATIONS);
      std::vector<std::tuple<int, int, int, int, int>> codes;
      std::vector<std::pair<float, float>> numbers;
      for (int k = 0; k < operations; k++) {
        const int code = r.small(0, CODES - 1);
        int at[4];
        for (int &one : at) {
          one = r.small(-temporaries, arrays - 1);
          expect(one < 0 || width(one) == wide, "an operation has arrays of other sizes");
        }
        expect(at[0] < 0 || writable(at[0]), "an operation writes where it must not");
        codes.emplace_back(code, at[0], at[1], at[2], at[3]);
        const std::vector<float> two = r.floats(2);
        numbers.emplace_back(two[0], two[1]);
      }
      const Ints sources = r.many(MAX_SOURCES, 0, arrays - 1), targets = r.many(MAX_TARGETS, 0, arrays - 1);
      const Ints accumulate = r.many(MAX_TARGETS, 0, 1);
      const int matrix = r.small(0, PARAMETERS);
      for (int target : targets) expect(width(target) == wide && writable(target), "a section writes where it must not");
      if (form == PRODUCT) {
        expect(!sources.empty() && !targets.empty() && accumulate.size() == targets.size(), "a product is not whole");
        uses.push_back({matrix, sources, targets, wide});
      }
      if (form == NORM) {
        expect(!sources.empty() && sources.size() == targets.size(), "a norm is not whole");
        for (int source : sources) expect(width(source) == wide, "a norm has arrays of other sizes");
      }
      expect((form == POINTWISE) == !codes.empty(), "a section is not whole");
      part.emplace_back(form, sync, wide, codes, numbers, sources, targets, accumulate, Ints(), matrix);
    }
  }
  std::vector<std::pair<int, int>> pairs;
  for (int k = 0; k < states; k++) {
    const int in = r.small(0, arrays - 1), out = r.small(0, arrays - 1);
    const bool fits = std::get<0>(places[std::size_t(in)]) == first + k && width(in) == sizes[std::size_t(k)] && width(out) == sizes[std::size_t(k)];
    expect(fits && kind(out) <= PAIR, "a state does not fit");
    pairs.emplace_back(in, out);
  }
  // The products.
  const int products = r.small(0, PARAMETERS);
  std::vector<std::pair<Ints, std::pair<int, int>>> depths;
  for (int p = 0; p < products; p++) {
    const int wide = r.small(1, WIDEST);
    const Ints depth = r.many(MAX_SOURCES, 1, WIDEST);
    const int targets = r.small(1, MAX_TARGETS), stored = r.small(FLOAT32, INT8);
    expect(!depth.empty(), "a product has no sources");
    std::vector<std::tuple<Long, Long, Long>> weights;
    for (std::size_t s = 0; s < depth.size(); s++)
      for (int g = 0; g < targets; g++) {
        const std::vector<float> &own = layer.parameters.at(std::size_t(r.small(0, count - 1)));
        const Long offset = r.number(0, MOST), unit = r.number(1, WIDEST), term = r.number(1, WIDEST);
        expect(offset + (wide - 1) * unit + (depth[s] - 1) * term < Long(own.size()), "a product reads past its weights");
        weights.emplace_back(as_address(own.data() + offset), unit, term);
      }
    std::vector<Longs> biases;
    for (int g = 0; g < targets; g++) {
      biases.emplace_back();
      for (int k = r.small(0, 4); k > 0; k--) {
        const std::vector<float> &own = layer.parameters.at(std::size_t(r.small(0, count - 1)));
        const Long offset = r.number(0, MOST);
        expect(offset + wide <= Long(own.size()), "a product reads past its biases");
        biases.back().push_back(as_address(own.data() + offset));
      }
    }
    layer.packed.push_back(std::make_unique<Packed>(kernels, wide, depth, weights, biases, true, 1, stored));
    depths.push_back({depth, {targets, wide}});
  }
  for (const Use &use : uses) {
    expect(use.matrix < products, "a product has no weights");
    const auto &[depth, shape] = depths[std::size_t(use.matrix)];
    bool fits = depth.size() == use.sources.size() && std::size_t(shape.first) == use.targets.size() && shape.second == use.width;
    for (std::size_t s = 0; fits && s < depth.size(); s++) fits = width(use.sources[s]) == depth[s];
    expect(fits, "a product has weights of another size");
  }
  layer.plan = std::make_unique<Plan>(shapes, places, sections, pairs, std::vector<std::tuple<int, int, int, Long, Long>>(),
                                      std::vector<std::tuple<int, Long, int, Long, Long>>(), std::vector<std::tuple<int, int, Long>>(), temporaries, false);
  for (int k = 0; k < count; k++)
    if (!read[std::size_t(k)]) layer.parameters[std::size_t(k)] = {};  // it is in panels now
  layer.made = {layer.plan.get(), {}, {}, inputs, outputs, Longs(sizes.begin(), sizes.end()), residual != 0};
  for (const auto &one : layer.packed) layer.made.packed.push_back(one.get());
  for (const auto &one : layer.parameters) layer.made.weights.push_back(as_address(one.data()));
  return layer;
}

// What is done to x before the layers: STAGES in stream.py.
struct Stage {
  int kind;  // 0: look up, 1: less the vector, 2: times it
  std::vector<float> numbers;
};

// The first number of x is a value of a series, and y forecasts it: _Series in stream.py. One for each stream.
struct Series {
  int transform = 0;  // TRANSFORMS in scaling.py: none, sqrt, log
  bool change = false;
  double mean = 0, size = 1;
  std::vector<float> z, last;  // now, and at the step before: NaN at first
  float read(float value, std::size_t now, std::size_t stream) {
    const double y = transform == 1 ? std::sqrt(double(value)) : transform == 2 ? std::log(double(value)) : double(value);
    z[now] = float((y - mean) / size);
    const float before = std::isnan(last[stream]) ? z[now] : last[stream];
    last[stream] = z[now];
    return change ? z[now] - before : z[now];
  }
  float said(float value, std::size_t now) const {
    const double y = (double(value) + (change ? double(z[now]) : 0.0)) * size + mean;
    return float(transform == 1 ? std::max(y, 0.0) * std::max(y, 0.0) : transform == 2 ? std::exp(y) : y);
  }
};

}  // namespace

struct openlstm_stream {
  std::vector<Layer> layers;
  std::vector<Stage> stages;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Series> series;
  std::vector<float> x;  // of all streams, as the layers read it
  bool looks_up = false, softmax = false;

  bool plain() const { return stages.empty() && !series; }
  const float *prepare(const float *given, int count, const int *which = nullptr) {
    if (plain()) return given;
    const int inputs = stream->inputs();
    for (int b = 0; b < count; b++) {
      float *row = x.data() + std::size_t(b) * std::size_t(inputs);
      if (!looks_up) std::memcpy(row, given + std::size_t(b) * std::size_t(inputs), std::size_t(inputs) * sizeof(float));
      if (series) row[0] = series->read(row[0], std::size_t(b), std::size_t(which ? which[b] : b));
      for (const Stage &stage : stages) {
        if (stage.kind == 0) {
          const Long rows = Long(stage.numbers.size()) / inputs;
          const float asked = given[b];
          const Long which = asked >= 0 && asked < float(rows) ? Long(asked) : 0;
          std::memcpy(row, stage.numbers.data() + which * inputs, std::size_t(inputs) * sizeof(float));
          continue;
        }
        for (int i = 0; i < inputs; i++) row[i] = stage.kind == 1 ? row[i] - stage.numbers[std::size_t(i)] : row[i] * stage.numbers[std::size_t(i)];
      }
    }
    return x.data();
  }
  void finish(float *y, int count) const {
    const int outputs = stream->outputs();
    for (Long k = 0; series && k < Long(count) * outputs; k++) y[k] = series->said(y[k], std::size_t(k / outputs));
    if (!softmax) return;
    for (int b = 0; b < count; b++, y += outputs) {
      const float most = *std::max_element(y, y + outputs);
      float sum = 0;
      for (int i = 0; i < outputs; i++) y[i] -= most, sum += std::exp(y[i]);
      for (int i = 0; i < outputs; i++) y[i] -= std::log(sum);
    }
  }
  std::size_t followed() const { return series && series->change ? series->last.size() : 0; }  // numbers of a state
  void reset() {
    int k = 0;
    if (series) std::fill(series->last.begin(), series->last.end(), std::nanf(""));
    for (const Layer &layer : layers)
      for (const std::vector<float> &initial : layer.initial) {
        for (int b = 0; b < stream->batch(); b++) std::copy(initial.begin(), initial.end(), stream->state(k) + std::size_t(b) * initial.size());
        k++;
      }
  }
};

extern "C" {

openlstm_stream *openlstm_load(const char *path, int streams, int threads, char *message, size_t room) {
  try {
    expect(streams >= 1 && streams <= 1 << 24 && threads >= 1, "streams and threads must be at least 1");
    auto own = std::make_unique<openlstm_stream>();
    Reader reader(path);
    const Kernels &kernels = best();
    if (reader.small(0, 1)) {
      own->series = std::make_unique<Series>();
      own->series->transform = reader.small(0, 2), own->series->change = reader.small(0, 1) != 0;
      for (double *one : {&own->series->mean, &own->series->size}) {
        const Long bits = reader.number(std::numeric_limits<Long>::min(), std::numeric_limits<Long>::max());
        std::memcpy(one, &bits, sizeof bits);
        expect(std::isfinite(*one), "a scale in it is out of range");
      }
      expect(own->series->size > 0, "a scale in it is out of range");
      own->series->z.resize(std::size_t(streams)), own->series->last.resize(std::size_t(streams));
    }
    std::vector<std::pair<Long, Long>> shapes;
    for (int k = reader.small(0, 4); k > 0; k--) {
      const int kind = reader.small(0, 2);
      const Long rows = reader.number(1, WIDEST), columns = reader.number(1, WIDEST);
      own->stages.push_back({kind, reader.array(rows, columns)});
      shapes.emplace_back(rows, columns);
    }
    own->softmax = reader.small(0, 1) != 0;
    std::vector<Stream::Layer> made;
    for (int k = reader.small(1, PARAMETERS); k > 0; k--) {
      own->layers.push_back(read_layer(reader, kernels));
      expect(made.empty() || made.back().outputs == own->layers.back().made.inputs, "a layer does not fit the one below it");
      made.push_back(own->layers.back().made);
    }
    reader.finish();
    for (std::size_t k = 0; k < own->stages.size(); k++) {
      const bool looks = own->stages[k].kind == 0;
      expect(shapes[k].second == made.front().inputs && (looks ? k == 0 : shapes[k].first == 1), "a stage does not fit the layers");
      own->looks_up = own->looks_up || looks;
    }
    expect(!own->series || !own->looks_up, "a stage does not fit the layers");
    own->stream = std::make_unique<Stream>(kernels, std::move(made), streams, threads);
    own->x.resize(own->plain() ? 0 : std::size_t(streams) * std::size_t(own->stream->inputs()));
    own->reset();
    return own.release();
  } catch (const std::exception &error) {
    if (message && room) std::snprintf(message, room, "'%s' cannot be used: %s", path, error.what());
    return nullptr;
  }
}

void openlstm_free(openlstm_stream *s) { delete s; }
int openlstm_inputs(const openlstm_stream *s) { return s->looks_up ? 1 : s->stream->inputs(); }
int openlstm_outputs(const openlstm_stream *s) { return s->stream->outputs(); }
int openlstm_streams(const openlstm_stream *s) { return s->stream->batch(); }

void openlstm_step(openlstm_stream *s, const float *x, float *y) {
  s->stream->step(s->prepare(x, s->stream->batch()), y);
  s->finish(y, s->stream->batch());
}

void openlstm_step_some(openlstm_stream *s, const float *x, float *y, const int *which, int count) {
  s->stream->step(s->prepare(x, count, which), y, which, count);
  s->finish(y, count);
}

void openlstm_reset(openlstm_stream *s) { s->reset(); }

size_t openlstm_state_size(const openlstm_stream *s) {
  Long all = 0;
  for (Long size : s->stream->sizes()) all += size;
  return static_cast<size_t>(all) * static_cast<size_t>(s->stream->batch()) + s->followed();
}

void openlstm_get_state(const openlstm_stream *s, float *state) {
  const Longs sizes = s->stream->sizes();
  for (std::size_t k = 0; k < sizes.size(); k++) {
    const Long count = sizes[k] * s->stream->batch();
    state = std::copy(s->stream->state(int(k)), s->stream->state(int(k)) + count, state);
  }
  if (s->followed()) std::copy(s->series->last.begin(), s->series->last.end(), state);
}

void openlstm_set_state(openlstm_stream *s, const float *state) {
  const Longs sizes = s->stream->sizes();
  for (std::size_t k = 0; k < sizes.size(); k++) {
    const Long count = sizes[k] * s->stream->batch();
    std::copy(state, state + count, s->stream->state(int(k)));
    state += count;
  }
  if (s->followed()) std::copy(state, state + s->followed(), s->series->last.begin());
}

const char *openlstm_isa(void) { return best().isa; }

}  // extern "C"
