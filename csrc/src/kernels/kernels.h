// What the planner may call: one table of functions for each instruction set, and the arguments they take.
// All sizes and strides are in floats. A blocked activation is (block, row, column, lane) with `lanes` channels a block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace precut {

alignas(64) inline constexpr float kZeros[64] = {};  // a bias of nothing

// A run of `n` consecutive channel groups of the input, seen through one kernel position.
struct Step {
  int32_t off;  // from the tile's first input element
  int32_t n;
};

// One register tile of a convolution: `ch` x `cw` positions by `nv` vectors of output channels.
struct TileArgs {
  const float* x;
  int64_t x_row, x_col;  // x_col is read by the any-stride tiles only
  const Step* steps;
  int64_t n_steps;
  const float* w;     // in walk order
  // Weights to be fetched on the way, one in 2^share of as many as are used; null: they are near.
  const float* fetch;
  int share;
  const float* bias;  // of the tile's output channels
  float* y;
  int64_t y_row, y_blk;
  const float* res;  // may be null
  int64_t res_row, res_blk;
  float lo, hi;
};
using TileFn = void (*)(const TileArgs&);

struct TileInfo {
  const char* name;
  int ch, cw, nv;
  int xs;       // column stride in floats that the code is made for; 0: any
  int g;        // input channels that share a vector: a vector holds lanes / g output channels
  TileFn fn;
};

// Depthwise: one output row of one block.
struct DepthwiseArgs {
  const float* x;
  int64_t x_col;
  const int32_t* offs;
  int taps;
  const float* w;  // (taps, lanes)
  const float* bias;
  float* y;
  int64_t cols;
  const float* res;
  float lo, hi;
};

// Pooling: one output row of one block. Windows are clipped to the input.
struct PoolArgs {
  const float* x;  // row 0, column 0 of the block
  int64_t x_row, h0, h1, dh;
  float* y;
  int64_t cols;
  const int64_t *w0, *w1;  // of each column
  int64_t dw;
  const float* divisor;  // of each column, averages only
  bool max;
};

// Winograd F(4x4, 3x3): tiles are 6x6 inputs and 4x4 outputs.
struct WinoInArgs {
  const float* x;  // first element of the first tile of a block
  int64_t x_row;
  float* v;  // (36, tiles of the chunk, lanes) of this block
  int64_t v_point;
  int64_t tiles;
};
struct WinoOutArgs {
  const float* m;
  int64_t m_point;
  const float* bias;
  float* y;
  int64_t y_row;
  const float* res;
  int64_t res_row;
  int64_t tiles;
  int rows, cols_last;  // rows of the output that exist in this row of tiles, and columns in the last tile
  float lo, hi;
};

// Unstructured: `v` vectors of positions of several output channels, each over its list of offsets and weights.
constexpr int64_t kTapReach = 65535;
constexpr int kSparseVectors = 8;
struct SparseArgs {
  const float* x;
  const uint16_t* offs;
  const float* weights;
  const int32_t* first;  // of each output channel, and one past the end
  int64_t outs;
  float* y;  // v * lanes sums, `y_out` apart
  int64_t y_out;
  bool add;  // to what y holds
};
using SparseFn = void (*)(const SparseArgs&);

// Classes smaller than a vector (family B): lanes over columns of planes, `co` output channels by `vh` rows of `vw` vectors.
struct PlanarArgs {
  const float* x;
  int64_t x_row;
  const int32_t* steps;  // where each input channel and kernel position lies
  int64_t n_steps;
  const float* w;  // (step, co)
  float* y;
  int64_t y_out, y_row;
};
struct PlanarInfo {
  const char* name;
  int co, vh, vw;
  void (*fn)(const PlanarArgs&);
};

// Positions of a block of channels, gathered by offset, to one plane a channel. A whole number of vectors of positions.
struct LiftArgs {
  const float* x;
  const int32_t* offs;
  int64_t positions;
  float* out;
  int64_t plane;
};
// Planes of a block of channels, back to blocked.
struct BlockArgs {
  const float* x;  // (lane channel, pixel)
  int64_t x_channel, pixels;
  const float* bias;
  float* y;
  const float* res;
  float lo, hi;
};

// For training: rows of sums over shifted planes, in blocks of rows that share one list of shifts.
struct ShiftArgs {
  const float* x;
  const int32_t* offs;   // of each tap, from x
  const float* w;        // (tap, row of the block)
  const int32_t* first;  // tap of each block, and one past the end
  int64_t blocks;
  float* y;
  int64_t y_row;
  bool add;  // to what y holds
};
using ShiftFn = void (*)(const ShiftArgs&);
// And for one block the sums over positions of products of its rows with shifted planes, added to dw (tap, row).
struct ShiftDotArgs {
  const float *x, *y;
  int64_t x_image, y_image, y_row, images, positions;
  const int32_t* offs;
  int32_t from, to;
  float* dw;
};
// One row of pixels of all channels, between an array and planes. Towards planes the row is filled up to whole vectors
// with zeros.
struct PlaneRowArgs {
  float* array;
  int64_t channel, pixel;  // strides of the array
  float* planes;
  int64_t plane;             // from plane to plane
  const int32_t* plane_of;   // of each channel; null: the channel's own
  int64_t channels, pixels;
  const float* bias;         // of each channel, added on the way to the array; may be null
};
// Blocks of `rows` rows, up to `vectors` vectors of positions at a time.
constexpr int kShiftVectors = 8;
struct ShiftInfo {
  int rows, vectors;
  ShiftFn sum[kShiftVectors + 1];  // by number of vectors, 0 unused
  void (*dot)(const ShiftDotArgs&);
};

struct ActArgs {
  float* y;
  int64_t positions;
  uint32_t kind;
  float alpha, beta;
  const float* slopes;  // lanes values, prelu only
};

enum class Elt { add, mul, mul_spread, add_spread, affine };
struct EltArgs {
  Elt kind;
  const float *a, *b, *c;  // b: second operand (one position when spread) or scale; c: shift
  float* y;
  int64_t positions;
  float lo, hi;
};

struct Kernels {
  const char* isa;
  int lanes;
  const TileInfo* tiles;
  size_t n_tiles;
  const PlanarInfo* planar;
  size_t n_planar;
  void (*depthwise)(const DepthwiseArgs&);
  void (*pool)(const PoolArgs&);
  void (*act)(const ActArgs&);
  void (*elt)(const EltArgs&);
  void (*wino_in)(const WinoInArgs&);
  void (*wino_out)(const WinoOutArgs&);
  SparseFn sparse[kSparseVectors + 1];  // by number of vectors, 0 unused
  void (*lift)(const LiftArgs&);
  void (*block)(const BlockArgs&);
  int64_t (*burn)(int64_t rounds, float* sink);  // see misc.h
  ShiftInfo shift[3];                            // from most rows to one
  void (*to_planes)(const PlaneRowArgs&);
  void (*from_planes)(const PlaneRowArgs&);
};

// Null where the build does not hold them.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* neon_kernels();
const Kernels* portable_kernels();

// The best kernels for this CPU, or those of that name. Throws Error when there are none.
const Kernels* choose_kernels(const char* isa);
bool cpu_runs(const Kernels& kernels);
const char* cpu_name();

}  // namespace precut
