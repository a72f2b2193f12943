// A mutex that a forked child may use: a fork waits until none of these is held, so the child never inherits one that
// some thread of its parent would have to release, nor what it guards half written. Nobody may hold two of them: a fork
// takes all, in any order.
#pragma once

#include <mutex>

namespace distilrt {

class ForkLock {
 public:
  ForkLock();
  ~ForkLock();
  ForkLock(const ForkLock&) = delete;
  ForkLock& operator=(const ForkLock&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

}  // namespace distilrt
