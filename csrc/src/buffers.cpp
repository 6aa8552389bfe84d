// Which values share memory, what halo each buffer needs, how long it lives, and where it lies.
#include <algorithm>

#include "model.h"

namespace precut {
namespace {

bool renames(const Order& from, const Order& to, const Node& n, int64_t pixels) {
  if (n.act.kind != Act::none || from.size() * size_t(pixels) != to.size() || pixels != 1) return false;
  for (size_t j = 0; j < to.size(); j++) {
    if (to[j] < 0) continue;
    int32_t source = n.op == Op::gather ? n.index[size_t(to[j])] : to[j];
    if (source < 0 || from[j] != source) return false;
  }
  return true;
}

struct Sharing {
  std::vector<int> parent;
  std::vector<int64_t> block;
  int root(int v, int64_t& block0) const {
    block0 = 0;
    while (parent[size_t(v)] >= 0) {
      block0 += block[size_t(v)];
      v = parent[size_t(v)];
    }
    return v;
  }
};

Sharing share(const Model& m, const std::vector<Shape>& shapes) {
  const Graph& g = m.graph;
  int lanes = m.kernels->lanes;
  Sharing s{std::vector<int>(size_t(g.n_values), -1), std::vector<int64_t>(size_t(g.n_values), 0)};
  for (const Node& n : g.nodes) {
    bool candidate = n.op == Op::gather || (n.op == Op::flatten && shapes[size_t(n.in[0])].pixels() == 1);
    if (candidate && !m.orders.is_planar[size_t(n.in[0])] &&
        renames(m.orders.of[size_t(n.in[0])], m.orders.of[size_t(n.out)], n, 1))
      s.parent[size_t(n.out)] = n.in[0];
  }
  // A concatenation costs nothing when its inputs are computed where they will lie. Later ones first, so that the chains
  // of a dense block nest.
  for (auto it = g.nodes.rbegin(); it != g.nodes.rend(); ++it) {
    const Node& n = *it;
    if (n.op != Op::cat || n.act.kind != Act::none) continue;
    const Order& whole = m.orders.of[size_t(n.out)];
    size_t at = 0;
    int32_t base = 0;
    for (int v : n.in) {
      const Order& part = m.orders.of[size_t(v)];
      bool same = at + part.size() <= whole.size() && !m.orders.is_planar[size_t(v)];
      for (size_t j = 0; same && j < part.size(); j++)
        same = part[j] < 0 ? whole[at + j] < 0 : whole[at + j] == base + part[j];
      int64_t inner, outer;
      int root = s.root(v, inner), target = s.root(n.out, outer);
      if (same && root != target && inner == 0 && m.orders.of[size_t(root)].size() == part.size() &&
          !m.orders.is_planar[size_t(root)]) {
        s.parent[size_t(root)] = n.out;
        s.block[size_t(root)] = int64_t(at) / lanes;
      }
      at += part.size();
      base += int32_t(shapes[size_t(v)].c);
    }
  }
  return s;
}

// Rows (or columns) of zeros that a window needs before and behind the input.
void need(int64_t in, int64_t out, int k, int stride, int before, int dilation, int& low, int& high) {
  low = std::max(low, before);
  int64_t last = (out - 1) * stride + int64_t(k - 1) * dilation - before - (in - 1);
  high = std::max<int>(high, int(std::max<int64_t>(last, 0)));
}

}  // namespace

std::vector<Buffer> plan_buffers(Model& m, const std::vector<Shape>& shapes, std::vector<Slot>& slots) {
  const Graph& g = m.graph;
  int lanes = m.kernels->lanes;
  Sharing s = share(m, shapes);
  std::vector<Buffer> buffers;
  std::vector<int> buffer_of(size_t(g.n_values), -1);
  slots.assign(size_t(g.n_values), Slot());
  for (int v = 0; v < g.n_values; v++) {
    Slot& slot = slots[size_t(v)];
    int root = s.root(v, slot.block0);
    if (buffer_of[size_t(root)] < 0) {
      Buffer b;
      b.block_lanes = m.orders.is_planar[size_t(root)] ? 1 : lanes;
      b.blocks = int64_t(m.orders.of[size_t(root)].size()) / b.block_lanes;
      b.h = shapes[size_t(root)].h;
      b.w = shapes[size_t(root)].w;
      b.flat = b.h * b.w == 1 && b.block_lanes > 1;
      b.first = 1 << 30;
      b.last = -1;
      buffer_of[size_t(root)] = int(buffers.size());
      buffers.push_back(b);
    }
    slot.buffer = buffer_of[size_t(root)];
  }
  auto live = [&](int v, int at) {
    Buffer& b = buffers[size_t(slots[size_t(v)].buffer)];
    b.first = std::min(b.first, at);
    b.last = std::max(b.last, at);
  };
  // Operations are numbered inputs first, then nodes, then outputs.
  int at = 0;
  for (const Input& in : g.inputs) live(in.value, at++);
  for (const Node& n : g.nodes) {
    for (int v : n.in) live(v, at);
    live(n.out, at++);
    if (n.op != Op::conv2d) continue;
    Buffer& b = buffers[size_t(slots[size_t(n.in[0])].buffer)];
    const Window& w = n.win;
    const Shape &x = shapes[size_t(n.in[0])], &y = shapes[size_t(n.out)];
    if (w.kh * w.kw > 1 || w.pt + w.pl + w.pb + w.pr > 0) b.flat = false;
    need(x.h, y.h, w.kh, w.sh, w.pt, w.dh, b.pt, b.pb);
    need(x.w, y.w, w.kw, w.sw, w.pl, w.dw, b.pl, b.pr);
    if (wino_fits(n, x, y) && b.block_lanes > 1) {
      b.pb = std::max(b.pb, int((y.h + 3) / 4 * 4 + 2 - w.pt - x.h));
      b.pr = std::max(b.pr, int((y.w + 3) / 4 * 4 + 2 - w.pl - x.w));
    }
  }
  for (const Output& out : g.outputs) live(out.value, at++);
  return buffers;
}

std::vector<Segment> plan_segments(const Model& m, const std::vector<Shape>& shapes) {
  const Graph& g = m.graph;
  int64_t batch = shapes[size_t(g.inputs[0].value)].n, now = 1;
  std::vector<int64_t> group;
  for (size_t i = 0; i < g.inputs.size(); i++) group.push_back(1);
  for (const Node& n : g.nodes) {
    if (n.op == Op::conv2d || n.op == Op::linear) {
      int64_t kept = kept_weights(g, n), bytes = kept * 4, cycles = kept * shapes[size_t(n.out)].pixels() / 24;
      // Weights that outgrow the cache are read again for every group: that may cost a tenth of the arithmetic, more where
      // they come from memory; but activations of larger groups come from further away, too.
      int64_t want = 1;
      while (bytes > 400000 && want < 64 && bytes / want > (m.total_weights > kCacheBytes ? 1 : 2) * cycles) want *= 2;
      now = std::max(now, want);
    }
    if (shapes[size_t(n.out)].pixels() == 1) now = std::max<int64_t>(now, 16);
    group.push_back(now);
  }
  for (size_t i = 0; i < g.outputs.size(); i++) group.push_back(now);
  std::vector<Segment> list;
  for (size_t i = 0; i < group.size(); i++) {
    int64_t wanted = std::min(group[i], batch);
    int64_t rounds = (batch + wanted - 1) / wanted;
    int64_t even = (batch + rounds - 1) / rounds;
    // A divisor of the batch leaves no image to be computed twice.
    for (int64_t d = even; d > even / 2; d--)
      if (batch % d == 0) {
        even = d;
        break;
      }
    if (list.empty() || list.back().group != even) list.push_back({int(i), int(i), even});
    list.back().last = int(i) + 1;
  }
  return list;
}

void place_buffers(std::vector<Buffer>& buffers, int64_t batch, int64_t group_max, int64_t& local, int64_t& shared) {
  std::vector<size_t> by_size;
  for (size_t i = 0; i < buffers.size(); i++) {
    Buffer& b = buffers[i];
    if (b.last < 0) continue;
    int64_t images = b.shared ? batch : group_max, lanes = b.block_lanes;
    b.col = lanes;
    if (b.flat) {
      b.img = lanes;
      b.row = b.blk = images * lanes;
      b.size = b.blk * b.blocks;
    } else {
      b.row = (b.w + b.pl + b.pr) * lanes;
      b.blk = (b.h + b.pt + b.pb) * b.row;
      // Blocks a multiple of 4 KiB apart would fall on the same cache sets.
      if (b.blk % 1024 == 0) b.blk += 16;
      b.img = b.blk * b.blocks;
      b.origin = b.pt * b.row + b.pl * b.col;
      b.size = b.img * images;
    }
    b.size = (b.size + 15) / 16 * 16 + 16;
    if (b.size > kMaxArenaFloats) throw Error(PRECUT_ERR_MEMORY, "an activation needs more memory than a plan may take");
    by_size.push_back(i);
  }
  std::sort(by_size.begin(), by_size.end(), [&](size_t a, size_t b) { return buffers[a].size > buffers[b].size; });
  local = shared = 0;
  std::vector<size_t> placed;
  for (size_t i : by_size) {
    Buffer& b = buffers[i];
    std::vector<std::pair<int64_t, int64_t>> taken;
    for (size_t j : placed) {
      const Buffer& o = buffers[j];
      if (o.shared == b.shared && o.first <= b.last && b.first <= o.last) taken.emplace_back(o.offset, o.offset + o.size);
    }
    std::sort(taken.begin(), taken.end());
    int64_t at = 0;
    for (auto [from, to] : taken) {
      if (from - at >= b.size) break;
      at = std::max(at, to);
    }
    b.offset = at;
    int64_t& total = b.shared ? shared : local;
    total = std::max(total, at + b.size);
    placed.push_back(i);
  }
}

}  // namespace precut
