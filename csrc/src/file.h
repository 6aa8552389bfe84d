// A model file: mapped, not copied, and watched, since what is mapped changes (or ends) as the file does.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace precut {

class MappedFile {
 public:
  explicit MappedFile(const char* path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* bytes() const { return static_cast<const uint8_t*>(map_); }
  size_t size() const { return map_ ? size_t(opened_.st_size) : 0; }

  // Throws when the file is no longer the one that was checked when it was opened: its bytes may not be trusted, and those
  // beyond its end not even touched. A file that another has replaced by name is unchanged.
  void check_unchanged() const;
  // What was read may leave memory until it is read again.
  void forget() const;

 private:
  std::string path_;
  int fd_ = -1;
  struct stat opened_ {};
  void* map_ = nullptr;
};

}  // namespace precut
