#include "batch_attention.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "arena.h"
#include "fork_lock.h"
#include "phases.h"

namespace distilrt {
namespace {

// Multiply-adds that take about as long as a sleeping thread takes to wake.
constexpr int64_t kWorthAThread = 1 << 20;

// Which keys each sequence attends to.
class Kept {
 public:
  explicit Kept(const BatchAttention& g) : all_(g.keys) {
    if (g.key_mask == nullptr) return;
    starts_.push_back(0);
    for (int64_t s = 0; s < g.batch_size; ++s) {
      for (int64_t key = 0; key < g.keys; ++key)
        if (g.key_mask[s * g.keys + key]) keys_.push_back(key);
      starts_.push_back(static_cast<int64_t>(keys_.size()));
    }
  }
  int64_t count(int64_t s) const { return starts_.empty() ? all_ : starts_[index(s) + 1] - starts_[index(s)]; }
  int64_t key(int64_t s, int64_t i) const { return starts_.empty() ? i : keys_[index(starts_[index(s)] + i)]; }
  // Whether they are neighbours, as they are where all padding is on the right or on the left.
  bool together(int64_t s) const { return key(s, count(s) - 1) - key(s, 0) == count(s) - 1; }

 private:
  static size_t index(int64_t i) { return static_cast<size_t>(i); }

  int64_t all_;
  std::vector<int64_t> starts_, keys_;
};

// Memory for one call: what an earlier one is through with, or new. There is as much of it as there were calls at once.
class Scratch {
 public:
  Scratch() {
    Spare& all = spare();
    std::lock_guard<ForkLock> lock(all.lock);
    if (all.arenas.empty()) {
      all.arenas.reserve(++all.made);  // so that giving back allocates nothing
      return;
    }
    arena_ = std::move(all.arenas.back());
    all.arenas.pop_back();
  }
  ~Scratch() {
    std::lock_guard<ForkLock> lock(spare().lock);
    spare().arenas.push_back(std::move(arena_));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  char* reserve(int64_t bytes) { return arena_.reserve(bytes); }

 private:
  struct Spare {
    ForkLock lock;
    std::vector<Arena> arenas;
    size_t made = 0;
  };
  // Never destroyed: a thread may still compute while the process ends.
  static Spare& spare() {
    static Spare& all = *new Spare;
    return all;
  }

  Arena arena_;
};

}  // namespace

void attend(const BatchAttention& g, const DtypeKernels& dtype, Threads threads) {
  const Kept kept(g);
  const int64_t size = dtype.activation_bytes, row_bytes = g.head_dim * size, pairs = g.batch_size * g.num_heads;
  int64_t most = 0, gathered = 0, work = 0;
  for (int64_t s = 0; s < g.batch_size; ++s) {
    most = std::max(most, kept.count(s));
    if (!kept.together(s)) gathered = std::max(gathered, kept.count(s));
    work += 2 * g.num_heads * g.queries * kept.count(s) * g.head_dim;
  }
  if (work == 0) return;
  threads.count = static_cast<int>(std::min<int64_t>(threads.count, 1 + work / kWorthAThread));

  Scratch scratch;
  const int64_t gather_bytes = Arena::padded(gathered * row_bytes);
  const int64_t own_bytes = Arena::padded(dtype.attention_scratch(most, g.head_dim)) + 2 * gather_bytes;
  char* base = scratch.reserve(threads.count * own_bytes);

  ThreadPool::run(threads, [&](Worker& worker) {
    const int64_t parts = query_parts(worker, pairs);
    worker.for_each(pairs * parts, [&](int64_t task, int thread) {
      const int64_t s = task / parts / g.num_heads, head = task / parts % g.num_heads, part = task % parts;
      const int64_t first = g.queries * part / parts, queries = g.queries * (part + 1) / parts - first;
      if (queries == 0) return;
      char* own = base + thread * own_bytes;
      const int64_t keys = kept.count(s);
      const auto rows_of = [&](const HeadsView& view, char* room) {
        if (kept.together(s)) return HeadsView{view.at(s, head, kept.key(s, 0)), 0, 0, view.row};
        for (int64_t i = 0; i < keys; ++i)
          std::memcpy(room + i * row_bytes, view.at(s, head, kept.key(s, i)), static_cast<size_t>(row_bytes));
        return HeadsView{room, 0, 0, row_bytes};
      };
      const HeadsView k = rows_of(g.key, own), v = rows_of(g.value, own + gather_bytes);
      dtype.attention({.q = g.query.at(s, head, first),
                       .k = k.data,
                       .v = v.data,
                       .ldq = g.query.row / size,
                       .ldk = k.row / size,
                       .ldv = v.row / size,
                       .queries = queries,
                       .keys = keys,
                       .head_dim = g.head_dim,
                       .scale = g.scale,
                       .scratch = own + 2 * gather_bytes,
                       .out = g.out.at(s, head, first),
                       .ldo = g.out.row / size});
    });
  });
}

}  // namespace distilrt
