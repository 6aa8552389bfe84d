// The network as the file tells it: values, operations and canonical weights, checked, before any planning.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory.h"
#include "precut.h"

namespace precut {

// Thrown inside the library only; the C functions turn it into a status and a message.
struct Error : std::runtime_error {
  precut_status code;
  Error(precut_status c, const std::string& message) : std::runtime_error(message), code(c) {}
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

enum class Op : uint32_t {
  conv2d = 1,
  linear,
  max_pool,
  avg_pool,
  adaptive_avg_pool,
  add,
  mul,
  cat,
  gather,
  flatten,
  activation,
  affine,
  softmax,
  pad,
  adaptive_max_pool,
  count_
};
const char* op_name(Op op);

enum class Act : uint32_t {
  none,
  relu,
  relu6,
  leaky_relu,  // alpha: slope
  prelu,       // slope tensor: 1 or C values
  silu,
  hardswish,
  hardsigmoid,
  sigmoid,
  gelu,
  gelu_tanh,
  tanh,
  clip,  // alpha: low, beta: high
  elu,   // alpha
  count_
};
const char* act_name(Act act);

struct Activation {
  Act kind = Act::none;
  float alpha = 0, beta = 0;
  int slope = -1;  // tensor, prelu only
};

struct Shape {
  int64_t n = 0, c = 0, h = 1, w = 1;
  int rank = 4;
  int64_t pixels() const { return h * w; }
  bool operator==(const Shape& o) const { return n == o.n && c == o.c && h == o.h && w == o.w && rank == o.rank; }
  std::string text() const;
};

struct Tensor {
  const uint8_t* data = nullptr;  // little-endian, 4-byte aligned, inside the blob
  uint64_t count = 0;             // elements
  bool bytes = false;             // uint8 (masks) instead of float32
  const float* floats() const { return reinterpret_cast<const float*>(data); }
};

// Which weights of a layer exist. `in` channels are counted within the group.
struct Support {
  enum Kind : uint32_t { dense = 0, class_table = 1, mask = 2 } kind = dense;
  int p_out = 1, p_in = 1, align = 1;
  std::vector<std::vector<uint16_t>> positions;  // class table: [p_out * p_in], ascending kernel positions
  int mask_tensor = -1;                          // mask: packed bits (low bit first) in C order of (O, I/groups, K)
};

struct Window {
  int kh = 1, kw = 1, sh = 1, sw = 1, pt = 0, pl = 0, pb = 0, pr = 0, dh = 1, dw = 1;
};

struct Node {
  Op op = Op::conv2d;
  std::string name;
  std::vector<int> in;  // values; a residual is the last one when has_residual
  int out = -1;
  Activation act;
  // conv2d, linear
  int weight = -1, bias = -1, groups = 1, support = -1;  // support -1: dense
  int64_t out_channels = 0, in_channels = 0;
  bool has_residual = false;
  Window win;  // conv2d, pools, pad
  bool ceil_mode = false, count_include_pad = true;
  int divisor = 0;              // avg_pool: 0 is the window's own
  int64_t out_h = 0, out_w = 0;  // adaptive pools
  int scale = -1, shift = -1;   // affine
  float value = 0;              // pad
  std::vector<int32_t> index;   // gather: input channel or -1 (zeros)
};

struct Input {
  int value = -1;
  std::string name;
  Shape shape;  // at compile time
};

struct Output {
  int value = -1;
  std::string name;
};

struct Graph {
  int n_values = 0;
  std::vector<Tensor> tensors;
  std::vector<Support> supports;
  std::vector<Node> nodes;
  std::vector<Input> inputs;
  std::vector<Output> outputs;
  // Channels of every value for the compiled example, once they are known. Orders of channels are chosen and weights packed
  // for these: a run may not change them, as a flatten does whose input has another size.
  std::vector<int64_t> channels;
};

// Reads and checks a blob; the graph points into it. Throws Error.
Graph read_blob(const uint8_t* bytes, size_t size);

// Shapes of all values for these input shapes. Throws Error when the network cannot take them.
std::vector<Shape> infer_shapes(const Graph& graph, const std::vector<Shape>& inputs);

// Weights of a conv2d or linear node as a dense (O, I/groups, K) array, and one bit a weight that exists (as bytes).
// Rows `o0` to `o1` only.
struct DenseRows {
  int64_t o0 = 0, o1 = 0, in_per_group = 0, area = 1;
  Array<float> w;
  Array<uint8_t> keep;
  const float* row(int64_t o) const { return w.data() + (o - o0) * in_per_group * area; }
  const uint8_t* keep_row(int64_t o) const { return keep.data() + (o - o0) * in_per_group * area; }
};
DenseRows expand_weights(const Graph& graph, const Node& node);
int64_t kept_weights(const Graph& graph, const Node& node);

// Every operation by plain loops over (N, C, H, W) arrays: what all kernels are checked against.
void run_reference(const Graph& graph, const std::vector<Shape>& shapes, const float* const* inputs,
                   float* const* outputs, std::vector<std::vector<float>>& scratch);

float apply_activation(const Activation& act, float x, float slope);

}  // namespace precut
