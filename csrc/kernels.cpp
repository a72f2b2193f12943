// Compiled once per row of isas.h, with that row's flags, -DISA=<set> and -DISA_HEADER=<its header>; exports one
// symbol, distilrt::<set>_kernels.

#include "kernels.h"

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define DISTILRT_STRINGIZE(x) #x
#define DISTILRT_NAME(x) DISTILRT_STRINGIZE(x)
#define DISTILRT_JOIN(a, b) a##b
#define DISTILRT_SYMBOL(a, b) DISTILRT_JOIN(a, b)

namespace distilrt {
namespace {
#include ISA_HEADER
using Isa = ISA;

#include "vec-inl.h"

#include "math-inl.h"

#include "dot-inl.h"

#include "gemm-inl.h"

#include "amx-inl.h"

#include "pack-inl.h"

#include "layer_norm-inl.h"

#include "attention-inl.h"

using Activation = Isa::Activation;
constexpr bool kHasBf16 = sizeof(Activation) == sizeof(Bf16);

constexpr DtypeKernels kFloat32 = {
    .dtype = "float32",
    .quantized = false,
    .lane = DotF32::kLane,
    .block_rows = kBlockRows<DotF32>,
    .activation_bytes = sizeof(float),
    .packed_bytes = packed_bytes<DotF32>,
    .pack = pack_f32,
    .narrow = nullptr,
    .gemm = gemm<DotF32, float>,
    .convert = nullptr,
    .convert_activations = nullptr,
    .attention_scratch = attention_scratch<float>,
    .attention = attention<float>,
};
[[maybe_unused]] constexpr DtypeKernels kBfloat16 = {
    .dtype = "bfloat16",
    .quantized = false,
    .lane = DotBf16::kLane,
    .block_rows = kBlockRows<DotBf16>,
    .activation_bytes = sizeof(Activation),
    .packed_bytes = packed_bytes<DotBf16>,
    .pack = pack_bf16,
    .narrow = nullptr,
    .gemm = gemm<DotBf16, Activation>,
    .convert = convert_bf16,
    .convert_activations = nullptr,
    .attention_scratch = attention_scratch<Activation>,
    .attention = attention<Activation>,
};
constexpr DtypeKernels kInt8 = {
    .dtype = "int8",
    .quantized = true,
    .lane = DotInt8::kLane,
    .block_rows = kBlockRows<DotInt8>,
    .activation_bytes = sizeof(Activation),
    .packed_bytes = packed_bytes<DotInt8>,
    .pack = pack_int8,
    .narrow = Isa::kInt8Pairs ? narrow_int8 : nullptr,
    .gemm = gemm<DotInt8, Activation>,
    .convert = convert_int8_f32,
    .convert_activations = convert_int8_activations<Activation>,
    .attention_scratch = attention_scratch<Activation>,
    .attention = attention<Activation>,
};
}  // namespace

extern const Kernels DISTILRT_SYMBOL(ISA, _kernels);
const Kernels DISTILRT_SYMBOL(ISA, _kernels) = {
    .isa = DISTILRT_NAME(ISA),
    .panel_width = kPanel,
    .dtypes = {&kFloat32, kHasBf16 ? &kBfloat16 : nullptr, &kInt8},
    .layer_norm = layer_norm,
};

}  // namespace distilrt
