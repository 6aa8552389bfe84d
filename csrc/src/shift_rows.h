// Sums over shifted planes as the shift kernels want them: rows with equal lists in blocks, lists cut into chunks of planes
// that stay in the first-level cache together.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "memory.h"

namespace precut {

// One term of a row: which plane, shifted how, times which weight.
struct ShiftTap {
  int32_t plane, shift, weight;
  bool operator<(const ShiftTap& o) const { return plane != o.plane ? plane < o.plane : shift < o.shift; }
};

class ShiftRows {
 public:
  ShiftRows() = default;
  // `rows[r]` are the terms of output plane r; planes are `plane` floats apart, and shifts reach over `reach` floats.
  ShiftRows(const Kernels& kernels, std::vector<std::vector<ShiftTap>> rows, int64_t plane, int64_t reach);

  // Where among the results each output plane is.
  const std::vector<int32_t>& place() const { return place_; }
  size_t packed_size() const { return packed_; }
  // Weights in the order of the lists, and sums in that order added to the weights' own.
  void pack(const float* weight, float* packed) const;
  void unpack(const float* packed, float* weight) const;
  // results (one for each output plane, `row` apart) of `positions` positions, a whole number of vectors.
  void sum(const float* x, const float* packed, float* y, int64_t row, int64_t positions) const;
  // Products of the rows of y with shifted planes of x, summed over positions and images; added to `packed`.
  void dot(const float* x, int64_t x_image, const float* y, int64_t y_image, int64_t row, int64_t images, int64_t positions,
           float* packed) const;

 private:
  struct Lists {
    const ShiftInfo* info;
    int64_t blocks = 0, first_row = 0, chunks = 1;
    size_t packed_at = 0;
    std::vector<int32_t> first, offs;  // first: (chunk, block + 1)
    std::vector<int32_t> weight;       // of (tap, row of the block)
  };
  int lanes_ = 0;
  std::vector<Lists> lists_;
  std::vector<int32_t> place_;
  size_t packed_ = 0;
};

}  // namespace precut
