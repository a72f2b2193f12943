#include "team.h"

#include "spin.h"

namespace distilrt {

void Team::reset(int size) {
  size_ = size;
  for (int i = 0; i < size; ++i) taken_[i].word.store(0, std::memory_order_relaxed);
  for (int i = 0; i < groups(); ++i) groups_[i].taken.store(0, std::memory_order_relaxed);
  over_.store(0, std::memory_order_relaxed);
}

// Nothing is added for a later phase before this one is over, so a counter may begin at 0 again as soon as it is full.
void Team::add_done(int group, int64_t items, const Phase& phase) {
  const int64_t all = first_item(first_thread(group + 1), phase) - first_item(first_thread(group), phase);
  std::atomic<int64_t>& done = groups_[group].done;
  if (done.fetch_add(items, std::memory_order_acq_rel) + items < all) return;
  done.store(0, std::memory_order_relaxed);
  if (all < phase.items) {
    if (done_.fetch_add(all, std::memory_order_acq_rel) + all < phase.items) return;
    done_.store(0, std::memory_order_relaxed);
  }
  over_.store(phase.number, std::memory_order_release);
}

void Team::await(uint64_t phase) const {
  spin_until([&] { return over_.load(std::memory_order_acquire) >= phase; });
}

}  // namespace distilrt
