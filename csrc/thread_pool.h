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
  explicit Team(int size) : size_(size) {}

  // Calls fn(i) for every i in [0, n), each on some thread of the team; returns on all threads when all are done. Every
  // thread of the team must make the same sequence of calls.
  template <typename Fn>
  void for_each(int64_t n, int thread, bool& parity, Fn&& fn) {
    if (size_ == 1) {
      for (int64_t i = 0; i < n; ++i) fn(i, thread);
      return;
    }
    std::atomic<int64_t>& next = next_[parity];
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) fn(i, thread);
    barrier(next);
    parity = !parity;
  }

 private:
  // The last to arrive resets the counter of the phase that ends here; the next phase counts with the other one.
  void barrier(std::atomic<int64_t>& finished);

  const int size_;
  alignas(64) std::atomic<int64_t> next_[2]{};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

// One thread's view of its team.
class Worker {
 public:
  Worker(Team& team, int thread) : team_(team), thread_(thread) {}
  // fn(index, thread), with thread in [0, team size).
  template <typename Fn>
  void for_each(int64_t n, Fn&& fn) {
    team_.for_each(n, thread_, parity_, fn);
  }

 private:
  Team& team_;
  const int thread_;
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
      Team team(1);
      Worker worker(team, 0);
      body(worker);
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
  Team* team_ = nullptr;
  // Region number in the upper bits, its thread count in the lower 16, so that a thread which is not in the region
  // never reads the fields above while the next caller writes them.
  alignas(64) std::atomic<uint64_t> region_word_{0};
  alignas(64) std::atomic<int> running_{0};
};

}  // namespace distilrt
