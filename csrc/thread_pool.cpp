#include "thread_pool.h"

#include <system_error>

#include "fork_lock.h"
#include "spin.h"

namespace distilrt {
namespace {

// Unwinds a worker out of a region that was closed while it rested.
struct RegionOver {};

constexpr uint64_t kThreadBits = 16;
constexpr uint64_t kThreadMask = (1u << kThreadBits) - 1;
// About 50 us of pauses: longer than the gap between two forwards of a busy caller, too short to show as load.
constexpr int kIdleSpins = 1500;

// Where threads outnumber cores, the system stops a thread at a tick of its timer, every 1 to 4 ms, in the midst of
// whatever it does. A thread that has let others run shortly before, between two items, is not stopped within one.
constexpr std::chrono::milliseconds kRestInterval{1};

}  // namespace

Worker::Worker(ThreadPool& pool, uint64_t region, int thread)
    : pool_(&pool),
      team_(&pool.team_),
      region_(region),
      thread_(thread),
      rest_due_(std::chrono::steady_clock::now() + kRestInterval) {}

void Worker::tell_done() {
  if (done_here_ == 0) return;
  team_->add_done(group_, done_here_, phase_);
  done_here_ = 0;
}

// A resting worker is outside of the region, which may go on and end without it.
void Worker::rest() {
  tell_done();
  if (thread_ != 0) pool_->leave(thread_);
  std::this_thread::yield();
  if (thread_ != 0 && !pool_->enter(region_, thread_)) throw RegionOver{};
  rest_due_ = std::chrono::steady_clock::now() + kRestInterval;
}

void ThreadPool::open(uint64_t region) {
  for (int group = 0; group < team_.groups(); ++group)
    gates_[group].word.store(region << kThreadBits, std::memory_order_release);
}

bool ThreadPool::enter(uint64_t region, int thread) {
  std::atomic<uint64_t>& inside = gate(thread);
  uint64_t word = inside.load(std::memory_order_relaxed);
  while (word >> kThreadBits == region)
    if (inside.compare_exchange_weak(word, word + 1, std::memory_order_acquire)) return true;
  return false;
}

void ThreadPool::close(uint64_t region) {
  for (int group = 0; group < team_.groups(); ++group)
    spin_until([&] {
      uint64_t empty = region << kThreadBits;
      return gates_[group].word.compare_exchange_strong(empty, 0, std::memory_order_acq_rel);
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

void ThreadPool::run_region(const Threads& threads, Call call, void* context) {
  std::lock_guard<std::mutex> lock(region_);
  while (static_cast<int>(workers_.size()) < threads.count - 1) {
    const int thread = static_cast<int>(workers_.size()) + 1;
    workers_.emplace_back([this, thread] { work(thread); });
    workers_.back().detach();
  }
  const system::CpuMask before = system::cpu_mask(), mask = before.within(threads.cpus);
  if (mask != mask_) {
    mask_ = mask;
    ++mask_number_;
  }
  if (mask != before) system::set_cpu_mask(mask);
  call_ = call;
  context_ = context;
  team_.reset(threads.count);
  const uint64_t region = (region_word_.load(std::memory_order_relaxed) >> kThreadBits) + 1;
  open(region);
  region_word_.store(region << kThreadBits | static_cast<uint64_t>(threads.count), std::memory_order_release);
  region_word_.notify_all();

  Worker caller(*this, region, 0);
  call(context, caller);
  close(region);
  // Unless somebody has moved this thread meanwhile.
  if (mask != before && system::cpu_mask() == mask) system::set_cpu_mask(before);
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
    if (!enter(region, thread)) continue;
    if (mask_number != mask_number_) {
      system::set_cpu_mask(mask_);
      mask_number = mask_number_;
    }
    try {
      Worker worker(*this, region, thread);
      call_(context_, worker);
      leave(thread);
    } catch (const RegionOver&) {
    }
  }
}

}  // namespace distilrt
