#include "order.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace precut {

Order pad_order(Order order, int lanes) {
  while (order.size() % size_t(lanes)) order.push_back(-1);
  return order;
}

Order natural_order(int64_t channels, int lanes) {
  Order o(static_cast<size_t>(channels));
  std::iota(o.begin(), o.end(), 0);
  return pad_order(std::move(o), lanes);
}

Order class_order(int64_t channels, int period, int align, int unit, int lanes) {
  std::vector<int> ranks(static_cast<size_t>(period));
  bool power = (period & (period - 1)) == 0;
  for (int r = 0; r < period; r++) {
    int rank = r;
    if (power) {
      rank = 0;
      for (int bit = 1, top = period >> 1; top; bit <<= 1, top >>= 1)
        if (r & bit) rank |= top;
    }
    ranks[size_t(rank)] = r;
  }
  Order o;
  for (int r : ranks) {
    size_t first = o.size();
    for (int64_t c = 0; c < channels; c++)
      if (c / align % period == r) o.push_back(int32_t(c));
    if (o.size() > first)
      while (o.size() % size_t(unit)) o.push_back(-1);
  }
  return pad_order(std::move(o), lanes);
}

bool is_depthwise(const Node& n) {
  return n.op == Op::conv2d && n.groups > 1 && n.groups == n.in_channels && n.groups == n.out_channels;
}

namespace {

// Number of kernel positions in the union of the pairs (a, b) for a in `outs`, b in `ins`.
size_t union_size(const Support& s, const std::vector<int>& outs, const std::vector<int>& ins) {
  if (outs.size() == 1 && ins.size() == 1) return s.positions[size_t(outs[0] * s.p_in + ins[0])].size();
  std::vector<uint16_t> all;
  for (int a : outs)
    for (int b : ins) {
      const auto& list = s.positions[size_t(a * s.p_in + b)];
      all.insert(all.end(), list.begin(), list.end());
    }
  std::sort(all.begin(), all.end());
  return size_t(std::unique(all.begin(), all.end()) - all.begin());
}

std::vector<int> classes(const Order& order, size_t from, size_t to, int period, int align) {
  std::vector<int> found;
  for (size_t i = from; i < to && i < order.size(); i++) {
    if (order[i] < 0) continue;
    int c = order[i] / align % period;
    if (std::find(found.begin(), found.end(), c) == found.end()) found.push_back(c);
  }
  return found;
}

class Chooser {
 public:
  Chooser(const Graph& g, const std::vector<Shape>& shapes, int lanes, const std::vector<int>& groups)
      : g_(g), shapes_(shapes), lanes_(lanes), groups_(groups), parent_(size_t(g.n_values)), made_by_(size_t(g.n_values), -1) {
    std::iota(parent_.begin(), parent_.end(), 0);
    for (size_t i = 0; i < g.nodes.size(); i++) {
      const Node& n = g.nodes[i];
      made_by_[size_t(n.out)] = int(i);
      join(n);
    }
    state_.assign(size_t(g.n_values), 0);
    result_.resize(size_t(g.n_values));
  }

  Orders choose() {
    Orders out;
    out.is_planar.assign(size_t(g_.n_values), false);
    for (const Input& in : g_.inputs) out.is_planar[size_t(in.value)] = shapes_[size_t(in.value)].c < lanes_ && only_convolved(in.value);
    for (int v = 0; v < g_.n_values; v++) {
      if (out.is_planar[size_t(v)]) out.of.push_back(natural_order(shapes_[size_t(v)].c, 1));
      else out.of.push_back(group_order(find(v)));
    }
    return out;
  }

 private:
  int find(int v) {
    while (parent_[size_t(v)] != v) v = parent_[size_t(v)] = parent_[size_t(parent_[size_t(v)])];
    return v;
  }
  void unite(int a, int b) { parent_[size_t(find(a))] = find(b); }

  // Values that must have the same order.
  void join(const Node& n) {
    switch (n.op) {
      case Op::conv2d:
      case Op::linear:
        if (is_depthwise(n)) unite(n.in[0], n.out);
        if (n.has_residual) unite(n.in[1], n.out);
        break;
      case Op::add:
      case Op::mul:
        unite(n.in[1], n.out);
        unite(n.in[0], n.out);
        break;
      case Op::cat:
        if (n.in.size() == 1) unite(n.in[0], n.out);
        break;
      case Op::flatten:
        if (shapes_[size_t(n.in[0])].pixels() == 1) unite(n.in[0], n.out);
        break;
      case Op::gather:
        break;
      default:
        unite(n.in[0], n.out);
    }
  }

  bool only_convolved(int v) const {
    for (const Output& o : g_.outputs)
      if (o.value == v) return false;
    bool used = false;
    for (const Node& n : g_.nodes)
      for (size_t i = 0; i < n.in.size(); i++)
        if (n.in[i] == v) {
          if (n.op != Op::conv2d || is_depthwise(n) || i > 0) return false;
          used = true;
        }
    return used;
  }

  // The order that follows from those of the inputs when nothing is moved.
  Order derived(const Node& n) {
    Order o;
    const Order& first = group_order(find(n.in[0]));
    if (n.op == Op::cat) {
      int32_t base = 0;
      for (int v : n.in) {
        for (int32_t c : group_order(find(v))) o.push_back(c < 0 ? -1 : base + c);
        base += int32_t(shapes_[size_t(v)].c);
      }
    } else if (n.op == Op::gather) {
      std::vector<int32_t> where(size_t(shapes_[size_t(n.in[0])].c), -1);
      for (size_t j = 0; j < n.index.size(); j++) {
        // Zeros and repeated channels cannot be had by renaming.
        if (n.index[j] < 0 || where[size_t(n.index[j])] >= 0) return natural_order(int64_t(n.index.size()), lanes_);
        where[size_t(n.index[j])] = int32_t(j);
      }
      for (int32_t c : first) o.push_back(c < 0 ? -1 : where[size_t(c)]);
      // A slice that keeps few channels is copied instead: consumers would walk over what nobody needs.
      if (o.size() > 2 * n.index.size() + size_t(lanes_)) return natural_order(int64_t(n.index.size()), lanes_);
    } else {  // flatten
      const Shape& s = shapes_[size_t(n.in[0])];
      // Pixels vary within a block of channels, as they lie in memory.
      for (size_t b = 0; b < first.size(); b += size_t(lanes_))
        for (int64_t p = 0; p < s.pixels(); p++)
          for (size_t l = b; l < b + size_t(lanes_); l++)
            o.push_back(first[l] < 0 ? -1 : int32_t(first[l] * s.pixels() + p));
    }
    return o;
  }

  bool is_derived(const Node& n) {
    return (n.op == Op::cat && n.in.size() > 1) || n.op == Op::gather ||
           (n.op == Op::flatten && shapes_[size_t(n.in[0])].pixels() > 1);
  }

  const Order& group_order(int group) {
    size_t at = size_t(group);
    if (state_[at]) return result_[at];
    state_[at] = 1;  // a cycle meets the natural order, and the node that closes it copies
    result_[at] = natural_order(shapes_[at].c, lanes_);
    for (int v = 0; v < g_.n_values; v++) {
      if (find(v) != group || made_by_[size_t(v)] < 0) continue;
      const Node& n = g_.nodes[size_t(made_by_[size_t(v)])];
      if (is_derived(n)) {
        Order o = derived(n);
        result_[at] = std::move(o);
        return result_[at];
      }
    }
    result_[at] = best_order(group);
    return result_[at];
  }

  const Support* table(const Node& n) const {
    if ((n.op != Op::conv2d && n.op != Op::linear) || n.support < 0 || is_depthwise(n)) return nullptr;
    const Support& s = g_.supports[size_t(n.support)];
    return s.kind == Support::class_table ? &s : nullptr;
  }

  Order best_order(int group) {
    std::vector<const Node*> producers, consumers;
    std::vector<Order> candidates{natural_order(shapes_[size_t(group)].c, lanes_)};
    int64_t channels = shapes_[size_t(group)].c;
    auto propose = [&](int period, int align) {
      if (period == 1 || period > channels) return;
      for (int unit : {1, lanes_ / 4, lanes_ / 2, lanes_})
        if (unit > 0) candidates.push_back(class_order(channels, period, align, unit, lanes_));
    };
    for (const Node& n : g_.nodes) {
      const Support* s = table(n);
      bool weighs = (n.op == Op::conv2d || n.op == Op::linear) && !is_depthwise(n);
      if (weighs && find(n.out) == group) {
        producers.push_back(&n);
        if (s) propose(s->p_out, s->align);
      }
      if (s && n.groups == 1 && find(n.in[0]) == group) {
        consumers.push_back(&n);
        propose(s->p_in, 1);
      }
    }
    double best = std::numeric_limits<double>::infinity();
    size_t chosen = 0;
    for (size_t i = 0; i < candidates.size(); i++) {
      if (i && candidates[i] == candidates[i - 1]) continue;
      double cost = 0;
      for (const Node* n : producers) cost += produce_cost(*n, candidates[i]);
      for (const Node* n : consumers) cost += consume_cost(*n, candidates[i]);
      // Padding costs memory traffic everywhere.
      cost *= 1.0 + 0.05 * double(candidates[i].size()) / double(candidates[0].size());
      if (cost < best * 0.999) {
        best = cost;
        chosen = i;
      }
    }
    return candidates[chosen];
  }

  double pixels(const Node& n) const { return double(shapes_[size_t(n.out)].pixels()); }

  // Vector multiply-adds when the output has this order and each input channel can be walked by itself.
  double produce_cost(const Node& n, const Order& out) const {
    const Support* s = table(n);
    int64_t per = n.in_channels / n.groups;
    if (!s) return double(out.size() / size_t(lanes_)) * double(per * n.win.kh * n.win.kw) * pixels(n);
    double best = std::numeric_limits<double>::infinity();
    for (int group : groups_) {
      size_t unit = size_t(lanes_ / group);
      double cost = 0;
      for (size_t at = 0; at < out.size(); at += unit) {
        std::vector<int> outs = classes(out, at, at + unit, s->p_out, s->align);
        if (outs.empty()) continue;
        for (int b = 0; b < s->p_in && b < per; b++)
          cost += double((per - b + s->p_in - 1) / s->p_in) * double(union_size(*s, outs, {b}));
      }
      best = std::min(best, cost / group * (group > 1 ? 1.1 : 1.0));
    }
    return best * pixels(n);
  }

  // The same for a layer that reads this order, its own output being sorted by class.
  double consume_cost(const Node& n, const Order& in) const {
    const Support* s = table(n);
    double best = std::numeric_limits<double>::infinity();
    std::vector<int64_t> count(size_t(s->p_out), 0);
    for (int64_t o = 0; o < n.out_channels; o++) count[size_t(o / s->align % s->p_out)]++;
    for (int group : groups_) {
      int64_t unit = lanes_ / group;
      double cost = 0;
      for (int a = 0; a < s->p_out; a++) {
        int64_t members = count[size_t(a)];
        if (!members) continue;
        double steps = 0;
        for (size_t at = 0; at < in.size(); at += size_t(group)) {
          std::vector<int> ins = classes(in, at, at + size_t(group), s->p_in, 1);
          if (!ins.empty()) steps += double(union_size(*s, {a}, ins));
        }
        cost += double((members + unit - 1) / unit) * steps;
      }
      best = std::min(best, cost * (group > 1 ? 1.1 : 1.0));
    }
    return best * pixels(n);
  }

  const Graph& g_;
  const std::vector<Shape>& shapes_;
  int lanes_;
  const std::vector<int>& groups_;
  std::vector<int> parent_, made_by_;
  std::vector<int> state_;
  std::vector<Order> result_;
};

}  // namespace

Orders choose_orders(const Graph& graph, const std::vector<Shape>& shapes, int lanes, const std::vector<int>& groups) {
  return Chooser(graph, shapes, lanes, groups).choose();
}

}  // namespace precut
