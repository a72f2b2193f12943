// Compiled once per instruction set, with -DISA=<name> and that set's flags; exports one symbol,
// distilrt::<ISA>_kernels.

#include "kernels.h"

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define DISTILRT_STRINGIZE(x) #x
#define DISTILRT_NAME(x) DISTILRT_STRINGIZE(x)
#define DISTILRT_JOIN(a, b) a##b
#define DISTILRT_SYMBOL(a, b) DISTILRT_JOIN(a, b)

namespace distilrt {
namespace {
#include "vec.h"

#include "math-inl.h"

#include "dot-inl.h"

#include "gemm-inl.h"

#include "pack-inl.h"

#include "layer_norm-inl.h"

#include "attention-inl.h"

#if defined(__AVX512BF16__)
using NarrowDot = DotBf16;
using Narrow = Bf16;
#else
using NarrowDot = DotF32;
using Narrow = float;
#endif

constexpr DtypeKernels kDtypes[] = {
    {
        .dtype = "float32",
        .lane = 1,
        .activation_bytes = 4,
        .packed_bytes = packed_bytes<DotF32>,
        .pack = pack_f32,
        .gemm = gemm<DotF32, float>,
        .convert = nullptr,
        .convert_activations = nullptr,
        .attention_scratch = attention_scratch<DotF32>,
        .attention = attention<DotF32, float>,
    },
#if defined(__AVX512BF16__)
    {
        .dtype = "bfloat16",
        .lane = 2,
        .activation_bytes = 2,
        .packed_bytes = packed_bytes<DotBf16>,
        .pack = pack_bf16,
        .gemm = gemm<DotBf16, Bf16>,
        .convert = convert_bf16,
        .convert_activations = nullptr,
        .attention_scratch = attention_scratch<DotBf16>,
        .attention = attention<DotBf16, Bf16>,
    },
#endif
    {
        .dtype = "int8",
        .lane = 4,
        .activation_bytes = sizeof(Narrow),
        .packed_bytes = packed_bytes<DotInt8>,
        .pack = pack_int8,
        .gemm = gemm<DotInt8, Narrow>,
        .convert = convert_int8_f32,
        .convert_activations = convert_int8_activations<Narrow>,
        .attention_scratch = attention_scratch<NarrowDot>,
        .attention = attention<NarrowDot, Narrow>,
    },
};
}  // namespace

extern const Kernels DISTILRT_SYMBOL(ISA, _kernels);
const Kernels DISTILRT_SYMBOL(ISA, _kernels) = {
    .isa = DISTILRT_NAME(ISA),
    .panel_width = kPanel,
    .dtypes = kDtypes,
    .num_dtypes = sizeof(kDtypes) / sizeof(kDtypes[0]),
    .layer_norm = layer_norm,
    .embed = embed,
};

}  // namespace distilrt
