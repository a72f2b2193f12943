#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "thread_pool.h"

namespace distilrt {
namespace {

constexpr int64_t kGemmRows = 128;  // rows of A that stay in L2 while panels pass by
constexpr int64_t kPackRows = 64;

int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Row chunks for elementwise phases: enough for balance, each long enough to be worth taking.
int64_t row_chunk(int64_t rows, int threads) { return std::clamp<int64_t>(rows / (4 * threads), 1, 32); }

void gemm_phase(Worker& worker, const Kernels& kernels, const GemmArgs& args, int64_t rows) {
  const int64_t panels = blocks(args.n, kernels.panel_width);
  worker.for_each(blocks(rows, kGemmRows) * panels, [&](int64_t task, int) {
    const int64_t m0 = task / panels * kGemmRows;
    const int64_t panel = task % panels;
    kernels.gemm(args, m0, std::min(m0 + kGemmRows, rows), panel, panel + 1);
  });
}

GemmArgs gemm_args(const Linear& linear, const float* a, float* c, Epilogue epilogue, const float* residual = nullptr) {
  return {.a = a,
          .lda = linear.k,
          .panels = linear.panels.data(),
          .bias = linear.bias.data(),
          .residual = residual,
          .c = c,
          .ldc = linear.n,
          .n = linear.n,
          .k = linear.k,
          .epilogue = epilogue};
}

template <typename Fn>
void rows_phase(Worker& worker, int64_t rows, int threads, Fn&& fn) {
  const int64_t chunk = row_chunk(rows, threads);
  worker.for_each(blocks(rows, chunk),
                  [&](int64_t task, int) { fn(task * chunk, std::min(task * chunk + chunk, rows)); });
}

}  // namespace

Encoder::Encoder(const ModelShape& shape, const Kernels& kernels, int threads)
    : shape_(shape), kernels_(kernels), threads_(threads) {}

void Encoder::set_embeddings(const float* word, const float* position) {
  word_ = word;
  position_ = position;
}

void Encoder::add_linear(const std::string& name, const std::vector<LinearPart>& parts, int64_t k) {
  Linear linear;
  linear.k = k;
  for (const LinearPart& part : parts) linear.n += part.rows;
  linear.panels = Pages(kernels_.packed_size(linear.n, k));
  int64_t first = 0;
  for (const LinearPart& part : parts) {
    linear.bias.insert(linear.bias.end(), part.bias, part.bias + part.rows);
    ThreadPool::run(threads_, [&](Worker& worker) {
      worker.for_each(blocks(part.rows, kPackRows), [&](int64_t task, int) {
        const int64_t row = task * kPackRows;
        kernels_.pack(part.weight + row * k, k, first + row, std::min(kPackRows, part.rows - row),
                      linear.panels.data());
      });
    });
    first += part.rows;
  }
  linears_[name] = std::move(linear);
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
  const int64_t rows = batch.total_tokens, hidden = shape_.hidden_size;
  int64_t longest = 1;
  for (int64_t s = 0; s < batch.num_seqs; ++s) longest = std::max<int64_t>(longest, batch.key_lengths[s]);
  const int64_t stream = Arena::padded(rows * hidden);
  const int64_t wide = Arena::padded(rows * std::max(4 * hidden, shape_.intermediate_size) + 16);
  const int64_t scratch = Arena::padded(kernels_.attention_scratch(longest, hidden / shape_.num_heads));
  arena_.reserve(2 * stream + wide + threads_ * scratch);
  Workspace w{};
  w.hidden = arena_.take(stream);
  w.residual = arena_.take(stream);
  w.ffn = w.qkv = arena_.take(wide);
  w.context = w.qkv + Arena::padded(3 * rows * hidden);
  w.scratch = arena_.take(threads_ * scratch);
  w.scratch_size = scratch;
  return w;
}

void Encoder::forward(const BatchView& batch, bool all_layers, float* out) {
  check(batch);
  const int64_t rows = batch.total_tokens, hidden = shape_.hidden_size;
  const int64_t heads = shape_.num_heads, head_dim = hidden / heads;
  if (rows == 0) return;

  std::lock_guard<std::mutex> lock(forward_);
  const Workspace w = make_workspace(batch);
  // The stream after layer i; stage 0 is the embedding output.
  const auto stage = [&](size_t i) {
    if (all_layers) return out + static_cast<int64_t>(i) * rows * hidden;
    return i == layers_.size() ? out : w.hidden;
  };

  ThreadPool::run(threads_, [&](Worker& worker) {
    const auto normalize = [&](const LayerNorm& norm, const float* x, float* y) {
      rows_phase(worker, rows, threads_, [&](int64_t r0, int64_t r1) {
        kernels_.layer_norm(x + r0 * hidden, norm.gamma.data(), norm.beta.data(), shape_.eps, r1 - r0, hidden,
                            y + r0 * hidden);
      });
    };

    rows_phase(worker, rows, threads_, [&](int64_t r0, int64_t r1) {
      for (int64_t r = r0; r < r1; ++r) {
        const float* word =
            batch.input_ids != nullptr ? word_ + batch.input_ids[r] * hidden : batch.inputs_embeds + r * hidden;
        kernels_.embed(word, position_ + batch.position_ids[r] * hidden, embedding_norm_->gamma.data(),
                       embedding_norm_->beta.data(), shape_.eps, hidden, stage(0) + r * hidden);
      }
    });

    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      gemm_phase(worker, kernels_, gemm_args(*layer.qkv, stage(i), w.qkv, Epilogue::kBias), rows);
      worker.for_each(batch.num_seqs * heads, [&](int64_t task, int thread) {
        const int64_t s = task / heads, head = task % heads;
        const int64_t row = batch.cu_seqlens[s];
        const float* q = w.qkv + row * 3 * hidden + head * head_dim;
        kernels_.attention({.q = q,
                            .k = q + hidden,
                            .v = q + 2 * hidden,
                            .ld = 3 * hidden,
                            .queries = batch.cu_seqlens[s + 1] - row,
                            .keys = batch.key_lengths[s],
                            .head_dim = head_dim,
                            .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                            .scratch = w.scratch + thread * w.scratch_size,
                            .out = w.context + row * hidden + head * head_dim,
                            .ldo = hidden});
      });
      gemm_phase(worker, kernels_, gemm_args(*layer.out_proj, w.context, w.residual, Epilogue::kBiasResidual, stage(i)),
                 rows);
      normalize(*layer.attn_layer_norm, w.residual, w.residual);
      gemm_phase(worker, kernels_, gemm_args(*layer.ffn_in, w.residual, w.ffn, shape_.activation), rows);
      gemm_phase(worker, kernels_, gemm_args(*layer.ffn_out, w.ffn, w.residual, Epilogue::kBiasResidual, w.residual),
                 rows);
      normalize(*layer.ffn_layer_norm, w.residual, stage(i + 1));
    }
  });
}

void Encoder::linear(const Linear& weights, const float* x, int64_t rows, Epilogue epilogue, float* out) const {
  const GemmArgs args = gemm_args(weights, x, out, epilogue);
  ThreadPool::run(threads_, [&](Worker& worker) { gemm_phase(worker, kernels_, args, rows); });
}

void Encoder::layer_norm(const LayerNorm& norm, const float* x, int64_t rows, float* out) const {
  kernels_.layer_norm(x, norm.gamma.data(), norm.beta.data(), shape_.eps, rows, shape_.hidden_size, out);
}

int64_t Encoder::packed_bytes() const {
  int64_t total = 0;
  for (const auto& [name, linear] : linears_) total += linear.panels.bytes();
  return total;
}

}  // namespace distilrt
