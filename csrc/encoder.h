// One loaded model: packed weights, and the layer loop over the kernel table.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "arena.h"
#include "fork_lock.h"
#include "kernels.h"
#include "schedule.h"
#include "thread_pool.h"

namespace distilrt {

// Rows [rows, hidden_size] of float32 or bfloat16; one of the pointers is null.
struct Table {
  const float* floats;
  const uint16_t* bfloat16s;
  int64_t rows;
};

// Sizes of a model, and its embedding tables, which it borrows.
struct ModelShape {
  int64_t hidden_size, num_heads, num_layers, intermediate_size;
  Table words, positions;
  Epilogue activation;  // kBiasGelu and so on
  float eps;
};

// A packed batch; one of `input_ids` and `inputs_embeds` is null. See engine/batch.py.
struct BatchView {
  const int32_t* input_ids;     // [total_tokens]
  const float* inputs_embeds;   // [total_tokens, hidden_size]
  const int32_t* position_ids;  // [total_tokens]
  const int32_t* cu_seqlens;    // [num_seqs + 1]
  const int32_t* key_lengths;   // [num_seqs]
  int64_t total_tokens, num_seqs;
  const int32_t* wanted;  // [num_wanted] rows that the caller needs, rising; null: all
  int64_t num_wanted;
};

// A weight [n, k] in panels.
struct Panels {
  const void* data = nullptr;        // packed_bytes(n, k)
  std::vector<float> column_scales;  // [n], quantized only, else empty
  std::vector<int32_t> offsets;      // [n], quantized only, else empty
};

// y = x W^T + b with W packed for one dtype.
struct Linear {
  const DtypeKernels* kernels = nullptr;
  int64_t n = 0, k = 0;
  Panels packed;                    // the same for every instruction set
  Panels narrowed;                  // the panels that gemm() reads, where kernels have narrow()
  std::vector<float> input_scales;  // [k], what each input column is multiplied by; empty: nothing; quantized only
  std::vector<float> bias;

  const Panels& multiplied() const { return kernels->narrow != nullptr ? narrowed : packed; }
  int64_t operand_lanes() const { return operand_stride(k, kernels->lane); }  // from row to row
  const float* input_scales_or_null() const { return input_scales.empty() ? nullptr : input_scales.data(); }
  int64_t bytes() const { return kernels->packed_bytes(n, k); }
};

struct LayerNorm {
  std::vector<float> gamma, beta;
};

// Rows of a weight [rows, k] and its bias, as they lie in the checkpoint.
struct LinearPart {
  const float* weight;
  const float* bias;
  int64_t rows;
};

// Load everything first, from one thread; then any number of threads may call forward, linear and layer_norm.
class Encoder {
 public:
  // `dtype` is that of attention and activations, and what the layers' linears usually have.
  Encoder(const ModelShape& shape, const Kernels& kernels, const DtypeKernels& dtype, const Threads& threads);

  // Packs the parts, laid under one another, for `dtype` as the linear called `name`. A layer has linears
  // "layer.<i>.qkv", ".out_proj", ".ffn_in", ".ffn_out"; a head's are called as in the checkpoint. Throws
  // std::logic_error where there is one of this name. For int8, `input_scales` [k] multiply the columns of the input,
  // for which the weights are meant then, and `column_scales` [n] are the steps that the weights are whole multiples
  // of; null: 1, and the largest weight of the column over 127.
  void add_linear(const std::string& name, const std::vector<LinearPart>& parts, int64_t k, const DtypeKernels& dtype,
                  const float* input_scales, const float* column_scales);
  // The same from what an add_linear for `dtype`, on any instruction set, made. Borrows the panels, which may lie at
  // any multiple of 4 bytes; copies `column_scales` and `offsets`, read for quantized only, and `bias`, each [n], and
  // `input_scales` [k], which may be null.
  void add_packed_linear(const std::string& name, int64_t n, int64_t k, const DtypeKernels& dtype, const void* panels,
                         const float* input_scales, const float* column_scales, const int32_t* offsets,
                         const float* bias);
  // "embeddings", "layer.<i>.attn_layer_norm", "layer.<i>.ffn_layer_norm", and a head's.
  void add_layer_norm(const std::string& name, const float* gamma, const float* beta, int64_t n);
  // Resolves the layers; throws std::logic_error if one is missing or misshapen.
  void finish();

  // Writes the last hidden states [total_tokens, hidden_size] to `out`, or with `all_layers` the embedding output and
  // every layer's, [num_layers + 1, total_tokens, hidden_size]. With `wanted` rows, which exclude `all_layers`, only
  // those are written, [num_wanted, hidden_size]: the last layer then computes keys and values of all rows and the rest
  // of these alone, to the same bits. Throws std::invalid_argument for ids, positions or
  // lengths out of range.
  void forward(const BatchView& batch, bool all_layers, float* out);
  // Writes epilogue(x W^T + b) of `rows` float32 rows with a head's linear.
  void linear(const Linear& weights, const float* x, int64_t rows, Epilogue epilogue, float* out) const;
  void layer_norm(const LayerNorm& norm, const float* x, int64_t rows, float* out) const;

  const Linear& find_linear(const std::string& name) const;
  const LayerNorm& find_layer_norm(const std::string& name) const;
  const Kernels& kernels() const { return kernels_; }
  Threads threads() const;
  // Forwards that begin from now on use these.
  void set_threads(const Threads& threads);
  int64_t packed_bytes() const;
  // The mean number of bits of a column of int8 weights: 8 less the binary logarithm of how much larger narrow() made
  // its step.
  double weight_bits() const;
  int64_t workspace_bytes() const { return workspace_bytes_; }
  void fill_workspace(unsigned char value) { arena_.fill(value); }
  const DtypeKernels& dtype() const { return dtype_; }

 private:
  struct Layer {
    const Linear *qkv, *out_proj, *ffn_in, *ffn_out;
    const LayerNorm *attn_layer_norm, *ffn_layer_norm;
  };
  // Where a run of `rows` rows, `wanted` of them wanted, keeps them. Activations have a row stride of whole lanes of
  // any dtype.
  struct Workspace {
    float* stream;    // [rows, hidden_size], the residual stream between layers
    float* residual;  // [rows, hidden_size], inside a layer
    char* operand;    // what the next GEMM reads, where that is neither stream nor activations
    float* scales;    // [rows, 2], of an int8 operand
    char* qkv;        // activations [rows, 3 * hidden_size]
    char* context;    // activations [rows, hidden_size]
    char* ffn;        // activations [rows, intermediate_size], over qkv and context
    char* scratch;    // one attention scratch per thread
    int64_t scratch_bytes;
    float* wanted_stream;  // [wanted, hidden_size], wanted rows of what the last layer reads
    char* wanted_operand;  // the same as operand
    float* wanted_scales;  // [wanted, 2]
    char* wanted_q;        // activations [wanted, 3 * hidden_size], of which the first third is used
    int64_t bytes;         // all of this
  };

  void insert(const std::string& name, Linear linear);
  void check(const BatchView& batch) const;
  // Lays a workspace out from `base` on, which may be null to learn its size.
  Workspace lay_out(char* base, int64_t rows, int64_t wanted, int64_t keys, int threads) const;
  Workspace lay_out(char* base, const BatchView& batch, const Run& run, int threads) const;
  // All layers over one run of the batch, by the threads of the worker's team.
  void run_layers(Worker& worker, const BatchView& batch, const Run& run, const Workspace& workspace, bool all_layers,
                  float* out) const;

  const ModelShape shape_;
  const Kernels& kernels_;
  const DtypeKernels& dtype_;
  mutable ForkLock threads_lock_;
  Threads threads_;
  Blocks panels_;  // The panels that this model packed lie here, unlike borrowed ones.
  std::map<std::string, Linear> linears_;
  std::map<std::string, LayerNorm> norms_;
  std::vector<Layer> layers_;
  const LayerNorm* embedding_norm_ = nullptr;
  ForkLock forward_;  // one forward at a time owns the schedule and the arena
  Schedule schedule_;
  Arena arena_;
  std::atomic<int64_t> workspace_bytes_{0};  // of the arena, for who asks during a forward
};

}  // namespace distilrt
