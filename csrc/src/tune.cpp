// Autotuning results on disk: one line "key<TAB>kernel" for each layer, keyed by CPU, library version, layer, threads and
// images. The file is replaced as a whole, so that several processes never see half of it.
#include <unistd.h>
#include <sys/stat.h>

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
  make_folders(path_);
  std::map<std::string, std::string> all;
  read_into(path_, all);  // what other processes have added meanwhile
  for (const auto& [key, name] : fresh_) all[key] = name;
  std::string next = path_ + "." + std::to_string(::getpid());
  {
    std::ofstream f(next);
    for (const auto& [key, name] : all) f << key << '\t' << name << '\n';
    if (!f) {  // a cache that cannot be written is only slower the next time
      std::remove(next.c_str());
      return;
    }
  }
  if (std::rename(next.c_str(), path_.c_str()) != 0) std::remove(next.c_str());
}

}  // namespace precut
