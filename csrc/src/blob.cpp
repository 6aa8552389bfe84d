// Reads a .precut file (docs/native-format.md). Everything in it is untrusted: each size, offset, index and shape is
// checked before it is used, in 64-bit arithmetic that cannot overflow.
#include <array>
#include <cstring>

#include "graph.h"

namespace precut {
namespace {

constexpr char kMagic[8] = {'P', 'R', 'E', 'C', 'U', 'T', '\x1a', '\n'};
constexpr uint32_t kVersion = 1;
constexpr size_t kHeader = 64;
constexpr uint32_t kMaxChannels = 1u << 20, kMaxItems = 1u << 20, kMaxWindow = 255, kMaxClasses = 256;
constexpr uint64_t kMaxWeights = 1ull << 28;

[[noreturn]] void bad(const std::string& what) { throw Error(PRECUT_ERR_FORMAT, "not a valid precut file: " + what); }

// CRC-32 (IEEE 802.3, as zlib's), eight bytes a step.
uint32_t crc32(const uint8_t* p, size_t n) {
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> t{};
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int k = 0; k < 8; k++) c = (c >> 1) ^ ((c & 1) ? 0xEDB88320u : 0u);
      t[0][i] = c;
    }
    for (int s = 1; s < 8; s++)
      for (int i = 0; i < 256; i++) t[s][i] = (t[s - 1][i] >> 8) ^ t[0][t[s - 1][i] & 255];
    return t;
  }();
  uint32_t c = ~0u;
  for (; n >= 8; n -= 8, p += 8) {
    uint32_t a, b;
    std::memcpy(&a, p, 4);
    std::memcpy(&b, p + 4, 4);
    a ^= c;
    c = tables[7][a & 255] ^ tables[6][(a >> 8) & 255] ^ tables[5][(a >> 16) & 255] ^ tables[4][a >> 24] ^
        tables[3][b & 255] ^ tables[2][(b >> 8) & 255] ^ tables[1][(b >> 16) & 255] ^ tables[0][b >> 24];
  }
  for (; n; n--, p++) c = (c >> 8) ^ tables[0][(c ^ *p) & 255];
  return ~c;
}

class Reader {
 public:
  Reader(const uint8_t* p, size_t n) : p_(p), left_(n) {}
  uint32_t u32() {
    if (left_ < 4) bad("the graph section ends too early");
    uint32_t v;
    std::memcpy(&v, p_, 4);
    p_ += 4;
    left_ -= 4;
    return v;
  }
  uint64_t u64() {
    uint64_t lo = u32();
    return lo | (uint64_t(u32()) << 32);
  }
  float f32() {
    uint32_t v = u32();
    float f;
    std::memcpy(&f, &v, 4);
    return f;
  }
  // A number that must lie in [low, high].
  uint32_t in(uint32_t low, uint32_t high, const char* what) {
    uint32_t v = u32();
    if (v < low || v > high)
      bad(std::string(what) + " is " + std::to_string(v) + ", expected " + std::to_string(low) + " to " +
          std::to_string(high));
    return v;
  }
  // The length of a list whose items take at least `words` words each: bounded by what is left to read.
  uint32_t count(size_t words, const char* what) {
    uint32_t v = u32();
    if (v > kMaxItems || (words && v > left_ / 4 / words)) bad(std::string(what) + " has an impossible length");
    return v;
  }
  // An index into a table of `n` items; 0xffffffff means none where that is allowed.
  int index(size_t n, bool optional, const char* what) {
    uint32_t v = u32();
    if (optional && v == 0xffffffffu) return -1;
    if (v >= n) bad(std::string(what) + " " + std::to_string(v) + " is out of range");
    return int(v);
  }
  std::string text() {
    uint32_t n = u32();
    if (n > 4096 || n > left_) bad("a name has an impossible length");
    std::string s(reinterpret_cast<const char*>(p_), n);
    size_t padded = (size_t(n) + 3) / 4 * 4;
    if (padded > left_) bad("the graph section ends too early");
    p_ += padded;
    left_ -= padded;
    for (char c : s)
      if (static_cast<unsigned char>(c) < 32 || static_cast<unsigned char>(c) > 126) bad("a name is not plain ASCII");
    return s;
  }
  bool done() const { return left_ == 0; }

 private:
  const uint8_t* p_;
  size_t left_;
};

class GraphReader {
 public:
  GraphReader(Reader r, const uint8_t* data, uint64_t data_size) : r_(r), data_(data), data_size_(data_size) {}

  Graph read() {
    g_.n_values = int(r_.in(1, kMaxItems, "the number of values"));
    known_.assign(size_t(g_.n_values), false);
    read_tensors();
    read_supports();
    read_inputs();
    uint32_t n = r_.count(4, "the list of operations");
    for (uint32_t i = 0; i < n; i++) read_node();
    read_outputs();
    if (!r_.done()) bad("the graph section has extra words at its end");
    return std::move(g_);
  }

 private:
  void read_tensors() {
    uint32_t n = r_.count(5, "the table of tensors");
    for (uint32_t i = 0; i < n; i++) {
      Tensor t;
      t.bytes = r_.in(0, 1, "the type of a tensor") == 1;
      uint64_t offset = r_.u64();
      t.count = r_.u64();
      uint64_t item = t.bytes ? 1 : 4;
      if (offset % 4 || offset > data_size_ || t.count > (data_size_ - offset) / item)
        bad("tensor " + std::to_string(i) + " does not lie within the file");
      t.data = data_ + offset;
      g_.tensors.push_back(t);
    }
  }

  void read_supports() {
    uint32_t n = r_.count(2, "the table of supports");
    for (uint32_t i = 0; i < n; i++) {
      Support s;
      s.kind = Support::Kind(r_.in(1, 2, "the kind of a support"));
      if (s.kind == Support::mask) {
        s.mask_tensor = r_.index(g_.tensors.size(), false, "a mask tensor");
        if (!g_.tensors[size_t(s.mask_tensor)].bytes) bad("a mask is not a tensor of bytes");
      } else {
        s.p_out = int(r_.in(1, kMaxClasses, "a class count"));
        s.p_in = int(r_.in(1, kMaxClasses, "a class count"));
        s.align = int(r_.in(1, kMaxChannels, "an alignment"));
        uint64_t pairs = uint64_t(s.p_out) * uint64_t(s.p_in);
        if (pairs > kMaxItems) bad("a class table is too large");
        for (uint64_t k = 0; k < pairs; k++) {
          uint32_t m = r_.count(1, "a class pair");
          std::vector<uint16_t> list;
          for (uint32_t j = 0; j < m; j++) {
            uint32_t pos = r_.in(0, kMaxWindow * kMaxWindow - 1, "a kernel position");
            if (!list.empty() && pos <= list.back()) bad("the kernel positions of a class pair do not ascend");
            list.push_back(uint16_t(pos));
          }
          s.positions.push_back(std::move(list));
        }
      }
      g_.supports.push_back(std::move(s));
    }
  }

  void read_inputs() {
    uint32_t n = r_.count(7, "the list of inputs");
    if (n == 0) bad("there is no input");
    for (uint32_t i = 0; i < n; i++) {
      Input in;
      in.value = r_.index(known_.size(), false, "an input value");
      define(in.value);
      in.shape.rank = int(r_.in(2, 4, "the rank of an input"));
      if (in.shape.rank == 3) bad("the rank of an input is 3, expected 2 or 4");
      in.shape.n = r_.in(1, 1u << 24, "a batch size");
      in.shape.c = r_.in(1, kMaxChannels, "a channel count");
      in.shape.h = r_.in(1, 1u << 16, "a height");
      in.shape.w = r_.in(1, 1u << 16, "a width");
      in.name = r_.text();
      g_.inputs.push_back(std::move(in));
    }
  }

  void read_outputs() {
    uint32_t n = r_.count(2, "the list of outputs");
    if (n == 0) bad("there is no output");
    for (uint32_t i = 0; i < n; i++) {
      Output out;
      out.value = use();
      out.name = r_.text();
      g_.outputs.push_back(std::move(out));
    }
  }

  void define(int value) {
    if (known_[size_t(value)]) bad("value " + std::to_string(value) + " is computed twice");
    known_[size_t(value)] = true;
  }
  int use() {
    int v = r_.index(known_.size(), false, "a value");
    if (!known_[size_t(v)]) bad("value " + std::to_string(v) + " is used before it is computed");
    return v;
  }
  int floats(bool optional, const char* what) {
    int t = r_.index(g_.tensors.size(), optional, what);
    if (t >= 0 && g_.tensors[size_t(t)].bytes) bad(std::string(what) + " is a tensor of bytes");
    return t;
  }
  void want(int tensor, uint64_t count, const std::string& name, const char* what) {
    if (tensor >= 0 && g_.tensors[size_t(tensor)].count != count)
      bad(name + ": " + what + " has " + std::to_string(g_.tensors[size_t(tensor)].count) + " numbers, expected " +
          std::to_string(count));
  }

  Activation activation() {
    Activation a;
    a.kind = Act(r_.in(0, uint32_t(Act::count_) - 1, "an activation"));
    a.alpha = r_.f32();
    a.beta = r_.f32();
    a.slope = floats(true, "a slope");
    if (a.kind == Act::prelu && a.slope < 0) bad("a prelu has no slopes");
    if (a.kind == Act::prelu && g_.tensors[size_t(a.slope)].count == 0) bad("a prelu has no slopes");
    return a;
  }

  void window(Window& w, bool dilated) {
    w.kh = int(r_.in(1, kMaxWindow, "a window height"));
    w.kw = int(r_.in(1, kMaxWindow, "a window width"));
    w.sh = int(r_.in(1, kMaxWindow, "a stride"));
    w.sw = int(r_.in(1, kMaxWindow, "a stride"));
    padding(w);
    if (!dilated) return;
    w.dh = int(r_.in(1, kMaxWindow, "a dilation"));
    w.dw = int(r_.in(1, kMaxWindow, "a dilation"));
  }
  void padding(Window& w) {
    w.pt = int(r_.in(0, 4096, "a padding"));
    w.pl = int(r_.in(0, 4096, "a padding"));
    w.pb = int(r_.in(0, 4096, "a padding"));
    w.pr = int(r_.in(0, 4096, "a padding"));
  }

  void weights(Node& n) {
    n.weight = floats(false, "a weight");
    n.bias = floats(true, "a bias");
    n.support = r_.index(g_.supports.size(), true, "a support");
    n.out_channels = r_.in(1, kMaxChannels, "a channel count");
    n.in_channels = r_.in(1, kMaxChannels, "a channel count");
    n.groups = int(r_.in(1, kMaxChannels, "the number of groups"));
    n.has_residual = r_.in(0, 1, "a residual flag") == 1;
    if (n.in_channels % n.groups || n.out_channels % n.groups) bad(n.name + ": groups do not divide the channels");
  }

  void check_weights(const Node& n) {
    uint64_t area = uint64_t(n.win.kh) * uint64_t(n.win.kw);
    uint64_t per_group = uint64_t(n.in_channels / n.groups);
    uint64_t dense = uint64_t(n.out_channels) * per_group;  // at most 2^40
    if (dense > kMaxWeights / area) bad(n.name + ": more than 2^28 weights");
    dense *= area;
    want(n.bias, uint64_t(n.out_channels), n.name, "the bias");
    if (n.support >= 0) {
      const Support& s = g_.supports[size_t(n.support)];
      if (s.kind == Support::mask && g_.tensors[size_t(s.mask_tensor)].count != (dense + 7) / 8)
        bad(n.name + ": the mask has the wrong size");
      for (const auto& list : s.positions)
        if (!list.empty() && list.back() >= area) bad(n.name + ": the class table uses positions outside the kernel");
    }
    want(n.weight, uint64_t(kept_weights(g_, n)), n.name, "the weight");
  }

  void read_node() {
    Node n;
    n.op = Op(r_.in(1, uint32_t(Op::count_) - 1, "an operation"));
    n.name = r_.text();
    uint32_t n_in = r_.count(1, "the inputs of an operation");
    for (uint32_t i = 0; i < n_in; i++) n.in.push_back(use());
    n.out = r_.index(known_.size(), false, "a value");
    n.act = activation();
    uint32_t expected = 1, most = 1;
    switch (n.op) {
      case Op::conv2d:
        weights(n);
        window(n.win, true);
        check_weights(n);
        expected = most = n.has_residual ? 2 : 1;
        break;
      case Op::linear:
        weights(n);
        if (n.groups != 1) bad(n.name + ": a linear layer has groups");
        check_weights(n);
        expected = most = n.has_residual ? 2 : 1;
        break;
      case Op::max_pool:
        window(n.win, true);
        n.ceil_mode = r_.in(0, 1, "ceil_mode") == 1;
        break;
      case Op::avg_pool:
        window(n.win, false);
        n.ceil_mode = r_.in(0, 1, "ceil_mode") == 1;
        n.count_include_pad = r_.in(0, 1, "count_include_pad") == 1;
        n.divisor = int(r_.in(0, 1u << 24, "a divisor"));
        break;
      case Op::adaptive_avg_pool:
      case Op::adaptive_max_pool:
        n.out_h = r_.in(1, 4096, "an output height");
        n.out_w = r_.in(1, 4096, "an output width");
        break;
      case Op::add:
      case Op::mul:
        expected = most = 2;
        break;
      case Op::cat:
        most = kMaxItems;
        break;
      case Op::gather: {
        uint32_t k = r_.count(1, "a channel list");
        if (k == 0 || k > kMaxChannels) bad(n.name + ": an impossible number of channels");
        for (uint32_t i = 0; i < k; i++) {
          uint32_t v = r_.u32();
          if (v != 0xffffffffu && v >= kMaxChannels) bad(n.name + ": a channel number is out of range");
          n.index.push_back(int32_t(v));
        }
        break;
      }
      case Op::affine:
        n.scale = floats(false, "a scale");
        n.shift = floats(false, "a shift");
        break;
      case Op::pad:
        padding(n.win);
        n.value = r_.f32();
        break;
      case Op::flatten:
      case Op::activation:
      case Op::softmax:
      case Op::count_:
        break;
    }
    if (n.in.size() < expected || n.in.size() > most)
      bad(n.name + ": " + op_name(n.op) + " has " + std::to_string(n.in.size()) + " inputs");
    define(n.out);
    g_.nodes.push_back(std::move(n));
  }

  Reader r_;
  const uint8_t* data_;
  uint64_t data_size_;
  Graph g_;
  std::vector<bool> known_;
};

}  // namespace

Graph read_blob(const uint8_t* bytes, size_t size) {
  if (size < kHeader || std::memcmp(bytes, kMagic, 8) != 0) bad("it does not begin with the precut signature");
  if (reinterpret_cast<uintptr_t>(bytes) % 4) throw Error(PRECUT_ERR_ARGUMENT, "the model's bytes are not 4-byte aligned");
  Reader head(bytes + 8, kHeader - 8);
  uint32_t version = head.u32();
  if (version != kVersion)
    throw Error(PRECUT_ERR_VERSION, "the file has format version " + std::to_string(version) +
                                        "; this library reads version " + std::to_string(kVersion));
  uint32_t checksum = head.u32();
  uint64_t total = head.u64(), graph_at = head.u64(), graph_size = head.u64(), data_at = head.u64(),
           data_size = head.u64();
  if (total != size)
    bad("it should have " + std::to_string(total) + " bytes and has " + std::to_string(size) + " (truncated?)");
  if (graph_at < kHeader || graph_at > total || graph_size > total - graph_at || graph_at % 4)
    bad("the graph section does not lie within the file");
  if (data_at < kHeader || data_at > total || data_size > total - data_at || data_at % 4)
    bad("the data section does not lie within the file");
  if (crc32(bytes + 16, size - 16) != checksum) bad("the checksum does not match its contents (damaged?)");
  return GraphReader(Reader(bytes + graph_at, graph_size), bytes + data_at, data_size).read();
}

}  // namespace precut
