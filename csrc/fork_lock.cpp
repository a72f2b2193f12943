#include "fork_lock.h"

#include <pthread.h>

#include <vector>

namespace distilrt {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<ForkLock*> locks;
};

// Never destroyed: a process may fork while it ends.
Registry& registry() {
  static Registry* const all = new Registry;
  return *all;
}

void before_fork() {
  registry().mutex.lock();
  for (ForkLock* lock : registry().locks) lock->lock();
}

void after_fork() {
  for (ForkLock* lock : registry().locks) lock->unlock();
  registry().mutex.unlock();
}

}  // namespace

ForkLock::ForkLock() {
  static const int handlers = pthread_atfork(before_fork, after_fork, after_fork);
  static_cast<void>(handlers);  // it fails only for want of memory, and then forks are as unsafe as without
  std::lock_guard<std::mutex> guard(registry().mutex);
  registry().locks.push_back(this);
}

ForkLock::~ForkLock() {
  std::lock_guard<std::mutex> guard(registry().mutex);
  std::erase(registry().locks, this);
}

}  // namespace distilrt
