// A loaded model: the graph, what does not depend on shapes, and the plans made so far.
#pragma once

#include <algorithm>
#include <map>
#include <mutex>

#include "file.h"
#include "order.h"
#include "plan.h"

namespace precut {

struct Model {
  std::vector<uint8_t> owned;        // the blob, unless borrowed or mapped
  std::unique_ptr<MappedFile> file;  // where the blob is mapped
  Graph graph;
  const Kernels* kernels = nullptr;  // null: the reference
  bool autotune = true;
  std::string cache_path;
  size_t total_weights = 0;  // bytes of all kept weights
  std::vector<int> groups;  // channel groups that the tiles of these kernels come in
  Orders orders;
  std::unique_ptr<Pool> pool;
  std::mutex mutex;
  std::vector<std::unique_ptr<Plan>> plans;
  uint64_t uses = 0;
  // Packed weights by (node, group, vectors), shared by all plans that still want them.
  std::map<std::tuple<const Node*, int, int>, std::weak_ptr<const Packed>> packed;

  // The arrays of the run that is made, so that a run allocates nothing.
  std::vector<const float*> run_inputs;
  std::vector<float*> run_outputs;

  // The reference executor's state for the shapes seen last.
  std::vector<Shape> reference_inputs, reference_shapes;
  std::vector<std::vector<float>> reference_values;

  std::shared_ptr<const Packed> get_packed(const Node& node, int group, int nv);
};

constexpr size_t kMaxPlans = 8;

// The arena of one plan may not be larger than this.
constexpr int64_t kMaxArenaFloats = int64_t(1) << 35;

std::string describe_model(const Model& model, const Plan* plan);
std::string kernel_table();

// Picks among candidates by the clock (or the cache of earlier timings).
class Tuner {
 public:
  explicit Tuner(const Model& model);
  ~Tuner();
  // What an earlier timing found; names.size() when there is none.
  size_t recall(const std::string& key, const std::vector<std::string>& names) const;
  void remember(const std::string& key, const std::string& name);

 private:
  std::string path_;
  std::map<std::string, std::string> known_;
  std::map<std::string, std::string> fresh_;
};

}  // namespace precut
