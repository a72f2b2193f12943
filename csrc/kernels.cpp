// Compiled once per instruction set, with -DISA=<name> and that set's flags; exports one symbol,
// distilrt::<ISA>_kernels.

#include "kernels.h"

#include <cstddef>
#include <cstdint>

#define DISTILRT_STRINGIZE(x) #x
#define DISTILRT_NAME(x) DISTILRT_STRINGIZE(x)
#define DISTILRT_JOIN(a, b) a##b
#define DISTILRT_SYMBOL(a, b) DISTILRT_JOIN(a, b)

namespace distilrt {
namespace {
#include "vec.h"

#include "math-inl.h"

#include "gemm-inl.h"

#include "layer_norm-inl.h"

#include "attention-inl.h"
}  // namespace

extern const Kernels DISTILRT_SYMBOL(ISA, _kernels);
const Kernels DISTILRT_SYMBOL(ISA, _kernels) = {
    .isa = DISTILRT_NAME(ISA),
    .panel_width = kPanel,
    .packed_size = packed_size,
    .pack = pack,
    .gemm = gemm,
    .attention_scratch = attention_scratch,
    .attention = attention,
    .layer_norm = layer_norm,
    .embed = embed,
};

}  // namespace distilrt
