// The layer loop over the kernel table.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "phases.h"

namespace distilrt {
namespace {

// Hands out memory front to back; from a null base only counts it.
class Carver {
 public:
  explicit Carver(char* base) : base_(base) {}
  template <typename T>
  T* take(int64_t bytes) {
    char* p = base_ == nullptr ? nullptr : base_ + used_;
    used_ += Arena::padded(bytes);
    return reinterpret_cast<T*>(p);
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// Wanted rows of the batch that lie before `row`.
int64_t wanted_before(const BatchView& batch, int64_t row) {
  return std::lower_bound(batch.wanted, batch.wanted + batch.num_wanted, row) - batch.wanted;
}

int64_t wanted_of(const BatchView& batch, const Run& run) {
  return wanted_before(batch, run.last_row) - wanted_before(batch, run.first_row);
}

// Adds a row of a table to `to`; a bfloat16 is the upper half of a float32.
void add_row(const Table& table, int64_t row, int64_t width, float* to) {
  for (int64_t i = 0, at = row * width; i < width; ++i, ++at)
    to[i] += table.floats != nullptr ? table.floats[at]
                                     : std::bit_cast<float>(static_cast<uint32_t>(table.bfloat16s[at]) << 16);
}

}  // namespace

Encoder::Workspace Encoder::lay_out(char* base, int64_t rows, int64_t wanted, int64_t keys, int threads) const {
  const int64_t hidden = shape_.hidden_size, inner = shape_.intermediate_size, size = dtype_.activation_bytes;
  const auto activations = [&](int64_t count, int64_t n) { return count * activation_stride(n, size) * size; };
  const int64_t qkv = Arena::padded(activations(rows, 3 * hidden)), context = Arena::padded(activations(rows, hidden));
  // Rows of the stream become bfloat16 or int8, activations at most int8; float32 reads both themselves.
  const int64_t of_stream = 4 * operand_stride(hidden, 2), of_activations = 4 * operand_stride(inner, 4);
  Carver carver(base);
  Workspace w{};
  w.stream = carver.take<float>(rows * hidden * 4);
  w.residual = carver.take<float>(rows * hidden * 4);
  w.operand = carver.take<char>(dtype_.lane > 1 ? rows * std::max(of_stream, of_activations) : 0);
  w.scales = carver.take<float>(rows * 8);
  w.ffn = w.qkv = carver.take<char>(std::max(qkv + context, activations(rows, inner)));
  w.context = w.qkv == nullptr ? nullptr : w.qkv + qkv;
  w.scratch_bytes = Arena::padded(dtype_.attention_scratch(keys, hidden / shape_.num_heads));
  w.scratch = carver.take<char>(threads * w.scratch_bytes);
  w.wanted_stream = carver.take<float>(wanted * hidden * 4);
  w.wanted_operand = carver.take<char>(wanted * of_stream);
  w.wanted_scales = carver.take<float>(wanted * 8);
  w.wanted_q = carver.take<char>(activations(wanted, 3 * hidden));
  w.bytes = carver.used();
  return w;
}

Encoder::Workspace Encoder::lay_out(char* base, const BatchView& batch, const Run& run, int threads) const {
  const int32_t* keys = batch.key_lengths;
  const int32_t* longest = std::max_element(keys + run.first_seq, keys + run.last_seq);
  return lay_out(base, run.rows(), wanted_of(batch, run), run.seqs() > 0 ? *longest : 0, threads);
}

void Encoder::forward(const BatchView& batch, bool all_layers, float* out) {
  check(batch);
  if (batch.total_tokens == 0) return;
  const Threads team = threads();  // before the other lock, since a fork takes them in an order of its own
  std::lock_guard<ForkLock> lock(forward_);
  schedule_.plan(batch.cu_seqlens, batch.num_seqs, team.count, dtype_.block_rows);
  int64_t alone_bytes = 0;
  for (const Run& run : schedule_.alone) alone_bytes = std::max(alone_bytes, lay_out(nullptr, batch, run, 1).bytes);
  const int64_t together_bytes = lay_out(nullptr, batch, schedule_.together, team.count).bytes;
  // A thread that is through with its runs starts on what is done together while others still work alone.
  char* base = arena_.reserve(team.count * alone_bytes + together_bytes);
  workspace_bytes_ = arena_.bytes();
  const Workspace together = lay_out(base + team.count * alone_bytes, batch, schedule_.together, team.count);
  std::atomic<size_t> taken{0};
  ThreadPool::run(team, [&](Worker& worker) {
    Worker alone;
    char* own = base + worker.thread() * alone_bytes;
    for (size_t i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < schedule_.alone.size();) {
      const Run& run = schedule_.alone[i];
      run_layers(alone, batch, run, lay_out(own, batch, run, 1), all_layers, out);
    }
    if (schedule_.together.rows() > 0) run_layers(worker, batch, schedule_.together, together, all_layers, out);
  });
}

void Encoder::run_layers(Worker& worker, const BatchView& batch, const Run& run, const Workspace& w, bool all_layers,
                         float* out) const {
  const int64_t total = run.rows(), hidden = shape_.hidden_size, inner = shape_.intermediate_size;
  const int64_t heads = shape_.num_heads, head_dim = hidden / heads, size = dtype_.activation_bytes;
  const int64_t ld = activation_stride(3 * hidden, size), ldo = activation_stride(hidden, size);
  const int64_t padding = blocks(hidden, 4) * 4 - hidden;  // elements that fill a context row's last lane
  const int64_t first_wanted = batch.wanted != nullptr ? wanted_before(batch, run.first_row) : 0;
  const int64_t wanted = batch.wanted != nullptr ? wanted_of(batch, run) : 0;
  // The stream after layer i; stage 0 is the embedding output.
  const auto stage = [&](size_t i) {
    if (all_layers) return out + (static_cast<int64_t>(i) * batch.total_tokens + run.first_row) * hidden;
    return i == layers_.size() && batch.wanted == nullptr ? out + run.first_row * hidden : w.stream;
  };
  // Float32 rows r0..r1-1 of `x` as operand of `next`.
  const auto convert = [&](const Linear& next, const float* x, int64_t r0, int64_t r1) {
    if (next.kernels->convert != nullptr)
      next.kernels->convert(x + r0 * next.k, r1 - r0, next.k, next.input_scales_or_null(),
                            w.operand + r0 * next.operand_lanes() * 4, w.scales + 2 * r0);
  };
  const auto converted = [&](const Linear& next, const float* x) {
    return next.kernels->convert != nullptr ? Operand{w.operand, next.operand_lanes(), w.scales}
                                            : Operand{x, next.k, nullptr};
  };
  // Activations as operand of `next`; a phase of its own where they are quantized.
  const auto activations = [&](const Linear& next, const char* x, int64_t rows) {
    const int64_t bytes = activation_stride(next.k, size) * size;
    if (next.kernels->convert_activations == nullptr) return Operand{x, bytes / 4, nullptr};
    rows_phase(worker, rows, [&](int64_t r0, int64_t r1) {
      next.kernels->convert_activations(x + r0 * bytes, r1 - r0, next.k, next.input_scales_or_null(),
                                        w.operand + r0 * next.operand_lanes() * 4, w.scales + 2 * r0);
    });
    return Operand{w.operand, next.operand_lanes(), w.scales};
  };
  const auto multiply = [&](const Linear& linear, const Operand& in, int64_t rows, Epilogue epilogue,
                            const Output& to) {
    gemm_phase(worker, kernels_, linear, gemm_args(linear, in, epilogue, to), rows, 0, linear.n);
  };
  const auto normalize = [&](const LayerNorm& norm, const float* x, int64_t rows, float* y, const Linear* next) {
    rows_phase(worker, rows, [&](int64_t r0, int64_t r1) {
      kernels_.layer_norm(x + r0 * hidden, norm.gamma.data(), norm.beta.data(), shape_.eps, r1 - r0, hidden,
                          y + r0 * hidden);
      if (next != nullptr) convert(*next, y, r0, r1);
    });
  };
  // Queries of sequence s are rows q_rows(s)..q_rows(s + 1)-1 of `q`, and so are its rows of w.context.
  const auto attend = [&](const char* q, auto&& q_rows) {
    const int64_t pairs = run.seqs() * heads;
    const int64_t parts = query_parts(worker, pairs);
    worker.for_each(pairs * parts, [&](int64_t task, int thread) {
      const int64_t s = run.first_seq + task / parts / heads, head = task / parts % heads, part = task % parts;
      const int64_t rows = q_rows(s + 1) - q_rows(s);
      const int64_t first = q_rows(s) + rows * part / parts, queries = q_rows(s) + rows * (part + 1) / parts - first;
      if (queries == 0) return;
      const char* k = w.qkv + ((batch.cu_seqlens[s] - run.first_row) * ld + hidden + head * head_dim) * size;
      dtype_.attention({.q = q + (first * ld + head * head_dim) * size,
                        .k = k,
                        .v = k + hidden * size,
                        .ldq = ld,
                        .ldk = ld,
                        .ldv = ld,
                        .queries = queries,
                        .keys = batch.key_lengths[s],
                        .head_dim = head_dim,
                        .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                        .scratch = w.scratch + thread * w.scratch_bytes,
                        .out = w.context + (first * ldo + head * head_dim) * size,
                        .ldo = ldo});
      // The GEMM reads whole lanes, so what pads the last head to them must be 0.
      if (head == heads - 1 && padding > 0)
        for (int64_t r = first; r < first + queries; ++r)
          std::memset(w.context + (r * ldo + hidden) * size, 0, static_cast<size_t>(padding * size));
    });
  };
  // The part of a layer behind attention, over the `rows` rows of w.context and of the layer's input `from`.
  const auto rest_of_layer = [&](const Layer& layer, const float* from, int64_t rows, float* to, const Linear* next) {
    multiply(*layer.out_proj, activations(*layer.out_proj, w.context, rows), rows, Epilogue::kBiasResidual,
             {w.residual, hidden, false, from});
    normalize(*layer.attn_layer_norm, w.residual, rows, w.residual, layer.ffn_in);
    multiply(*layer.ffn_in, converted(*layer.ffn_in, w.residual), rows, shape_.activation,
             {w.ffn, activation_stride(inner, size), true, nullptr});
    multiply(*layer.ffn_out, activations(*layer.ffn_out, w.ffn, rows), rows, Epilogue::kBiasResidual,
             {w.residual, hidden, false, w.residual});
    normalize(*layer.ffn_layer_norm, w.residual, rows, to, next);
  };

  rows_phase(worker, total, [&](int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; ++r) {
      const int64_t row = run.first_row + r;
      float* to = stage(0) + r * hidden;
      std::fill_n(to, hidden, 0.0f);
      const Table given{batch.inputs_embeds, nullptr, batch.total_tokens};
      const bool by_id = batch.input_ids != nullptr;
      add_row(by_id ? shape_.words : given, by_id ? batch.input_ids[row] : row, hidden, to);
      add_row(shape_.positions, batch.position_ids[row], hidden, to);
    }
    kernels_.layer_norm(stage(0) + r0 * hidden, embedding_norm_->gamma.data(), embedding_norm_->beta.data(), shape_.eps,
                        r1 - r0, hidden, stage(0) + r0 * hidden);
    convert(*layers_[0].qkv, stage(0), r0, r1);
  });

  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const Operand in = converted(*layer.qkv, stage(i));
    const bool last = i + 1 == layers_.size();
    if (!last || batch.wanted == nullptr) {
      multiply(*layer.qkv, in, total, Epilogue::kBias, {w.qkv, ld, true, nullptr});
      attend(w.qkv, [&](int64_t s) { return batch.cu_seqlens[s] - run.first_row; });
      rest_of_layer(layer, stage(i), total, stage(i + 1), last ? nullptr : layers_[i + 1].qkv);
      continue;
    }
    // Keys and values of all rows; queries and all that follows of the wanted ones.
    gemm_phase(worker, kernels_, *layer.qkv, gemm_args(*layer.qkv, in, Epilogue::kBias, {w.qkv, ld, true, nullptr}),
               total, hidden, 3 * hidden);
    rows_phase(worker, wanted, [&](int64_t r0, int64_t r1) {
      for (int64_t r = r0; r < r1; ++r) {
        const int64_t row = batch.wanted[first_wanted + r] - run.first_row, bytes = layer.qkv->operand_lanes() * 4;
        std::memcpy(w.wanted_stream + r * hidden, stage(i) + row * hidden, static_cast<size_t>(hidden) * 4);
        if (layer.qkv->kernels->convert == nullptr) continue;
        std::memcpy(w.wanted_operand + r * bytes, w.operand + row * bytes, static_cast<size_t>(bytes));
        std::memcpy(w.wanted_scales + 2 * r, w.scales + 2 * row, 8);
      }
    });
    const Operand q_in = layer.qkv->kernels->convert != nullptr ? Operand{w.wanted_operand, in.stride, w.wanted_scales}
                                                                : Operand{w.wanted_stream, in.stride, nullptr};
    gemm_phase(worker, kernels_, *layer.qkv,
               gemm_args(*layer.qkv, q_in, Epilogue::kBias, {w.wanted_q, ld, true, nullptr}), wanted, 0, hidden);
    attend(w.wanted_q, [&](int64_t s) { return wanted_before(batch, batch.cu_seqlens[s]) - first_wanted; });
    rest_of_layer(layer, w.wanted_stream, wanted, out + first_wanted * hidden, nullptr);
  }
}

void Encoder::linear(const Linear& weights, const float* x, int64_t rows, Epilogue epilogue, float* out) const {
  Operand in{x, weights.k, nullptr};
  Pages operand;
  if (weights.kernels->convert != nullptr) {
    const int64_t bytes = Arena::padded(rows * weights.operand_lanes() * 4);
    operand = Pages(bytes + rows * 8);
    float* scales = reinterpret_cast<float*>(operand.data() + bytes);
    weights.kernels->convert(x, rows, weights.k, weights.input_scales_or_null(), operand.data(), scales);
    in = {operand.data(), weights.operand_lanes(), scales};
  }
  const GemmArgs args = gemm_args(weights, in, epilogue, {out, weights.n, false, nullptr});
  ThreadPool::run(threads(), [&](Worker& worker) { gemm_phase(worker, kernels_, weights, args, rows, 0, weights.n); });
}

void Encoder::layer_norm(const LayerNorm& norm, const float* x, int64_t rows, float* out) const {
  kernels_.layer_norm(x, norm.gamma.data(), norm.beta.data(), shape_.eps, rows, shape_.hidden_size, out);
}

}  // namespace distilrt
