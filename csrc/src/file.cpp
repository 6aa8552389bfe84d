#include "file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "graph.h"

namespace precut {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

const struct timespec& modified(const struct stat& s) {
#if defined(__APPLE__)
  return s.st_mtimespec;
#else
  return s.st_mtim;
#endif
}

}  // namespace

MappedFile::MappedFile(const char* path) : path_(path) {
  // Opening a pipe would otherwise wait for somebody to write to it.
  fd_ = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  std::string problem;
  if (fd_ < 0 || ::fstat(fd_, &opened_) != 0) problem = reason(errno);
  else if (S_ISDIR(opened_.st_mode)) problem = "it is a folder";
  else if (!S_ISREG(opened_.st_mode)) problem = "it is not a regular file";
  if (problem.empty() && opened_.st_size > 0) {
    void* p = ::mmap(nullptr, size_t(opened_.st_size), PROT_READ, MAP_PRIVATE, fd_, 0);
    if (p == MAP_FAILED) problem = reason(errno);
    else map_ = p;
  }
  if (problem.empty()) return;
  if (fd_ >= 0) ::close(fd_);
  throw Error(PRECUT_ERR_IO, "cannot open the model file \"" + path_ + "\": " + problem);
}

MappedFile::~MappedFile() {
  if (map_) ::munmap(map_, size());
  ::close(fd_);
}

void MappedFile::check_unchanged() const {
  struct stat now {};
  if (::fstat(fd_, &now) != 0)
    throw Error(PRECUT_ERR_IO, "cannot read the model file \"" + path_ + "\": " + reason(errno));
  if (now.st_size != opened_.st_size || modified(now).tv_sec != modified(opened_).tv_sec ||
      modified(now).tv_nsec != modified(opened_).tv_nsec)
    throw Error(PRECUT_ERR_IO, "the model file \"" + path_ + "\" has changed since it was opened: load it again");
}

void MappedFile::forget() const {
  if (map_) ::madvise(map_, size(), MADV_DONTNEED);
}

}  // namespace precut
