// AVX-512: tiles of stride 2, of small classes and of planar inputs.
#define PRECUT_AVX512
#include "conv_tile.h"
#include "tile_table.h"
namespace precut {
namespace PRECUT_NS {
PRECUT_TILES_16_S2(PRECUT_TILE_MAKE)
PRECUT_TILES_16_G(PRECUT_TILE_MAKE)
PRECUT_TILES_16_X(PRECUT_TILE_MAKE)
}  // namespace PRECUT_NS
}  // namespace precut
