// What a model and its plan are, as JSON; and the table of kernels.
#include <cstdio>
#include <set>

#include "model.h"

namespace precut {
namespace {

std::string quote(const std::string& s) {
  std::string q = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') q += '\\';
    q += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  }
  return q + "\"";
}
std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", v);
  return text;
}
std::string shape(const Shape& s) {
  std::string t = "[" + std::to_string(s.n) + ", " + std::to_string(s.c);
  if (s.rank == 4) t += ", " + std::to_string(s.h) + ", " + std::to_string(s.w);
  return t + "]";
}

std::string support_text(const Graph& g, const Node& n) {
  if (n.op != Op::conv2d && n.op != Op::linear) return "";
  if (n.support < 0) return "dense";
  const Support& s = g.supports[size_t(n.support)];
  if (s.kind == Support::mask) return "mask";
  std::string t = "classes " + std::to_string(s.p_out) + "x" + std::to_string(s.p_in);
  return s.align > 1 ? t + " align " + std::to_string(s.align) : t;
}

}  // namespace

std::string describe_model(const Model& m, const Plan* plan) {
  std::string j = "{\"version\": " + quote(precut_version()) + ", \"cpu\": " + quote(cpu_name()) +
                  ", \"isa\": " + quote(m.kernels ? m.kernels->isa : "reference") +
                  ", \"threads\": " + std::to_string(m.pool ? m.pool->threads() : 1) +
                  ", \"autotune\": " + (m.autotune ? "true" : "false");
  if (!plan) return j + ", \"ops\": []}";
  int64_t batch = plan->inputs[0].n, macs = 0;
  double us = 0;
  size_t weights = 0;
  std::set<const void*> seen;
  for (const auto& e : plan->execs()) {
    if (!e) continue;
    macs += e->macs;
    if (!e->weights_key() || seen.insert(e->weights_key()).second) weights += e->weight_bytes;
    if (e->us >= 0) us += e->us;
  }
  j += ", \"batch\": " + std::to_string(batch) + ", \"macs\": " + std::to_string(macs) +
       ", \"arena_bytes\": " + std::to_string(plan->arena_bytes()) + ", \"weight_bytes\": " + std::to_string(weights);
  if (us > 0) j += ", \"us\": " + number(us) + ", \"peak_gflops_a_thread\": " + number(plan->peak_gflops());
  j += ", \"segments\": [";
  for (size_t i = 0; i < plan->segments().size(); i++) {
    const Segment& s = plan->segments()[i];
    j += std::string(i ? ", " : "") + "{\"first\": " + std::to_string(s.first) + ", \"last\": " + std::to_string(s.last - 1) +
         ", \"images\": " + std::to_string(s.group) + "}";
  }
  j += "], \"ops\": [";
  int at = 0;
  bool first = true;
  size_t inputs = m.graph.inputs.size(), nodes = m.graph.nodes.size();
  for (const auto& e : plan->execs()) {
    size_t i = size_t(at++);
    const Node* n = i >= inputs && i < inputs + nodes ? &m.graph.nodes[i - inputs] : nullptr;
    std::string name = n ? n->name : i < inputs ? m.graph.inputs[i].name : m.graph.outputs[i - inputs - nodes].name;
    j += std::string(first ? "" : ", ") + "{\"name\": " + quote(name) +
         ", \"op\": " + quote(n ? op_name(n->op) : i < inputs ? "input" : "output");
    first = false;
    int value = n ? n->out : i < inputs ? m.graph.inputs[i].value : m.graph.outputs[i - inputs - nodes].value;
    j += ", \"shape\": " + shape(plan->shape(value));
    if (n) {
      j += ", \"support\": " + quote(support_text(m.graph, *n)) + ", \"act\": " + quote(act_name(n->act.kind)) +
           ", \"residual\": " + (n->has_residual ? "true" : "false");
    }
    if (!e) {
      j += ", \"kernel\": \"none\", \"why\": \"channels are renamed in place\", \"macs\": 0}";
      continue;
    }
    const Buffer& b = plan->buffer(value);
    j += ", \"kernel\": " + quote(e->kernel) + ", \"why\": " + quote(e->why) + ", \"layout\": " +
         quote(b.block_lanes == 1 ? "planar" : b.flat ? "blocked, images side by side" : "blocked") +
         ", \"channels_in_memory\": " + std::to_string(plan->order(value).size()) + ", \"macs\": " + std::to_string(e->macs) +
         ", \"executed_macs\": " + std::to_string(e->vector_macs * (m.kernels ? m.kernels->lanes : 1)) +
         ", \"weight_bytes\": " + std::to_string(e->weight_bytes);
    if (e->us >= 0) j += ", \"us\": " + number(e->us);
    j += "}";
  }
  return j + "]}";
}

std::string kernel_table() {
  std::string t = "kernel\tcomputes\tsupports\tisa\tlanes\truns_here";
  const Kernels* all[] = {avx512_kernels(), avx2_kernels(), neon_kernels(), portable_kernels()};
  for (const Kernels* k : all) {
    if (!k) continue;
    std::string tail = std::string("\t") + k->isa + "\t" + std::to_string(k->lanes) + "\t" + (cpu_runs(*k) ? "yes" : "no");
    for (size_t i = 0; i < k->n_tiles; i++) {
      const TileInfo& tile = k->tiles[i];
      std::string what = "conv2d and linear, stride ";
      what += tile.xs == 0 ? "any" : tile.xs == 2 * k->lanes || tile.xs == 2 ? "2" : "1";
      if (tile.xs == 1 || tile.xs == 2) what += ", planar input";
      t += std::string("\n") + tile.name + "\t" + what + "\t" +
           (tile.g > 1 ? "class tables with small classes" : "dense, class tables, groups, masks") + tail;
    }
    for (size_t i = 0; i < k->n_planar; i++)
      t += std::string("\n") + k->planar[i].name + "\tconv2d, stride 1\tclass tables with small classes" + tail;
    std::string isa = k->isa;
    t += "\nf32_conv_winograd_4x4_" + isa + "\tconv2d 3x3, stride 1\tany" + tail;
    for (const SparseKind& kind : kSparseKinds)
      t += std::string("\nf32_conv_unstructured_") + kind.name + "_" + isa +
           (kind.shift ? "\tconv2d, stride 1" : "\tconv2d and linear") + "\tmasks" + tail;
    t += "\nf32_depthwise_dense_row_" + isa + "\tdepthwise conv2d\tany" + tail;
    for (const char* op : {"max_pool", "avg_pool", "add", "mul", "cat", "gather", "flatten", "activation", "affine",
                           "softmax", "pad"})
      t += std::string("\nf32_") + op + "_dense_row_" + isa + "\t" + op + "\t" + tail;
  }
  return t + "\n";
}

}  // namespace precut
