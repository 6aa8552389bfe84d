// The convolution for training on every instruction set that this CPU runs: random shapes and supports, forward and both
// gradients, against plain loops in double precision.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "precut_conv.h"

namespace {

std::mt19937 generator(7);
int pick(int low, int high) { return low + int(generator() % unsigned(high - low + 1)); }
std::vector<float> numbers(size_t n) {
  std::vector<float> v(n);
  for (float& x : v) x = float(int(generator() % 2001) - 1000) / 1000;
  return v;
}

// Of channels or of columns first.
precut_array array(std::vector<float>& v, int64_t c, int64_t h, int64_t w, bool last) {
  if (last) return {v.data(), {c * h * w, 1, w * c, c}};
  return {v.data(), {c * h * w, h * w, w, 1}};
}
float& at(const precut_array& a, int64_t n, int64_t c, int64_t y, int64_t x) {
  return a.data[n * a.strides[0] + c * a.strides[1] + y * a.strides[2] + x * a.strides[3]];
}

bool near(const char* what, double got, double want, double size) {
  if (std::fabs(got - want) <= 1e-5 * size) return true;
  std::printf("FAILED %s: %g, expected %g\n", what, got, want);
  return false;
}

// A caller's runtime; every third call gives a thread less than it was asked for.
void fork_threads(void (*fn)(void*), void* data, unsigned threads, unsigned) {
  static int calls = 0;
  std::vector<std::thread> others;
  for (unsigned t = 1; t + (calls % 3 == 0) < threads; t++) others.emplace_back(fn, data);
  calls++;
  fn(data);
  for (std::thread& t : others) t.join();
}

bool once(const char* isa) {
  precut_conv_shape s{};
  s.struct_size = sizeof s;
  s.groups = pick(1, 2);
  int ins = pick(1, 20), images = pick(1, 3), threads = pick(1, 3), period = pick(0, 1) ? pick(1, 5) : 0;
  s.in_channels = s.groups * ins;
  s.out_channels = s.groups * pick(1, 20);
  int64_t out[2], area = 1;
  for (int d = 0; d < 2; d++) {
    s.kernel[d] = pick(1, 4);
    s.stride[d] = pick(1, 3);
    s.padding[d] = pick(0, 3);
    s.dilation[d] = pick(1, 2);
    int least = (s.kernel[d] - 1) * s.dilation[d] + 1 - 2 * s.padding[d];
    s.size[d] = std::max(1, least) + pick(0, 18);
    out[d] = (s.size[d] - least) / s.stride[d] + 1;
    area *= s.kernel[d];
  }
  std::vector<int64_t> positions;
  int64_t row = ins * area;
  for (int64_t p = 0; p < s.out_channels * row; p++) {
    int64_t o = p / row, i = p % row / area, k = p % area;
    if (period ? (o * 3 + i * 5 + k) % (period + 1) == 0 : pick(0, 99) < 20) positions.push_back(p);
  }
  s.weights = int64_t(positions.size());
  s.positions = positions.data();
  std::vector<float> w = numbers(positions.size() + 1), bias = numbers(size_t(s.out_channels));
  std::vector<float> vx = numbers(size_t(images) * s.in_channels * s.size[0] * s.size[1]), vdx(vx.size(), NAN);
  std::vector<float> vdy = numbers(size_t(images) * s.out_channels * out[0] * out[1]), vy(vdy.size(), NAN), dw(w.size(), NAN);
  bool last = pick(0, 1), last_dy = pick(0, 1);
  precut_array x = array(vx, s.in_channels, s.size[0], s.size[1], last), dx = array(vdx, s.in_channels, s.size[0], s.size[1], last);
  precut_array y = array(vy, s.out_channels, out[0], out[1], last), dy = array(vdy, s.out_channels, out[0], out[1], last_dy);

  precut_conv* conv = nullptr;
  char err[256] = "";
  bool ok = precut_conv_open(&s, isa, &conv, err, sizeof err) == PRECUT_OK &&
            precut_conv_forward(conv, images, &x, w.data(), bias.data(), &y, threads, err, sizeof err) == PRECUT_OK &&
            precut_conv_backward(conv, images, &x, w.data(), &dy, &dx, dw.data(), threads, err, sizeof err) == PRECUT_OK;
  if (!ok) std::printf("FAILED: %s\n", err);

  std::vector<double> wy(vy.size()), wdx(vdx.size()), wdw(w.size());
  auto index = [](const precut_array& a, float& f) { return size_t(&f - a.data); };
  for (int64_t n = 0; n < images; n++)
    for (int64_t r = 0; r < out[0]; r++)
      for (int64_t c = 0; c < out[1]; c++) {
        for (int64_t o = 0; o < s.out_channels; o++) wy[index(y, at(y, n, o, r, c))] += bias[size_t(o)];
        for (size_t k = 0; k < positions.size(); k++) {
          int64_t o = positions[k] / row, i = o / (s.out_channels / s.groups) * ins + positions[k] % row / area, p = positions[k] % area;
          int64_t h = r * s.stride[0] - s.padding[0] + p / s.kernel[1] * s.dilation[0];
          int64_t v = c * s.stride[1] - s.padding[1] + p % s.kernel[1] * s.dilation[1];
          if (h < 0 || v < 0 || h >= s.size[0] || v >= s.size[1]) continue;
          float &in = at(x, n, i, h, v), &slope = at(dy, n, o, r, c);
          wy[index(y, at(y, n, o, r, c))] += double(w[k]) * in;
          wdx[index(x, in)] += double(w[k]) * slope;
          wdw[k] += double(in) * slope;
        }
      }
  double size = 1 + double(row) / 4 + double(vy.size()) / s.out_channels;
  for (size_t k = 0; ok && k < vy.size(); k++) ok = near("forward", vy[k], wy[k], size);
  for (size_t k = 0; ok && k < vdx.size(); k++) ok = near("gradient of the input", vdx[k], wdx[k], size);
  for (size_t k = 0; ok && k < positions.size(); k++) ok = near("gradient of a weight", dw[k], wdw[k], size);
  precut_conv_close(conv);
  return ok;
}

bool refuses() {
  char err[256];
  precut_conv* conv;
  int64_t positions[] = {3, 2};
  precut_conv_shape s{sizeof s, 2, 2, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {4, 4}, 2, positions};
  bool ok = precut_conv_open(&s, nullptr, &conv, err, sizeof err) == PRECUT_ERR_ARGUMENT && std::strstr(err, "must rise");
  positions[1] = 36;
  ok = ok && precut_conv_open(&s, nullptr, &conv, err, sizeof err) == PRECUT_ERR_ARGUMENT;
  positions[1] = 35;
  s.size[0] = 0;
  ok = ok && precut_conv_open(&s, nullptr, &conv, err, sizeof err) == PRECUT_ERR_ARGUMENT;
  s.size[0] = 4;
  s.groups = 3;
  ok = ok && precut_conv_open(&s, nullptr, &conv, err, sizeof err) == PRECUT_ERR_ARGUMENT;
  s.groups = 1;
  ok = ok && precut_conv_open(&s, "sse9", &conv, err, sizeof err) == PRECUT_ERR_ISA;
  s.padding[0] = 0;
  s.size[0] = 2;
  ok = ok && precut_conv_open(&s, nullptr, &conv, err, sizeof err) == PRECUT_ERR_SHAPE;
  if (!ok) std::printf("FAILED: a wrong shape was taken: %s\n", err);
  return ok;
}

}  // namespace

int main() {
  int failed = !refuses(), passed = !failed;
  for (const char* isa : {"avx512", "avx2", "neon", "portable"}) {
    precut_conv_shape s{sizeof s, 1, 1, 1, {1, 1}, {1, 1}, {0, 0}, {1, 1}, {1, 1}, 0, nullptr};
    precut_conv* conv;
    if (precut_conv_open(&s, isa, &conv, nullptr, 0) != PRECUT_OK) continue;
    precut_conv_close(conv);
    for (int k = 0; k < 150; k++) {
      precut_conv_threads(k % 2 ? fork_threads : nullptr);
      if (once(isa)) passed++;
      else failed++;
    }
    std::printf("%s: 150 convolutions\n", isa);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
