#include "thread_pool.h"

#include <system_error>

#include "fork_lock.h"
#include "system.h"

namespace distilrt {
namespace {

constexpr uint64_t kThreadBits = 16;
constexpr uint64_t kThreadMask = (1u << kThreadBits) - 1;
// About 50 us of pauses: longer than the gap between two forwards of a busy caller, too short to show as load.
constexpr int kIdleSpins = 1500;
// Inside a region a partner is late only when the system runs something else on its core; then let it.
constexpr int kBarrierSpins = 2000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Ready>
void spin_until(Ready&& ready) {
  for (int spins = 0; !ready(); ++spins) {
    if (spins < kBarrierSpins)
      pause();
    else
      std::this_thread::yield();
  }
}

}  // namespace

void Team::barrier(bool parity) {
  const uint32_t generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    for (int i = 0; i < size_; ++i) taken_[parity][i].count.store(0, std::memory_order_relaxed);
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
  } else {
    spin_until([&] { return generation_.load(std::memory_order_acquire) != generation; });
  }
}

ThreadPool& ThreadPool::shared() {
  // Never destroyed: workers may still wait on it while the process ends.
  static std::atomic<ThreadPool*> pool{nullptr};
  static std::atomic<int64_t> owner{0};
  static ForkLock& making = *new ForkLock;
  const int64_t process = system::process_id();
  if (owner.load(std::memory_order_acquire) != process) {
    std::lock_guard<ForkLock> lock(making);
    if (owner.load(std::memory_order_relaxed) != process) {
      pool.store(new ThreadPool, std::memory_order_relaxed);
      owner.store(process, std::memory_order_release);
    }
  }
  return *pool.load(std::memory_order_acquire);
}

void ThreadPool::run_region(int threads, Call call, void* context) {
  std::lock_guard<std::mutex> lock(region_);
  while (static_cast<int>(workers_.size()) < threads - 1) {
    const int thread = static_cast<int>(workers_.size()) + 1;
    workers_.emplace_back([this, thread] { work(thread); });
    workers_.back().detach();
  }
  call_ = call;
  context_ = context;
  team_.reset(threads);
  running_.store(threads - 1, std::memory_order_relaxed);
  const uint64_t number = (region_word_.load(std::memory_order_relaxed) >> kThreadBits) + 1;
  region_word_.store(number << kThreadBits | static_cast<uint64_t>(threads), std::memory_order_release);
  region_word_.notify_all();

  Worker caller(team_, 0);
  call(context, caller);
  spin_until([&] { return running_.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    uint64_t word = region_word_.load(std::memory_order_acquire);
    for (int spins = 0; word == seen && spins < kIdleSpins; ++spins) {
      pause();
      word = region_word_.load(std::memory_order_acquire);
    }
    if (word == seen) {
      region_word_.wait(seen, std::memory_order_acquire);
      continue;
    }
    seen = word;
    if (thread >= static_cast<int>(word & kThreadMask)) continue;
    Worker worker(team_, thread);
    call_(context_, worker);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace distilrt
