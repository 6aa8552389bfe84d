#include "threads.h"

#include <unistd.h>

#include "graph.h"

namespace precut {
namespace {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Long enough to span the gap between two operations, short enough to cost nobody anything when a core is shared.
constexpr int kSpins = 4000;
constexpr uint64_t kPartBits = 16, kPartMask = 0xffff;

}  // namespace

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads), crew_(std::make_unique<Crew>()), process_(::getpid()) {
  auto& workers = crew_->workers;
  workers.reserve(size_t(threads_ - 1));
  try {
    while (int(workers.size()) < threads_ - 1) workers.emplace_back([this] { loop(); });
  } catch (const std::exception& e) {
    // Those that did start use up what there is: to keep them would leave the process with nothing.
    stop();
    throw Error(PRECUT_ERR_MEMORY, "the system grants " + std::to_string(workers.size() + 1) + " of " +
                                       std::to_string(threads_) + " threads (" + e.what() + ")");
  }
}

Pool::~Pool() {
  // To join threads that do not exist, or to destroy what they were sleeping on, would wait for ever.
  if (long(::getpid()) != process_) static_cast<void>(crew_.release());
  else stop();
}

void Pool::stop() {
  {
    std::lock_guard<std::mutex> lock(crew_->mutex);
    stop_ = true;
  }
  crew_->wake.notify_all();
  for (auto& w : crew_->workers) w.join();
}

void Pool::begin() const {
  if (threads_ == 1) return;
  forked_ = long(::getpid()) != process_;
  polling_.store(true, std::memory_order_release);
}

void Pool::end() const {
  if (threads_ > 1) polling_.store(false, std::memory_order_release);
}

// Takes and does one part of the piece `ticket`; false when none is left.
bool Pool::take_part(uint64_t ticket) const {
  uint64_t s = state_.load(std::memory_order_acquire);
  do {
    if (s >> kPartBits != ticket || int(s & kPartMask) >= threads_) return false;
  } while (!state_.compare_exchange_weak(s, s + 1, std::memory_order_acq_rel, std::memory_order_acquire));
  call_(context_, int(s & kPartMask));
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

void Pool::start(void (*call)(const void*, int), const void* context) const {
  if (forked_) {
    for (int part = 0; part < threads_; part++) call(context, part);
    return;
  }
  uint64_t ticket = (state_.load(std::memory_order_relaxed) >> kPartBits) + 1;
  call_ = call;
  context_ = context;
  done_.store(0, std::memory_order_relaxed);
  // Sequentially consistent, as is the count of sleepers: either this sees the sleeper or the sleeper sees the work.
  state_.store(ticket << kPartBits);
  if (sleepers_.load() > 0) {
    std::lock_guard<std::mutex> lock(crew_->mutex);
    crew_->wake.notify_all();
  }
  while (take_part(ticket)) {
  }
  for (int spins = 0; done_.load(std::memory_order_acquire) != threads_; spins++) {
    if (spins < kSpins) relax();
    else std::this_thread::yield();
  }
}

void Pool::loop() {
  uint64_t seen = 0;
  auto is_new = [&] { return state_.load() >> kPartBits != seen; };
  while (!stop_) {
    for (int spins = 0; spins < kSpins && polling_.load(std::memory_order_acquire) && !is_new(); spins++) relax();
    if (!is_new()) {
      std::unique_lock<std::mutex> lock(crew_->mutex);
      sleepers_.fetch_add(1);
      crew_->wake.wait(lock, [&] { return stop_ || is_new(); });
      sleepers_.fetch_sub(1);
      if (stop_) return;
    }
    seen = state_.load(std::memory_order_acquire) >> kPartBits;
    while (take_part(seen)) {
    }
  }
}

}  // namespace precut
