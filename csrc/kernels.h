// The contract between the model and the per-ISA code: one table of function pointers per instruction set.
//
// kernels.cpp is compiled once per ISA and defines one such table; everything else in csrc/ is compiled for the
// baseline CPU and reaches vector code only through it. Matrices are row-major; `ld` is a row stride.
//
// A GEMM reads its operands in lanes of 4 bytes: 1 float32, 2 bfloat16 or 4 int8 along the depth. It sums in float32
// (int8: in int32) and its epilogue works in float32.
#pragma once

#include <cstdint>

namespace distilrt {

enum class Epilogue : int { kBias, kBiasGelu, kBiasGeluTanh, kBiasRelu, kBiasSilu, kBiasResidual };

// C[m, n] = epilogue(A[m, k] * W[n, k]^T + bias[n]), with W packed into panels of `panel_width` columns.
struct GemmArgs {
  const void* a;            // [m, lanes of k], as convert() writes them
  int64_t lda;              // in lanes
  const float* row_scales;  // [m, 2], quantized only: what a step of A means, and what its 0 does
  const void* panels;
  const float* column_scales;  // [n], quantized only
  const int32_t* offsets;      // [n], quantized only: sum of the column's weights
  const float* bias;           // [n]
  const float* residual;       // [m, n], row stride ldc; only for kBiasResidual; may be c
  void* c;
  int64_t ldc;  // in elements
  int64_t n, k;
  Epilogue epilogue;
  bool narrow;  // c holds activations (see DtypeKernels), not float32; columns up to whole lanes are written
};

// Where pack() writes. Sizes are in elements of the pointer.
struct PackedWeight {
  void* panels;          // packed_bytes(n, k), zeroed before
  float* column_scales;  // [n], quantized only
  int32_t* offsets;      // [n], quantized only
  bool scaled;           // column_scales are given, and rows are whole multiples of them up to 127
};

// One (sequence, attention head): softmax(Q K^T * scale) V over the first `keys` rows, on activations; 0 if keys is 0.
struct AttentionArgs {
  const void* q;          // [queries, head_dim]
  const void* k;          // [keys, head_dim]
  const void* v;          // [keys, head_dim]
  int64_t ldq, ldk, ldv;  // in elements
  int64_t queries, keys, head_dim;
  float scale;
  void* scratch;  // attention_scratch(keys, head_dim) bytes, 64-byte aligned
  void* out;      // [queries, head_dim]
  int64_t ldo;
};

// What a model of one dtype runs on. Activations between GEMMs are bfloat16 where the dtype is narrower than float32
// and the instruction set has it, else float32; the residual stream is always float32.
struct DtypeKernels {
  const char* dtype;
  bool quantized;            // its GEMMs have scales and offsets
  int64_t lane;              // elements in a lane of a GEMM operand
  int64_t block_rows;        // rows that one reading of the weights serves, at most
  int64_t activation_bytes;  // 4, or 2 for bfloat16

  int64_t (*packed_bytes)(int64_t n, int64_t k);
  // Packs rows first..first+count-1 of a [n, k] weight, given from its row `first` on.
  void (*pack)(const float* rows, int64_t k, int64_t first, int64_t count, const PackedWeight& out);
  // Rounds `columns` columns of packed panels, which begin a panel, as gemm() needs them. `out` has the packed columns'
  // scales, and its panels may be those that are read. Null where gemm() reads packed panels.
  void (*narrow)(const void* panels, int64_t k, int64_t columns, const PackedWeight& out);
  // Rows m0..m1-1 and panels first..last-1 of the product.
  void (*gemm)(const GemmArgs& args, int64_t m0, int64_t m1, int64_t first, int64_t last);
  // Rounds rows [rows, n] of float32 to GEMM operands [rows, lanes of n] (and row scales [rows, 2]); null where float32
  // itself is the operand. Quantized dtypes multiply each column by its `input_scales` [n] first, where they are not
  // null.
  void (*convert)(const float* x, int64_t rows, int64_t n, const float* input_scales, void* out, float* scales);
  // The same from activations with rows of whole lanes; null where activations are the operand.
  void (*convert_activations)(const void* x, int64_t rows, int64_t n, const float* input_scales, void* out,
                              float* scales);
  int64_t (*attention_scratch)(int64_t keys, int64_t head_dim);
  void (*attention)(const AttentionArgs& args);
};

struct Kernels {
  const char* isa;
  int64_t panel_width;
  const DtypeKernels* dtypes[3];  // float32, bfloat16 and int8; null where the instruction set has it not

  // out[i] = (x[i] - mean) / sqrt(var + eps) * gamma + beta for each of `rows` rows; out may be x.
  void (*layer_norm)(const float* x, const float* gamma, const float* beta, float eps, int64_t rows, int64_t n,
                     float* out);
};

// Lanes that n elements fill.
static inline int64_t lanes(int64_t n, int64_t lane) { return (n + lane - 1) / lane; }

// An odd number of cache lines where `lanes` are an even one: products read many rows at once, and rows an even number
// of lines apart share few sets of a cache.
static inline int64_t spread(int64_t lanes) { return lanes % 32 == 0 ? lanes + 16 : lanes; }

// Lanes from one row of n elements to the next in a GEMM operand.
static inline int64_t operand_stride(int64_t n, int64_t lane) { return spread(lanes(n, lane)); }

// Elements of `bytes` from one row of n activations to the next: whole lanes of every dtype.
static inline int64_t activation_stride(int64_t n, int64_t bytes) { return spread(lanes(n, 4) * bytes) * 4 / bytes; }

}  // namespace distilrt
