// Regions of phases whose items read what items of the phase before wrote, on as many threads as the arguments say. The
// memory is plain, so ThreadSanitizer sees where a phase begins before the last one is over. Then a region on one CPU.

#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "thread_pool.h"

namespace {

using Rows = std::vector<std::vector<uint64_t>>;

uint64_t item(const std::vector<uint64_t>& before, int64_t i) {
  uint64_t value = static_cast<uint64_t>(i) + 1;
  for (int64_t k = 1; k <= 400; ++k) {
    const int64_t n = static_cast<int64_t>(before.size());
    value = value * 6364136223846793005u + before[static_cast<size_t>((i * k * 7 + k) % n)];
  }
  return value;
}

void compute(distilrt::Worker& worker, Rows& rows) {
  for (size_t p = 1; p < rows.size(); ++p)
    worker.for_each(static_cast<int64_t>(rows[p].size()),
                    [&](int64_t i, int) { rows[p][static_cast<size_t>(i)] += item(rows[p - 1], i); });
}

distilrt::system::CpuMask first_of(const distilrt::system::CpuMask& mask) {
  distilrt::system::CpuMask first;
  for (int word = 0; word < distilrt::system::CpuMask::kMost / 64; ++word)
    if (mask.words[word] != 0) {
      first.add(64 * word + std::countr_zero(mask.words[word]));
      break;
    }
  return first;
}

// Threads run on the listed CPU, and the caller may run afterwards where it might before, or where it was moved
// meanwhile.
bool runs_on_listed_cpus() {
  namespace system = distilrt::system;
  const system::CpuMask all = system::cpu_mask(), one = first_of(all);
  std::atomic<int> elsewhere{0};
  const auto look = [&](int64_t, int) { elsewhere += system::cpu_mask() != one; };
  distilrt::ThreadPool::run({4, one}, [&](distilrt::Worker& worker) { worker.for_each(1000, look); });
  if (elsewhere != 0 || system::cpu_mask() != all) return false;
  distilrt::ThreadPool::run({4, one}, [&](distilrt::Worker& worker) {
    if (worker.thread() == 0) system::set_cpu_mask(all);
  });
  return system::cpu_mask() == all;
}

}  // namespace

int main(int count, char** arguments) {
  for (int each = 1; each < count; ++each) {
    const int threads = std::atoi(arguments[each]);
    const auto size = static_cast<size_t>(threads);
    Rows expected;
    // Fewer items than threads, as many, more, and so many that threads rest between them.
    for (const size_t items : {size_t{9}, size_t{1}, size - 1, size, 3 * size + 1, size_t{5}, size_t{4000}, 2 * size})
      expected.emplace_back(items);
    std::iota(expected[0].begin(), expected[0].end(), uint64_t{1});
    Rows empty = expected;
    distilrt::Worker alone;
    compute(alone, expected);
    for (int round = 0; round < 30; ++round) {
      Rows rows = empty;
      distilrt::ThreadPool::run({threads, {}}, [&](distilrt::Worker& worker) { compute(worker, rows); });
      if (rows == expected) continue;
      std::printf("%d threads, round %d: other values\n", threads, round);
      return 1;
    }
  }
  if (runs_on_listed_cpus()) return 0;
  std::puts("a thread ran elsewhere than on the listed CPU");
  return 1;
}
