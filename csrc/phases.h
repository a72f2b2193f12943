// The steps that a forward is made of, each divided among a team: GEMMs by blocks of rows and panels, elementwise work
// by chunks of rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "encoder.h"

namespace distilrt {

inline int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

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

inline GemmArgs gemm_args(const Linear& linear, const Operand& in, Epilogue epilogue, const Output& out) {
  return {.a = in.rows,
          .lda = in.stride,
          .row_scales = in.scales,
          .panels = linear.multiplied().data,
          .column_scales = linear.multiplied().column_scales.data(),
          .offsets = linear.multiplied().offsets.data(),
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
inline void gemm_phase(Worker& worker, const Kernels& kernels, const Linear& linear, const GemmArgs& args, int64_t rows,
                       int64_t from, int64_t to) {
  const int64_t first = from / kernels.panel_width;
  const int64_t panels = blocks(to, kernels.panel_width) - first;
  const int64_t parts = row_blocks(rows, panels, worker.team_size(), linear.kernels->block_rows);
  worker.for_each(parts * panels, [&](int64_t task, int) {
    const int64_t part = task / panels, panel = first + task % panels;
    linear.kernels->gemm(args, rows * part / parts, rows * (part + 1) / parts, panel, panel + 1);
  });
}

// fn(first, last) over chunks of rows: enough of them for balance, each long enough to be worth taking.
template <typename Fn>
void rows_phase(Worker& worker, int64_t rows, Fn&& fn) {
  const int64_t chunk = std::clamp<int64_t>(rows / (4 * worker.team_size()), 1, 32);
  worker.for_each(blocks(rows, chunk),
                  [&](int64_t task, int) { fn(task * chunk, std::min(task * chunk + chunk, rows)); });
}

// Parts to divide the queries of each (sequence, head) into: more than one where the pairs alone would not keep the
// team busy, since each part lays out the keys again.
inline int64_t query_parts(const Worker& worker, int64_t pairs) {
  return blocks(4 * (worker.team_size() - 1), pairs) + 1;
}

}  // namespace distilrt
