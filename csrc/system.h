// What is asked of the operating system: Linux, macOS or Windows. The only file pair with headers of one system.
#pragma once

#include <cstddef>
#include <cstdint>

namespace distilrt::system {

// Whole pages of zeros, 64-byte aligned. Throws std::bad_alloc.
char* map_pages(size_t bytes);
void unmap_pages(char* pages, size_t bytes);

int64_t process_id();

// The CPUs that the calling thread may run on. None where the system does not say: such a thread runs anywhere.
struct CpuMask {
  static constexpr int kMost = 1024;
  uint64_t words[kMost / 64] = {};

  bool operator==(const CpuMask&) const = default;
  void add(int cpu) { words[cpu / 64] |= uint64_t{1} << (cpu % 64); }
  // The CPUs of both, or this mask where there is none.
  CpuMask within(const CpuMask& other) const;
};
CpuMask cpu_mask();
void set_cpu_mask(const CpuMask& mask);

// From now on a fork calls `before` in the parent, and `after` in the parent and in the child.
void at_fork(void (*before)(), void (*after)());

// Asks for the permission that a process needs to use AMX's tiles; it holds for the process and what it forks.
bool may_use_tiles();

// What an ARM CPU has can be read by its operating system alone.
enum class ArmFeature { kDotprod, kI8mm, kBf16 };
bool has(ArmFeature feature);

}  // namespace distilrt::system
