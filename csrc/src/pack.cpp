#include "pack.h"

#include <map>

namespace precut {
namespace {

constexpr int kSingle = 4;  // tiles of this group take one group a step, see conv_tile.h

struct Walker {
  const Node& node;
  const DenseRows& d;
  const Order &in, &out;
  int lanes, block_lanes, group, nv;
  int64_t per_out, per_in;

  Walker(const Node& n, const DenseRows& dense, const Order& i, const Order& o, int l, bool planar, int g, int v)
      : node(n), d(dense), in(i), out(o), lanes(l), block_lanes(planar ? 1 : l), group(g), nv(v),
        per_out(n.out_channels / n.groups), per_in(n.in_channels / n.groups) {}

  // The weight from channel `i` to channel `o` (both logical) at position k; null where there is none.
  const float* weight(int64_t o, int64_t i, int64_t k) const {
    int64_t local = i - o / per_out * per_in;
    if (local < 0 || local >= per_in) return nullptr;
    int64_t at = local * d.area + k;
    return d.keep_row(o)[at] ? d.row(o) + at : nullptr;
  }

  std::vector<Unit> units() const {
    std::vector<Unit> list;
    int32_t blocks = int32_t(out.size() / size_t(lanes));
    if (group > 1) {
      for (int32_t b = 0; b < blocks; b++)
        for (int32_t l = 0; l < lanes; l += lanes / group) list.push_back({b, l, 1, 0, 0, 0});
    } else {
      for (int32_t b = 0; b < blocks; b += list.back().nv) {
        int32_t left = blocks - b, take = nv;
        while (take > left) take /= 2;
        list.push_back({b, 0, take < 1 ? 1 : take, 0, 0, 0});
      }
    }
    return list;
  }
  size_t lanes_of(const Unit& u) const { return size_t(group > 1 ? lanes / group : u.nv * lanes); }
  const int32_t* channels(const Unit& u) const { return out.data() + u.block * lanes + u.lane; }

  std::vector<Walk> walk(const Unit& u) const {
    std::vector<Walk> list;
    const int32_t* outs = channels(u);
    size_t n_outs = lanes_of(u);
    bool any = false;
    for (size_t j = 0; j < n_outs; j++) any |= outs[j] >= 0;
    if (!any) return list;
    int32_t blocks = int32_t(in.size() / size_t(block_lanes));
    int chunks = block_lanes / group;
    std::vector<uint8_t> need(size_t(d.area) * size_t(block_lanes));
    for (int32_t b = 0; b < blocks; b++) {
      std::fill(need.begin(), need.end(), uint8_t(0));
      for (int l = 0; l < block_lanes; l++) {
        int32_t i = in[size_t(b * block_lanes + l)];
        if (i < 0) continue;
        for (size_t j = 0; j < n_outs; j++) {
          if (outs[j] < 0) continue;
          int64_t local = i - outs[j] / per_out * per_in;
          if (local < 0 || local >= per_in) continue;
          const uint8_t* keep = d.keep_row(outs[j]) + local * d.area;
          for (int64_t k = 0; k < d.area; k++) need[size_t(k * block_lanes + l)] |= keep[k];
          if (node.support < 0) break;  // dense: one channel of the group tells for all, and groups are disjoint
        }
      }
      if (node.support < 0 && node.groups > 1) widen(b, outs, n_outs, need);
      for (int64_t k = 0; k < d.area; k++) {
        int run = -1;
        for (int c = 0; c <= chunks; c++) {
          bool on = false;
          if (c < chunks)
            for (int l = c * group; l < (c + 1) * group; l++) on |= need[size_t(k * block_lanes + l)] != 0;
          if (on && run < 0) run = c;
          if (run >= 0 && (!on || group == kSingle)) {
            int end = on ? c + 1 : c;
            list.push_back({b, int32_t(k), run * group, end - run});
            run = -1;
          }
        }
      }
    }
    return list;
  }

  // Dense groups: an input channel is needed where any output channel of the unit is in its group.
  void widen(int32_t b, const int32_t* outs, size_t n_outs, std::vector<uint8_t>& need) const {
    for (int l = 0; l < block_lanes; l++) {
      int32_t i = in[size_t(b * block_lanes + l)];
      bool on = false;
      for (size_t j = 0; i >= 0 && j < n_outs; j++) on |= outs[j] >= 0 && outs[j] / per_out == i / per_in;
      for (int64_t k = 0; k < d.area; k++) need[size_t(k * block_lanes + l)] = on;
    }
  }

  static int64_t steps(const std::vector<Walk>& list) {
    int64_t n = 0;
    for (const Walk& w : list) n += w.n;
    return n;
  }

  void fill(const Unit& u, const std::vector<Walk>& list, float* w) const {
    const int32_t* outs = channels(u);
    size_t n_outs = lanes_of(u);
    for (const Walk& s : list)
      for (int32_t c = 0; c < s.n; c++) {
        for (size_t j = 0; j < n_outs; j++)
          for (int g = 0; g < group; g++) {
            int32_t i = in[size_t(s.block * block_lanes + s.lane + c * group + g)];
            const float* p = outs[j] < 0 || i < 0 ? nullptr : weight(outs[j], i, s.position);
            w[j * size_t(group) + size_t(g)] = p ? *p : 0.0f;
          }
        w += n_outs * size_t(group);
      }
  }
};

}  // namespace

int64_t count_vector_macs(const Node& node, const DenseRows& dense, const Order& in, const Order& out, int lanes,
                          bool planar, int group, int nv) {
  Walker k(node, dense, in, out, lanes, planar, group, nv);
  int64_t total = 0;
  for (const Unit& u : k.units()) total += Walker::steps(k.walk(u)) * u.nv;
  return total;
}

Packed pack(const Graph& graph, const Node& node, const DenseRows& dense, const Order& in, const Order& out, int lanes,
            bool planar, int group, int nv) {
  Walker k(node, dense, in, out, lanes, planar, group, nv);
  Packed p;
  p.lanes = lanes;
  p.group = group;
  p.nv = nv;
  p.units = k.units();
  size_t weights = 0, bias = 0;
  auto less = [](const std::vector<Walk>& a, const std::vector<Walk>& b) {
    if (a.size() != b.size()) return a.size() < b.size();
    return !a.empty() && std::memcmp(a.data(), b.data(), a.size() * sizeof(Walk)) < 0;
  };
  std::map<std::vector<Walk>, int32_t, decltype(less)> known(less);
  for (Unit& u : p.units) {
    std::vector<Walk> list = k.walk(u);
    int64_t steps = Walker::steps(list);
    p.vector_macs += steps * u.nv;
    u.weights = weights;
    u.bias = bias;
    weights += size_t(steps) * size_t(u.nv * lanes);
    bias += k.lanes_of(u);
    auto [at, is_new] = known.emplace(std::move(list), int32_t(p.walks.size()));
    if (is_new) p.walks.push_back(at->first);
    u.walk = at->second;
  }
  p.weights = Floats(weights);
  p.bias = Floats(bias + size_t(lanes));
  const float* b = node.bias < 0 ? nullptr : graph.tensors[size_t(node.bias)].floats();
  for (const Unit& u : p.units) {
    k.fill(u, p.walks[size_t(u.walk)], p.weights.data() + u.weights);
    const int32_t* outs = k.channels(u);
    for (size_t j = 0; b && j < k.lanes_of(u); j++)
      if (outs[j] >= 0) p.bias.data()[u.bias + j] = b[outs[j]];
  }
  return p;
}

}  // namespace precut
