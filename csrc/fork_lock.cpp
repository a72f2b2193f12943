#include "fork_lock.h"

#include <vector>

#include "system.h"

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
  static std::once_flag once;
  std::call_once(once, system::at_fork, before_fork, after_fork);
  std::lock_guard<std::mutex> guard(registry().mutex);
  registry().locks.push_back(this);
}

ForkLock::~ForkLock() {
  std::lock_guard<std::mutex> guard(registry().mutex);
  std::erase(registry().locks, this);
}

}  // namespace distilrt
