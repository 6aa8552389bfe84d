// Makes a plan: segments, buffers, memory, and for each operation the kernel that serves it best.
#include <algorithm>

#include "model.h"
#include "timing.h"

namespace precut {

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
    for (const Open& o : open_)
      for (const auto& e : o.list) scratch = std::max(scratch, e->scratch());
    allocate(int64_t(scratch));
    if (open_.empty()) return;
    tune_together();
    scratch = 0;
    for (const auto& e : p_.execs_)
      if (e) scratch = std::max(scratch, e->scratch());
    if (p_.scratch_size_ > int64_t(scratch) + 16) allocate(int64_t(scratch));
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
      for (auto& planar : planar_candidates(p_, n)) list.push_back(std::move(planar));
    if (n.support >= 0 && m_.graph.supports[size_t(n.support)].kind == Support::mask && n.groups == 1 &&
        !m_.orders.is_planar[size_t(n.in[0])])
      for (const SparseKind& kind : kSparseKinds)
        if (!kind.shift || (n.op == Op::conv2d && n.win.sh == 1 && n.win.sw == 1 && y.pixels() > 1))
          if (auto sparse = make_sparse(p_, n, s.group, kind)) list.push_back(std::move(sparse));
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
    // A layer that is still open may turn out to take Winograd.
    if (!chosen || chosen->kernel.find("winograd") != std::string::npos) wino_bytes_ += wino_extra;
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

  // Layers are timed within the whole network (see tune_together), where weights and activations are as far away as they
  // will be; null until then.
  std::unique_ptr<Exec> tune(const Node& n, const Segment& s, std::vector<std::unique_ptr<Exec>> list) {
    std::vector<std::string> names;
    for (const auto& e : list) names.push_back(e->kernel + (e->why.empty() ? "" : " " + e->why));
    int parts = p_.groups_in_parallel(s) ? 1 : m_.pool->threads();
    // How far away weights are depends on how much the whole network has of them.
    int size = 0;
    while (m_.total_weights >> (size + 20)) size++;
    std::string key = std::string(m_.kernels->isa) + " " + std::to_string(size) + " " + describe_layer(n) + " t" +
                      std::to_string(parts) + " b" + std::to_string(s.group);
    size_t choice = tuner_.recall(key, names);
    if (choice == names.size()) {
      open_.push_back({p_.execs_.size(), key, std::move(names), std::move(list)});
      return nullptr;
    }
    return chosen(list, choice);
  }

  static std::unique_ptr<Exec> chosen(std::vector<std::unique_ptr<Exec>>& list, size_t choice) {
    list[choice]->why += "measured fastest of " + std::to_string(list.size());
    return std::move(list[choice]);
  }

  // Forwards through the whole network (of one group of images in each segment), with one candidate of each open layer at
  // a time. Processors change their pace within seconds (clocks, neighbours), so a candidate is compared with the others
  // of its round only, and the median over the rounds decides.
  void tune_together() {
    Ends ends(p_, m_.graph);
    size_t most = 0;
    for (const Open& o : open_) most = std::max(most, o.list.size());
    std::vector<std::vector<std::vector<double>>> shares(open_.size());  // layer, candidate, round
    for (size_t i = 0; i < open_.size(); i++) shares[i].resize(open_[i].list.size());
    // Weights that fit the last cache take a few forwards to settle there.
    const bool far = m_.total_weights > kCacheBytes || p_.segments_.size() > 1;
    const int forwards = far ? 3 : 6, rounds = far ? 5 : 7;
    const double start = now_us();
    // Large inputs get fewer rounds, though never less than two.
    for (int round = 0; round < rounds && (round < 2 || now_us() - start < 2e6); round++) {
      std::vector<std::vector<double>> least(open_.size(), std::vector<double>(most, 1e30));
      for (size_t c = 0; c < most; c++) {
        for (Open& o : open_) std::swap(p_.execs_[o.exec], o.list[c % o.list.size()]);
        for (int forward = 0; forward < forwards; forward++) {
          std::vector<double> us(p_.execs_.size(), 0);
          p_.timed_forward(ends.in.data(), ends.out.data(), true, us);
          if (forward == 0) continue;
          for (size_t i = 0; i < open_.size(); i++) {
            double& l = least[i][c % open_[i].list.size()];
            l = std::min(l, us[open_[i].exec]);
          }
        }
        for (Open& o : open_) std::swap(p_.execs_[o.exec], o.list[c % o.list.size()]);
      }
      for (size_t i = 0; i < open_.size(); i++) {
        double sum = 0;
        for (size_t c = 0; c < shares[i].size(); c++) sum += least[i][c];
        for (size_t c = 0; c < shares[i].size(); c++) shares[i][c].push_back(least[i][c] / sum);
      }
    }
    for (size_t i = 0; i < open_.size(); i++) {
      Open& o = open_[i];
      std::vector<double> medians;
      for (auto& of : shares[i]) {
        std::nth_element(of.begin(), of.begin() + int64_t(of.size() / 2), of.end());
        medians.push_back(of[of.size() / 2]);
      }
      size_t choice = size_t(std::min_element(medians.begin(), medians.end()) - medians.begin());
      tuner_.remember(o.key, o.names[choice]);
      p_.execs_[o.exec] = chosen(o.list, choice);
    }
    open_.clear();
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

  struct Open {  // a layer whose candidates are still to be timed
    size_t exec;
    std::string key;
    std::vector<std::string> names;
    std::vector<std::unique_ptr<Exec>> list;
  };

  Plan& p_;
  Model& m_;
  Tuner tuner_;
  std::vector<Open> open_;
  int64_t wino_bytes_ = 0;
  static constexpr int64_t kSmall = 1 << 20;  // nobody minds
};

Plan::Plan(Model& model, std::vector<Shape> in) : inputs(std::move(in)), model_(model) {
  shapes_ = infer_shapes(model.graph, inputs);
  PlanBuilder(*this).build();
}

}  // namespace precut
