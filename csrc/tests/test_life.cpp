// What happens to a model while it lives: other image sizes, forks, threads that the system does not grant, files that
// change, tuning results of several at once.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "model.h"
#include "writer.h"

namespace {

int failures = 0;
char err[512];
std::string folder;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  std::printf("FAILED: %s (last message: %s)\n", what.c_str(), err);
  failures++;
}
bool told(const char* what) { return std::string(err).find(what) != std::string::npos; }

// What `f` returns in a process of its own; one that hangs is ended, and returns false.
template <class F>
bool in_child(F&& f) {
  std::fflush(stdout);
  pid_t child = ::fork();
  if (child == 0) {
    ::alarm(30);
    bool ok = f();
    std::fflush(stdout);
    ::_exit(ok ? 0 : 1);
  }
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

precut_options options(int threads = 1, const char* isa = nullptr) {
  precut_options o;
  precut_default_options(&o);
  o.threads = threads;
  o.autotune = 0;
  o.cache = "";
  o.isa = isa;
  return o;
}

precut_model* load(const std::vector<uint8_t>& file, const precut_options& o) {
  precut_model* m = nullptr;
  precut_load(file.data(), file.size(), &o, &m, err, sizeof err);
  return m;
}

precut_tensor image(int64_t n, int64_t c, int64_t h, int64_t w) { return {nullptr, 4, {n, c, h, w}}; }

precut_status prepare(precut_model* m, precut_tensor in) {
  return precut_prepare(m, &in, 1, nullptr, 0, err, sizeof err);
}

// One forward of a network with one input and one output.
std::vector<float> forward(precut_model* m, precut_tensor in) {
  std::vector<float> x(size_t(in.dims[0] * in.dims[1] * in.dims[2] * in.dims[3]));
  for (size_t i = 0; i < x.size(); i++) x[i] = float(int(i * 37 % 101) - 50) / 25.0f;
  in.data = x.data();
  precut_tensor out;
  if (precut_prepare(m, &in, 1, &out, 1, err, sizeof err) != PRECUT_OK) return {};
  size_t size = 1;
  for (int i = 0; i < out.rank; i++) size *= size_t(out.dims[i]);
  std::vector<float> y(size);
  out.data = y.data();
  if (precut_run(m, &in, 1, &out, 1, err, sizeof err) != PRECUT_OK) return {};
  return y;
}

std::vector<uint8_t> conv_network() {
  Writer w;
  uint32_t x = w.input("x", {1, 3, 16, 16});
  std::vector<float> numbers(24 * 3 * 9);
  for (size_t i = 0; i < numbers.size(); i++) numbers[i] = float(int(i * 29 % 53) - 26) / 100.0f;
  uint32_t none = 0xffffffffu, weight = w.floats(numbers);
  w.output(w.node(1, {x}, {weight, none, none, 24, 3, 1, 0, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, 1), "y");
  return w.bytes();
}

std::vector<uint8_t> flatten_network(uint32_t size) {
  Writer w;
  uint32_t x = w.input("x", {1, 4, size, size});
  w.output(w.node(10, {w.node(11, {x}, {}, 1)}, {}), "y");
  return w.bytes();
}

// The order of a flattened value's channels is that of the compiled example.
void flatten_at_other_sizes() {
  for (uint32_t size : {16u, 1u}) {
    std::vector<uint8_t> file = flatten_network(size);
    for (const char* isa : {static_cast<const char*>(nullptr), "portable", "reference"}) {
      precut_model* m = load(file, options(1, isa));
      precut_model* reference = load(file, options(1, "reference"));
      expect(prepare(m, image(1, 4, 8, 8)) == PRECUT_ERR_SHAPE && told("256 channels of (1, 4, 8, 8)"), "flatten of a smaller image");
      expect(prepare(m, image(2, 4, 24, 20)) == PRECUT_ERR_SHAPE && told("op1 (flatten)"), "flatten of a larger image");
      expect(forward(m, image(3, 4, size, size)) == forward(reference, image(3, 4, size, size)), "flatten of another batch");
      // As many channels by another height and width.
      if (size == 16) expect(forward(m, image(1, 4, 8, 32)) == forward(reference, image(1, 4, 8, 32)), "flatten of another form");
      precut_close(m);
      precut_close(reference);
    }
  }
}

void many_ends() {
  Writer w;
  std::vector<uint32_t> in;
  for (int i = 0; i < 70; i++) in.push_back(w.input("x", {1, 8, 4, 4}));
  for (uint32_t v : in) w.output(w.node(11, {v}, {}, 1), "y");
  for (const char* isa : {static_cast<const char*>(nullptr), "reference"}) {
    precut_model* m = load(w.bytes(), options(1, isa));
    std::vector<float> x(128), y(70 * 128);
    for (size_t i = 0; i < x.size(); i++) x[i] = float(i) - 20;
    std::vector<precut_tensor> ins(70, image(1, 8, 4, 4)), outs(70);
    for (auto& t : ins) t.data = x.data();
    expect(precut_prepare(m, ins.data(), 70, outs.data(), 70, err, sizeof err) == PRECUT_OK, "prepare of 70 inputs and outputs");
    for (size_t i = 0; i < outs.size(); i++) outs[i].data = y.data() + i * 128;
    expect(precut_run(m, ins.data(), 70, outs.data(), 70, err, sizeof err) == PRECUT_OK, "run of 70 inputs and outputs");
    bool right = true;
    for (size_t i = 0; i < y.size(); i++) right &= y[i] == std::max(x[i % 128], 0.0f);
    expect(right, "what 70 outputs hold");
    outs[69].data = nullptr;
    expect(precut_run(m, ins.data(), 70, outs.data(), 70, err, sizeof err) == PRECUT_ERR_ARGUMENT, "an output without data");
    precut_close(m);
  }
}

void forks() {
  precut_model* m = load(conv_network(), options(3));
  // Right after a run the workers are about to sleep, some of them with the lock.
  for (int round = 0; round < 20; round++) {
    std::vector<float> want = forward(m, image(2, 3, 16, 16));
    bool right = in_child([&] {
      bool same = forward(m, image(2, 3, 16, 16)) == want && !forward(m, image(5, 3, 9, 11)).empty();
      precut_close(m);
      precut_model* fresh = load(conv_network(), options(3));
      same &= forward(fresh, image(2, 3, 16, 16)) == want;
      precut_close(fresh);
      return same;
    });
    expect(right, "a forked process runs and closes a model, and opens another");
    if (!right) break;
  }
  expect(!forward(m, image(2, 3, 16, 16)).empty(), "the model runs on after forks");
  precut_close(m);
}

// Limits of the address space mean nothing to the address sanitizer.
void threads_not_granted() {
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
  std::vector<uint8_t> file = conv_network();
  bool right = in_child([&] {
    long pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlim_t most = rlim_t(pages) * rlim_t(::sysconf(_SC_PAGESIZE)) + (100u << 20);
    rlimit limit{most, most};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) return false;
    // Emulators of other processors do not enforce it.
    if (::mmap(nullptr, 1u << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) return true;
    precut_options o = options(500);
    precut_model* m = nullptr;
    precut_status status = precut_load(file.data(), file.size(), &o, &m, err, sizeof err);
    expect(status == PRECUT_ERR_MEMORY && !m && told("of 500 threads"), "more threads than the system grants");
    m = load(file, options(2));
    expect(m && !forward(m, image(2, 3, 16, 16)).empty(), "fewer threads afterwards");
    precut_close(m);
    return failures == 0;
  });
  expect(right, "threads that the system does not grant");
#endif
}

void write(const std::string& path, const std::vector<uint8_t>& bytes) {
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
  // As if written long ago: a change that follows at once would otherwise have the same time.
  timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
  ::utimensat(AT_FDCWD, path.c_str(), times, 0);
}

precut_model* load_file(const std::string& path, const char* isa = nullptr) {
  precut_options o = options(1, isa);
  precut_model* m = nullptr;
  precut_load_file(path.c_str(), &o, &m, err, sizeof err);
  return m;
}

void files_that_cannot_be_opened() {
  precut_model* m = nullptr;
  auto refused = [&](const std::string& path, precut_status status, const char* why) {
    expect(precut_load_file(path.c_str(), nullptr, &m, err, sizeof err) == status && !m && told(why), path + ": " + why);
  };
  refused(folder + "/none", PRECUT_ERR_IO, "No such file");
  refused(folder, PRECUT_ERR_IO, "it is a folder");
  std::string pipe = folder + "/pipe", empty = folder + "/empty";
  ::mkfifo(pipe.c_str(), 0600);
  expect(in_child([&] {
           refused(pipe, PRECUT_ERR_IO, "not a regular file");
           return failures == 0;
         }),
         "a pipe as a model file");
  write(empty, {});
  refused(empty, PRECUT_ERR_FORMAT, "signature");
}

void files_that_change() {
  std::string path = folder + "/m.precut";
  std::vector<uint8_t> file = conv_network(), other = file;
  other[other.size() - 200] ^= 1;
  Writer::seal(other);
  for (const char* isa : {static_cast<const char*>(nullptr), "reference"}) {
    bool reference = isa != nullptr;
    precut_tensor known = image(1, 3, 16, 16), fresh = image(2, 3, 9, 9);
    precut_model* from_bytes = load(file, options(1, isa));
    auto changed = [&](const char* what, auto&& change) {
      expect(in_child([&] {
               write(path, file);
               precut_model* m = load_file(path, isa);
               std::vector<float> want = forward(m, known);
               change();
               expect(forward(m, fresh).empty() && told("has changed since it was opened"), what);
               // Plans that exist need the file no more; the reference always does.
               expect(forward(m, known) == (reference ? std::vector<float>() : want), std::string("a known shape: ") + what);
               precut_close(m);
               return failures == 0;
             }),
             what);
    };
    changed("a shortened file", [&] {
      if (::truncate(path.c_str(), 100) != 0) std::abort();
    });
    changed("a rewritten file", [&] {
      std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(other.data()), std::streamsize(other.size()));
    });
    // The usual way to bring a new one: the old one lives on for whoever has it open.
    write(path, file);
    precut_model* m = load_file(path, isa);
    write(path + ".new", other);
    std::rename((path + ".new").c_str(), path.c_str());
    expect(!forward(m, fresh).empty() && forward(m, fresh) == forward(from_bytes, fresh), "a file replaced by another of its name");
    ::unlink(path.c_str());
    expect(forward(m, known) == forward(from_bytes, known), "a file that was removed");
    precut_close(m);
    precut_close(from_bytes);
  }
}

// Every result of threads and processes that tune at once reaches the file.
void tuning_at_once() {
  precut::Model m;
  m.cache_path = folder + "/deep/tune.txt";
  constexpr int kThreads = 4, kProcesses = 3, kEach = 25;
  auto tune = [&](int who) {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; t++)
      threads.emplace_back([&, t] {
        for (int i = 0; i < kEach; i++)
          precut::Tuner(m).remember(std::to_string(who) + "-" + std::to_string(t) + "-" + std::to_string(i), "kernel");
      });
    for (auto& t : threads) t.join();
  };
  std::vector<pid_t> children;
  std::fflush(stdout);
  for (int p = 1; p < kProcesses; p++) {
    children.push_back(::fork());
    if (children.back() == 0) {
      ::alarm(60);
      tune(p);
      ::_exit(0);
    }
  }
  tune(0);
  for (pid_t c : children) {
    int status = 0;
    expect(::waitpid(c, &status, 0) == c && status == 0, "a process that tunes");
  }
  precut::Tuner tuner(m);
  int found = 0;
  for (int p = 0; p < kProcesses; p++)
    for (int t = 0; t < kThreads; t++)
      for (int i = 0; i < kEach; i++)
        found += tuner.recall(std::to_string(p) + "-" + std::to_string(t) + "-" + std::to_string(i), {"kernel"}) == 0;
  expect(found == kProcesses * kThreads * kEach, "tuning results kept: " + std::to_string(found));
  expect(std::system(("test $(ls " + folder + "/deep | wc -l) = 1").c_str()) == 0, "files left beside the tuning results");
  // A place where nothing can be written must not matter.
  m.cache_path = "/proc/none/tune.txt";
  precut::Tuner(m).remember("key", "kernel");
  // What is no file is not replaced by one.
  m.cache_path = folder + "/null";
  if (::symlink("/dev/null", m.cache_path.c_str()) != 0) std::abort();
  precut::Tuner(m).remember("key", "kernel");
  struct stat s {};
  expect(::lstat(m.cache_path.c_str(), &s) == 0 && S_ISLNK(s.st_mode), "/dev/null for tuning results");
}

}  // namespace

int main() {
  char name[] = "/tmp/precut_life_XXXXXX";
  if (!::mkdtemp(name)) return 1;
  folder = name;
  // First what forks while this process has no threads.
  threads_not_granted();
  files_that_cannot_be_opened();
  files_that_change();
  tuning_at_once();
  flatten_at_other_sizes();
  many_ends();
  forks();
  if (std::system(("rm -r " + folder).c_str()) != 0) failures++;
  std::printf("%d failed\n", failures);
  return failures != 0;
}
