#include "encoder.h"

#include <cmath>
#include <stdexcept>

#include "phases.h"

namespace distilrt {
namespace {

template <typename T>
const T& find(const std::map<std::string, T>& all, const char* what, const std::string& name) {
  const auto found = all.find(name);
  if (found == all.end()) throw std::logic_error(std::string("this model has no ") + what + " '" + name + "'");
  return found->second;
}

}  // namespace

Encoder::Encoder(const ModelShape& shape, const Kernels& kernels, const DtypeKernels& dtype, const Threads& threads)
    : shape_(shape), kernels_(kernels), dtype_(dtype), threads_(threads) {}

void Encoder::add_linear(const std::string& name, const std::vector<LinearPart>& parts, int64_t k,
                         const DtypeKernels& dtype, const float* input_scales, const float* column_scales) {
  Linear linear;
  linear.kernels = &dtype;
  linear.k = k;
  for (const LinearPart& part : parts) linear.n += part.rows;
  Panels& panels = linear.packed;
  char* const to = panels_.add(linear.bytes());
  panels.data = to;
  const size_t scaled = dtype.quantized ? static_cast<size_t>(linear.n) : 0;
  panels.column_scales.resize(scaled);
  panels.offsets.resize(scaled);
  if (column_scales != nullptr) panels.column_scales.assign(column_scales, column_scales + linear.n);
  if (input_scales != nullptr) linear.input_scales.assign(input_scales, input_scales + k);
  const PackedWeight packed{to, panels.column_scales.data(), panels.offsets.data(), column_scales != nullptr};
  constexpr int64_t kRows = 64;  // One item of work packs so many.
  int64_t first = 0;
  for (const LinearPart& part : parts) {
    linear.bias.insert(linear.bias.end(), part.bias, part.bias + part.rows);
    ThreadPool::run(threads(), [&](Worker& worker) {
      worker.for_each(blocks(part.rows, kRows), [&](int64_t task, int) {
        const int64_t row = task * kRows;
        dtype.pack(part.weight + row * k, k, first + row, std::min(kRows, part.rows - row), packed);
      });
    });
    first += part.rows;
  }
  insert(name, std::move(linear));
}

void Encoder::add_packed_linear(const std::string& name, int64_t n, int64_t k, const DtypeKernels& dtype,
                                const void* panels, const float* input_scales, const float* column_scales,
                                const int32_t* offsets, const float* bias) {
  Linear linear;
  linear.kernels = &dtype;
  linear.n = n;
  linear.k = k;
  linear.packed.data = panels;
  if (dtype.quantized) {
    linear.packed.column_scales.assign(column_scales, column_scales + n);
    linear.packed.offsets.assign(offsets, offsets + n);
  }
  if (input_scales != nullptr) linear.input_scales.assign(input_scales, input_scales + k);
  linear.bias.assign(bias, bias + n);
  insert(name, std::move(linear));
}

void Encoder::insert(const std::string& name, Linear linear) {
  if (const auto narrow = linear.kernels->narrow; narrow != nullptr) {
    Panels& panels = linear.narrowed;
    panels.column_scales = linear.packed.column_scales;
    panels.offsets.resize(panels.column_scales.size());
    char* const to = panels_.add(linear.bytes());
    panels.data = to;
    const int64_t width = kernels_.panel_width, bytes = linear.kernels->packed_bytes(width, linear.k);
    ThreadPool::run(threads(), [&](Worker& worker) {
      worker.for_each(blocks(linear.n, width), [&](int64_t panel, int) {
        const int64_t first = panel * width, at = panel * bytes;
        narrow(static_cast<const char*>(linear.packed.data) + at, linear.k, std::min(width, linear.n - first),
               {to + at, panels.column_scales.data() + first, panels.offsets.data() + first, true});
      });
    });
  }
  if (!linears_.emplace(name, std::move(linear)).second)
    throw std::logic_error("this model has a linear layer '" + name + "' already");
}

void Encoder::add_layer_norm(const std::string& name, const float* gamma, const float* beta, int64_t n) {
  norms_[name] = {std::vector<float>(gamma, gamma + n), std::vector<float>(beta, beta + n)};
}

const Linear& Encoder::find_linear(const std::string& name) const { return find(linears_, "linear layer", name); }

const LayerNorm& Encoder::find_layer_norm(const std::string& name) const { return find(norms_, "layer norm", name); }

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
    if (length < 1 || batch.cu_seqlens[s] != row || batch.key_lengths[s] < 0 || batch.key_lengths[s] > length)
      throw std::invalid_argument(
          "cu_seqlens must start at 0 and rise; key_lengths must be 0 to the sequence's length");
    row += length;
  }
  if (row != batch.total_tokens) throw std::invalid_argument("cu_seqlens must end at the number of rows");
  for (int64_t i = 0; i < batch.num_wanted; ++i)
    if (batch.wanted[i] < (i == 0 ? 0 : batch.wanted[i - 1] + 1) || batch.wanted[i] >= row)
      throw std::invalid_argument("wanted rows must rise and be rows of the batch");
  for (int64_t t = 0; t < batch.total_tokens; ++t) {
    if (batch.position_ids[t] < 0 || batch.position_ids[t] >= shape_.positions.rows)
      throw std::invalid_argument("position_ids holds " + std::to_string(batch.position_ids[t]) +
                                  "; this model has positions 0 to " + std::to_string(shape_.positions.rows - 1));
    if (batch.input_ids != nullptr && (batch.input_ids[t] < 0 || batch.input_ids[t] >= shape_.words.rows))
      throw std::invalid_argument("input_ids holds " + std::to_string(batch.input_ids[t]) +
                                  "; this model has ids 0 to " + std::to_string(shape_.words.rows - 1));
  }
}

Threads Encoder::threads() const {
  std::lock_guard<ForkLock> lock(threads_lock_);
  return threads_;
}

void Encoder::set_threads(const Threads& threads) {
  std::lock_guard<ForkLock> lock(threads_lock_);
  threads_ = threads;
}

int64_t Encoder::packed_bytes() const {
  int64_t total = 0;
  for (const auto& [name, linear] : linears_) total += linear.bytes();
  return total;
}

double Encoder::weight_bits() const {
  double bits = 0, columns = 0;
  for (const auto& [name, linear] : linears_)
    for (size_t i = 0; i < linear.packed.column_scales.size(); ++i) {
      const float step = linear.packed.column_scales[i];
      bits += step > 0 ? 8 - std::log2(linear.multiplied().column_scales[i] / step) : 8;
      ++columns;
    }
  return columns > 0 ? bits / columns : 8;
}

}  // namespace distilrt
