// Waiting for what another thread will write soon.
#pragma once

#include <thread>

namespace distilrt {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Ready>
void spin_until(Ready&& ready) {
  // A partner that holds an item so long is stopped, perhaps for something that waits for this core.
  constexpr int kSpins = 2000;
  for (int spins = 0; !ready(); ++spins) {
    if (spins < kSpins)
      pause();
    else
      std::this_thread::yield();
  }
}

}  // namespace distilrt
