// The order of channels in memory. Each value has one: a list of logical channels (or -1: a lane whose content nobody
// needs), a whole number of vectors long. Residue classes are brought together here, so that a vector of output channels
// shares one set of kernel positions.
#pragma once

#include "graph.h"

namespace precut {

using Order = std::vector<int32_t>;

Order natural_order(int64_t channels, int lanes);
Order pad_order(Order order, int lanes);
// Channels sorted by residue class, low bits first where the period is a power of two (so that 4 nests in 8 in 16), each
// class padded to a multiple of `unit`.
Order class_order(int64_t channels, int period, int align, int unit, int lanes);

bool is_depthwise(const Node& node);

struct Orders {
  std::vector<Order> of;        // by value
  std::vector<bool> is_planar;  // values kept as (channel, row, column): inputs of less than a block that only convolutions read
};
// `shapes` are those of the compiled example: they weigh the layers against each other.
Orders choose_orders(const Graph& graph, const std::vector<Shape>& shapes, int lanes, const std::vector<int>& groups);

}  // namespace precut
