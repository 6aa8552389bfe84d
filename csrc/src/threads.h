// A pool of threads of one model. The parts of a piece of work are taken by whoever is free: a worker that the system
// does not let run costs nothing, since the caller then takes its part too. Workers poll for the next piece during a
// run only, and sleep between runs. With one thread there is no pool at all. A process made by fork has none of the
// workers: there the caller does all parts itself, and what the workers sleep on is never touched again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace precut {

class Pool {
 public:
  explicit Pool(int threads);  // throws when the system does not grant so many
  ~Pool();
  int threads() const { return threads_; }

  // Calls work(part) once for each part = 0 .. threads - 1, and returns when all are done.
  template <class F>
  void parallel(const F& work) const {
    if (threads_ == 1) return work(0);
    start([](const void* f, int part) { (*static_cast<const F*>(f))(part); }, &work);
  }

  // Between begin and end of one run the workers poll for work; outside they sleep.
  void begin() const;
  void end() const;

 private:
  void start(void (*call)(const void*, int), const void* context) const;
  bool take_part(uint64_t ticket) const;
  void loop();
  void stop();

  struct Crew {
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable wake;
  };

  int threads_;
  std::unique_ptr<Crew> crew_;
  long process_;                 // that the workers live in
  mutable bool forked_ = false;  // this is another one
  // The number of the piece of work, and in the low 16 bits the next part of it that nobody has taken. A part is taken
  // by exchanging the whole, so that a late worker cannot take a part of a piece that it has not seen.
  mutable std::atomic<uint64_t> state_{0xffff};
  mutable std::atomic<int> done_{0}, sleepers_{0};
  mutable std::atomic<bool> polling_{false};
  std::atomic<bool> stop_{false};
  mutable void (*call_)(const void*, int) = nullptr;
  mutable const void* context_ = nullptr;
};

}  // namespace precut
