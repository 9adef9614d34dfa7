#pragma once
// Many streams through the same layers, step by step. What a step needs is made once.
#include <memory>
#include <vector>

#include "plan.h"

namespace openlstm {

class Run;

class Stream {
 public:
  // One layer, or what reads the last one: its plan, its weights in panels, the addresses of its parameters, the width of
  // its input and output, the sizes of its states, and does it add its input to its output.
  struct Layer {
    const Plan *plan;
    std::vector<const Packed *> packed;
    Longs weights;
    int inputs, outputs;
    Longs sizes;
    bool residual;
  };
  Stream(const Kernels &, std::vector<Layer>, int batch, int threads);
  ~Stream();
  Stream(const Stream &) = delete;

  int inputs() const { return layers_.front().inputs; }
  int outputs() const { return layers_.back().outputs; }
  int batch() const { return batch_; }
  // The state of that number, counted over all layers: (batch, size).
  float *state(int k) const { return states_->get() + places_[k]; }
  Longs sizes() const;
  // One step of all streams, or of those numbers: (count, inputs) to (count, outputs).
  void step(const float *x, float *y, const int *which = nullptr, int count = 0);
  // Many steps of all streams: (time, batch, inputs) to (time, batch, outputs). The same bits as steps one by one.
  void run(int time, const float *x, float *y);

 private:
  // What one block needs while it is computed.
  struct Lane {
    Floats before, after, hidden;  // states, and what lies between layers
    std::vector<std::unique_ptr<Run>> runs;
    std::vector<int> teams;  // threads that share each layer
  };
  void block(Lane &, const float *x, float *y, int first, const int *which, int count);

  const Kernels &kernels_;
  std::vector<Layer> layers_;
  int batch_, threads_, block_;  // block: streams that are computed at once
  Long widest_ = 0, room_ = 0;   // of what layers give; floats of a state of a block
  std::vector<Long> places_;
  std::unique_ptr<Floats> states_;
  std::vector<std::unique_ptr<Lane>> lanes_;  // several: each thread has blocks of its own, and none waits for another
};

}  // namespace openlstm
