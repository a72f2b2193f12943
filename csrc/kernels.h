// The contract between the model and the per-ISA code: one table of function pointers per instruction set.
//
// kernels.cpp is compiled once per ISA and defines one such table; everything else in csrc/ is compiled for the
// baseline CPU and reaches vector code only through it. All matrices are row-major float32; `ld` is a row stride in
// elements.
#pragma once

#include <cstdint>

namespace distilrt {

enum class Epilogue : int { kBias, kBiasGelu, kBiasGeluTanh, kBiasRelu, kBiasSilu, kBiasResidual };

// C[m, n] = epilogue(A[m, k] * W[n, k]^T + bias[n]), with W packed into panels of `panel_width` columns.
struct GemmArgs {
  const float* a;
  int64_t lda;
  const float* panels;
  const float* bias;      // [n]
  const float* residual;  // [m, n], row stride ldc; only for kBiasResidual; may be c
  float* c;
  int64_t ldc;
  int64_t n, k;
  Epilogue epilogue;
};

// One (sequence, attention head): softmax(Q K^T * scale) V over the first `keys` rows.
struct AttentionArgs {
  const float* q;  // [queries, head_dim], row stride ld
  const float* k;  // [keys, head_dim], row stride ld
  const float* v;  // [keys, head_dim], row stride ld
  int64_t ld;
  int64_t queries, keys, head_dim;
  float scale;
  float* scratch;  // attention_scratch(keys, head_dim) floats, 64-byte aligned
  float* out;      // [queries, head_dim], row stride ldo
  int64_t ldo;
};

struct Kernels {
  const char* isa;
  int64_t panel_width;

  // Floats that pack() writes for a [n, k] weight.
  int64_t (*packed_size)(int64_t n, int64_t k);
  // Packs rows first..first+count-1 of a [n, k] weight, given from its row `first` on, into the zeroed buffer of the
  // whole packed weight; padding columns stay 0.
  void (*pack)(const float* rows, int64_t k, int64_t first, int64_t count, float* panels);
  // Rows m0..m1-1 and panels first..last-1 of the product.
  void (*gemm)(const GemmArgs& args, int64_t m0, int64_t m1, int64_t first, int64_t last);
  int64_t (*attention_scratch)(int64_t keys, int64_t head_dim);
  void (*attention)(const AttentionArgs& args);
  // out[i] = (x[i] - mean) / sqrt(var + eps) * gamma + beta for each of `rows` rows; out may be x.
  void (*layer_norm)(const float* x, const float* gamma, const float* beta, float eps, int64_t rows, int64_t n,
                     float* out);
  // out = layer_norm(word + position): one row of embeddings.
  void (*embed)(const float* word, const float* position, const float* gamma, const float* beta, float eps, int64_t n,
                float* out);
};

}  // namespace distilrt
