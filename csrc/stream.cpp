#include "stream.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "run.h"

namespace openlstm {

enum { TOGETHER = 256 };  // sequences that are computed at once: what lies between them stays in the cache

static void copy(float *to, const float *from, Long count) { std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float)); }

Stream::Stream(const Kernels &kernels, std::vector<Layer> layers, int batch, int threads)
    : kernels_(kernels), layers_(std::move(layers)), batch_(batch), threads_(threads) {
  if (layers_.empty() || batch < 1) throw std::invalid_argument("Stream: expected at least one layer and one stream");
  const int blocks = (batch + TOGETHER - 1) / TOGETHER, lanes = std::max(1, std::min(threads, blocks));
  block_ = (batch + blocks - 1) / blocks;
  Long all = 0, most = 0;
  for (const Layer &layer : layers_) {
    for (Long size : layer.sizes) places_.push_back(all), all += (batch * size + 15) / 16 * 16, most = std::max(most, size);
    widest_ = std::max(widest_, Long(layer.outputs));
  }
  states_ = std::make_unique<Floats>(all);
  std::fill(states_->get(), states_->get() + all, 0.f);
  room_ = (block_ * most + 15) / 16 * 16;
  for (int lane = 0; lane < lanes; lane++) {
    lanes_.push_back(std::unique_ptr<Lane>(new Lane{Floats(MAX_STATES * room_), Floats(MAX_STATES * room_), Floats(2 * block_ * widest_), {}, {}}));
    Lane &own = *lanes_.back();
    for (const Layer &layer : layers_) {
      Longs ends;
      for (Long size : layer.sizes) ends.insert(ends.end(), {address(own.before.get()), size, address(own.after.get()), size});
      const Longs given = {address(own.hidden.get()), 0, layer.inputs, address(own.hidden.get()), 0, layer.outputs, 0, 0, 0};
      own.runs.push_back(std::make_unique<Run>(kernels, 1, block_, Task{layer.plan, false, layer.packed, given, ends, {}, layer.weights, {}, 0, 0}, 0));
      own.teams.push_back(own.runs.back()->share(lanes > 1 ? 1 : threads));
    }
  }
}

Stream::~Stream() = default;

Longs Stream::sizes() const {
  Longs found;
  for (const Layer &layer : layers_) found.insert(found.end(), layer.sizes.begin(), layer.sizes.end());
  return found;
}

// `count` streams, from `first` on or those numbers. x and y are theirs.
void Stream::block(Lane &own, const float *x, float *y, int first, const int *which, int count) {
  int at = 0;
  for (std::size_t k = 0; k < layers_.size(); k++) {
    const Layer &layer = layers_[k];
    Run &run = *own.runs[k];
    const int states = int(layer.sizes.size());
    float *out = k + 1 == layers_.size() ? y : own.hidden.get() + Long(k % 2) * block_ * widest_;
    for (int s = 0; s < states; s++) {
      const Long size = layer.sizes[s];
      float *mine = state(at + s), *gathered = own.before.get() + s * room_, *next = own.after.get() + s * room_;
      if (which)
        for (int i = 0; i < count; i++) copy(gathered + i * size, mine + which[i] * size, size);
      run.state(s, which ? gathered : mine + first * size, next);
    }
    run.place(0, x), run.place(1, out), run.batch(count);
    parallel(own.teams[k], [](void *p, int thread, int threads) { static_cast<Run *>(p)->walk(thread, threads); }, &run);
    for (int s = 0; s < states; s++) {
      const Long size = layer.sizes[s];
      float *mine = state(at + s);
      const float *next = own.after.get() + s * room_;
      if (which)
        for (int i = 0; i < count; i++) copy(mine + which[i] * size, next + i * size, size);
      else
        copy(mine + first * size, next, count * size);
    }
    if (layer.residual)
      for (Long i = 0; i < Long(count) * layer.outputs; i++) out[i] += x[i];
    x = out, at += states;
  }
}

void Stream::step(const float *x, float *y, const int *which, int count) {
  if (!which) count = batch_;
  auto some = [&](int lane, int lanes) {
    for (int first = lane * block_; first < count; first += lanes * block_)
      block(*lanes_[std::size_t(lane)], x + Long(first) * inputs(), y + Long(first) * outputs(), first, which ? which + first : nullptr, std::min(block_, count - first));
  };
  const int lanes = std::min(int(lanes_.size()), (count + block_ - 1) / block_);
  if (lanes <= 1) return some(0, 1);
  parallel(lanes, [](void *p, int lane, int all) { (*static_cast<decltype(some) *>(p))(lane, all); }, &some);
}

void Stream::run(int time, const float *x, float *y) {
  if (time < 4) {
    for (int t = 0; t < time; t++) step(x + Long(t) * batch_ * inputs(), y + Long(t) * batch_ * outputs());
    return;
  }
  const Long all_steps = widest_ * time * batch_;
  Floats hidden(layers_.size() > 1 ? 2 * all_steps : 0);
  int at = 0;
  for (std::size_t k = 0; k < layers_.size(); k++) {
    const Layer &layer = layers_[k];
    float *out = k + 1 == layers_.size() ? y : hidden.get() + Long(k % 2) * all_steps;
    Longs ends;
    Long all = 0;
    for (Long size : layer.sizes) all += batch_ * size;
    Floats last(all);
    float *next = last.get();
    for (std::size_t s = 0; s < layer.sizes.size(); s++) {
      const Long size = layer.sizes[s];
      ends.insert(ends.end(), {address(state(at + int(s))), size, address(next), size});
      next += batch_ * size;
    }
    const Longs given = {address(x), Long(batch_) * layer.inputs, layer.inputs, address(out), Long(batch_) * layer.outputs, layer.outputs, 0, 0, 0};
    openlstm::run(kernels_, time, batch_, threads_, {Task{layer.plan, false, layer.packed, given, ends, {}, layer.weights, {}, 0, 0}}, false, 0);
    next = last.get();
    for (std::size_t s = 0; s < layer.sizes.size(); s++) {
      copy(state(at + int(s)), next, batch_ * layer.sizes[s]);
      next += batch_ * layer.sizes[s];
    }
    if (layer.residual)
      for (Long i = 0; i < Long(time) * batch_ * layer.outputs; i++) out[i] += x[i];
    x = out, at += int(layer.sizes.size());
  }
}

}  // namespace openlstm
