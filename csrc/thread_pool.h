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
#include "team.h"

namespace distilrt {

class ThreadPool;

// How many threads compute, the caller among them, and where: on those of its CPUs that are listed, or if none is, on
// all of them.
struct Threads {
  int count = 1;
  system::CpuMask cpus;
};

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
    if (n == 0) return;
    phase_ = {phase_.number + 1, n};
    const int groups = team_->groups();
    for (int g = 0; g < groups; ++g) {
      group_ = (thread_ / Team::kGroupThreads + g) % groups;
      if (g == 0 || !team_->is_taken(group_, phase_.number)) work_on_group(fn);
    }
    team_->await(phase_.number);
  }

 private:
  bool is_rest_due() const { return std::chrono::steady_clock::now() >= rest_due_; }
  void rest();
  void tell_done();

  // Its own items come first where it is this thread's group.
  template <typename Fn>
  void work_on_group(Fn& fn) {
    const int begin = team_->first_thread(group_), members = team_->first_thread(group_ + 1) - begin;
    for (int k = 0; k < members; ++k) {
      const int owner = begin + (thread_ % Team::kGroupThreads + k) % members;
      const int64_t first = team_->first_item(owner, phase_), count = team_->first_item(owner + 1, phase_) - first;
      for (int64_t i; (i = team_->take(owner, phase_.number, count)) >= 0;) {
        fn(first + i, thread_);
        ++done_here_;
        if (is_rest_due()) rest();
      }
    }
    if (team_->groups() > 1) team_->set_taken(group_, phase_.number);
    tell_done();
  }

  ThreadPool* pool_ = nullptr;
  Team* team_ = nullptr;
  uint64_t region_ = 0;
  int thread_ = 0;
  Phase phase_;
  int group_ = 0;          // whose items this thread does now
  int64_t done_here_ = 0;  // of them, those that the team does not know of yet
  std::chrono::steady_clock::time_point rest_due_;
};

class ThreadPool {
 public:
  // The pool of this process; a forked child gets a new one, since threads do not survive a fork.
  static ThreadPool& shared();

  // Calls body(Worker&) on each of `threads`, and returns when all have ended. Regions of several callers follow one
  // another, so models in one process do not oversubscribe. One thread: no lock, no pool, and it runs where it may.
  template <typename Body>
  static void run(const Threads& threads, Body&& body) {
    if (threads.count == 1) {
      Worker alone;
      body(alone);
      return;
    }
    shared().run_region(threads, [](void* context, Worker& worker) { (*static_cast<Body*>(context))(worker); }, &body);
  }

 private:
  using Call = void (*)(void* context, Worker& worker);

  void run_region(const Threads& threads, Call call, void* context);
  void work(int thread);

  friend class Worker;
  // A worker may come to a region while it is open, and the caller closes it when no worker is inside.
  void open(uint64_t region);
  bool enter(uint64_t region, int thread);
  void leave(int thread) { gate(thread).fetch_sub(1, std::memory_order_release); }
  void close(uint64_t region);
  std::atomic<uint64_t>& gate(int thread) { return gates_[thread / Team::kGroupThreads].word; }

  std::mutex region_;  // held for one region
  std::vector<std::thread> workers_;
  Call call_ = nullptr;
  void* context_ = nullptr;
  Team team_;
  system::CpuMask mask_;      // where the threads of this region run
  uint64_t mask_number_ = 0;  // how often the mask has changed
  // Region number in the upper bits, its thread count in the lower 16, so that a thread which is not in the region
  // never reads the fields above while the next caller writes them.
  alignas(64) std::atomic<uint64_t> region_word_{0};
  // Region number in the upper bits, 0 when none is open; workers of the group inside in the lower 16.
  struct alignas(64) Gate {
    std::atomic<uint64_t> word{0};
  };
  Gate gates_[Team::kMaxGroups];
};

}  // namespace distilrt
