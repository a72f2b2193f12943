// Memory in whole pages from the operating system: zeroed, 64-byte aligned, given back when dropped.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "system.h"

namespace distilrt {

struct Unmap {
  size_t bytes = 0;
  void operator()(char* pages) const { system::unmap_pages(pages, bytes); }
};

class Pages {
 public:
  explicit Pages(int64_t size = 0) : data_(nullptr, Unmap{static_cast<size_t>(size)}) {
    if (size > 0) data_.reset(system::map_pages(data_.get_deleter().bytes));
  }
  char* data() const { return data_.get(); }
  int64_t bytes() const { return static_cast<int64_t>(data_.get_deleter().bytes); }

 private:
  std::unique_ptr<char, Unmap> data_;
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

// Blocks that live as long as this. They lie side by side, since the system gives large pages to large ranges alone;
// with small pages, addresses take longer to translate, and a forward over few rows takes up to 7 % longer.
class Blocks {
 public:
  char* add(int64_t bytes) {
    bytes = Arena::padded(bytes);
    if (bytes > left_) {
      left_ = std::max(bytes, kLeastBytes);
      pages_.emplace_back(left_);
    }
    left_ -= bytes;
    return pages_.back().data() + pages_.back().bytes() - left_ - bytes;
  }

 private:
  static constexpr int64_t kLeastBytes = 32 << 20;  // asked for at once; what is never written takes no memory
  std::vector<Pages> pages_;
  int64_t left_ = 0;  // bytes at the end of the last
};

}  // namespace distilrt
