// What the operations without packed weights share.
#pragma once

#include "model.h"

namespace precut {

struct Base : Exec {
  float lo = 0, hi = 0;
  bool late_act = false;
  Floats slopes;

  // `clamps`: the kernel itself applies the bounds of a clamp.
  void prepare(const Plan& plan, const Node& n, const std::string& what, bool clamps = false) {
    node = &n;
    kernel = "f32_" + what + "_dense_row_" + plan.kernels().isa;
    why = "the only kernel for it";
    act_bounds(n.act, lo, hi);
    late_act = clamps ? !act_is_clamp(n.act) : n.act.kind != Act::none;
    slopes = act_slopes(plan, n);
  }
  void finish(const Plan& plan, int64_t block, float* y, int64_t positions) const {
    if (late_act) activate(plan, node->act, slopes.size() ? slopes.data() + block * plan.lanes() : nullptr, y, positions);
  }
  // Calls f(image, block) for this part's share.
  template <class F>
  static void each_block(const Place& y, int part, int parts, F&& f) {
    int64_t total = y.images * y.blocks;
    for (int64_t i = total * part / parts; i < total * (part + 1) / parts; i++) f(i / y.blocks, i % y.blocks);
  }
};

}  // namespace precut
