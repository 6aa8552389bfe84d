// Instruction sets that this build does not hold.
#include "kernels/kernels.h"

namespace precut {
#if !defined(PRECUT_HAVE_X86)
const Kernels* avx512_kernels() { return nullptr; }
const Kernels* avx2_kernels() { return nullptr; }
#endif
#if !defined(PRECUT_HAVE_NEON)
const Kernels* neon_kernels() { return nullptr; }
#endif
}  // namespace precut
