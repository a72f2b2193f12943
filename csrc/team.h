// What the threads of one parallel region share: which items of a phase are taken, and whether all are done.
//
// A line of memory that many cores write goes from one to the next, so its writers wait for each other. Threads are
// therefore dealt to groups of eight. A group counts what is done of its own items, whoever does them, in a line of its
// own; who does the last of them adds the group to the phase; and who does the last of the phase says so in a line that
// is written once a phase and that all who wait read.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace distilrt {

struct Phase {
  uint64_t number = 0;  // from 1 on
  int64_t items = 0;
};

class Team {
 public:
  static constexpr int kMaxThreads = 256;
  static constexpr int kGroupThreads = 8;
  static constexpr int kMaxGroups = kMaxThreads / kGroupThreads;

  // For a new region, while no thread is in one.
  void reset(int size);
  int size() const { return size_; }
  int groups() const { return (size_ + kGroupThreads - 1) / kGroupThreads; }
  int first_thread(int group) const { return std::min(group * kGroupThreads, size_); }
  // The first of the neighbouring items that `thread` shall begin with; the next thread's first ends them.
  int64_t first_item(int thread, const Phase& phase) const { return phase.items * thread / size_; }

  // Takes one of the `count` items that `thread` shall begin with: its index, or -1 if none is left.
  int64_t take(int thread, uint64_t phase, int64_t count) {
    std::atomic<uint64_t>& taken = taken_[thread].word;
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

  // Whether some thread found none of the group's items left. Saves the others a look at each member's line.
  bool is_taken(int group, uint64_t phase) const {
    return groups_[group].taken.load(std::memory_order_relaxed) >= phase;
  }
  void set_taken(int group, uint64_t phase) {
    if (!is_taken(group, phase)) groups_[group].taken.store(phase, std::memory_order_relaxed);
  }

  // So many of the group's items are done, and were not counted yet.
  void add_done(int group, int64_t items, const Phase& phase);
  // Returns when all items of the phase are done.
  void await(uint64_t phase) const;

 private:
  static constexpr int kCountBits = 40;
  static constexpr uint64_t kCountMask = (uint64_t{1} << kCountBits) - 1;
  // The phase in the upper bits, how many of the thread's items are taken in the lower ones.
  struct alignas(64) Taken {
    std::atomic<uint64_t> word{0};
  };
  struct Group {
    alignas(64) std::atomic<int64_t> done{0};    // items of this phase
    alignas(64) std::atomic<uint64_t> taken{0};  // the last phase of which none is left
  };

  int size_ = 0;
  Taken taken_[kMaxThreads];
  Group groups_[kMaxGroups];
  alignas(64) std::atomic<int64_t> done_{0};   // items of this phase in groups that are through
  alignas(64) std::atomic<uint64_t> over_{0};  // the last phase whose items are done
};

}  // namespace distilrt
