// The process's worker threads. A forward is one parallel region: threads meet at spin barriers between its phases and
// sleep only when no region has come for a while, since waking a sleeper costs more than a small GEMM.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace distilrt {

// The threads inside one region.
class Team {
 public:
  static constexpr int kMaxThreads = 256;

  // For a new region, while no thread is in one.
  void reset(int size) { size_ = size; }
  int size() const { return size_; }

  // Calls fn(i, thread) for every i in [0, n), each on some thread of the team; returns on all threads when all are
  // done. Every thread of the team must make the same sequence of calls.
  //
  // Each thread has a run of neighbouring i of its own, so that what it reads next lies behind what it read last, and
  // helps the others when it is through.
  template <typename Fn>
  void for_each(int64_t n, int thread, bool& parity, Fn&& fn) {
    for (int k = 0; k < size_; ++k) {
      const int owner = (thread + k) % size_;
      const int64_t first = n * owner / size_, last = n * (owner + 1) / size_;
      std::atomic<int64_t>& taken = taken_[parity][owner].count;
      for (int64_t i; (i = first + taken.fetch_add(1, std::memory_order_relaxed)) < last;) fn(i, thread);
    }
    barrier(parity);
    parity = !parity;
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> count{0};
  };

  // The last to arrive resets the counters of the phase that ends here; the next phase counts with the others.
  void barrier(bool parity);

  int size_ = 0;
  Counter taken_[2][kMaxThreads];
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

// One thread's view of its team; without a team it is alone.
class Worker {
 public:
  Worker() = default;
  Worker(Team& team, int thread) : team_(&team), thread_(thread) {}
  int team_size() const { return team_ != nullptr ? team_->size() : 1; }
  int thread() const { return thread_; }
  // fn(index, thread), with thread in [0, team size).
  template <typename Fn>
  void for_each(int64_t n, Fn&& fn) {
    if (team_ != nullptr) return team_->for_each(n, thread_, parity_, fn);
    for (int64_t i = 0; i < n; ++i) fn(i, 0);
  }

 private:
  Team* team_ = nullptr;
  int thread_ = 0;
  bool parity_ = false;
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

  std::mutex region_;  // held for one region
  std::vector<std::thread> workers_;
  Call call_ = nullptr;
  void* context_ = nullptr;
  Team team_;
  // Region number in the upper bits, its thread count in the lower 16, so that a thread which is not in the region
  // never reads the fields above while the next caller writes them.
  alignas(64) std::atomic<uint64_t> region_word_{0};
  alignas(64) std::atomic<int> running_{0};
};

}  // namespace distilrt
