#include "plan.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "model.h"

namespace precut {

const Kernels& Plan::kernels() const { return *model_.kernels; }
const Order& Plan::order(int value) const { return model_.orders.of[size_t(value)]; }

Place Plan::place(int value, const Run& run, bool wide) const {
  const Slot& s = slots_[size_t(value)];
  const Buffer& b = buffers_[size_t(s.buffer)];
  Place p;
  p.blocks = int64_t(order(value).size()) / b.block_lanes;
  p.col = b.col;
  p.row = b.row;
  p.blk = b.blk;
  p.img = b.img;
  p.h = b.h;
  p.w = b.w;
  p.images = run.images;
  if (wide && b.flat) {
    p.w = run.images;
    p.images = 1;
  }
  p.p = (b.shared ? run.shared + run.image0 * b.img : run.local) + b.offset + b.origin + s.block0 * b.blk;
  return p;
}

// Zeros around what an operation has written.
void Plan::clear_halo(int value, const Run& run, int part, int parts) const {
  const Buffer& b = buffer(value);
  if (b.flat || b.pt + b.pl + b.pb + b.pr == 0) return;
  Place p = place(value, run, false);
  int64_t total = p.images * p.blocks;
  for (int64_t i = total * part / parts; i < total * (part + 1) / parts; i++) {
    float* base = p.p + i / p.blocks * p.img + i % p.blocks * p.blk - b.origin;
    std::memset(base, 0, size_t(b.pt * b.row) * 4);
    for (int64_t r = 0; r < b.h; r++) {
      float* row = base + (b.pt + r) * b.row;
      std::memset(row, 0, size_t(b.pl * b.col) * 4);
      std::memset(row + (b.pl + b.w) * b.col, 0, size_t(b.pr * b.col) * 4);
    }
    std::memset(base + (b.pt + b.h) * b.row, 0, size_t(b.pb * b.row) * 4);
  }
}

void Plan::run_op(const Exec& exec, const Run& run, int part, int parts) const {
  exec.run(*this, run, part, parts);
  if (exec.node) clear_halo(exec.node->out, run, part, parts);
}

void Plan::run(const float* const* inputs, float* const* outputs) const {
  const Pool& pool = *model_.pool;
  int threads = pool.threads();
  int64_t batch = shapes_[size_t(model_.graph.inputs[0].value)].n;
  pool.begin();
  for (const Segment& s : segments_) {
    int64_t groups = (batch + s.group - 1) / s.group;
    auto run_of = [&](int64_t g, int thread) {
      Run r;
      r.shared = arena_.data();
      r.local = arena_.data() + shared_size_ + (local_per_thread_ ? thread * local_size_ : 0);
      r.scratch = arena_.data() + shared_size_ + (local_per_thread_ ? threads : 1) * local_size_ + thread * scratch_size_;
      r.image0 = std::min(g * s.group, batch - s.group);
      r.images = s.group;
      r.inputs = inputs;
      r.outputs = outputs;
      return r;
    };
    if (threads > 1 && groups >= threads && (groups % threads == 0 || groups >= 4 * threads)) {
      std::atomic<int64_t> next{0};  // groups go to whoever is free
      pool.parallel([&](int thread) {
        for (int64_t g; (g = next.fetch_add(1)) < groups;) {
          Run r = run_of(g, thread);
          for (int i = s.first; i < s.last; i++)
            if (execs_[size_t(i)]) run_op(*execs_[size_t(i)], r, 0, 1);
        }
      });
      continue;
    }
    for (int64_t g = 0; g < groups; g++) {
      for (int i = s.first; i < s.last; i++) {
        if (!execs_[size_t(i)]) continue;
        pool.parallel([&](int thread) {
          Run r = run_of(g, 0);
          r.scratch += thread * scratch_size_;
          run_op(*execs_[size_t(i)], r, thread, threads);
        });
      }
    }
  }
  pool.end();
}

namespace {
double now_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
}  // namespace

// One builder a plan: layouts, memory, kernels, in that order.
class PlanBuilder {
 public:
  explicit PlanBuilder(Plan& plan) : p_(plan), m_(plan.model_), tuner_(plan.model_) {}

  void build() {
    p_.segments_ = plan_segments(m_, p_.shapes_);
    p_.buffers_ = plan_buffers(m_, p_.shapes_, p_.slots_);
    int64_t batch = p_.shapes_[size_t(m_.graph.inputs[0].value)].n, group = 1;
    int threads = m_.pool->threads();
    for (const Segment& s : p_.segments_) {
      group = std::max(group, s.group);
      int64_t groups = (batch + s.group - 1) / s.group;
      if (threads > 1 && groups >= threads) p_.local_per_thread_ = true;
    }
    mark_shared();
    place_local_groups(batch, group);
    allocate(0);
    make_execs();
    size_t scratch = 0;
    for (const auto& e : p_.execs_)
      if (e) scratch = std::max(scratch, e->scratch());
    allocate(int64_t(scratch));
  }

 private:
  // A buffer that is written in one segment and read in another holds all images.
  void mark_shared() {
    for (Buffer& b : p_.buffers_) {
      const Segment *from = nullptr, *to = nullptr;
      for (const Segment& s : p_.segments_) {
        if (b.first >= s.first && b.first < s.last) from = &s;
        if (b.last >= s.first && b.last < s.last) to = &s;
      }
      if (from == to || !from || !to) continue;
      b.shared = true;
      b.first = from->first;
      b.last = to->last - 1;
    }
  }

  // Buffers within one segment hold that segment's group only.
  void place_local_groups(int64_t batch, int64_t) {
    std::vector<Buffer> all;
    int64_t local = 0, shared = 0;
    // Sizes depend on the segment's group, so each segment is placed by itself; segments reuse the same memory.
    for (const Segment& s : p_.segments_) {
      std::vector<Buffer> part;
      std::vector<size_t> index;
      for (size_t i = 0; i < p_.buffers_.size(); i++) {
        const Buffer& b = p_.buffers_[i];
        if (b.shared || b.first < s.first || b.first >= s.last) continue;
        part.push_back(b);
        index.push_back(i);
      }
      int64_t l = 0, h = 0;
      place_buffers(part, batch, s.group, l, h);
      local = std::max(local, l);
      for (size_t i = 0; i < index.size(); i++) p_.buffers_[index[i]] = part[i];
    }
    std::vector<Buffer> part;
    std::vector<size_t> index;
    for (size_t i = 0; i < p_.buffers_.size(); i++)
      if (p_.buffers_[i].shared) {
        part.push_back(p_.buffers_[i]);
        index.push_back(i);
      }
    int64_t l = 0;
    place_buffers(part, batch, 1, l, shared);
    for (size_t i = 0; i < index.size(); i++) p_.buffers_[index[i]] = part[i];
    p_.local_size_ = (local + 15) / 16 * 16;
    p_.shared_size_ = (shared + 15) / 16 * 16;
  }

  void allocate(int64_t scratch) {
    int64_t threads = m_.pool->threads();
    p_.scratch_size_ = (scratch + 15) / 16 * 16;
    int64_t total = p_.shared_size_ + p_.local_size_ * (p_.local_per_thread_ ? threads : 1) + p_.scratch_size_ * threads;
    if (total > kMaxArenaFloats) throw Error(PRECUT_ERR_MEMORY, "this plan needs more memory than a plan may take");
    p_.arena_ = Floats();
    p_.arena_ = Floats(size_t(total));
  }

  const Segment& segment_of(int exec) const {
    for (const Segment& s : p_.segments_)
      if (exec < s.last) return s;
    return p_.segments_.back();
  }

  void make_execs() {
    const Graph& g = m_.graph;
    for (size_t i = 0; i < g.inputs.size(); i++) p_.execs_.push_back(make_input(p_, int(i)));
    for (const Node& n : g.nodes) {
      const Slot &to = p_.slots_[size_t(n.out)], &from = p_.slots_[size_t(n.in[0])];
      bool in_place = to.buffer == from.buffer && to.block0 == from.block0 &&
                      (n.op == Op::gather || n.op == Op::flatten);
      if (in_place) p_.execs_.push_back(nullptr);
      else p_.execs_.push_back(make_exec(n, int(p_.execs_.size())));
    }
    for (size_t i = 0; i < g.outputs.size(); i++) p_.execs_.push_back(make_output(p_, int(i)));
  }

  std::unique_ptr<Exec> make_exec(const Node& n, int index) {
    if (is_depthwise(n) && !m_.orders.is_planar[size_t(n.in[0])]) return make_depthwise(p_, n);
    if (n.op != Op::conv2d && n.op != Op::linear) return make_simple(p_, n);
    const Segment& s = segment_of(index);
    int64_t wino_extra = 0;
    std::vector<std::unique_ptr<Exec>> list = conv_candidates(p_, n, s.group);
    const Shape &x = p_.shape(n.in[0]), &y = p_.shape(n.out);
    if (wino_fits(n, x, y) && !m_.orders.is_planar[size_t(n.in[0])]) {
      // Transformed weights are larger than the kept ones: together they may add a fifth to weights and arena.
      auto wino = make_wino(p_, n);
      int64_t more = int64_t(wino->weight_bytes) - kept_weights(m_.graph, n) * 4;
      if (wino_bytes_ + more <= int64_t((m_.total_weights + p_.arena_bytes()) / 5) + kSmall || forced_kernel()) {
        wino_extra = more;
        list.push_back(std::move(wino));
      }
    }
    if (!m_.orders.is_planar[size_t(n.in[0])])
      if (auto planar = make_planar(p_, n)) list.push_back(std::move(planar));
    if (n.support >= 0 && m_.graph.supports[size_t(n.support)].kind == Support::mask && n.groups == 1 &&
        !m_.orders.is_planar[size_t(n.in[0])])
      for (auto [vectors, near] : {std::pair(4, true), {4, false}, {2, true}, {8, false}})
        list.push_back(make_sparse(p_, n, vectors, near));
    if (const char* forced = forced_kernel())
      for (auto& e : list)
        if (e->kernel.find(forced) != std::string::npos) {
          e->why = "forced";
          return std::move(e);
        }
    size_t best = 0;
    for (size_t i = 1; i < list.size(); i++)
      if (list[i]->cycles < list[best]->cycles) best = i;
    std::unique_ptr<Exec> chosen = pick(n, s, std::move(list), best);
    if (chosen->kernel.find("winograd") != std::string::npos) wino_bytes_ += wino_extra;
    return chosen;
  }

  std::unique_ptr<Exec> pick(const Node& n, const Segment& s, std::vector<std::unique_ptr<Exec>> list, size_t best) {
    if (!m_.autotune || list.size() == 1) {
      list[best]->why += "cost model";
      return std::move(list[best]);
    }
    double least = list[best]->cycles;
    list.erase(std::remove_if(list.begin(), list.end(), [&](const auto& e) { return e->cycles > 2.0 * least; }), list.end());
    return tune(n, s, std::move(list));
  }

  std::unique_ptr<Exec> tune(const Node& n, const Segment& s, std::vector<std::unique_ptr<Exec>> list) {
    std::vector<std::string> names;
    size_t scratch = 0;
    for (const auto& e : list) {
      names.push_back(e->kernel + (e->why.empty() ? "" : " ahead"));
      scratch = std::max(scratch, e->scratch());
    }
    const Pool& pool = *m_.pool;
    int64_t batch = p_.shape(n.out).n, groups = (batch + s.group - 1) / s.group;
    int threads = pool.threads();
    bool alone = threads > 1 && groups >= threads && (groups % threads == 0 || groups >= 4 * threads);
    int parts = alone ? 1 : threads;
    Floats space(scratch * size_t(parts) + 16);
    bool heavy = false;
    for (const auto& e : list) heavy |= e->weight_bytes > (256u << 10);
    // How far away weights are depends on how much the whole network has of them.
    int size = 0;
    while (m_.total_weights >> (size + 20)) size++;
    std::string key = std::string(m_.kernels->isa) + " " + std::to_string(size) + " " + describe_layer(n) + " t" + std::to_string(parts) + " b" + std::to_string(s.group);
    size_t choice = tuner_.choose(key, names, [&](size_t i) {
      Run r;
      r.shared = p_.arena_.data();
      r.local = p_.arena_.data() + p_.shared_size_;
      r.images = s.group;
      if (heavy) cool(n, r);
      pool.begin();
      double start = now_us();
      auto work = [&](int part) {
        Run mine = r;
        mine.scratch = space.data() + size_t(part) * scratch;
        list[i]->run(p_, mine, part, parts);
      };
      if (parts == 1) work(0);
      else pool.parallel(work);
      double t = now_us() - start;
      pool.end();
      return t;
    });
    list[choice]->why += "measured fastest of " + std::to_string(list.size());
    return std::move(list[choice]);
  }

  std::string describe_layer(const Node& n) const {
    const Shape &x = p_.shape(n.in[0]), &y = p_.shape(n.out);
    const Window& w = n.win;
    std::string s = std::string(op_name(n.op)) + " x" + std::to_string(x.c) + "," + std::to_string(x.h) + "," +
                    std::to_string(x.w) + " y" + std::to_string(y.c) + "," + std::to_string(y.h) + "," + std::to_string(y.w);
    for (int v : {w.kh, w.kw, w.sh, w.sw, w.pt, w.pl, w.dh, w.dw, n.groups, int(n.has_residual), int(n.act.kind)})
      s += " " + std::to_string(v);
    s += " kept" + std::to_string(kept_weights(m_.graph, n));
    if (n.support >= 0) {
      const Support& sup = m_.graph.supports[size_t(n.support)];
      s += " s" + std::to_string(sup.kind) + "," + std::to_string(sup.p_out) + "," + std::to_string(sup.p_in) + "," +
           std::to_string(sup.align);
    }
    const Buffer& b = p_.buffer(n.in[0]);
    return s + " o" + std::to_string(p_.order(n.in[0]).size()) + "," + std::to_string(p_.order(n.out).size()) + "," +
           std::to_string(b.row) + "," + std::to_string(b.flat);
  }

  // Puts the caches into the state that a layer meets within the network: weights as far away as all the others push
  // them, the input near.
  void cool(const Node& n, const Run& r) {
    if (cold_.size() == 0) {
      cold_ = Floats(std::min<size_t>(m_.total_weights, 48u << 20) / 4 + 16);
      for (size_t i = 0; i < cold_.size(); i += 16) cold_[i] = 1.0f;  // pages of their own
    }
    float sum = 0;  // only read: lines to write back would slow the candidate that comes next
    for (size_t i = 0; i < cold_.size(); i += 16) sum += cold_[i];
    Place x = p_.place(n.in[0], r, false);
    const Buffer& b = p_.buffer(n.in[0]);
    int64_t size = b.flat ? b.size / 2 : x.images * b.img;
    for (int64_t i = 0; i < size - b.origin; i += 16) sum += x.p[i];
    sink_ = sum;
  }

  Plan& p_;
  Model& m_;
  Tuner tuner_;
  Floats cold_;
  volatile float sink_ = 0;
  int64_t wino_bytes_ = 0;
  static constexpr int64_t kSmall = 1 << 18;  // nobody minds
};

Plan::Plan(Model& model, std::vector<Shape> in) : inputs(std::move(in)), model_(model) {
  shapes_ = infer_shapes(model.graph, inputs);
  PlanBuilder(*this).build();
}

void Plan::profile(int rounds) {
  int64_t batch = shapes_[size_t(model_.graph.inputs[0].value)].n;
  std::vector<Floats> in, out;
  std::vector<const float*> ip;
  std::vector<float*> op;
  for (const Shape& s : inputs) in.emplace_back(size_t(s.n * s.c * s.pixels()));
  for (const Output& o : model_.graph.outputs) {
    const Shape& s = shapes_[size_t(o.value)];
    out.emplace_back(size_t(s.n * s.c * s.pixels()));
  }
  for (const Floats& f : in) ip.push_back(f.data());
  for (const Floats& f : out) op.push_back(f.data());
  const Pool& pool = *model_.pool;
  std::vector<double> best(execs_.size(), 1e30);
  // Every operation is timed with all threads on it, group by group, as it runs when the batch is one group.
  for (int round = 0; round < rounds; round++) {
    std::vector<double> sum(execs_.size(), 0);
    for (const Segment& s : segments_)
      for (int64_t g = 0; g < (batch + s.group - 1) / s.group; g++)
        for (int i = s.first; i < s.last; i++) {
          if (!execs_[size_t(i)]) continue;
          Run r;
          r.shared = arena_.data();
          r.local = arena_.data() + shared_size_;
          r.image0 = std::min(g * s.group, batch - s.group);
          r.images = s.group;
          r.inputs = ip.data();
          r.outputs = op.data();
          float* scratch =
              arena_.data() + shared_size_ + (local_per_thread_ ? pool.threads() : 1) * local_size_;
          pool.begin();
          double start = now_us();
          pool.parallel([&](int part) {
            Run mine = r;
            mine.scratch = scratch + part * scratch_size_;
            run_op(*execs_[size_t(i)], mine, part, pool.threads());
          });
          sum[size_t(i)] += now_us() - start;
          pool.end();
        }
    for (size_t i = 0; i < sum.size(); i++) best[i] = std::min(best[i], sum[i]);
  }
  for (size_t i = 0; i < execs_.size(); i++)
    if (execs_[i]) execs_[i]->us = best[i];
  float sink = 0.25f;
  for (int round = 0; round < 20; round++) {
    double start = now_us();
    int64_t done = kernels().burn(20000, &sink);
    peak_gflops_ = std::max(peak_gflops_, 2e-3 * double(done) / (now_us() - start));
  }
}

}  // namespace precut
