#include "shift_rows.h"

#include <algorithm>
#include <map>

namespace precut {

constexpr int64_t kNearBytes = 24 << 10;

ShiftRows::ShiftRows(const Kernels& kernels, std::vector<std::vector<ShiftTap>> rows, int64_t plane, int64_t reach)
    : lanes_(kernels.lanes) {
  int32_t planes = 0;
  std::map<std::vector<int64_t>, std::vector<int32_t>> alike;  // rows by their lists; the map's order is the same each time
  for (size_t r = 0; r < rows.size(); r++) {
    std::sort(rows[r].begin(), rows[r].end());
    std::vector<int64_t> key;
    for (const ShiftTap& t : rows[r]) key.push_back((int64_t(t.plane) << 32) + t.shift);
    if (!rows[r].empty()) planes = std::max(planes, rows[r].back().plane + 1);
    alike[std::move(key)].push_back(int32_t(r));
  }
  std::vector<int32_t> order;  // the output plane that each result is
  for (const ShiftInfo& info : kernels.shift) {
    Lists l;
    l.info = &info;
    l.first_row = int64_t(order.size());
    l.packed_at = packed_;
    // As many planes at a time as the first-level cache holds of what one chunk of positions reads.
    int64_t seen = std::min(plane, info.vectors * lanes_ + reach + 16) * 4, span = std::max<int64_t>(1, kNearBytes / seen);
    l.chunks = std::max<int64_t>(1, (planes + span - 1) / span);
    span = (planes + l.chunks - 1) / l.chunks;
    for (auto& [key, ids] : alike) {
      size_t n = ids.size() / size_t(info.rows) * size_t(info.rows);
      order.insert(order.end(), ids.end() - long(n), ids.end());
      ids.resize(ids.size() - n);
      l.blocks += int64_t(n) / info.rows;
    }
    for (int64_t chunk = 0; chunk < l.chunks; chunk++) {
      l.first.push_back(int32_t(l.offs.size()));
      for (int64_t b = 0; b < l.blocks; b++) {
        const int32_t* ids = order.data() + l.first_row + b * info.rows;
        const auto& list = rows[size_t(ids[0])];
        for (size_t t = 0; t < list.size(); t++) {
          if (list[t].plane / span != chunk) continue;
          l.offs.push_back(int32_t(list[t].plane * plane + list[t].shift));
          for (int c = 0; c < info.rows; c++) l.weight.push_back(rows[size_t(ids[c])][t].weight);
        }
        l.first.push_back(int32_t(l.offs.size()));
      }
    }
    packed_ += l.weight.size();
    if (l.blocks) lists_.push_back(std::move(l));
  }
  place_.resize(order.size());
  for (size_t i = 0; i < order.size(); i++) place_[size_t(order[i])] = int32_t(i);
}

void ShiftRows::pack(const float* weight, float* packed) const {
  for (const Lists& l : lists_)
    for (size_t i = 0; i < l.weight.size(); i++) packed[l.packed_at + i] = weight[l.weight[i]];
}

void ShiftRows::unpack(const float* packed, float* weight) const {
  for (const Lists& l : lists_)
    for (size_t i = 0; i < l.weight.size(); i++) weight[l.weight[i]] += packed[l.packed_at + i];
}

void ShiftRows::sum(const float* x, const float* packed, float* y, int64_t row, int64_t positions) const {
  int64_t total = positions / lanes_;
  for (const Lists& l : lists_) {
    // Chunks of positions as even as can be: a last one of a single vector would wait for its additions.
    int64_t parts = (total + l.info->vectors - 1) / l.info->vectors;
    for (int64_t part = 0, v = 0; part < parts; part++) {
      int64_t take = (total - v + parts - part - 1) / (parts - part);
      for (int64_t c = 0; c < l.chunks; c++)
        l.info->sum[take]({x + v * lanes_, l.offs.data(), packed + l.packed_at, l.first.data() + c * (l.blocks + 1), l.blocks,
                           y + l.first_row * row + v * lanes_, row, c > 0});
      v += take;
    }
  }
}

void ShiftRows::dot(const float* x, int64_t x_image, const float* y, int64_t y_image, int64_t row, int64_t images,
                    int64_t positions, float* packed) const {
  for (const Lists& l : lists_)
    for (int64_t c = 0; c < l.chunks; c++)
      for (int64_t b = 0; b < l.blocks; b++) {
        const int32_t* first = l.first.data() + c * (l.blocks + 1) + b;
        l.info->dot({x, y + (l.first_row + b * l.info->rows) * row, x_image, y_image, row, images, positions, l.offs.data(),
                     first[0], first[1], packed + l.packed_at});
      }
}

}  // namespace precut
