// Damaged files: whatever is changed, loading gives a status and a message, or a model that runs. Made for the sanitizer
// build, which turns any bad access into a failure.
#include <cstdio>
#include <cstdlib>

#include "networks.h"
#include "precut.h"

namespace {

// Loads, and runs what loads if it is small.
precut_status attempt(const std::vector<uint8_t>& file) {
  precut_options o;
  precut_default_options(&o);
  o.threads = 1;
  o.autotune = 0;
  o.cache = "";
  precut_model* m = nullptr;
  char err[200] = "";
  precut_status s = precut_load(file.data(), file.size(), &o, &m, err, sizeof err);
  if (s != PRECUT_OK) {
    if (m || !err[0]) std::abort();
    return s;
  }
  int n = precut_input_count(m), k = precut_output_count(m);
  std::vector<precut_tensor> in(static_cast<size_t>(n)), out(static_cast<size_t>(k));
  std::vector<std::vector<float>> arrays;
  int64_t total = 0;
  auto array = [&](precut_tensor& t) {
    int64_t size = 1;
    for (int i = 0; i < t.rank; i++) size *= t.dims[i];
    total += size;
    if (total > 1 << 22) return false;
    arrays.emplace_back(size_t(size), 0.5f);
    t.data = arrays.back().data();
    return true;
  };
  bool small = true;
  for (int i = 0; small && i < n; i++) {
    precut_input_shape(m, i, &in[size_t(i)]);
    small = array(in[size_t(i)]);
  }
  if (small && precut_prepare(m, in.data(), n, out.data(), k, err, sizeof err) == PRECUT_OK) {
    for (int i = 0; small && i < k; i++) small = array(out[size_t(i)]);
    if (small && precut_run(m, in.data(), n, out.data(), k, err, sizeof err) != PRECUT_OK) std::abort();
  }
  precut_close(m);
  return PRECUT_OK;
}

}  // namespace

int main(int argc, char** argv) {
  uint32_t count = argc > 1 ? uint32_t(std::atoi(argv[1])) : 3000;
  std::mt19937 rng(7);
  int opened = 0, refused = 0;
  for (uint32_t round = 0; round < count; round++) {
    Maker maker(round % 40);
    std::vector<uint8_t> file = maker.make();
    uint64_t graph_size;
    std::memcpy(&graph_size, file.data() + 32, 8);
    if (round % 4 == 0) {
      file.resize(rng() % file.size());  // truncated
    } else {
      int changes = 1 + int(rng() % 3);
      for (int i = 0; i < changes; i++) {
        // Mostly whole words of the graph, sometimes of the header, with values that tend to hurt.
        size_t at = rng() % 5 == 0 ? 8 + rng() % 14 * 4 : 64 + rng() % (graph_size / 4) * 4;
        uint32_t old, values[] = {0, 1, 0xffffffffu, 0x7fffffffu, 0x80000000u, uint32_t(rng()), 1u << (rng() % 32), 0};
        std::memcpy(&old, file.data() + at, 4);
        values[7] = old + 1;
        std::memcpy(file.data() + at, &values[rng() % 8], 4);
      }
    }
    if (file.size() >= 64) Writer::seal(file);
    (attempt(file) == PRECUT_OK ? opened : refused)++;
  }
  // An unsealed change must be noticed by the checksum.
  std::vector<uint8_t> file = Maker(1).make();
  file.back() ^= 1;
  if (attempt(file) != PRECUT_ERR_FORMAT) {
    std::printf("FAILED: a changed byte was not noticed\n");
    return 1;
  }
  std::printf("%d files refused, %d opened and run\n", refused, opened);
  return refused == 0 || opened == 0;
}
