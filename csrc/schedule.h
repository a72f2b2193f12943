// Which rows of a batch run where: long batches as runs of whole sequences, each on one thread from embeddings to the
// last layer, and what would leave threads waiting on all threads together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace distilrt {

// Neighbouring sequences, and their rows.
struct Run {
  int64_t first_seq = 0, last_seq = 0;  // [first, last)
  int64_t first_row = 0, last_row = 0;
  double cost = 0;  // in rows of a short sequence

  int64_t rows() const { return last_row - first_row; }
  int64_t seqs() const { return last_seq - first_seq; }
};

// Blocks of rows to divide a product of `rows` rows and so many panels into, at most `most_rows` rows each: as few as
// leave no thread of the team waiting for long while others compute.
int64_t row_blocks(int64_t rows, int64_t panels, int threads, int64_t most_rows);

struct Schedule {
  std::vector<Run> alone;  // the longest first; to be taken in this order by whichever thread is free
  Run together;            // after them; may be empty

  // Plans sequences of `cu_seqlens` [num_seqs + 1] for `threads` threads and runs of about `run_rows` rows. Results do
  // not depend on it: a row's arithmetic is the same wherever it runs. Allocates only while it grows.
  void plan(const int32_t* cu_seqlens, int64_t num_seqs, int threads, int64_t run_rows);

 private:
  double time_alone(std::size_t runs);

  std::vector<Run> runs_;     // of the whole batch, in order
  std::vector<Run> sorted_;   // the first of them, the longest first
  std::vector<double> busy_;  // [threads], when each would be free
};

}  // namespace distilrt
