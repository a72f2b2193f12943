#include "system.h"

#include <new>

#if defined(_WIN32)
#include <windows.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace distilrt::system {

#if defined(_WIN32)

char* map_pages(size_t bytes) {
  void* pages = VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  if (pages == nullptr) throw std::bad_alloc();
  return static_cast<char*>(pages);
}
void unmap_pages(char* pages, size_t) { VirtualFree(pages, 0, MEM_RELEASE); }

int64_t process_id() { return GetCurrentProcessId(); }

void at_fork(void (*)(), void (*)()) {}  // Windows forks no process.

#else

char* map_pages(size_t bytes) {
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  madvise(pages, bytes, MADV_HUGEPAGE);
#endif
  return static_cast<char*>(pages);
}
void unmap_pages(char* pages, size_t bytes) { munmap(pages, bytes); }

int64_t process_id() { return getpid(); }

// It fails only for want of memory, and then forks are as unsafe as without.
void at_fork(void (*before)(), void (*after)()) { pthread_atfork(before, after, after); }

#endif

CpuMask CpuMask::within(const CpuMask& other) const {
  CpuMask both;
  for (int i = 0; i < kMost / 64; ++i) both.words[i] = words[i] & other.words[i];
  return both == CpuMask{} ? *this : both;
}

#if defined(__linux__)
// Not the library's functions, whose macros and types only some C libraries have.
CpuMask cpu_mask() {
  CpuMask mask;
  if (syscall(SYS_sched_getaffinity, 0, sizeof(mask.words), mask.words) <= 0) return {};
  return mask;
}
void set_cpu_mask(const CpuMask& mask) { syscall(SYS_sched_setaffinity, 0, sizeof(mask.words), mask.words); }
#else
CpuMask cpu_mask() { return {}; }
void set_cpu_mask(const CpuMask&) {}
#endif

// Refused by Linux before 5.16, by some containers, and where a signal stack of this process is too small for tiles.
bool may_use_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
#else
  return false;
#endif
}

bool has([[maybe_unused]] ArmFeature feature) {
#if defined(__linux__) && defined(__aarch64__)
  switch (feature) {  // Older headers lack names of bits.
    case ArmFeature::kDotprod: return getauxval(AT_HWCAP) >> 20 & 1;
    case ArmFeature::kI8mm: return getauxval(AT_HWCAP2) >> 13 & 1;
    case ArmFeature::kBf16: return getauxval(AT_HWCAP2) >> 14 & 1;
  }
#elif defined(__APPLE__)
  const char* const names[] = {"hw.optional.arm.FEAT_DotProd", "hw.optional.arm.FEAT_I8MM",
                               "hw.optional.arm.FEAT_BF16"};
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(names[static_cast<int>(feature)], &value, &size, nullptr, 0) == 0 && value != 0;
#endif
  return false;
}

}  // namespace distilrt::system
