// Random small networks that use every operation, support kind, stride, padding and odd size.
#pragma once

#include <random>

#include "writer.h"

struct Maker {
  std::mt19937 rng;
  Writer w;
  struct Value {
    uint32_t id, c, h, w;
  };
  std::vector<Value> pool;
  uint32_t batch = 1;

  explicit Maker(uint32_t seed) : rng(seed) {}
  uint32_t pick(uint32_t low, uint32_t high) { return low + uint32_t(rng() % (high - low + 1)); }
  bool chance(int percent) { return int(rng() % 100) < percent; }
  float number() { return float(int(rng() % 2001) - 1000) / 1000.0f; }
  std::vector<float> numbers(size_t n, float scale = 1) {
    std::vector<float> v(n);
    for (auto& x : v) x = number() * scale;
    return v;
  }
  const Value& any() { return pool[pool.size() - 1 - rng() % std::min<size_t>(pool.size(), 3)]; }

  struct Fused {
    uint32_t kind, slope;
    float alpha, beta;
  };
  Fused act(uint32_t channels) {
    if (chance(40)) return {0, 0xffffffffu, 0, 0};
    Fused a{pick(1, 13), 0xffffffffu, 0.25f, 0};
    if (a.kind == 12) a.alpha = -0.5f, a.beta = 0.75f;
    if (a.kind == 4) a.slope = w.floats(numbers(chance(50) ? 1 : channels));
    return a;
  }
  void push(uint32_t op, std::vector<uint32_t> in, std::vector<uint32_t> attrs, uint32_t c, uint32_t h, uint32_t ww) {
    Fused a = op == 10 ? Fused{0, 0xffffffffu, 0, 0} : act(c);
    uint32_t id = w.node(op, in, attrs, a.kind, a.alpha, a.beta, a.slope);
    pool.push_back({id, c, h, ww});
  }

  // Support, and how many weights it keeps. `area` kernel positions.
  uint32_t support(uint32_t out, uint32_t per, uint32_t area, size_t& kept) {
    kept = size_t(out) * per * area;
    int kind = int(pick(0, 3));
    if (kind == 0) return 0xffffffffu;
    if (kind == 1) {
      std::vector<bool> keep(kept);
      size_t n = 0;
      int percent = int(pick(3, 60));
      for (size_t i = 0; i < keep.size(); i++) n += (keep[i] = chance(percent));
      kept = n;
      return w.mask(keep);
    }
    uint32_t sizes[] = {1, 2, 3, 4, 6, 8, 9, 16};
    uint32_t po = sizes[pick(0, 7)], pi = chance(70) ? po : sizes[pick(0, 7)], align = chance(70) ? 1 : pick(2, 16);
    std::vector<std::vector<std::vector<uint32_t>>> table(po, std::vector<std::vector<uint32_t>>(pi));
    int percent = int(pick(10, 60));
    for (auto& row : table)
      for (auto& pair : row) {
        bool full = chance(10);
        for (uint32_t k = 0; k < area; k++)
          if (full || chance(percent)) pair.push_back(k);
      }
    kept = 0;
    for (uint32_t o = 0; o < out; o++)
      for (uint32_t i = 0; i < per; i++) kept += table[o / align % po][i % pi].size();
    return w.class_table(table, align);
  }

  void conv() {
    Value x = any();
    uint32_t k[] = {1, 3, 3, 3, 5, 2}, kh = k[pick(0, 5)], kw = chance(80) ? kh : k[pick(0, 5)];
    uint32_t sh = chance(70) ? 1 : pick(1, 3), sw = chance(85) ? sh : pick(1, 3), dh = chance(85) ? 1 : 2, dw = dh;
    uint32_t pt = pick(0, kh), pl = chance(80) ? pt : pick(0, kw), pb = chance(80) ? pt : pick(0, kh), pr = chance(80) ? pl : 0;
    if (x.h + pt + pb < (kh - 1) * dh + 1 || x.w + pl + pr < (kw - 1) * dw + 1) return;
    uint32_t h = (x.h + pt + pb - (kh - 1) * dh - 1) / sh + 1, ww = (x.w + pl + pr - (kw - 1) * dw - 1) / sw + 1;
    uint32_t groups = 1, out = chance(50) ? pick(1, 70) : 8 * pick(1, 9);
    if (chance(15)) groups = out = x.c;
    else if (chance(10) && x.c % 2 == 0) groups = 2, out = out + out % 2;
    bool residual = false;
    uint32_t other = 0;
    for (const Value& v : pool)
      if (v.h == h && v.w == ww && chance(60) && (groups == 1 ? true : v.c == out)) {
        other = v.id;
        out = v.c;
        residual = true;
        break;
      }
    uint32_t per = x.c / groups;
    size_t kept;
    uint32_t s = support(out, per, kh * kw, kept);
    float scale = 1.5f / float(std::max<size_t>(1, kept / out));
    uint32_t weight = w.floats(numbers(kept, scale)), bias = chance(70) ? w.floats(numbers(out)) : 0xffffffffu;
    std::vector<uint32_t> in{x.id};
    if (residual) in.push_back(other);
    push(1, in, {weight, bias, s, out, x.c, groups, residual, kh, kw, sh, sw, pt, pl, pb, pr, dh, dw}, out, h, ww);
  }
  void linear() {
    Value x = any();
    if (x.h * x.w > 1) {
      if (chance(50)) {
        push(5, {x.id}, {1, 1}, x.c, 1, 1);
      } else {
        push(10, {x.id}, {}, x.c * x.h * x.w, 1, 1);
      }
      x = pool.back();
    }
    uint32_t out = pick(1, 40);
    size_t kept;
    uint32_t s = support(out, x.c, 1, kept);
    uint32_t weight = w.floats(numbers(kept, 1.5f / float(std::max<size_t>(1, kept / out)))), bias = w.floats(numbers(out));
    push(2, {x.id}, {weight, bias, s, out, x.c, 1, 0}, out, 1, 1);
  }
  void pool2d() {
    Value x = any();
    uint32_t k = pick(1, 3), s = pick(1, 2), p = k > 1 ? pick(0, k - 1) : 0, d = 1, ceil = chance(30);
    uint32_t op = chance(50) ? 3 : 4;
    if (op == 3 && chance(20)) d = 2;
    uint32_t span = (k - 1) * d + 1;
    if (x.h + 2 * p < span || x.w + 2 * p < span) return;
    auto size = [&](uint32_t n) {
      uint32_t o = (n + 2 * p - span + (ceil ? s - 1 : 0)) / s + 1;
      return ceil && (o - 1) * s >= n + p ? o - 1 : o;
    };
    if (op == 3) push(3, {x.id}, {k, k, s, s, p, p, p, p, d, d, ceil}, x.c, size(x.h), size(x.w));
    else push(4, {x.id}, {k, k, s, s, p, p, p, p, ceil, uint32_t(chance(50)), chance(20) ? 5u : 0u}, x.c, size(x.h), size(x.w));
  }
  void simple() {
    Value x = any();
    switch (pick(0, 7)) {
      case 0: {
        uint32_t h = pick(1, x.h), ww = pick(1, x.w);
        push(chance(50) ? 5 : 15, {x.id}, {h, ww}, x.c, h, ww);
        break;
      }
      case 1:
        push(11, {x.id}, {}, x.c, x.h, x.w);
        break;
      case 2:
        push(12, {x.id}, {w.floats(numbers(x.c)), w.floats(numbers(x.c))}, x.c, x.h, x.w);
        break;
      case 3:
        push(13, {x.id}, {}, x.c, x.h, x.w);
        break;
      case 4: {
        uint32_t a = pick(0, 2), b = pick(0, 2), c = pick(0, 2), d = pick(0, 2);
        push(14, {x.id}, {a, b, c, d, Writer::bits(chance(50) ? 0.0f : 0.5f)}, x.c, x.h + a + c, x.w + b + d);
        break;
      }
      case 5: {
        std::vector<uint32_t> index{0};
        uint32_t n = chance(50) ? x.c : pick(1, 2 * x.c);
        bool permute = chance(60);
        for (uint32_t i = 0; i < n; i++) index.push_back(permute && n <= x.c ? (i * 7 + 3) % x.c : chance(5) ? 0xffffffffu : pick(0, x.c - 1));
        index[0] = n;
        push(9, {x.id}, index, n, x.h, x.w);
        break;
      }
      default: {
        std::vector<uint32_t> in{x.id};
        uint32_t c = x.c;
        for (const Value& v : pool)
          if (v.h == x.h && v.w == x.w && in.size() < 4 && chance(50)) {
            in.push_back(v.id);
            c += v.c;
          }
        push(8, in, {}, c, x.h, x.w);
      }
    }
  }
  void combine() {
    Value x = any();
    for (const Value& v : pool)
      if (v.c == x.c && ((v.h == x.h && v.w == x.w) || v.h * v.w == 1) && chance(70)) {
        push(chance(50) ? 6 : 7, {x.id, v.id}, {}, x.c, x.h, x.w);
        return;
      }
    // Squeeze and excite.
    push(5, {x.id}, {1, 1}, x.c, 1, 1);
    push(7, {x.id, pool.back().id}, {}, x.c, x.h, x.w);
  }

  std::vector<uint8_t> make() {
    batch = chance(50) ? 1 : pick(2, 5);
    uint32_t c = chance(50) ? pick(1, 4) : pick(1, 40), h = pick(1, 20), ww = chance(60) ? h : pick(1, 20);
    pool.push_back({w.input("x", {batch, c, h, ww}), c, h, ww});
    uint32_t n = pick(1, 9);
    for (uint32_t i = 0; i < n; i++) {
      uint32_t what = pick(0, 99);
      if (what < 50) conv();
      else if (what < 60) pool2d();
      else if (what < 82) simple();
      else combine();
    }
    if (chance(40)) {
      linear();
    } else if (chance(30)) {
      Value x = pool.back();
      push(10, {x.id}, {}, x.c * x.h * x.w, 1, 1);
      if (chance(50)) push(11, {pool.back().id}, {}, pool.back().c, 1, 1);
    }
    w.output(pool.back().id, "y");
    if (chance(30)) w.output(pool[rng() % pool.size()].id, "z");
    return w.bytes();
  }
};
