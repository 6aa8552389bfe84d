// Arrays that are aligned to cache lines, begin as zeros, and go back to the system when they are freed: large ones are
// mapped, since the allocator would keep what planning used for a moment.
#pragma once

#include <sys/mman.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace precut {

template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t n) : n_(n) {
    if (n > (size_t(1) << 46) / sizeof(T)) throw std::bad_alloc();
    bytes_ = (n * sizeof(T) + 127) / 64 * 64;  // a line more than asked: vectors may read past the last element
    if (is_mapped()) {
      void* p = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
      // Streams of weights cross a page every few hundred cycles; large pages save most of the look-ups.
      if (bytes_ >= (size_t(4) << 20)) ::madvise(p, bytes_, MADV_HUGEPAGE);
#endif
      p_ = static_cast<T*>(p);
    } else {
      p_ = static_cast<T*>(std::aligned_alloc(64, bytes_));
      if (!p_) throw std::bad_alloc();
      std::memset(static_cast<void*>(p_), 0, bytes_);
    }
  }
  Array(Array&& o) noexcept { swap(o); }
  Array& operator=(Array&& o) noexcept {
    swap(o);
    return *this;
  }
  ~Array() {
    if (!p_) return;
    if (is_mapped()) ::munmap(p_, bytes_);
    else std::free(p_);
  }
  T* data() const { return p_; }
  size_t size() const { return n_; }
  T& operator[](size_t i) const { return p_[i]; }

 private:
  bool is_mapped() const { return bytes_ >= (size_t(64) << 10); }
  void swap(Array& o) {
    std::swap(p_, o.p_);
    std::swap(n_, o.n_);
    std::swap(bytes_, o.bytes_);
  }
  T* p_ = nullptr;
  size_t n_ = 0, bytes_ = 0;
};

using Floats = Array<float>;

// Making a plan takes and frees a megabyte or more in small pieces, which glibc would keep.
inline void trim_heap() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

}  // namespace precut
