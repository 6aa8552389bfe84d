// The table of the neon kernels.
#define PRECUT_NEON
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
constexpr TileInfo kTiles[] = {PRECUT_TILES_4(PRECUT_TILE_ROW)};
constexpr PlanarInfo kPlanar[] = {PRECUT_PLANAR_4(PRECUT_PLANAR_ROW)};
constexpr Kernels kKernels = {
    PRECUT_ISA, L,    kTiles,   sizeof kTiles / sizeof *kTiles, kPlanar, sizeof kPlanar / sizeof *kPlanar,
    depthwise,  pool, act,      elt,
    wino_in,    wino_out,
    PRECUT_SPARSE,
    lift, block, burn,
    PRECUT_SHIFT_WIDE, to_planes, from_planes};
}  // namespace
}  // namespace PRECUT_NS
const Kernels* neon_kernels() { return &PRECUT_NS::kKernels; }
}  // namespace precut
