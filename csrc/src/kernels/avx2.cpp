// The table of the avx2 kernels.
#define PRECUT_AVX2
#include "conv_tile.h"
#include "misc.h"
#include "planar.h"
#include "sparse.h"
#include "shift.h"
#include "tile_table.h"
#include "winograd.h"

namespace precut {
namespace PRECUT_NS {
namespace {
constexpr TileInfo kTiles[] = {PRECUT_TILES_8_S1(PRECUT_TILE_ROW) PRECUT_TILES_8_S2(PRECUT_TILE_ROW)};
constexpr PlanarInfo kPlanar[] = {PRECUT_PLANAR_8(PRECUT_PLANAR_ROW)};
constexpr Kernels kKernels = {
    PRECUT_ISA, L,    kTiles,   sizeof kTiles / sizeof *kTiles, kPlanar, sizeof kPlanar / sizeof *kPlanar,
    depthwise,  pool, act,      elt,
    wino_in,    wino_out,
    PRECUT_SPARSE,
    lift, block, burn,
    PRECUT_SHIFT, to_planes, from_planes};
}  // namespace
}  // namespace PRECUT_NS
const Kernels* avx2_kernels() { return &PRECUT_NS::kKernels; }
}  // namespace precut
