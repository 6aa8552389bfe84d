// Operations that only move numbers: channels that cannot be renamed in place, and the caller's arrays.
#include <algorithm>
#include <cmath>

#include "ops_base.h"

namespace precut {
namespace {

// Moves channels (and, flattening, pixels) where renaming does not do.
struct Move : Base {
  struct From {
    int32_t input = -1, block = 0, lane = 0, pixel = -1;  // input -1: zeros
  };
  std::vector<From> from;     // by lane of the output
  std::vector<bool> straight;  // by block: all lanes come from one block, lane for lane
  std::vector<bool> done;      // by block: what is needed lies there already, computed in place

  Move(const Plan& plan, const Node& n) {
    prepare(plan, n, op_name(n.op));
    why = "channels cannot be renamed in place";
    int lanes = plan.lanes();
    std::vector<std::vector<int32_t>> where;
    for (int v : n.in) {
      const Order& o = plan.order(v);
      where.emplace_back(size_t(plan.shape(v).c), 0);
      for (size_t j = 0; j < o.size(); j++)
        if (o[j] >= 0) where.back()[size_t(o[j])] = int32_t(j);
    }
    int64_t pixels = plan.shape(n.in[0]).pixels();
    for (int32_t c : plan.order(n.out)) {
      From f;
      size_t input = 0;
      if (c >= 0 && n.op == Op::gather) c = n.index[size_t(c)];
      if (c >= 0 && n.op == Op::flatten) {
        f.pixel = int32_t(c % pixels);
        c = int32_t(c / pixels);
      }
      while (c >= 0 && n.op == Op::cat && c >= plan.shape(n.in[input]).c) c -= int32_t(plan.shape(n.in[input++]).c);
      if (c >= 0) {
        int32_t j = where[input][size_t(c)];
        f.input = int32_t(input);
        f.block = j / lanes;
        f.lane = j % lanes;
      }
      from.push_back(f);
    }
    for (size_t b = 0; b < from.size(); b += size_t(lanes)) {
      // A lane that nobody needs may hold anything: it goes along.
      const From& a = from[b];
      bool same = a.input >= 0 && a.lane == 0;
      for (size_t l = b; l < b + size_t(lanes); l++)
        same &= (plan.order(n.out)[l] < 0) || (from[l].input == a.input && from[l].block == a.block &&
                                              from[l].pixel == a.pixel && from[l].lane == int32_t(l - b));
      straight.push_back(same);
      // A block that was computed in place may hold channels that others still read, in lanes that nobody needs here:
      // it must not be written again.
      bool there = n.act.kind == Act::none, any = false;
      for (size_t l = b; there && l < b + size_t(lanes); l++) {
        const From& f = from[l];
        if (plan.order(n.out)[l] < 0) continue;
        any = true;
        there = f.input >= 0 && f.pixel < 0 && f.lane == int32_t(l - b) &&
                plan.same_block(n.in[size_t(f.input)], f.block, n.out, int64_t(b) / lanes);
      }
      if (there && !any) {
        there = false;
        for (int v : n.in)
          for (size_t k = 0; k < plan.order(v).size() / size_t(lanes); k++)
            there |= plan.same_block(v, int64_t(k), n.out, int64_t(b) / lanes);
      }
      done.push_back(there);
    }
  }

  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    Place y = plan.place(node->out, r, false);
    int lanes = plan.lanes();
    each_block(y, part, parts, [&](int64_t i, int64_t b) {
      if (done[size_t(b)]) return;
      const From* f = from.data() + b * lanes;
      for (int64_t row = 0; row < y.h; row++) {
        float* out = y.p + i * y.img + b * y.blk + row * y.row;
        int input = -1;
        Place x;
        for (int l = 0; l < lanes; l++) {
          if (f[l].input < 0) {
            for (int64_t c = 0; c < y.w; c++) out[c * lanes + l] = 0;
            continue;
          }
          if (f[l].input != input) x = plan.place(node->in[size_t(input = f[l].input)], r, false);
          const float* in = x.p + i * x.img + f[l].block * x.blk;
          in += f[l].pixel < 0 ? row * x.row : f[l].pixel / x.w * x.row + f[l].pixel % x.w * x.col;
          if (straight[size_t(b)]) {
            std::copy_n(in, y.w * lanes, out);
            break;
          }
          for (int64_t c = 0; c < y.w; c++) out[c * lanes + l] = in[c * x.col + f[l].lane];
        }
        finish(plan, b, out, y.w);
      }
    });
  }
};

// Of each block: from channel to channel where that is always the same, so that a transpose moves them; else 0.
std::vector<int32_t> even_steps(const Order& order, int lanes) {
  std::vector<int32_t> steps;
  for (size_t b = 0; lanes > 1 && b < order.size(); b += size_t(lanes)) {
    int32_t step = order[b + 1] - order[b];
    for (size_t l = b; l < b + size_t(lanes); l++)
      if (order[l] < 0 || (l > b && order[l] - order[l - 1] != step)) step = 0;
    steps.push_back(step);
  }
  return steps;
}

struct Ingest : Exec {
  int index, value;
  std::vector<int32_t> step;
  Ingest(const Plan& plan, int i) : index(i), value(plan.model().graph.inputs[size_t(i)].value) {
    const Buffer& buf = plan.buffer(value);
    kernel = buf.block_lanes == 1 ? "f32_input_planar_copy" : "f32_input_blocked_copy";
    why = "the caller's array is (N, C, H, W)";
    if (!buf.flat) step = even_steps(plan.order(value), buf.block_lanes);
  }
  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    const Shape& s = plan.shape(value);
    const Buffer& buf = plan.buffer(value);
    Place y = plan.place(value, r, false);
    const Order& order = plan.order(value);
    int64_t total = y.images * y.blocks;
    for (int64_t k = total * part / parts; k < total * (part + 1) / parts; k++) {
      int64_t i = k / y.blocks, b = k % y.blocks;
      const float* image = r.inputs[index] + (r.image0 + i) * s.c * s.pixels();
      float* block = y.p + i * y.img + b * y.blk;
      if (!buf.flat && buf.pt + buf.pl + buf.pb + buf.pr) std::fill_n(block - buf.origin, y.blk, 0.0f);
      for (int64_t row = 0; row < y.h; row++) {
        if (!step.empty() && step[size_t(b)]) {
          plan.kernels().block({image + (order[size_t(b * buf.block_lanes)] * s.h + row) * s.w, step[size_t(b)] * s.pixels(), y.w,
                                kZeros, block + row * y.row, nullptr, -INFINITY, INFINITY});
          continue;
        }
        for (int l = 0; l < buf.block_lanes; l++) {
          int32_t c = order[size_t(b * buf.block_lanes + l)];
          float* out = block + row * y.row + l;
          if (c < 0) {
            for (int64_t w = 0; w < y.w; w++) out[w * y.col] = 0;
            continue;
          }
          const float* in = image + (c * s.h + row) * s.w;
          if (y.col == 1) std::copy_n(in, y.w, out);
          else
            for (int64_t w = 0; w < y.w; w++) out[w * y.col] = in[w];
        }
      }
    }
  }
};

struct Egress : Exec {
  int index, value;
  std::vector<int32_t> step, columns;  // columns: where those of a row lie
  Egress(const Plan& plan, int i) : index(i), value(plan.model().graph.outputs[size_t(i)].value) {
    kernel = "f32_output_planar_copy";
    why = "the caller's array is (N, C, H, W)";
    const Buffer& buf = plan.buffer(value);
    if (buf.flat || buf.w % plan.lanes()) return;  // rows of whole vectors alone
    step = even_steps(plan.order(value), buf.block_lanes);
    for (int64_t w = 0; w < buf.w; w++) columns.push_back(int32_t(w * buf.block_lanes));
  }
  void run(const Plan& plan, const Run& r, int part, int parts) const override {
    const Shape& s = plan.shape(value);
    Place x = plan.place(value, r, false);
    const Order& order = plan.order(value);
    int lanes = plan.buffer(value).block_lanes;
    int64_t total = x.images * x.blocks;
    for (int64_t k = total * part / parts; k < total * (part + 1) / parts; k++) {
      int64_t i = k / x.blocks, b = k % x.blocks;
      float* image = r.outputs[index] + (r.image0 + i) * s.c * s.pixels();
      if (!step.empty() && step[size_t(b)]) {
        for (int64_t row = 0; row < x.h; row++)
          plan.kernels().lift({x.p + i * x.img + b * x.blk + row * x.row, columns.data(), x.w,
                               image + (order[size_t(b * lanes)] * s.h + row) * s.w, step[size_t(b)] * s.pixels()});
        continue;
      }
      for (int l = 0; l < lanes; l++) {
        int32_t c = order[size_t(b * lanes + l)];
        if (c < 0) continue;
        for (int64_t row = 0; row < x.h; row++) {
          const float* in = x.p + i * x.img + b * x.blk + row * x.row + l;
          for (int64_t w = 0; w < x.w; w++) image[(c * s.h + row) * s.w + w] = in[w * x.col];
        }
      }
    }
  }
};

}  // namespace

std::unique_ptr<Exec> make_move(const Plan& plan, const Node& n) { return std::make_unique<Move>(plan, n); }
std::unique_ptr<Exec> make_input(const Plan& plan, int i) { return std::make_unique<Ingest>(plan, i); }
std::unique_ptr<Exec> make_output(const Plan& plan, int i) { return std::make_unique<Egress>(plan, i); }

}  // namespace precut
