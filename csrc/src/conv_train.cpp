// One sparse convolution for training. Each image's channels are copied into planes with their padding (one plane for each
// phase of the stride), so that every kernel position is a shift of a plane; forward, the gradient of the input and that
// of the weights are then sums over shifted planes. Threads share the images; each sums its own weight gradients, and the
// sums are added in the threads' order.
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

#include "graph.h"
#include "guard.h"
#include "precut_conv.h"
#include "shift_rows.h"
#include "threads.h"

namespace precut {
namespace {

// The planes of all channels of one image.
struct Planes {
  int64_t count = 0, pitch = 0, size = 0;  // planes, floats from row to row and from plane to plane
  int64_t image() const { return count * size; }
};

constexpr int64_t kImagesBytes = 384 << 10;  // of several images' planes: the second-level cache

// Whole vectors of 16, one more to read past the end, and an odd number of cache lines from plane to plane.
int64_t plane_size(int64_t floats) { return (ceil_div(floats + 16, 16) | 1) * 16; }

struct Conv {
  precut_conv_shape s;
  const Kernels* kernels;
  int64_t out_h, out_w, phases;
  Planes x, y, dy, dx;
  int64_t rows = 0;       // of the input's planes
  int64_t positions = 0;  // of the output in planes
  ShiftRows forward;
  struct Phase {
    ShiftRows rows;
    int64_t row = 0, col = 0, h = 0, w = 0;  // of the phase's pixels in the padded image: the first, and how many
    int64_t start = 0, positions = 0;        // first position in the planes of dy
  };
  std::vector<Phase> back;
  int64_t dy_top, dy_left;
  std::mutex mutex;

  struct Scratch {
    Floats x, y, dy, dx, dw;
  };
  std::vector<Scratch> scratch;
  Floats packed, packed_back;

  Conv(const precut_conv_shape& shape, const char* isa);
  void lists(const int64_t* at);
  void geometry_back(std::vector<std::vector<std::vector<ShiftTap>>> rows);
  void prepare(int threads, bool backward);

  void fill(const precut_array& a, int64_t image, float* planes) const;
  void fill_dy(const precut_array& a, int64_t image, const int32_t* plane_of, const Planes& to, int64_t start,
               float* planes) const;
};

const Kernels* kernels_of(const char* isa) {
  if (!isa || !*isa) isa = std::getenv("PRECUT_ISA");
  // There are no plain loops of this operation: the portable kernels are the nearest.
  return choose_kernels(isa && !std::strcmp(isa, "reference") ? "portable" : isa);
}

Conv::Conv(const precut_conv_shape& shape, const char* isa) : s(shape), kernels(kernels_of(isa)) {
  auto bad = [](const std::string& what) { throw Error(PRECUT_ERR_ARGUMENT, "precut_conv_shape: " + what); };
  if (s.in_channels < 1 || s.out_channels < 1 || s.groups < 1 || s.in_channels % s.groups || s.out_channels % s.groups)
    bad("channels and groups do not fit");
  int64_t out[2], rest[2];
  for (int d = 0; d < 2; d++) {
    if (s.kernel[d] < 1 || s.stride[d] < 1 || s.dilation[d] < 1 || s.padding[d] < 0 || s.size[d] < 1 ||
        s.kernel[d] > 1024 || s.stride[d] > 1024 || s.dilation[d] > 1024 || s.padding[d] > 1024 || s.size[d] > 65536)
      bad("kernel, stride, padding, dilation or size is out of range");
    rest[d] = s.size[d] + 2 * int64_t(s.padding[d]) - s.dilation[d] * int64_t(s.kernel[d] - 1) - 1;
    if (rest[d] < 0) throw Error(PRECUT_ERR_SHAPE, "the image is smaller than the kernel");
    out[d] = rest[d] / s.stride[d] + 1;
  }
  if (s.weights < 0 || (s.weights && !s.positions)) bad("no positions");
  out_h = out[0];
  out_w = out[1];
  phases = int64_t(s.stride[0]) * s.stride[1];
  int64_t reach_h = s.dilation[0] * int64_t(s.kernel[0] - 1) / s.stride[0];
  int64_t reach_w = s.dilation[1] * int64_t(s.kernel[1] - 1) / s.stride[1];
  // Without stride a row's right padding is the left padding of the next one.
  x.pitch = phases == 1 ? std::max(out_w, int64_t(s.size[1]) + s.padding[1]) : out_w + reach_w;
  if (std::max(reach_h, reach_w) > 32767) bad("kernel and dilation are out of range");
  x.count = s.in_channels * phases;
  rows = out_h + reach_h;
  int lanes = kernels->lanes;
  positions = ceil_div((out_h - 1) * x.pitch + out_w, lanes) * lanes;
  x.size = plane_size(std::max(rows * x.pitch, reach_h * x.pitch + reach_w + positions));
  y = {s.out_channels, x.pitch, plane_size(positions)};
  lists(s.positions);
  s.positions = nullptr;
}

// The lists of the forward sums, and of the gradient of the input: the same terms, turned round.
void Conv::lists(const int64_t* at) {
  int64_t area = int64_t(s.kernel[0]) * s.kernel[1], ins = s.in_channels / s.groups, outs = s.out_channels / s.groups;
  if (s.weights > INT32_MAX) throw Error(PRECUT_ERR_SHAPE, "too many weights");
  std::vector<std::vector<ShiftTap>> rows(size_t(s.out_channels));
  std::vector<std::vector<std::vector<ShiftTap>>> turned(size_t(phases), std::vector<std::vector<ShiftTap>>(size_t(s.in_channels)));
  for (int64_t k = 0; k < s.weights; k++) {
    if (at[k] < 0 || at[k] >= s.out_channels * ins * area || (k && at[k] <= at[k - 1]))
      throw Error(PRECUT_ERR_ARGUMENT, "positions must rise and lie within the dense weight");
    int64_t o = at[k] / (ins * area), i = o / outs * ins + at[k] / area % ins, p = at[k] % area;
    int64_t h = p / s.kernel[1] * s.dilation[0], w = p % s.kernel[1] * s.dilation[1];
    int64_t qh = h / s.stride[0], qw = w / s.stride[1], phase = h % s.stride[0] * s.stride[1] + w % s.stride[1];
    rows[size_t(o)].push_back({int32_t(i * phases + phase), int32_t(qh * x.pitch + qw), int32_t(k)});
    turned[size_t(phase)][size_t(i)].push_back({int32_t(o), int32_t(qh << 16 | qw), int32_t(k)});
  }
  int64_t reach = s.dilation[0] * int64_t(s.kernel[0] - 1) / s.stride[0];
  if (x.image() > INT32_MAX) throw Error(PRECUT_ERR_SHAPE, "the image is too large");
  forward = ShiftRows(*kernels, std::move(rows), x.size, reach * x.pitch);
  geometry_back(std::move(turned));
}

// Pixel (q, c) of a phase takes the output's gradient at (q - qh, c - qw): planes of it with enough zeros around it.
void Conv::geometry_back(std::vector<std::vector<std::vector<ShiftTap>>> turned) {
  int64_t top = 0, left = 0, bottom = out_h, width = out_w;
  for (int64_t f = 0; f < phases; f++) {
    Phase p;
    auto range = [&](int d, int64_t phase, int64_t& first, int64_t& count) {
      int64_t pad = s.padding[d], step = s.stride[d];
      first = pad > phase ? ceil_div(pad - phase, step) : 0;  // q * step + phase >= pad
      count = std::max<int64_t>(0, ceil_div(pad + s.size[d] - phase, step) - first);
    };
    range(0, f / s.stride[1], p.row, p.h);
    range(1, f % s.stride[1], p.col, p.w);
    for (const auto& row : turned[size_t(f)])
      for (const ShiftTap& t : row) {
        top = std::max(top, (t.shift >> 16) - p.row);
        left = std::max(left, (t.shift & 0xffff) - p.col);
      }
    back.push_back(std::move(p));
  }
  for (const Phase& p : back) {
    bottom = std::max(bottom, p.row + p.h);
    width = std::max(width, p.w + p.col);
  }
  dy_top = top;
  dy_left = left;
  // Columns past the right end wrap to the zeros on the left of the next row.
  dy.pitch = std::max(width, out_w + left);
  dy.count = s.out_channels;
  int lanes = kernels->lanes;
  int64_t longest = 0;
  for (Phase& p : back) {
    p.positions = p.h && p.w ? ceil_div((p.h - 1) * dy.pitch + p.w, lanes) * lanes : 0;
    p.start = (p.row + top) * dy.pitch + p.col + left;
    longest = std::max(longest, p.positions);
  }
  dy.size = plane_size((bottom + top) * dy.pitch + left + longest % dy.pitch + 16);
  for (const Phase& p : back) dy.size = std::max(dy.size, plane_size(p.start + p.positions));
  if (dy.image() > INT32_MAX) throw Error(PRECUT_ERR_SHAPE, "the image is too large");
  dx = {s.in_channels, dy.pitch, plane_size(longest)};
  int64_t reach = s.dilation[0] * int64_t(s.kernel[0] - 1) / s.stride[0] * dy.pitch;
  for (int64_t f = 0; f < phases; f++) {
    auto& rows = turned[size_t(f)];
    for (auto& row : rows)
      for (ShiftTap& t : row) t.shift = int32_t(back[size_t(f)].start - (t.shift >> 16) * dy.pitch - (t.shift & 0xffff));
    back[size_t(f)].rows = ShiftRows(*kernels, std::move(rows), dy.size, reach);
  }
}

// The input's planes. What is padding was zero when the scratch was made, and stays so: rows are written from top to
// bottom, and a row that is filled up with zeros ends in the padding of the next or before its own numbers come.
void Conv::fill(const precut_array& a, int64_t image, float* planes) const {
  for (int64_t f = 0; f < phases; f++) {
    int64_t fh = f / s.stride[1], fw = f % s.stride[1], sw = s.stride[1], w = s.size[1];
    int64_t c0 = std::max<int64_t>(0, ceil_div(s.padding[1] - fw, sw)), c1 = std::min(x.pitch, ceil_div(s.padding[1] + w - fw, sw));
    for (int64_t r = 0; r < rows; r++) {
      int64_t row = r * s.stride[0] + fh - s.padding[0];
      if (row < 0 || row >= s.size[0] || c1 <= c0) continue;
      kernels->to_planes({a.data + image * a.strides[0] + row * a.strides[2] + (c0 * sw + fw - s.padding[1]) * a.strides[3],
                          a.strides[1], sw * a.strides[3], planes + f * x.size + r * x.pitch + c0, phases * x.size, nullptr,
                          s.in_channels, c1 - c0, nullptr});
    }
  }
}

// Planes of the output's gradient, from position `start` on.
void Conv::fill_dy(const precut_array& a, int64_t image, const int32_t* plane_of, const Planes& to, int64_t start,
                   float* planes) const {
  for (int64_t r = 0; r < out_h; r++)
    kernels->to_planes({a.data + image * a.strides[0] + r * a.strides[2], a.strides[1], a.strides[3],
                        planes + start + r * to.pitch, to.size, plane_of, s.out_channels, out_w, nullptr});
}

// The threads of all convolutions: the caller's runtime's, or a pool. A forked child has none of its parent's threads (in
// libgomp it would wait for them for ever), and makes its own pool.
struct Shared {
  std::mutex mutex;
  Pool* pool = nullptr;
  pid_t owner = 0, fork_owner = 0;
  std::atomic<precut_fork> fork{nullptr};
  template <class F>
  void parallel(int threads, const F& work) {
    if (threads == 1) return work(0);
    if (precut_fork given = fork.load(); given && fork_owner == getpid()) {
      struct Job {
        const F* work;
        int parts;
        std::atomic<int> next{0};
      } job{&work, threads};
      // Parts are taken by whoever is there: a runtime may give fewer threads than it was asked for.
      auto take = [](void* data) {
        Job& j = *static_cast<Job*>(data);
        for (int part; (part = j.next++) < j.parts;) (*j.work)(part);
      };
      return given(take, &job, unsigned(threads), 0);
    }
    std::lock_guard<std::mutex> lock(mutex);
    if (!pool || owner != getpid() || pool->threads() != threads) {
      if (pool && owner == getpid()) delete pool;
      pool = new Pool(threads);
      owner = getpid();
    }
    pool->begin();
    pool->parallel(work);
    pool->end();
  }
};
Shared& shared() {
  static Shared* s = new Shared;  // never freed: a worker may outlive the library's own statics
  return *s;
}

void Conv::prepare(int threads, bool backward) {
  if (scratch.size() < size_t(threads)) scratch.resize(size_t(threads));
  for (int t = 0; t < threads; t++) {
    Scratch& k = scratch[size_t(t)];
    auto at_least = [](Floats& f, int64_t n) {
      if (int64_t(f.size()) < n) f = Floats(size_t(n));
    };
    at_least(k.x, x.image());
    at_least(k.y, y.image());
    if (!backward) continue;
    at_least(k.dy, dy.image());
    at_least(k.dx, dx.image());
  }
}

int64_t check(int64_t images, int32_t threads, std::initializer_list<const precut_array*> arrays) {
  if (images < 0) throw Error(PRECUT_ERR_ARGUMENT, "images is negative");
  if (threads < 1 || threads > 1024) throw Error(PRECUT_ERR_ARGUMENT, "threads is " + std::to_string(threads) + ", expected 1 to 1024");
  for (const precut_array* a : arrays)
    if (!a || !a->data || (a->strides[1] != 1 && a->strides[3] != 1))
      throw Error(PRECUT_ERR_ARGUMENT, "an array is missing, or neither its channels nor its columns are neighbours");
  return std::min<int64_t>(threads, std::max<int64_t>(images, 1));
}

}  // namespace
}  // namespace precut

struct precut_conv : precut::Conv {
  using precut::Conv::Conv;
};

using namespace precut;

precut_status precut_conv_open(const precut_conv_shape* shape, const char* isa, precut_conv** conv, char* err, size_t errlen) {
  return guarded(err, errlen, [&] {
    if (!shape || !conv || shape->struct_size != sizeof *shape)
      throw Error(PRECUT_ERR_ARGUMENT, "precut_conv_open: a null pointer, or struct_size is wrong");
    *conv = new precut_conv(*shape, isa);
  });
}

void precut_conv_threads(precut_fork fork) {
  shared().fork_owner = getpid();
  shared().fork = fork;
}

precut_status precut_conv_forward(precut_conv* conv, int64_t images, const precut_array* x, const float* weight,
                                  const float* bias, const precut_array* y, int32_t threads, char* err, size_t errlen) {
  return guarded(err, errlen, [&] {
    if (!conv || !weight) throw Error(PRECUT_ERR_ARGUMENT, "precut_conv_forward: a null pointer");
    Conv& c = *conv;
    int parts = int(check(images, threads, {x, y}));
    std::lock_guard<std::mutex> lock(c.mutex);
    c.prepare(parts, false);
    if (c.packed.size() < c.forward.packed_size()) c.packed = Floats(c.forward.packed_size());
    c.forward.pack(weight, c.packed.data());
    shared().parallel(parts, [&](int part) {
      Conv::Scratch& k = c.scratch[size_t(part)];
      for (int64_t i = images * part / parts; i < images * (part + 1) / parts; i++) {
        c.fill(*x, i, k.x.data());
        c.forward.sum(k.x.data(), c.packed.data(), k.y.data(), c.y.size, c.positions);
        for (int64_t r = 0; r < c.out_h; r++)
          c.kernels->from_planes({y->data + i * y->strides[0] + r * y->strides[2], y->strides[1], y->strides[3],
                                  k.y.data() + r * c.y.pitch, c.y.size, c.forward.place().data(), c.s.out_channels, c.out_w, bias});
      }
    });
  });
}

precut_status precut_conv_backward(precut_conv* conv, int64_t images, const precut_array* x, const float* weight,
                                   const precut_array* dy, const precut_array* dx, float* dweight, int32_t threads, char* err,
                                   size_t errlen) {
  return guarded(err, errlen, [&] {
    if (!conv || (dx && !weight)) throw Error(PRECUT_ERR_ARGUMENT, "precut_conv_backward: a null pointer");
    Conv& c = *conv;
    int parts = int(check(images, threads, {dy}));
    if (dweight) check(images, threads, {x});
    if (dx) check(images, threads, {dx});
    std::lock_guard<std::mutex> lock(c.mutex);
    c.prepare(parts, dx != nullptr);
    size_t back = 0;
    for (const auto& p : c.back) back += p.rows.packed_size();
    if (dx) {
      if (c.packed_back.size() < back) c.packed_back = Floats(back);
      size_t at = 0;
      for (const auto& p : c.back) {
        p.rows.pack(weight, c.packed_back.data() + at);
        at += p.rows.packed_size();
      }
    }
    // Small planes: several images at once, for fewer sums over lanes.
    int64_t group = 1;
    if (dweight) {
      int64_t bytes = (c.x.image() + c.y.image()) * 4;
      while (group < 16 && group * c.positions < 1024 && (group + 1) * bytes <= kImagesBytes) group++;
      group = std::min(group, ceil_div(images, parts));
      for (int t = 0; t < parts; t++) {
        Conv::Scratch& k = c.scratch[size_t(t)];
        if (int64_t(k.x.size()) < group * c.x.image()) k.x = Floats(size_t(group * c.x.image()));
        // What lies between the rows must be zero here, which it is not after a forward.
        if (int64_t(k.y.size()) < group * c.y.image()) k.y = Floats(size_t(group * c.y.image()));
        else std::memset(k.y.data(), 0, size_t(group * c.y.image()) * 4);
        if (k.dw.size() < c.forward.packed_size()) k.dw = Floats(c.forward.packed_size());
        else if (k.dw.size()) std::memset(k.dw.data(), 0, c.forward.packed_size() * 4);
      }
    }
    shared().parallel(parts, [&](int part) {
      Conv::Scratch& k = c.scratch[size_t(part)];
      int64_t end = images * (part + 1) / parts;
      for (int64_t i = images * part / parts; i < end; i += group) {
        int64_t n = std::min(group, end - i);
        for (int64_t j = 0; dweight && j < n; j++) {
          c.fill(*x, i + j, k.x.data() + j * c.x.image());
          c.fill_dy(*dy, i + j, c.forward.place().data(), c.y, 0, k.y.data() + j * c.y.image());
        }
        if (dweight)
          c.forward.dot(k.x.data(), c.x.image(), k.y.data(), c.y.image(), c.y.size, n, c.positions, k.dw.data());
        for (int64_t j = 0; dx && j < n; j++) {
          c.fill_dy(*dy, i + j, nullptr, c.dy, c.dy_top * c.dy.pitch + c.dy_left, k.dy.data());
          size_t at = 0;
          for (size_t f = 0; f < c.back.size(); f++) {
            const Conv::Phase& p = c.back[f];
            if (p.positions) {
              p.rows.sum(k.dy.data(), c.packed_back.data() + at, k.dx.data(), c.dx.size, p.positions);
              int64_t sh = c.s.stride[0], sw = c.s.stride[1], col = p.col * sw + int64_t(f) % sw - c.s.padding[1];
              for (int64_t r = 0; r < p.h; r++) {
                int64_t row = (p.row + r) * sh + int64_t(f) / sw - c.s.padding[0];
                c.kernels->from_planes({dx->data + (i + j) * dx->strides[0] + row * dx->strides[2] + col * dx->strides[3],
                                        dx->strides[1], sw * dx->strides[3], k.dx.data() + r * c.dx.pitch, c.dx.size,
                                        p.rows.place().data(), c.s.in_channels, p.w, nullptr});
              }
            }
            at += p.rows.packed_size();
          }
        }
      }
    });
    if (dweight) {
      std::memset(dweight, 0, size_t(c.s.weights) * 4);
      for (int t = 0; t < parts; t++) c.forward.unpack(c.scratch[size_t(t)].dw.data(), dweight);
    }
  });
}

void precut_conv_close(precut_conv* conv) { delete conv; }
