// Memory in whole pages from the operating system: zeroed, 64-byte aligned, given back when dropped.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "system.h"

namespace distilrt {

class Pages {
 public:
  Pages() = default;
  explicit Pages(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    if (bytes_ > 0) data_ = system::map_pages(bytes_);
  }
  Pages(Pages&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Pages() {
    if (data_ != nullptr) system::unmap_pages(data_, bytes_);
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
  void fill(unsigned char value) { std::fill_n(pages_.data(), bytes(), static_cast<char>(value)); }

 private:
  Pages pages_;
};

}  // namespace distilrt
