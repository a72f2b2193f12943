#include "schedule.h"

#include <algorithm>
#include <cmath>

namespace distilrt {
namespace {

// Shorter runs than this are computed quicker by all threads together, since each reads only its share of the weights.
constexpr double kLeastRows = 48;
// Attention costs a row as much again when its sequence is this long (measured; between the dtypes' 1700 and 3500).
constexpr double kAttentionRows = 2500;
// Reading all weights once, in rows.
constexpr double kWeightRows = 8;
// Fewer rows use up a panel faster than it comes from memory.
constexpr int64_t kLeastBlockRows = 16;
// Together, threads wait for one another at every phase.
constexpr double kWaiting = 1.06;

Run joined(const Run& a, const Run& b) { return {a.first_seq, b.last_seq, a.first_row, b.last_row, a.cost + b.cost}; }

bool longer(const Run& a, const Run& b) { return a.cost > b.cost; }

}  // namespace

int64_t row_blocks(int64_t rows, int64_t panels, int threads, int64_t most_rows) {
  const auto waiting = [&](int64_t blocks) {  // the busiest thread's items over the mean
    const int64_t items = blocks * panels;
    return static_cast<double>((items + threads - 1) / threads * threads) / static_cast<double>(items);
  };
  const int64_t least = (rows + most_rows - 1) / most_rows;
  if (panels == 0) return least;
  int64_t best = least;
  for (int64_t blocks = least; waiting(best) > kWaiting && blocks <= rows / kLeastBlockRows; ++blocks)
    if (waiting(blocks) < waiting(best)) best = blocks;
  return best;
}

// When the last thread is through with the first `runs` runs, taken the longest first.
double Schedule::time_alone(size_t runs) {
  sorted_.assign(runs_.begin(), runs_.begin() + static_cast<std::ptrdiff_t>(runs));
  std::sort(sorted_.begin(), sorted_.end(), longer);
  std::fill(busy_.begin(), busy_.end(), 0.0);
  for (const Run& run : sorted_) *std::min_element(busy_.begin(), busy_.end()) += run.cost + kWeightRows;
  return *std::max_element(busy_.begin(), busy_.end());
}

void Schedule::plan(const int32_t* cu_seqlens, int64_t num_seqs, int threads, int64_t run_rows) {
  const double total = cu_seqlens[num_seqs];
  const double rounds = std::max(1.0, std::round(total / threads / static_cast<double>(run_rows)));
  const double target = total / threads / rounds;
  runs_.clear();
  busy_.resize(static_cast<size_t>(threads));
  for (int64_t s = 0; s < num_seqs; ++s) {
    const double length = cu_seqlens[s + 1] - cu_seqlens[s];
    const Run one{s, s + 1, cu_seqlens[s], cu_seqlens[s + 1], length * (1 + length / kAttentionRows)};
    // Closed where that lies nearer to the target.
    const double rows = runs_.empty() ? 0 : static_cast<double>(runs_.back().rows());
    if (runs_.empty() || rows + length / 2 > target)
      runs_.push_back(one);
    else
      runs_.back() = joined(runs_.back(), one);
  }

  // All alone, whole rounds alone, one to three runs left over, or none alone: whichever ends first.
  const size_t count = runs_.size();
  size_t best = 0;
  double least = -1;
  const size_t step = static_cast<size_t>(threads);
  for (const size_t alone : {count, count / step * step, count - std::min<size_t>(count, 1),
                             count - std::min<size_t>(count, 2), count - std::min<size_t>(count, 3), size_t{0}}) {
    if (alone > 0 && threads > 1 && target < kLeastRows) continue;
    double left = 0;
    for (size_t i = alone; i < count; ++i) left += runs_[i].cost * kWaiting + kWeightRows;
    const double time = time_alone(alone) + left / threads;
    if (least >= 0 && time >= least) continue;
    least = time;
    best = alone;
  }
  alone.assign(runs_.begin(), runs_.begin() + static_cast<std::ptrdiff_t>(best));
  std::sort(alone.begin(), alone.end(), longer);
  together = best < count ? joined(runs_[best], runs_[count - 1]) : Run{};
}

}  // namespace distilrt
