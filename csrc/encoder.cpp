#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "thread_pool.h"

namespace distilrt {
namespace {

constexpr int64_t kGemmRows = 128;  // rows of A that stay in L2 while panels pass by
constexpr int64_t kPackRows = 64;

int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Elements between rows of activations: whole lanes of every dtype.
int64_t stride_of(int64_t n) { return blocks(n, 4) * 4; }

// What a GEMM reads: rows of lanes, and their scales if int8.
struct Operand {
  const void* rows;
  int64_t stride;  // in lanes
  const float* scales;
};

struct Output {
  void* rows;
  int64_t stride;  // in elements
  bool narrow;
  const float* residual;
};

GemmArgs gemm_args(const Linear& linear, const Operand& in, Epilogue epilogue, const Output& out) {
  return {.a = in.rows,
          .lda = in.stride,
          .row_scales = in.scales,
          .panels = linear.panels,
          .column_scales = linear.column_scales.data(),
          .offsets = linear.offsets.data(),
          .bias = linear.bias.data(),
          .residual = out.residual,
          .c = out.rows,
          .ldc = out.stride,
          .n = linear.n,
          .k = linear.k,
          .epilogue = epilogue,
          .narrow = out.narrow};
}

// Columns from..to-1 of the product, widened to whole panels.
void gemm_phase(Worker& worker, const Kernels& kernels, const Linear& linear, const GemmArgs& args, int64_t rows,
                int64_t from, int64_t to) {
  const int64_t first = from / kernels.panel_width;
  const int64_t panels = blocks(to, kernels.panel_width) - first;
  worker.for_each(blocks(rows, kGemmRows) * panels, [&](int64_t task, int) {
    const int64_t m0 = task / panels * kGemmRows;
    const int64_t panel = first + task % panels;
    linear.kernels->gemm(args, m0, std::min(m0 + kGemmRows, rows), panel, panel + 1);
  });
}

// Elementwise phases go by chunks of rows: enough of them for balance, each long enough to be worth taking.
template <typename Fn>
void rows_phase(Worker& worker, int64_t rows, int threads, Fn&& fn) {
  const int64_t chunk = std::clamp<int64_t>(rows / (4 * threads), 1, 32);
  worker.for_each(blocks(rows, chunk),
                  [&](int64_t task, int) { fn(task * chunk, std::min(task * chunk + chunk, rows)); });
}

}  // namespace

Encoder::Encoder(const ModelShape& shape, const Kernels& kernels, const DtypeKernels& dtype, int threads)
    : shape_(shape), kernels_(kernels), dtype_(dtype), threads_(threads) {}

void Encoder::set_embeddings(const float* word, const float* position) {
  word_ = word;
  position_ = position;
}

void Encoder::add_linear(const std::string& name, const std::vector<LinearPart>& parts, int64_t k,
                         const DtypeKernels& dtype) {
  Linear linear;
  linear.kernels = &dtype;
  linear.k = k;
  for (const LinearPart& part : parts) linear.n += part.rows;
  linear.pages = Pages(linear.bytes());
  linear.panels = linear.pages.data();
  const size_t scaled = is_int8(dtype) ? static_cast<size_t>(linear.n) : 0;
  linear.column_scales.resize(scaled);
  linear.offsets.resize(scaled);
  const PackedWeight packed{linear.pages.data(), linear.column_scales.data(), linear.offsets.data()};
  int64_t first = 0;
  for (const LinearPart& part : parts) {
    linear.bias.insert(linear.bias.end(), part.bias, part.bias + part.rows);
    ThreadPool::run(threads_, [&](Worker& worker) {
      worker.for_each(blocks(part.rows, kPackRows), [&](int64_t task, int) {
        const int64_t row = task * kPackRows;
        dtype.pack(part.weight + row * k, k, first + row, std::min(kPackRows, part.rows - row), packed);
      });
    });
    first += part.rows;
  }
  insert(name, std::move(linear));
}

void Encoder::add_packed_linear(const std::string& name, int64_t n, int64_t k, const DtypeKernels& dtype,
                                const void* panels, const float* column_scales, const int32_t* offsets,
                                const float* bias) {
  Linear linear;
  linear.kernels = &dtype;
  linear.n = n;
  linear.k = k;
  linear.panels = panels;
  if (is_int8(dtype)) {
    linear.column_scales.assign(column_scales, column_scales + n);
    linear.offsets.assign(offsets, offsets + n);
  }
  linear.bias.assign(bias, bias + n);
  insert(name, std::move(linear));
}

void Encoder::insert(const std::string& name, Linear linear) {
  if (!linears_.emplace(name, std::move(linear)).second)
    throw std::logic_error("this model has a linear layer '" + name + "' already");
}

void Encoder::add_layer_norm(const std::string& name, const float* gamma, const float* beta, int64_t n) {
  norms_[name] = {std::vector<float>(gamma, gamma + n), std::vector<float>(beta, beta + n)};
}

const Linear& Encoder::find_linear(const std::string& name) const {
  const auto found = linears_.find(name);
  if (found == linears_.end()) throw std::logic_error("this model has no linear layer '" + name + "'");
  return found->second;
}

const LayerNorm& Encoder::find_layer_norm(const std::string& name) const {
  const auto found = norms_.find(name);
  if (found == norms_.end()) throw std::logic_error("this model has no layer norm '" + name + "'");
  return found->second;
}

void Encoder::finish() {
  const int64_t hidden = shape_.hidden_size;
  const auto linear = [&](const std::string& name, int64_t n, int64_t k) {
    const Linear& found = find_linear(name);
    if (found.n != n || found.k != k) throw std::logic_error("linear layer '" + name + "' has another shape");
    if (found.kernels->activation_bytes != dtype_.activation_bytes)
      throw std::logic_error("linear layer '" + name + "' can't be " + found.kernels->dtype + " in a " + dtype_.dtype +
                             " model");
    return &found;
  };
  const auto norm = [&](const std::string& name) {
    const LayerNorm& found = find_layer_norm(name);
    if (static_cast<int64_t>(found.gamma.size()) != hidden) throw std::logic_error("'" + name + "' has another width");
    return &found;
  };
  if (word_ == nullptr || position_ == nullptr) throw std::logic_error("this model has no embeddings");
  embedding_norm_ = norm("embeddings");
  layers_.clear();
  for (int64_t i = 0; i < shape_.num_layers; ++i) {
    const std::string at = "layer." + std::to_string(i) + ".";
    layers_.push_back({.qkv = linear(at + "qkv", 3 * hidden, hidden),
                       .out_proj = linear(at + "out_proj", hidden, hidden),
                       .ffn_in = linear(at + "ffn_in", shape_.intermediate_size, hidden),
                       .ffn_out = linear(at + "ffn_out", hidden, shape_.intermediate_size),
                       .attn_layer_norm = norm(at + "attn_layer_norm"),
                       .ffn_layer_norm = norm(at + "ffn_layer_norm")});
  }
}

void Encoder::check(const BatchView& batch) const {
  if (embedding_norm_ == nullptr) throw std::logic_error("finish() was not called");
  int64_t row = 0;
  for (int64_t s = 0; s < batch.num_seqs; ++s) {
    const int64_t length = static_cast<int64_t>(batch.cu_seqlens[s + 1]) - batch.cu_seqlens[s];
    if (batch.cu_seqlens[s] != row || batch.key_lengths[s] < 1 || batch.key_lengths[s] > length)
      throw std::invalid_argument(
          "cu_seqlens must start at 0 and rise; key_lengths must be 1 to the sequence's length");
    row += length;
  }
  if (row != batch.total_tokens) throw std::invalid_argument("cu_seqlens must end at the number of rows");
  for (int64_t i = 0; i < batch.num_wanted; ++i)
    if (batch.wanted[i] < (i == 0 ? 0 : batch.wanted[i - 1] + 1) || batch.wanted[i] >= row)
      throw std::invalid_argument("wanted rows must rise and be rows of the batch");
  for (int64_t t = 0; t < batch.total_tokens; ++t) {
    if (batch.position_ids[t] < 0 || batch.position_ids[t] >= shape_.max_positions)
      throw std::invalid_argument("position_ids holds " + std::to_string(batch.position_ids[t]) +
                                  "; this model has positions 0 to " + std::to_string(shape_.max_positions - 1));
    if (batch.input_ids != nullptr && (batch.input_ids[t] < 0 || batch.input_ids[t] >= shape_.vocab_size))
      throw std::invalid_argument("input_ids holds " + std::to_string(batch.input_ids[t]) +
                                  "; this model has ids 0 to " + std::to_string(shape_.vocab_size - 1));
  }
}

Encoder::Workspace Encoder::make_workspace(const BatchView& batch) {
  const int64_t rows = batch.total_tokens, hidden = shape_.hidden_size, inner = shape_.intermediate_size;
  int64_t longest = 1;
  for (int64_t s = 0; s < batch.num_seqs; ++s) longest = std::max<int64_t>(longest, batch.key_lengths[s]);
  const int64_t stream = Arena::padded(rows * hidden * 4);
  // Rows of the stream become bfloat16 or int8, activations at most int8; float32 reads both themselves.
  const int64_t operand = dtype_.lane > 1 ? Arena::padded(rows * std::max(2 * stride_of(hidden), stride_of(inner))) : 0;
  const int64_t scales = Arena::padded(rows * 8);
  const int64_t qkv = Arena::padded(rows * stride_of(3 * hidden) * dtype_.activation_bytes);
  const int64_t context = Arena::padded(rows * stride_of(hidden) * dtype_.activation_bytes);
  const int64_t wide = std::max(qkv + context, Arena::padded(rows * stride_of(inner) * dtype_.activation_bytes));
  const int64_t scratch = Arena::padded(dtype_.attention_scratch(longest, hidden / shape_.num_heads));
  const int64_t wanted = batch.num_wanted;
  const int64_t wanted_stream = Arena::padded(wanted * hidden * 4);
  const int64_t wanted_operand = Arena::padded(wanted * 2 * stride_of(hidden));
  const int64_t wanted_scales = Arena::padded(wanted * 8);
  const int64_t wanted_q = Arena::padded(wanted * stride_of(3 * hidden) * dtype_.activation_bytes);
  arena_.reserve(2 * stream + operand + scales + wide + threads_ * scratch + wanted_stream + wanted_operand +
                 wanted_scales + wanted_q);
  Workspace w{};
  w.stream = arena_.take<float>(stream);
  w.residual = arena_.take<float>(stream);
  w.operand = arena_.take<char>(operand);
  w.scales = arena_.take<float>(scales);
  w.ffn = w.qkv = arena_.take<char>(wide);
  w.context = w.qkv + qkv;
  w.scratch = arena_.take<char>(threads_ * scratch);
  w.scratch_bytes = scratch;
  w.wanted_stream = arena_.take<float>(wanted_stream);
  w.wanted_operand = arena_.take<char>(wanted_operand);
  w.wanted_scales = arena_.take<float>(wanted_scales);
  w.wanted_q = arena_.take<char>(wanted_q);
  return w;
}

void Encoder::forward(const BatchView& batch, bool all_layers, float* out) {
  check(batch);
  const int64_t total = batch.total_tokens, hidden = shape_.hidden_size, inner = shape_.intermediate_size;
  const int64_t heads = shape_.num_heads, head_dim = hidden / heads, size = dtype_.activation_bytes;
  const int64_t ld = stride_of(3 * hidden), ldo = stride_of(hidden);
  if (total == 0) return;

  std::lock_guard<std::mutex> lock(forward_);
  const Workspace w = make_workspace(batch);
  // The stream after layer i; stage 0 is the embedding output.
  const auto stage = [&](size_t i) {
    if (all_layers) return out + static_cast<int64_t>(i) * total * hidden;
    return i == layers_.size() ? out : w.stream;
  };

  ThreadPool::run(threads_, [&](Worker& worker) {
    // Float32 rows r0..r1-1 of `x` as operand of `next`.
    const auto convert = [&](const Linear& next, const float* x, int64_t r0, int64_t r1) {
      if (next.kernels->convert != nullptr)
        next.kernels->convert(x + r0 * next.k, r1 - r0, next.k, w.operand + r0 * next.operand_lanes() * 4,
                              w.scales + 2 * r0);
    };
    const auto converted = [&](const Linear& next, const float* x) {
      return next.kernels->convert != nullptr ? Operand{w.operand, next.operand_lanes(), w.scales}
                                              : Operand{x, next.k, nullptr};
    };
    // Activations as operand of `next`; a phase of its own where they are quantized.
    const auto activations = [&](const Linear& next, const char* x, int64_t rows) {
      const int64_t bytes = stride_of(next.k) * size;
      if (next.kernels->convert_activations == nullptr) return Operand{x, bytes / 4, nullptr};
      rows_phase(worker, rows, threads_, [&](int64_t r0, int64_t r1) {
        next.kernels->convert_activations(x + r0 * bytes, r1 - r0, next.k, w.operand + r0 * next.operand_lanes() * 4,
                                          w.scales + 2 * r0);
      });
      return Operand{w.operand, next.operand_lanes(), w.scales};
    };
    const auto multiply = [&](const Linear& linear, const Operand& in, int64_t rows, Epilogue epilogue,
                              const Output& to) {
      gemm_phase(worker, kernels_, linear, gemm_args(linear, in, epilogue, to), rows, 0, linear.n);
    };
    const auto normalize = [&](const LayerNorm& norm, const float* x, int64_t rows, float* y, const Linear* next) {
      rows_phase(worker, rows, threads_, [&](int64_t r0, int64_t r1) {
        kernels_.layer_norm(x + r0 * hidden, norm.gamma.data(), norm.beta.data(), shape_.eps, r1 - r0, hidden,
                            y + r0 * hidden);
        if (next != nullptr) convert(*next, y, r0, r1);
      });
    };
    // Queries of sequence s are rows q_rows(s)..q_rows(s + 1)-1 of `q`, and so are its rows of w.context.
    const auto attend = [&](const char* q, auto&& q_rows) {
      worker.for_each(batch.num_seqs * heads, [&](int64_t task, int thread) {
        const int64_t s = task / heads, head = task % heads;
        const int64_t first = q_rows(s), queries = q_rows(s + 1) - first;
        const char* k = w.qkv + (batch.cu_seqlens[s] * ld + hidden + head * head_dim) * size;
        dtype_.attention({.q = q + (first * ld + head * head_dim) * size,
                          .k = k,
                          .v = k + hidden * size,
                          .ld = ld,
                          .queries = queries,
                          .keys = batch.key_lengths[s],
                          .head_dim = head_dim,
                          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                          .scratch = w.scratch + thread * w.scratch_bytes,
                          .out = w.context + (first * ldo + head * head_dim) * size,
                          .ldo = ldo});
        // The GEMM reads whole lanes, so what pads the last head to them must be 0.
        if (head == heads - 1 && ldo > hidden)
          for (int64_t r = first; r < first + queries; ++r)
            std::memset(w.context + (r * ldo + hidden) * size, 0, static_cast<size_t>((ldo - hidden) * size));
      });
    };
    // The part of a layer behind attention, over the `rows` rows of w.context and of the layer's input `from`.
    const auto rest_of_layer = [&](const Layer& layer, const float* from, int64_t rows, float* to, const Linear* next) {
      multiply(*layer.out_proj, activations(*layer.out_proj, w.context, rows), rows, Epilogue::kBiasResidual,
               {w.residual, hidden, false, from});
      normalize(*layer.attn_layer_norm, w.residual, rows, w.residual, layer.ffn_in);
      multiply(*layer.ffn_in, converted(*layer.ffn_in, w.residual), rows, shape_.activation,
               {w.ffn, stride_of(inner), true, nullptr});
      multiply(*layer.ffn_out, activations(*layer.ffn_out, w.ffn, rows), rows, Epilogue::kBiasResidual,
               {w.residual, hidden, false, w.residual});
      normalize(*layer.ffn_layer_norm, w.residual, rows, to, next);
    };

    rows_phase(worker, total, threads_, [&](int64_t r0, int64_t r1) {
      for (int64_t r = r0; r < r1; ++r) {
        const float* word =
            batch.input_ids != nullptr ? word_ + batch.input_ids[r] * hidden : batch.inputs_embeds + r * hidden;
        kernels_.embed(word, position_ + batch.position_ids[r] * hidden, embedding_norm_->gamma.data(),
                       embedding_norm_->beta.data(), shape_.eps, hidden, stage(0) + r * hidden);
      }
      convert(*layers_[0].qkv, stage(0), r0, r1);
    });

    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      const Operand in = converted(*layer.qkv, stage(i));
      const bool last = i + 1 == layers_.size();
      if (!last || batch.wanted == nullptr) {
        multiply(*layer.qkv, in, total, Epilogue::kBias, {w.qkv, ld, true, nullptr});
        attend(w.qkv, [&](int64_t s) { return batch.cu_seqlens[s]; });
        rest_of_layer(layer, stage(i), total, stage(i + 1), last ? nullptr : layers_[i + 1].qkv);
        continue;
      }
      // Keys and values of all rows; queries and all that follows of the wanted ones.
      const int64_t wanted = batch.num_wanted;
      gemm_phase(worker, kernels_, *layer.qkv, gemm_args(*layer.qkv, in, Epilogue::kBias, {w.qkv, ld, true, nullptr}),
                 total, hidden, 3 * hidden);
      rows_phase(worker, wanted, threads_, [&](int64_t r0, int64_t r1) {
        for (int64_t r = r0; r < r1; ++r) {
          const int64_t row = batch.wanted[r], bytes = layer.qkv->operand_lanes() * 4;
          std::memcpy(w.wanted_stream + r * hidden, stage(i) + row * hidden, static_cast<size_t>(hidden) * 4);
          if (layer.qkv->kernels->convert == nullptr) continue;
          std::memcpy(w.wanted_operand + r * bytes, w.operand + row * bytes, static_cast<size_t>(bytes));
          std::memcpy(w.wanted_scales + 2 * r, w.scales + 2 * row, 8);
        }
      });
      const Operand q_in = layer.qkv->kernels->convert != nullptr
                               ? Operand{w.wanted_operand, in.stride, w.wanted_scales}
                               : Operand{w.wanted_stream, in.stride, nullptr};
      gemm_phase(worker, kernels_, *layer.qkv,
                 gemm_args(*layer.qkv, q_in, Epilogue::kBias, {w.wanted_q, ld, true, nullptr}), wanted, 0, hidden);
      attend(w.wanted_q, [&](int64_t s) {
        return std::lower_bound(batch.wanted, batch.wanted + wanted, batch.cu_seqlens[s]) - batch.wanted;
      });
      rest_of_layer(layer, w.wanted_stream, wanted, out, nullptr);
    }
  });
}

void Encoder::linear(const Linear& weights, const float* x, int64_t rows, Epilogue epilogue, float* out) const {
  Operand in{x, weights.k, nullptr};
  Pages operand;
  if (weights.kernels->convert != nullptr) {
    const int64_t bytes = Arena::padded(rows * weights.operand_lanes() * 4);
    operand = Pages(bytes + rows * 8);
    float* scales = reinterpret_cast<float*>(operand.data() + bytes);
    weights.kernels->convert(x, rows, weights.k, operand.data(), scales);
    in = {operand.data(), weights.operand_lanes(), scales};
  }
  const GemmArgs args = gemm_args(weights, in, epilogue, {out, weights.n, false, nullptr});
  ThreadPool::run(threads_, [&](Worker& worker) { gemm_phase(worker, kernels_, weights, args, rows, 0, weights.n); });
}

void Encoder::layer_norm(const LayerNorm& norm, const float* x, int64_t rows, float* out) const {
  kernels_.layer_norm(x, norm.gamma.data(), norm.beta.data(), shape_.eps, rows, shape_.hidden_size, out);
}

int64_t Encoder::packed_bytes() const {
  int64_t total = 0;
  for (const auto& [name, linear] : linears_) total += linear.bytes();
  return total;
}

}  // namespace distilrt
