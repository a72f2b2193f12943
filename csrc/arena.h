// Memory in whole pages from the operating system: zeroed, 64-byte aligned, given back when dropped.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

namespace distilrt {

class Pages {
 public:
  Pages() = default;
  explicit Pages(int64_t floats) : bytes_(static_cast<size_t>(floats) * sizeof(float)) {
    if (bytes_ == 0) return;
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<float*>(p);
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

  float* data() const { return data_; }
  int64_t bytes() const { return static_cast<int64_t>(bytes_); }

 private:
  float* data_ = nullptr;
  size_t bytes_ = 0;
};

// One allocation handed out front to back. It only grows, so a model that has seen its largest batch allocates no more.
class Arena {
 public:
  // Starts over with room for `floats`; earlier contents are lost only if it must grow.
  void reserve(int64_t floats) {
    if (floats * static_cast<int64_t>(sizeof(float)) > pages_.bytes()) {
      pages_ = Pages();  // give the old block back before asking for the new one
      pages_ = Pages(floats);
    }
    used_ = 0;
  }
  static int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }
  float* take(int64_t floats) {
    float* p = pages_.data() + used_;
    used_ += padded(floats);
    return p;
  }
  int64_t bytes() const { return pages_.bytes(); }
  // For tests: a value that shows up in the result if anything reads what it did not write.
  void fill(float value) {
    for (int64_t i = 0; i < bytes() / static_cast<int64_t>(sizeof(float)); ++i) pages_.data()[i] = value;
  }

 private:
  Pages pages_;
  int64_t used_ = 0;
};

}  // namespace distilrt
