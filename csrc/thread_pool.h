// The process's worker threads. A forward is one parallel region of phases, each of so many items. A phase is over when
// its items are done, and a region when its phases are, whoever did them: nothing waits for a thread that the system
// lets run late or not at all, unless it holds an item. Threads sleep only when no region has come for a while, since
// waking a sleeper costs more than a small GEMM.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "system.h"

namespace distilrt {

// What the threads inside one region share.
class Team {
 public:
  static constexpr int kMaxThreads = 256;

  // For a new region, while no thread is in one.
  void reset(int size);
  int size() const { return size_; }

  // Takes one of the `count` items of a phase that thread `owner` shall begin with: its index, or -1 if none is left.
  int64_t take(int owner, uint64_t phase, int64_t count) {
    std::atomic<uint64_t>& taken = taken_[owner].word;
    uint64_t word = taken.load(std::memory_order_relaxed);
    for (;;) {
      // A word of an earlier phase stands for a phase of which none is taken yet; one of a later phase is met by a
      // thread that comes late, and says that this one is over.
      if (word >> kCountBits > phase) return -1;
      const uint64_t index = word >> kCountBits == phase ? word & kCountMask : 0;
      if (index >= static_cast<uint64_t>(count)) return -1;
      if (taken.compare_exchange_weak(word, phase << kCountBits | (index + 1), std::memory_order_relaxed))
        return static_cast<int64_t>(index);
    }
  }

  void add_done(int64_t items) { done_.fetch_add(items, std::memory_order_acq_rel); }
  // Returns when so many items of the region are done.
  void await_done(int64_t items) const;

 private:
  static constexpr int kCountBits = 40;
  static constexpr uint64_t kCountMask = (uint64_t{1} << kCountBits) - 1;
  // The phase in the upper bits, how many of the owner's items are taken in the lower ones.
  struct alignas(64) Taken {
    std::atomic<uint64_t> word{0};
  };

  int size_ = 0;
  Taken taken_[kMaxThreads];
  alignas(64) std::atomic<int64_t> done_{0};
};

class ThreadPool;

// One thread's view of its region; without a region it is alone.
class Worker {
 public:
  Worker() = default;
  Worker(ThreadPool& pool, uint64_t region, int thread);
  int team_size() const { return team_ != nullptr ? team_->size() : 1; }
  int thread() const { return thread_; }

  // Calls fn(i, thread) for every i in [0, n), each on some thread of the team, thread in [0, team size); returns when
  // all are done. Every thread of the team makes the same sequence of calls.
  //
  // Each thread has a run of neighbouring i of its own, so that what it reads next lies behind what it read last, and
  // helps the others when it is through.
  template <typename Fn>
  void for_each(int64_t n, Fn&& fn) {
    if (team_ == nullptr) {
      for (int64_t i = 0; i < n; ++i) fn(i, 0);
      return;
    }
    ++phase_;
    const int size = team_->size();
    for (int k = 0; k < size; ++k) {
      const int owner = (thread_ + k) % size;
      const int64_t first = n * owner / size, count = n * (owner + 1) / size - first;
      for (int64_t i; (i = team_->take(owner, phase_, count)) >= 0;) {
        fn(first + i, thread_);
        ++done_here_;
        if (is_rest_due()) rest();
      }
    }
    finish_phase(n);
  }

 private:
  bool is_rest_due() const { return std::chrono::steady_clock::now() >= rest_due_; }
  void rest();
  void tell_done();
  void finish_phase(int64_t items);

  ThreadPool* pool_ = nullptr;
  Team* team_ = nullptr;
  uint64_t region_ = 0;
  int thread_ = 0;
  uint64_t phase_ = 0;
  int64_t items_ = 0;      // all phases so far have so many
  int64_t done_here_ = 0;  // items done by this thread that the team does not know of yet
  std::chrono::steady_clock::time_point rest_due_;
};

class ThreadPool {
 public:
  // The pool of this process; a forked child gets a new one, since threads do not survive a fork.
  static ThreadPool& shared();

  // Calls body(Worker&) on `threads` threads, the caller among them, and returns when all have ended. Regions of
  // several callers follow one another, so models in one process do not oversubscribe. One thread: no lock, no pool.
  template <typename Body>
  static void run(int threads, Body&& body) {
    if (threads == 1) {
      Worker alone;
      body(alone);
      return;
    }
    shared().run_region(threads, [](void* context, Worker& worker) { (*static_cast<Body*>(context))(worker); }, &body);
  }

 private:
  using Call = void (*)(void* context, Worker& worker);

  void run_region(int threads, Call call, void* context);
  void work(int thread);

  friend class Worker;
  // A worker may come to a region while it is open, and the caller closes it when no worker is inside.
  bool enter(uint64_t region);
  void leave() { gate_.fetch_sub(1, std::memory_order_release); }
  void close(uint64_t region);

  std::mutex region_;  // held for one region
  std::vector<std::thread> workers_;
  Call call_ = nullptr;
  void* context_ = nullptr;
  Team team_;
  system::CpuMask mask_;      // where the caller of this region may run, and so its workers
  uint64_t mask_number_ = 0;  // how often the mask has changed
  // Region number in the upper bits, its thread count in the lower 16, so that a thread which is not in the region
  // never reads the fields above while the next caller writes them.
  alignas(64) std::atomic<uint64_t> region_word_{0};
  // Region number in the upper bits, 0 when none is open; workers inside in the lower 16.
  alignas(64) std::atomic<uint64_t> gate_{0};
};

}  // namespace distilrt
