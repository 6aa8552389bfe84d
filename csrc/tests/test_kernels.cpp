// Every convolution kernel of the table that this CPU runs, one by one, against the reference, on a layer made to fit it:
// the kernel is forced, and the model must tell that it was used.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "networks.h"
#include "precut.h"

namespace {

struct Layer {
  uint32_t in = 48, out = 64, h = 17, w = 18, k = 3, stride = 1, period = 0, images = 2;
  bool planar = false, mask = false;
};

std::vector<uint8_t> network(const Layer& l, int act) {
  Maker m(11);
  Writer& w = m.w;
  uint32_t x = w.input("x", {l.images, l.in, l.h, l.w});
  if (!l.planar) x = w.node(11, {x}, {}, 0);  // an activation that does nothing: the next layer reads blocks
  size_t kept = size_t(l.out) * l.in * l.k * l.k;
  uint32_t support = 0xffffffffu;
  if (l.mask) {
    std::vector<bool> keep(kept);
    size_t n = 0;
    for (size_t i = 0; i < keep.size(); i++) n += (keep[i] = m.chance(15));
    kept = n;
    support = w.mask(keep);
  } else if (l.period) {
    std::vector<std::vector<std::vector<uint32_t>>> t(l.period, std::vector<std::vector<uint32_t>>(l.period));
    kept = 0;
    for (uint32_t a = 0; a < l.period; a++)
      for (uint32_t b = 0; b < l.period; b++) t[a][b] = {(a + b) % 4, 4 + (a + b) % 5};
    for (uint32_t o = 0; o < l.out; o++)
      for (uint32_t i = 0; i < l.in; i++) kept += t[o % l.period][i % l.period].size();
    support = w.class_table(t, 1);
  }
  uint32_t weight = w.floats(m.numbers(kept, 0.1f)), bias = w.floats(m.numbers(l.out)), p = l.k / 2;
  uint32_t y = w.node(1, {x}, {weight, bias, support, l.out, l.in, 1, 0, l.k, l.k, l.stride, l.stride, p, p, p, p, 1, 1},
                      uint32_t(act));
  w.output(y, "y");
  return w.bytes();
}

bool run(const std::vector<uint8_t>& file, const char* isa, std::vector<float>& out, std::string& told) {
  precut_options o;
  precut_default_options(&o);
  o.isa = isa;
  o.threads = 2;
  o.autotune = 0;
  o.cache = "";
  precut_model* m;
  char err[256];
  precut_tensor x, y;
  if (precut_load(file.data(), file.size(), &o, &m, err, sizeof err) != PRECUT_OK ||
      precut_input_shape(m, 0, &x) != PRECUT_OK || precut_prepare(m, &x, 1, &y, 1, err, sizeof err) != PRECUT_OK) {
    told = err;
    return false;
  }
  Maker numbers(5);
  std::vector<float> in = numbers.numbers(size_t(x.dims[0] * x.dims[1] * x.dims[2] * x.dims[3]));
  out.assign(size_t(y.dims[0] * y.dims[1] * y.dims[2] * y.dims[3]), NAN);
  x.data = in.data();
  y.data = out.data();
  bool ok = precut_run(m, &x, 1, &y, 1, err, sizeof err) == PRECUT_OK;
  char* json = nullptr;
  if (ok && precut_describe(m, &x, 1, 0, &json, err, sizeof err) == PRECUT_OK) told = json;
  precut_free(json);
  precut_close(m);
  return ok;
}

bool check(const std::string& name, const char* isa, const Layer& l) {
  for (int act : {0, 1, 5}) {
    std::vector<uint8_t> file = network(l, act);
    std::vector<float> want, got;
    std::string told;
    unsetenv("PRECUT_KERNEL");
    if (!run(file, "reference", want, told)) return std::printf("FAILED %s: %s\n", name.c_str(), told.c_str()), false;
    setenv("PRECUT_KERNEL", name.c_str(), 1);
    if (!run(file, isa, got, told)) return std::printf("FAILED %s: %s\n", name.c_str(), told.c_str()), false;
    if (told.find("\"" + name + "\", \"why\": \"forced\"") == std::string::npos)
      return std::printf("FAILED %s: the layer was run by another kernel\n", name.c_str()), false;
    double worst = 0;
    for (size_t i = 0; i < want.size(); i++) {
      double d = std::fabs(double(want[i]) - double(got[i]));
      if (!(d <= worst)) worst = d;
    }
    if (!(worst < 1e-4)) return std::printf("FAILED %s: error %g\n", name.c_str(), worst), false;
  }
  return true;
}

}  // namespace

int main() {
  std::string table = precut_ops_table();
  int tried = 0, failed = 0;
  for (size_t at = table.find('\n') + 1; at < table.size();) {
    size_t end = table.find('\n', at);
    std::string line = table.substr(at, end - at), name = line.substr(0, line.find('\t'));
    at = end + 1;
    if (line.find("\tyes") == std::string::npos || name.find("f32_conv") != 0) continue;
    std::string isa = name.substr(name.rfind('_') + 1);
    int lanes = isa == "avx512" ? 16 : isa == "avx2" ? 8 : 4, ch, cw, nv, xs, g, co, vh, vw;
    Layer l;
    std::vector<Layer> more;
    if (std::sscanf(name.c_str(), "f32_conv_any_%dx%dx%d_x%d_g%d", &ch, &cw, &nv, &xs, &g) == 5) {
      l.planar = xs == 1 || xs == 2;
      if (l.planar) l.in = 3;
      l.stride = xs == 0 ? 3 : xs == 2 || xs == 2 * lanes ? 2 : 1;
      l.h = l.w = uint32_t(std::max(ch, cw)) * l.stride + 3;
      if (g > 1) l.in = 64, l.period = uint32_t(64 / (lanes / g));
      if (l.period > 16) l.out = 32, l.in = 32, l.period = uint32_t(32 / (lanes / g));
    } else if (std::sscanf(name.c_str(), "f32_conv_classes_planar_%dx%dx%d", &co, &vh, &vw) == 3) {
      l.w = uint32_t(2 * vw * lanes);
      l.in = 32;
      l.out = uint32_t(co * 8);
      l.period = 8;
    } else if (name.find("unstructured") != std::string::npos) {
      l.mask = true;
      // Planes of which 16-bit offsets reach over three, over none whole, and over a part of one.
      for (auto [h, w, k] : {std::array<uint32_t, 3>{100, 201, 1}, {400, 401, 1}, {3, 15000, 3}}) {
        more.push_back(l);
        more.back().in = 10, more.back().out = 5, more.back().h = h, more.back().w = w, more.back().k = k;
      }
      // Weights enough that images go in groups, and maps so small that several are taken side by side.
      more.push_back(l);
      more.back().in = more.back().out = 512, more.back().h = more.back().w = 3, more.back().images = 13;
    } else {
      l.h = l.w = 19;
    }
    tried++;
    more.push_back(l);
    for (const Layer& one : more)
      if (!check(name, isa.c_str(), one)) {
        failed++;
        break;
      }
  }
  std::printf("%d kernels, %d failed\n", tried, failed);
  return failed != 0 || tried == 0;
}
