// Memory in whole pages from the operating system: zeroed, 64-byte aligned, given back when dropped.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace distilrt {

class Pages {
 public:
  Pages() = default;
  explicit Pages(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    if (bytes_ == 0) return;
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<char*>(p);
#ifdef MADV_HUGEPAGE
    madvise(p, bytes_, MADV_HUGEPAGE);
#endif
  }
  Pages(Pages&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Pages() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }

  char* data() const { return data_; }
  int64_t bytes() const { return static_cast<int64_t>(bytes_); }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// One block that only grows, so a model that has seen its largest batch allocates no more.
class Arena {
 public:
  // Room for `bytes`; earlier contents are lost if the block must grow.
  char* reserve(int64_t bytes) {
    if (bytes > pages_.bytes()) {
      pages_ = Pages();  // give the old block back before asking for the new one
      pages_ = Pages(bytes);
    }
    return pages_.data();
  }
  // What a part of `bytes` takes, so that the next begins at a cache line.
  static int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  int64_t bytes() const { return pages_.bytes(); }
  // For tests: a value that shows up in the result if anything reads what it did not write.
  void fill(unsigned char value) { std::memset(pages_.data(), value, static_cast<size_t>(bytes())); }

 private:
  Pages pages_;
};

}  // namespace distilrt
