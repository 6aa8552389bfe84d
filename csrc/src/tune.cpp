// Autotuning results on disk: one line "key<TAB>kernel" for each layer, keyed by CPU, library version, layer, threads and
// images. The file is replaced as a whole, so that nobody ever sees half of it, under a lock, so that nobody's lines are lost.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "model.h"

namespace precut {
namespace {

std::string default_path() {
  if (const char* p = std::getenv("PRECUT_CACHE")) return p;
  if (const char* x = std::getenv("XDG_CACHE_HOME"); x && *x) return std::string(x) + "/precut/tune.txt";
  if (const char* h = std::getenv("HOME"); h && *h) return std::string(h) + "/.cache/precut/tune.txt";
  return "";
}

void make_folders(const std::string& path) {
  for (size_t i = 1; i < path.size(); i++)
    if (path[i] == '/') ::mkdir(path.substr(0, i).c_str(), 0755);
}

void read_into(const std::string& path, std::map<std::string, std::string>& to) {
  std::ifstream f(path);
  std::string line;
  while (std::getline(f, line) && to.size() < 100000) {
    size_t tab = line.find('\t');
    if (tab != std::string::npos && line.size() < 1000) to.emplace(line.substr(0, tab), line.substr(tab + 1));
  }
}

// The only one, of all threads and processes, that changes the file while this lives. Where locks are not to be had it is
// nothing: results may then be lost, which costs time only.
class Lock {
 public:
  explicit Lock(const std::string& path) {
    // Whoever had the lock has put another file there, so one that has waited may have locked a file that is gone.
    for (int tries = 0; tries < 1000; tries++) {
      fd_ = ::open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
      if (fd_ < 0) return;
      while (::flock(fd_, LOCK_EX) != 0)
        if (errno != EINTR) return;
      struct stat mine, there;
      if (::fstat(fd_, &mine) == 0 && ::stat(path.c_str(), &there) == 0 && mine.st_ino == there.st_ino &&
          mine.st_dev == there.st_dev)
        return;
      release();
    }
  }
  ~Lock() { release(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  void release() {
    if (fd_ < 0) return;
    ::flock(fd_, LOCK_UN);  // closing is not enough when another thread has forked meanwhile
    ::close(fd_);
    fd_ = -1;
  }
  int fd_ = -1;
};

void merge_into(const std::string& path, const std::map<std::string, std::string>& fresh) {
  static std::atomic<unsigned> files{0};
  struct stat there;
  if (::stat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) return;  // /dev/null, say, must not become a file
  make_folders(path);
  Lock lock(path);
  std::map<std::string, std::string> all;
  read_into(path, all);  // what others have added meanwhile
  for (const auto& [key, name] : fresh) all[key] = name;
  std::string next = path + "." + std::to_string(::getpid()) + "." + std::to_string(files++);
  std::ofstream f(next);
  for (const auto& [key, name] : all) f << key << '\t' << name << '\n';
  f.close();
  // A cache that cannot be written is only slower the next time.
  if (!f || std::rename(next.c_str(), path.c_str()) != 0) std::remove(next.c_str());
}

}  // namespace

Tuner::Tuner(const Model& m) : path_(m.cache_path == "\1" ? default_path() : m.cache_path) {
  if (!m.autotune) path_.clear();
  if (!path_.empty()) read_into(path_, known_);
}

size_t Tuner::recall(const std::string& key, const std::vector<std::string>& names) const {
  auto at = known_.find(std::string(cpu_name()) + " " + precut_version() + " " + key);
  if (at == known_.end()) return names.size();
  return size_t(std::find(names.begin(), names.end(), at->second) - names.begin());
}

void Tuner::remember(const std::string& key, const std::string& name) {
  std::string full = std::string(cpu_name()) + " " + precut_version() + " " + key;
  known_[full] = name;
  fresh_[full] = name;
}

Tuner::~Tuner() {
  if (path_.empty() || fresh_.empty()) return;
  try {
    merge_into(path_, fresh_);
  } catch (const std::exception&) {  // out of memory: as if it could not be written
  }
}

}  // namespace precut
