// Attention alone, over padded arrays with any strides: for a model that computes everything else elsewhere.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "thread_pool.h"

namespace distilrt {

// [batch_size, num_heads, rows, head_dim] of activations; strides in bytes, of whole elements, and rows are contiguous.
struct HeadsView {
  char* data;
  int64_t sequence, head, row;

  char* at(int64_t s, int64_t h, int64_t r) const { return data + s * sequence + h * head + r * row; }
};

struct BatchAttention {
  HeadsView query, key, value, out;
  int64_t batch_size, num_heads, queries, keys, head_dim;
  float scale;
  const bool* key_mask;  // [batch_size, keys], at least one true in each row; null: all true
};

// out = softmax(scale * query key^T) value over the keys whose mask is true, on at most `threads` of the process's
// pool. A result depends neither on them nor on other sequences. Any number of threads may call it.
void attend(const BatchAttention& batch, const DtypeKernels& dtype, Threads threads);

}  // namespace distilrt
