// What timing a plan needs.
#pragma once

#include <chrono>

#include "plan.h"

namespace precut {

inline double now_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Zeros for all inputs and outputs of a plan.
struct Ends {
  std::vector<Floats> arrays;
  std::vector<const float*> in;
  std::vector<float*> out;
  Ends(const Plan& plan, const Graph& g) {
    for (const Input& i : g.inputs) in.push_back(add(plan.shape(i.value)));
    for (const Output& o : g.outputs) out.push_back(add(plan.shape(o.value)));
  }
  float* add(const Shape& s) {
    arrays.emplace_back(size_t(s.n * s.c * s.pixels()));
    return arrays.back().data();
  }
};

}  // namespace precut
