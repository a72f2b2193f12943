#include "thread_pool.h"

#include <system_error>

#include "fork_lock.h"

namespace distilrt {
namespace {

// Unwinds a worker out of a region that was closed while it rested.
struct RegionOver {};

constexpr uint64_t kThreadBits = 16;
constexpr uint64_t kThreadMask = (1u << kThreadBits) - 1;
// About 50 us of pauses: longer than the gap between two forwards of a busy caller, too short to show as load.
constexpr int kIdleSpins = 1500;
// A partner that holds an item so long is stopped, perhaps for something that waits for this core.
constexpr int kBarrierSpins = 2000;

// Where threads outnumber cores, the system stops a thread at a tick of its timer, every 1 to 4 ms, in the midst of
// whatever it does. A thread that has let others run shortly before, between two items, is not stopped within one.
constexpr std::chrono::milliseconds kRestInterval{1};

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

void Team::reset(int size) {
  size_ = size;
  for (int i = 0; i < size; ++i) taken_[i].word.store(0, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
}

void Team::await_done(int64_t items) const {
  spin_until([&] { return done_.load(std::memory_order_acquire) >= items; });
}

Worker::Worker(ThreadPool& pool, uint64_t region, int thread)
    : pool_(&pool),
      team_(&pool.team_),
      region_(region),
      thread_(thread),
      rest_due_(std::chrono::steady_clock::now() + kRestInterval) {}

void Worker::tell_done() {
  if (done_here_ == 0) return;
  team_->add_done(done_here_);
  done_here_ = 0;
}

void Worker::finish_phase(int64_t items) {
  tell_done();
  items_ += items;
  team_->await_done(items_);
}

// A resting worker is outside of the region, which may go on and end without it.
void Worker::rest() {
  tell_done();
  if (thread_ != 0) pool_->leave();
  std::this_thread::yield();
  if (thread_ != 0 && !pool_->enter(region_)) throw RegionOver{};
  rest_due_ = std::chrono::steady_clock::now() + kRestInterval;
}

bool ThreadPool::enter(uint64_t region) {
  uint64_t gate = gate_.load(std::memory_order_relaxed);
  while (gate >> kThreadBits == region)
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire)) return true;
  return false;
}

void ThreadPool::close(uint64_t region) {
  spin_until([&] {
    uint64_t empty = region << kThreadBits;
    return gate_.compare_exchange_strong(empty, 0, std::memory_order_acq_rel);
  });
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
  if (const system::CpuMask mask = system::cpu_mask(); mask != mask_) {
    mask_ = mask;
    ++mask_number_;
  }
  call_ = call;
  context_ = context;
  team_.reset(threads);
  const uint64_t region = (region_word_.load(std::memory_order_relaxed) >> kThreadBits) + 1;
  gate_.store(region << kThreadBits, std::memory_order_release);
  region_word_.store(region << kThreadBits | static_cast<uint64_t>(threads), std::memory_order_release);
  region_word_.notify_all();

  Worker caller(*this, region, 0);
  call(context, caller);
  close(region);
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0, mask_number = 0;
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
    const uint64_t region = word >> kThreadBits;
    if (!enter(region)) continue;
    if (mask_number != mask_number_) {
      system::set_cpu_mask(mask_);
      mask_number = mask_number_;
    }
    try {
      Worker worker(*this, region, thread);
      call_(context_, worker);
      leave();
    } catch (const RegionOver&) {
    }
  }
}

}  // namespace distilrt
