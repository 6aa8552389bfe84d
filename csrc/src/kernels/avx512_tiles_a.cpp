// AVX-512: tiles of stride 1.
#define PRECUT_AVX512
#include "conv_tile.h"
#include "tile_table.h"
namespace precut {
namespace PRECUT_NS {
PRECUT_TILES_16_S1(PRECUT_TILE_MAKE)
PRECUT_TILES_16_S1V(PRECUT_TILE_MAKE)
}  // namespace PRECUT_NS
}  // namespace precut
