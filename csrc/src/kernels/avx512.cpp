// The table of the avx512 kernels.
#define PRECUT_AVX512
#include "conv_tile.h"
#include "misc.h"
#include "planar.h"
#include "sparse.h"
#include "shift.h"
#include "tile_table.h"
#include "winograd.h"

namespace precut {
namespace PRECUT_NS {
// Made in avx512_tiles_a.cpp and avx512_tiles_b.cpp, so that two compilers can work on them.
PRECUT_TILES_16_S1(PRECUT_TILE_EXTERN)
PRECUT_TILES_16_S1V(PRECUT_TILE_EXTERN)
PRECUT_TILES_16_S2(PRECUT_TILE_EXTERN)
PRECUT_TILES_16_G(PRECUT_TILE_EXTERN)
PRECUT_TILES_16_X(PRECUT_TILE_EXTERN)
namespace {
constexpr TileInfo kTiles[] = {PRECUT_TILES_16_S1(PRECUT_TILE_ROW) PRECUT_TILES_16_S1V(PRECUT_TILE_ROW) PRECUT_TILES_16_S2(PRECUT_TILE_ROW)
                                PRECUT_TILES_16_G(PRECUT_TILE_ROW) PRECUT_TILES_16_X(PRECUT_TILE_ROW)};
constexpr PlanarInfo kPlanar[] = {PRECUT_PLANAR_16(PRECUT_PLANAR_ROW)};
constexpr Kernels kKernels = {
    PRECUT_ISA, L,    kTiles,   sizeof kTiles / sizeof *kTiles, kPlanar, sizeof kPlanar / sizeof *kPlanar,
    depthwise,  pool, act,      elt,
    wino_in,    wino_out,
    PRECUT_SPARSE,
    lift, block, burn,
    PRECUT_SHIFT_WIDE, to_planes, from_planes};
}  // namespace
}  // namespace PRECUT_NS
const Kernels* avx512_kernels() { return &PRECUT_NS::kKernels; }
}  // namespace precut
