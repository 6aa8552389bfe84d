// Writes .precut files for the native tests: the format of docs/native-format.md, independent of the library's reader.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

struct Writer {
  std::vector<uint32_t> graph_tensors, graph_supports, graph_inputs, graph_nodes, graph_outputs;
  uint32_t values = 0, tensors = 0, supports = 0, inputs = 0, nodes = 0, outputs = 0;
  std::vector<uint8_t> data;

  static uint32_t bits(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    return u;
  }
  static void text(std::vector<uint32_t>& to, const std::string& s) {
    to.push_back(uint32_t(s.size()));
    size_t at = to.size();
    to.resize(at + (s.size() + 3) / 4, 0);
    if (!s.empty()) std::memcpy(to.data() + at, s.data(), s.size());
  }
  uint32_t tensor(const void* p, size_t items, bool bytes) {
    size_t size = bytes ? items : items * 4;
    for (uint64_t v : {uint64_t(bytes)}) graph_tensors.push_back(uint32_t(v));
    for (uint64_t v : {uint64_t(data.size()), uint64_t(items)}) {
      graph_tensors.push_back(uint32_t(v));
      graph_tensors.push_back(uint32_t(v >> 32));
    }
    size_t at = data.size();
    data.resize(at + (size + 63) / 64 * 64, 0);
    if (size) std::memcpy(data.data() + at, p, size);
    return tensors++;
  }
  uint32_t floats(const std::vector<float>& v) { return tensor(v.data(), v.size(), false); }

  uint32_t class_table(const std::vector<std::vector<std::vector<uint32_t>>>& positions, uint32_t align) {
    for (uint32_t v : {1u, uint32_t(positions.size()), uint32_t(positions[0].size()), align}) graph_supports.push_back(v);
    for (const auto& row : positions)
      for (const auto& pair : row) {
        graph_supports.push_back(uint32_t(pair.size()));
        graph_supports.insert(graph_supports.end(), pair.begin(), pair.end());
      }
    return supports++;
  }
  uint32_t mask(const std::vector<bool>& keep) {
    std::vector<uint8_t> packed((keep.size() + 7) / 8, 0);
    for (size_t i = 0; i < keep.size(); i++)
      if (keep[i]) packed[i / 8] = uint8_t(packed[i / 8] | (1 << (i % 8)));
    uint32_t t = tensor(packed.data(), packed.size(), true);
    graph_supports.push_back(2);
    graph_supports.push_back(t);
    return supports++;
  }
  uint32_t input(const std::string& name, std::vector<uint32_t> shape) {
    graph_inputs.push_back(values);
    graph_inputs.push_back(uint32_t(shape.size()));
    shape.resize(4, 1);
    graph_inputs.insert(graph_inputs.end(), shape.begin(), shape.end());
    text(graph_inputs, name);
    inputs++;
    return values++;
  }
  void output(uint32_t value, const std::string& name) {
    graph_outputs.push_back(value);
    text(graph_outputs, name);
    outputs++;
  }
  uint32_t node(uint32_t op, const std::vector<uint32_t>& in, const std::vector<uint32_t>& attrs, uint32_t act = 0,
                float alpha = 0, float beta = 0, uint32_t slope = 0xffffffffu) {
    graph_nodes.push_back(op);
    text(graph_nodes, "op" + std::to_string(nodes));
    graph_nodes.push_back(uint32_t(in.size()));
    graph_nodes.insert(graph_nodes.end(), in.begin(), in.end());
    for (uint32_t v : {values, act, bits(alpha), bits(beta), slope}) graph_nodes.push_back(v);
    graph_nodes.insert(graph_nodes.end(), attrs.begin(), attrs.end());
    nodes++;
    return values++;
  }

  static uint32_t crc32(const uint8_t* p, size_t n) {
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
      c ^= p[i];
      for (int k = 0; k < 8; k++) c = (c >> 1) ^ ((c & 1) ? 0xEDB88320u : 0u);
    }
    return ~c;
  }
  static void seal(std::vector<uint8_t>& file) {
    uint32_t crc = crc32(file.data() + 16, file.size() - 16);
    std::memcpy(file.data() + 12, &crc, 4);
  }
  std::vector<uint8_t> bytes() const {
    std::vector<uint32_t> g{values, tensors};
    auto add = [&](uint32_t count, const std::vector<uint32_t>& part, bool counted = true) {
      if (counted) g.push_back(count);
      g.insert(g.end(), part.begin(), part.end());
    };
    add(0, graph_tensors, false);
    add(supports, graph_supports);
    add(inputs, graph_inputs);
    add(nodes, graph_nodes);
    add(outputs, graph_outputs);
    size_t graph_size = g.size() * 4, data_at = (64 + graph_size + 63) / 64 * 64;
    std::vector<uint8_t> file(data_at + data.size(), 0);
    std::memcpy(file.data(), "PRECUT\x1a\n", 8);
    uint32_t version = 1;
    std::memcpy(file.data() + 8, &version, 4);
    uint64_t head[5] = {file.size(), 64, graph_size, data_at, data.size()};
    std::memcpy(file.data() + 16, head, sizeof head);
    std::memcpy(file.data() + 64, g.data(), graph_size);
    if (!data.empty()) std::memcpy(file.data() + data_at, data.data(), data.size());
    seal(file);
    return file;
  }
};
