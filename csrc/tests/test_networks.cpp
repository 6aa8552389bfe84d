// Every instruction set that this machine runs against the reference, over random networks; batch, threads, other image
// sizes in between and repeated runs must not change a result.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "networks.h"
#include "precut.h"

// Counts allocations, since a run must not make any.
static long allocations = 0;
void* operator new(std::size_t n) {
  allocations++;
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace {

int failures = 0, other_sizes = 0;

struct Model {
  precut_model* m = nullptr;
  char err[512] = "";
  bool is_reference;
  Model(const std::vector<uint8_t>& file, const char* isa, int threads, int autotune)
      : is_reference(std::string(isa) == "reference") {
    precut_options o;
    precut_default_options(&o);
    o.isa = isa;
    o.threads = threads;
    o.autotune = autotune;
    o.cache = "";
    o.flags = PRECUT_BORROW;
    status = precut_load(file.data(), file.size(), &o, &m, err, sizeof err);
  }
  ~Model() { precut_close(m); }
  precut_status status;
};

using Arrays = std::vector<std::vector<float>>;

// `higher` and `wider`: than the image that the network was compiled for.
bool run(Model& m, std::vector<float>& x, int64_t batch, Arrays& out, int64_t higher = 0, int64_t wider = 0) {
  precut_tensor in;
  if (precut_input_shape(m.m, 0, &in) != PRECUT_OK) return false;
  in.dims[0] = batch;
  in.dims[2] += higher;
  in.dims[3] += wider;
  in.data = x.data();
  int n = precut_output_count(m.m);
  std::vector<precut_tensor> y(static_cast<size_t>(n));
  m.status = precut_prepare(m.m, &in, 1, y.data(), n, m.err, sizeof m.err);
  if (m.status != PRECUT_OK) return false;
  out.clear();
  for (auto& t : y) {
    int64_t size = 1;
    for (int i = 0; i < t.rank; i++) size *= t.dims[i];
    out.emplace_back(size_t(size), -12345.0f);
  }
  for (size_t i = 0; i < y.size(); i++) y[i].data = out[i].data();
  long before = allocations;
  bool ok = precut_run(m.m, &in, 1, y.data(), n, m.err, sizeof m.err) == PRECUT_OK;
  if (!m.is_reference && allocations != before) {
    std::printf("FAILED: a run has allocated %ld times\n", allocations - before);
    failures++;
  }
  return ok;
}

void compare(const Arrays& want, const Arrays& got, uint32_t seed, const char* what) {
  for (size_t i = 0; i < want.size(); i++) {
    double top = 1, worst = 0;
    for (size_t j = 0; j < want[i].size(); j++) {
      if (std::isnan(want[i][j]) && std::isnan(got[i][j])) continue;
      double d = want[i][j] == got[i][j] ? 0 : std::fabs(double(want[i][j]) - double(got[i][j]));
      if (!(d <= worst)) worst = d;
      top = std::fmax(top, std::fabs(double(want[i][j])));
    }
    if (!(worst <= 2e-4 * top)) {
      std::printf("FAILED seed %u, %s, output %zu: error %g of %g\n", seed, what, i, worst, top);
      failures++;
    }
  }
}

void one(uint32_t seed, const std::vector<const char*>& isas) {
  Maker maker(seed);
  std::vector<uint8_t> file = maker.make();
  Model reference(file, "reference", 1, 0);
  if (reference.status != PRECUT_OK) {
    std::printf("FAILED seed %u: %s\n", seed, reference.err);
    failures++;
    return;
  }
  precut_tensor in;
  precut_input_shape(reference.m, 0, &in);
  int64_t image = in.dims[1] * in.dims[2] * in.dims[3], batch = in.dims[0];
  std::vector<float> x = maker.numbers(size_t(image * batch * 3));
  Arrays want, want_other, got, again;
  if (!run(reference, x, batch, want)) {
    std::printf("FAILED seed %u: %s\n", seed, reference.err);
    failures++;
    return;
  }
  int64_t higher = in.dims[2] > 3 && seed % 2 ? -2 : 3, wider = 1 + int64_t(seed % 3);
  std::vector<float> x_other = maker.numbers(size_t(in.dims[1] * (in.dims[2] + higher) * (in.dims[3] + wider) * batch));
  bool takes_other = run(reference, x_other, batch, want_other, higher, wider);
  if (takes_other) other_sizes++;
  for (const char* isa : isas)
    for (int mode = 0; mode < 2; mode++) {
      int threads = mode == 0 ? 1 : 3;
      Model m(file, isa, threads, mode == 1 && seed % 7 == 0);
      std::string what = std::string(isa) + ", threads " + std::to_string(threads);
      if (m.status != PRECUT_OK || !run(m, x, batch, got)) {
        std::printf("FAILED seed %u, %s: %s\n", seed, what.c_str(), m.err);
        failures++;
        continue;
      }
      compare(want, got, seed, what.c_str());
      // Another image size, where the network has one; another batch size; then the first again: plans must not disturb
      // each other.
      Arrays large, other;
      if (run(m, x_other, batch, other, higher, wider) != takes_other || (!takes_other && m.status != reference.status)) {
        std::printf("FAILED seed %u, %s: another image size: %s\n", seed, what.c_str(), m.err);
        failures++;
      } else if (takes_other) {
        compare(want_other, other, seed, (what + ", another image size").c_str());
      }
      if (!run(m, x, batch * 3, large) || !run(m, x, batch, again)) {
        std::printf("FAILED seed %u, %s: %s\n", seed, what.c_str(), m.err);
        failures++;
        continue;
      }
      bool same = true;
      for (size_t i = 0; i < got.size(); i++)
        same &= std::memcmp(again[i].data(), got[i].data(), got[i].size() * sizeof(float)) == 0;
      if (!same) {
        std::printf("FAILED seed %u, %s: a second run gave other bits\n", seed, what.c_str());
        failures++;
      }
      for (size_t i = 0; i < large.size(); i++) large[i].resize(got[i].size());
      compare(want, large, seed, (what + ", three times the batch").c_str());
    }
}

}  // namespace

// "--write FILE SEED" writes one of the networks instead.
int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--write") {
    std::vector<uint8_t> file = Maker(uint32_t(std::atoi(argv[3]))).make();
    std::FILE* f = std::fopen(argv[2], "wb");
    bool ok = f && std::fwrite(file.data(), 1, file.size(), f) == file.size();
    if (f) ok &= std::fclose(f) == 0;
    return ok ? 0 : 1;
  }
  uint32_t first = argc > 1 ? uint32_t(std::atoi(argv[1])) : 0, count = argc > 2 ? uint32_t(std::atoi(argv[2])) : 150;
  std::vector<const char*> isas;
  std::string table = precut_ops_table();
  for (const char* isa : {"avx512", "avx2", "neon", "portable"})
    if (table.find(std::string("\t") + isa + "\t") != std::string::npos) {
      std::string line = table.substr(table.find(std::string("\t") + isa + "\t"));
      if (line.substr(0, line.find('\n')).find("yes") != std::string::npos) isas.push_back(isa);
    }
  for (uint32_t seed = first; seed < first + count; seed++) one(seed, isas);
  std::printf("%u networks (%d at another image size too), %zu instruction sets, %d failed\n", count, other_sizes, isas.size(),
              failures);
  return failures != 0;
}
