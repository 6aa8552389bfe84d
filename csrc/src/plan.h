// A plan: how one network runs for one set of input shapes. Buffers in one arena, one Exec for each operation.
#pragma once

#include <memory>

#include "kernels/kernels.h"
#include "pack.h"
#include "threads.h"

namespace precut {

// Where the floats of one value (or of several that share it: concatenations, renamed channels) lie.
struct Buffer {
  int64_t blocks = 0, h = 1, w = 1;
  int block_lanes = 1;                 // channels a block: lanes, or 1 (planar)
  int pt = 0, pl = 0, pb = 0, pr = 0;  // halo of zeros
  bool flat = false;                   // 1x1 maps: the images lie side by side where columns would
  bool shared = false;                 // holds the whole batch, not one group of images
  int first = 0, last = 0;             // operations between which it lives
  int64_t col = 0, row = 0, blk = 0, img = 0, origin = 0, size = 0, offset = 0;
};

// One value during a run. A flat value can be seen "wide": one image whose columns are the images.
struct Place {
  float* p = nullptr;
  int64_t images = 0, blocks = 0, h = 1, w = 1, col = 0, row = 0, blk = 0, img = 0;
};

struct Run {
  float *local = nullptr, *shared = nullptr, *scratch = nullptr;
  int64_t image0 = 0, images = 0;
  const float* const* inputs = nullptr;
  float* const* outputs = nullptr;
};

struct Slot {  // where a value's floats are
  int buffer = -1;
  int64_t block0 = 0;
};

class Plan;

constexpr size_t kCacheBytes = 16u << 20;  // weights of more come from memory at every forward

// One operation made ready. `run` does part `part` of `parts` of the work for the images of `run`.
struct Exec {
  const Node* node = nullptr;
  std::string kernel, why;
  int64_t macs = 0;         // counted: kept weights times positions, one image
  int64_t vector_macs = 0;  // what the kernel really multiplies, in vectors, one image
  size_t weight_bytes = 0;
  double cycles = 0;  // what the cost model expects for one image
  double us = -1;     // measured for the whole batch, when profiled
  virtual ~Exec() = default;
  virtual void run(const Plan& plan, const Run& run, int part, int parts) const = 0;
  virtual size_t scratch() const { return 0; }  // floats a thread
  virtual const void* weights_key() const { return nullptr; }  // shared packed weights are counted once
};

struct Segment {
  int first = 0, last = 0;  // operations [first, last)
  int64_t group = 1;        // images that run through it together
};

struct Model;  // model.h

class Plan {
 public:
  Plan(Model& model, std::vector<Shape> inputs);
  void run(const float* const* inputs, float* const* outputs) const;
  void profile(int rounds);

  Place place(int value, const Run& run, bool wide) const;
  // Whether block `i` of value `a` and block `j` of value `b` are the same memory.
  bool same_block(int a, int64_t i, int b, int64_t j) const {
    const Slot &x = slots_[size_t(a)], &y = slots_[size_t(b)];
    return x.buffer == y.buffer && x.block0 + i == y.block0 + j;
  }
  const Buffer& buffer(int value) const { return buffers_[size_t(slots_[size_t(value)].buffer)]; }
  const Order& order(int value) const;
  const Shape& shape(int value) const { return shapes_[size_t(value)]; }
  Model& model() const { return model_; }
  const Kernels& kernels() const;
  int lanes() const { return kernels().lanes; }

  std::vector<Shape> inputs;
  const std::vector<Shape>& shapes() const { return shapes_; }
  const std::vector<std::unique_ptr<Exec>>& execs() const { return execs_; }
  const std::vector<Segment>& segments() const { return segments_; }
  size_t arena_bytes() const { return arena_.size() * 4; }
  double peak_gflops() const { return peak_gflops_; }  // of one thread, measured by profile; 0 before
  uint64_t last_use = 0;

 private:
  friend class PlanBuilder;
  bool groups_in_parallel(const Segment& s) const;
  void timed_forward(const float* const* inputs, float* const* outputs, bool sample, std::vector<double>& us) const;
  void run_op(const Exec& exec, const Run& run, int part, int parts) const;
  void clear_halo(int value, const Run& run, int part, int parts) const;

  Model& model_;
  std::vector<Shape> shapes_;
  std::vector<Buffer> buffers_;
  std::vector<Slot> slots_;
  std::vector<std::unique_ptr<Exec>> execs_;
  std::vector<Segment> segments_;
  Floats arena_;
  int64_t local_size_ = 0, shared_size_ = 0, scratch_size_ = 0;
  bool local_per_thread_ = false;
  double peak_gflops_ = 0;
};

// The pieces that make a plan.
std::vector<Buffer> plan_buffers(Model& model, const std::vector<Shape>& shapes, std::vector<Slot>& slots);
std::vector<Segment> plan_segments(const Model& model, const std::vector<Shape>& shapes);
// Gives every buffer its strides and its place; returns the sizes of the two parts of the arena, in floats.
void place_buffers(std::vector<Buffer>& buffers, int64_t batch, int64_t group, int64_t& local, int64_t& shared);

// Execs. Convolutions come as candidates, the one that the cost model likes best first.
// PRECUT_KERNEL names (a part of) the kernel that every layer takes where it can: for tests and measurements.
const char* forced_kernel();
std::vector<std::unique_ptr<Exec>> conv_candidates(const Plan& plan, const Node& node, int64_t images);
std::unique_ptr<Exec> make_wino(const Plan& plan, const Node& node);
// `vectors` of positions at a time; `near`: over few enough input channels that they stay in the first-level cache;
// `shift`: kernel positions are shifts of one plane, not copies (stride 1 alone).
struct SparseKind {
  const char* name;
  int vectors;
  bool near, shift;
};
constexpr SparseKind kSparseKinds[] = {
    {"2near", 2, true, false},      {"4near", 4, true, false},      {"8near", 8, true, false},    {"8far", 8, false, false},
    {"4near_shift", 4, true, true}, {"8near_shift", 8, true, true}, {"8far_shift", 8, false, true}};
// Null where a kind of half as many vectors does the same.
std::unique_ptr<Exec> make_sparse(const Plan& plan, const Node& node, int64_t images, const SparseKind& kind);
bool wino_fits(const Node& node, const Shape& x, const Shape& y);
// Empty where it does not apply.
std::vector<std::unique_ptr<Exec>> planar_candidates(const Plan& plan, const Node& node);
std::unique_ptr<Exec> make_depthwise(const Plan& plan, const Node& node);
std::unique_ptr<Exec> make_move(const Plan& plan, const Node& node);
std::unique_ptr<Exec> make_simple(const Plan& plan, const Node& node);
std::unique_ptr<Exec> make_input(const Plan& plan, int index);
std::unique_ptr<Exec> make_output(const Plan& plan, int index);

// What an epilogue clamps to; activations that are no clamp are applied by `activate` afterwards.
void act_bounds(const Activation& act, float& lo, float& hi);
bool act_is_clamp(const Activation& act);
// The slopes of a prelu in the order of the value's channels.
Floats act_slopes(const Plan& plan, const Node& node);
void activate(const Plan& plan, const Activation& act, const float* slopes, float* y, int64_t positions);

}  // namespace precut
