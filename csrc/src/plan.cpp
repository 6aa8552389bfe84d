#include "plan.h"

#include <algorithm>
#include <atomic>

#include "model.h"
#include "timing.h"

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

bool Plan::groups_in_parallel(const Segment& s) const {
  int64_t batch = shapes_[size_t(model_.graph.inputs[0].value)].n, groups = (batch + s.group - 1) / s.group;
  int threads = model_.pool->threads();
  return threads > 1 && groups >= threads && (groups % threads == 0 || groups >= 4 * threads);
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
    if (groups_in_parallel(s)) {
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

// One forward, operation by operation; adds to the time of each. A sample stops after the first group of each segment,
// and runs on one thread what has one thread in a run.
void Plan::timed_forward(const float* const* inputs, float* const* outputs, bool sample, std::vector<double>& us) const {
  const Pool& pool = *model_.pool;
  int64_t batch = shapes_[size_t(model_.graph.inputs[0].value)].n;
  float* scratch = arena_.data() + shared_size_ + (local_per_thread_ ? pool.threads() : 1) * local_size_;
  pool.begin();
  for (const Segment& s : segments_) {
    bool alone = sample && groups_in_parallel(s);
    for (int64_t g = 0; g < (sample ? 1 : (batch + s.group - 1) / s.group); g++)
      for (int i = s.first; i < s.last; i++) {
        if (!execs_[size_t(i)]) continue;
        Run r;
        r.shared = arena_.data();
        r.local = arena_.data() + shared_size_;
        r.scratch = scratch;
        r.image0 = std::min(g * s.group, batch - s.group);
        r.images = s.group;
        r.inputs = inputs;
        r.outputs = outputs;
        double start = now_us();
        if (alone) {
          run_op(*execs_[size_t(i)], r, 0, 1);
        } else {
          pool.parallel([&](int part) {
            Run mine = r;
            mine.scratch += part * scratch_size_;
            run_op(*execs_[size_t(i)], mine, part, pool.threads());
          });
        }
        us[size_t(i)] += now_us() - start;
      }
  }
  pool.end();
}

void Plan::profile(int rounds) {
  Ends ends(*this, model_.graph);
  std::vector<double> best(execs_.size(), 1e30);
  for (int round = 0; round < rounds; round++) {
    std::vector<double> us(execs_.size(), 0);
    timed_forward(ends.in.data(), ends.out.data(), false, us);
    for (size_t i = 0; i < us.size(); i++) best[i] = std::min(best[i], us[i]);
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
