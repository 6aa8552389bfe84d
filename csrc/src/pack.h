// Weights in walk order: for each unit (the output channels of one tile), the steps over input blocks, kernel positions
// and runs of channels that at least one of its channels needs, and the weights of those steps as one stream.
#pragma once

#include <cstddef>

#include "order.h"

namespace precut {

struct Walk {
  int32_t block, position, lane, n;  // n: groups of channels
  bool operator==(const Walk& o) const {
    return block == o.block && position == o.position && lane == o.lane && n == o.n;
  }
};

struct Unit {
  int32_t block, lane, nv;  // where its output channels begin, and how many vectors they fill
  int32_t walk;             // which list of steps
  size_t weights, bias;     // offsets into the stream and the biases
};

struct Packed {
  int lanes = 0, group = 1, nv = 1;
  std::vector<Unit> units;
  std::vector<std::vector<Walk>> walks;
  Floats weights, bias;
  int64_t vector_macs = 0;  // vector multiply-adds for one output position
  size_t bytes() const { return (weights.size() + bias.size()) * 4; }
};

// A planar input has blocks of one channel.
Packed pack(const Graph& graph, const Node& node, const DenseRows& dense, const Order& in, const Order& out, int lanes,
            bool planar, int group, int nv);

// Only counts: what pack would return as vector_macs.
int64_t count_vector_macs(const Node& node, const DenseRows& dense, const Order& in, const Order& out, int lanes,
                          bool planar, int group, int nv);

}  // namespace precut
