// The C functions: arguments checked, exceptions turned into codes and messages.
#include <sched.h>

#include <cstdlib>
#include <new>

#include "guard.h"
#include "model.h"

struct precut_model : precut::Model {};

namespace precut {
namespace {

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

void open(Model& m, const uint8_t* bytes, size_t size, const precut_options* given) {
  precut_options o;
  precut_default_options(&o);
  if (given) {
    if (given->struct_size != sizeof o) throw Error(PRECUT_ERR_ARGUMENT, "precut_options.struct_size is wrong");
    o = *given;
  }
  if (o.threads < 0 || o.threads > 1024)
    throw Error(PRECUT_ERR_ARGUMENT, "threads is " + std::to_string(o.threads) + ", expected 0 to 1024");
  const char* isa = o.isa && *o.isa ? o.isa : std::getenv("PRECUT_ISA");
  m.kernels = isa && !std::strcmp(isa, "reference") ? nullptr : choose_kernels(isa);
  m.autotune = o.autotune != 0;
  m.cache_path = o.cache ? o.cache : "\1";  // \1: the user's default
  m.graph = read_blob(bytes, size);
  std::vector<Shape> example;
  for (const Input& in : m.graph.inputs) example.push_back(in.shape);
  std::vector<Shape> shapes = infer_shapes(m.graph, example);
  for (const Shape& s : shapes) m.graph.channels.push_back(s.c);
  m.run_inputs.resize(m.graph.inputs.size());
  m.run_outputs.resize(m.graph.outputs.size());
  for (const Node& n : m.graph.nodes)
    if (n.op == Op::conv2d || n.op == Op::linear) m.total_weights += size_t(kept_weights(m.graph, n)) * 4;
  if (m.kernels) {
    for (size_t i = 0; i < m.kernels->n_tiles; i++) {
      int g = m.kernels->tiles[i].g;
      if (std::find(m.groups.begin(), m.groups.end(), g) == m.groups.end()) m.groups.push_back(g);
    }
    m.orders = choose_orders(m.graph, shapes, m.kernels->lanes, m.groups);
    m.pool = std::make_unique<Pool>(o.threads ? o.threads : available_cores());
  }
}

Shape to_shape(const precut_tensor& t) {
  if (t.rank != 2 && t.rank != 4)
    throw Error(PRECUT_ERR_ARGUMENT, "a tensor has rank " + std::to_string(t.rank) + ", expected 2 or 4");
  Shape s;
  s.rank = t.rank;
  s.n = t.dims[0];
  s.c = t.dims[1];
  if (t.rank == 4) {
    s.h = t.dims[2];
    s.w = t.dims[3];
  }
  return s;
}

void from_shape(const Shape& s, precut_tensor& t) {
  t.rank = s.rank;
  t.dims[0] = s.n;
  t.dims[1] = s.c;
  t.dims[2] = s.rank == 4 ? s.h : 0;
  t.dims[3] = s.rank == 4 ? s.w : 0;
}

bool same(const Shape& s, const precut_tensor& t) {
  return t.rank == s.rank && t.dims[0] == s.n && t.dims[1] == s.c && (t.rank == 2 || (t.dims[2] == s.h && t.dims[3] == s.w));
}

void check_count(const Model& m, const void* inputs, int32_t n) {
  if (!inputs || n != int32_t(m.graph.inputs.size()))
    throw Error(PRECUT_ERR_ARGUMENT, "the network has " + std::to_string(m.graph.inputs.size()) + " inputs, got " +
                                         std::to_string(inputs ? n : 0));
}

// Null when these shapes have no plan yet. Allocates nothing.
Plan* find_plan(Model& m, const precut_tensor* inputs) {
  for (auto& p : m.plans) {
    bool match = true;
    for (size_t i = 0; i < p->inputs.size(); i++) match &= same(p->inputs[i], inputs[i]);
    if (match) {
      p->last_use = ++m.uses;
      return p.get();
    }
  }
  return nullptr;
}

const std::vector<Shape>& prepare(Model& m, const precut_tensor* inputs) {
  std::vector<Shape> shapes;
  for (size_t i = 0; i < m.graph.inputs.size(); i++) shapes.push_back(to_shape(inputs[i]));
  if (!m.kernels) {
    m.reference_shapes = infer_shapes(m.graph, shapes);
    m.reference_inputs = shapes;
    return m.reference_shapes;
  }
  if (Plan* p = find_plan(m, inputs)) return p->shapes();
  if (m.file) m.file->check_unchanged();
  auto plan = std::make_unique<Plan>(m, shapes);
  if (m.file) {
    m.file->check_unchanged();
    m.file->forget();  // the weights are packed
  }
  if (m.plans.size() >= kMaxPlans) {
    auto oldest = std::min_element(m.plans.begin(), m.plans.end(),
                                   [](const auto& a, const auto& b) { return a->last_use < b->last_use; });
    m.plans.erase(oldest);
  }
  plan->last_use = ++m.uses;
  m.plans.push_back(std::move(plan));
  trim_heap();
  return m.plans.back()->shapes();
}

}  // namespace
}  // namespace precut

using namespace precut;

extern "C" {

void precut_default_options(precut_options* o) {
  if (!o) return;
  std::memset(o, 0, sizeof *o);
  o->struct_size = sizeof *o;
  o->autotune = 1;
}

precut_status precut_load(const void* bytes, size_t size, const precut_options* options, precut_model** model, char* err,
                          size_t errlen) {
  if (!bytes || !model) return report(PRECUT_ERR_ARGUMENT, "bytes and model must not be null", err, errlen);
  *model = nullptr;
  return guarded(err, errlen, [&] {
    auto m = std::make_unique<precut_model>();
    const uint8_t* p = static_cast<const uint8_t*>(bytes);
    if (!options || !(options->flags & PRECUT_BORROW)) {
      m->owned.assign(p, p + size);
      p = m->owned.data();
    }
    open(*m, p, size, options);
    *model = m.release();
  });
}

precut_status precut_load_file(const char* path, const precut_options* options, precut_model** model, char* err,
                               size_t errlen) {
  if (!path || !model) return report(PRECUT_ERR_ARGUMENT, "path and model must not be null", err, errlen);
  *model = nullptr;
  return guarded(err, errlen, [&] {
    auto m = std::make_unique<precut_model>();
    m->file = std::make_unique<MappedFile>(path);
    open(*m, m->file->bytes(), m->file->size(), options);
    m->file->check_unchanged();
    *model = m.release();
  });
}

int32_t precut_input_count(const precut_model* m) { return m ? int32_t(m->graph.inputs.size()) : 0; }
int32_t precut_output_count(const precut_model* m) { return m ? int32_t(m->graph.outputs.size()) : 0; }

precut_status precut_input_shape(const precut_model* m, int32_t index, precut_tensor* shape) {
  if (!m || !shape || index < 0 || index >= precut_input_count(m)) return PRECUT_ERR_ARGUMENT;
  shape->data = nullptr;
  from_shape(m->graph.inputs[size_t(index)].shape, *shape);
  return PRECUT_OK;
}

precut_status precut_prepare(precut_model* m, const precut_tensor* inputs, int32_t n_inputs, precut_tensor* outputs,
                             int32_t n_outputs, char* err, size_t errlen) {
  if (!m) return report(PRECUT_ERR_ARGUMENT, "model must not be null", err, errlen);
  return guarded(err, errlen, [&] {
    std::lock_guard<std::mutex> lock(m->mutex);
    check_count(*m, inputs, n_inputs);
    if (outputs && n_outputs != precut_output_count(m))
      throw Error(PRECUT_ERR_ARGUMENT, "the network has " + std::to_string(precut_output_count(m)) + " outputs, got " +
                                           std::to_string(n_outputs));
    const std::vector<Shape>& shapes = prepare(*m, inputs);
    for (int32_t i = 0; outputs && i < n_outputs; i++) from_shape(shapes[size_t(m->graph.outputs[size_t(i)].value)], outputs[i]);
  });
}

precut_status precut_run(precut_model* m, const precut_tensor* inputs, int32_t n_inputs, const precut_tensor* outputs,
                         int32_t n_outputs, char* err, size_t errlen) {
  if (!m) return report(PRECUT_ERR_ARGUMENT, "model must not be null", err, errlen);
  if (!inputs || !outputs || n_inputs != precut_input_count(m) || n_outputs != precut_output_count(m))
    return report(PRECUT_ERR_ARGUMENT, "the number of inputs or outputs is not the network's", err, errlen);
  return guarded(err, errlen, [&] {
    std::lock_guard<std::mutex> lock(m->mutex);
    for (int32_t i = 0; i < n_inputs; i++)
      if (!(m->run_inputs[size_t(i)] = inputs[i].data)) throw Error(PRECUT_ERR_ARGUMENT, "an input has no data");
    for (int32_t i = 0; i < n_outputs; i++)
      if (!(m->run_outputs[size_t(i)] = outputs[i].data)) throw Error(PRECUT_ERR_ARGUMENT, "an output has no data");
    const Plan* plan = m->kernels ? find_plan(*m, inputs) : nullptr;
    const std::vector<Shape>* shapes = plan ? &plan->shapes() : nullptr;
    if (!m->kernels) {
      bool match = m->reference_inputs.size() == m->graph.inputs.size();
      for (size_t i = 0; match && i < m->reference_inputs.size(); i++) match = same(m->reference_inputs[i], inputs[i]);
      if (match) shapes = &m->reference_shapes;
    }
    if (!shapes) throw Error(PRECUT_ERR_NOT_PREPARED, "these input shapes have not been prepared");
    for (int32_t i = 0; i < n_outputs; i++)
      if (!same((*shapes)[size_t(m->graph.outputs[size_t(i)].value)], outputs[i]))
        throw Error(PRECUT_ERR_SHAPE, "output " + m->graph.outputs[size_t(i)].name + " must have shape " +
                                          (*shapes)[size_t(m->graph.outputs[size_t(i)].value)].text());
    if (plan) return plan->run(m->run_inputs.data(), m->run_outputs.data());
    if (m->file) m->file->check_unchanged();  // the reference reads its weights where they lie
    run_reference(m->graph, *shapes, m->run_inputs.data(), m->run_outputs.data(), m->reference_values);
  });
}

precut_status precut_describe(precut_model* m, const precut_tensor* inputs, int32_t n_inputs, int32_t rounds, char** json,
                              char* err, size_t errlen) {
  if (!m || !json) return report(PRECUT_ERR_ARGUMENT, "model and json must not be null", err, errlen);
  *json = nullptr;
  return guarded(err, errlen, [&] {
    std::lock_guard<std::mutex> lock(m->mutex);
    check_count(*m, inputs, n_inputs);
    prepare(*m, inputs);
    Plan* plan = m->kernels ? find_plan(*m, inputs) : nullptr;
    if (plan && rounds > 0) plan->profile(rounds);
    std::string text = describe_model(*m, plan);
    *json = static_cast<char*>(std::malloc(text.size() + 1));
    if (!*json) throw std::bad_alloc();
    std::memcpy(*json, text.c_str(), text.size() + 1);
  });
}

void precut_free(char* text) { std::free(text); }
void precut_close(precut_model* m) { delete m; }
const char* precut_version(void) { return PRECUT_VERSION; }

const char* precut_ops_table(void) {
  static const std::string table = kernel_table();
  return table.c_str();
}

}  // extern "C"
