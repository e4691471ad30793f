// A pool of threads of our own. Who calls works through the chunks of a stage; helpers join as they
// come. One that the system has not scheduled finds no chunk left, and nobody waits for it: what is
// waited for are chunks in progress alone.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include <pthread.h>

#include "engine.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define MPNN_PAUSE() _mm_pause()
#else
#define MPNN_PAUSE() std::this_thread::yield()
#endif

namespace mpnn {
namespace {

using Clock = std::chrono::steady_clock;

// A level of a decoding order takes a fraction of a millisecond, so between two of them a thread
// looks for work for a while before it sleeps.
constexpr auto kSpin = std::chrono::microseconds(100);
// Where others want the processors, a helper is stopped in the middle of a chunk, and waited for. An
// account is kept of the work that helpers save and of the waiting that they cost. When they owe so
// much, the caller works alone, for so many times that debt; saved work counts up to so much.
constexpr auto kDebt = std::chrono::milliseconds(5), kCredit = std::chrono::milliseconds(10);
constexpr int kAlone = 8;

template <class Condition>
bool spin_until(Condition condition) {
  for (const auto start = Clock::now(); Clock::now() - start < kSpin;)
    for (int i = 0; i < 8; i++) {
      if (condition()) return true;
      MPNN_PAUSE();
    }
  return condition();
}

class Pool {
 public:
  void resize(int threads) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& helper : helpers_) helper.join();
    helpers_.clear();
    stopping_ = false;
    for (int i = 1; i < threads; i++) helpers_.emplace_back([this] { help(); });
  }

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  void run(int64_t count, const std::function<void(int64_t)>& body) {
    if (helpers_.empty() || count <= 1 || Clock::now() < alone_until_) {
      for (int64_t i = 0; i < count; i++) body(i);
      return;
    }
    body_ = &body;
    count_ = count;
    unfinished_.store(count, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);  // a helper sees it, or is asleep when it is woken
      unclaimed_.store(count, std::memory_order_release);
    }
    wake_.notify_all();
    const auto start = Clock::now();
    const int64_t own = work();
    const auto waiting = Clock::now();
    const auto finished = [&] { return unfinished_.load(std::memory_order_acquire) == 0; };
    if (!spin_until(finished)) {
      std::unique_lock<std::mutex> lock(mutex_);
      finished_.wait(lock, finished);
    }
    const auto end = Clock::now();
    if (own > 0) balance((waiting - start) * (count - own) / own - (end - waiting), end);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void balance(Clock::duration gain, Clock::time_point now) {
    account_ = std::min<Clock::duration>(account_ + gain, kCredit);
    if (account_ > -kDebt) return;
    alone_until_ = now - kAlone * account_;
    account_ = Clock::duration::zero();
  }

  // Does chunks of the stage that is there now until none is left, and counts them. A chunk that is
  // claimed is waited for, so only then are body and count those of its stage, and stay.
  int64_t work() {
    int64_t done = 0, left = unclaimed_.load(std::memory_order_relaxed);
    while (left > 0) {
      if (!unclaimed_.compare_exchange_weak(left, left - 1, std::memory_order_acquire,
                                            std::memory_order_relaxed))
        continue;
      try {
        (*body_)(count_ - left);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        finished_.notify_one();
      }
      done++;
      left = unclaimed_.load(std::memory_order_relaxed);
    }
    return done;
  }

  void help() {
    const auto called = [&] { return unclaimed_.load(std::memory_order_relaxed) > 0 || stopping_; };
    while (true) {
      if (!spin_until(called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
      }
      if (stopping_) return;
      work();
    }
  }

  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> unclaimed_{0}, unfinished_{0};
  // Of the stage.
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t count_ = 0;
  std::exception_ptr error_;
  Clock::duration account_{0};
  Clock::time_point alone_until_;
};

// One computation at a time has the threads. Never destroyed: they may not be joined at exit.
struct Shared {
  std::mutex mutex;
  Pool* pool = new Pool;
};

Shared& shared() {
  static Shared* instance = [] {
    // A process forks between computations, so that the child finds whole what one of them writes.
    // It has none of its parent's threads, and starts its own.
    pthread_atfork([] { shared().mutex.lock(); }, [] { shared().mutex.unlock(); },
                   [] {
                     shared().pool = new Pool;
                     shared().mutex.unlock();
                   });
    return new Shared;
  }();
  return *instance;
}

}  // namespace

Computation::Computation(int threads) {
  shared().mutex.lock();
  try {
    if (threads != thread_count()) shared().pool->resize(threads);
  } catch (...) {
    shared().mutex.unlock();
    throw;
  }
}

Computation::~Computation() { shared().mutex.unlock(); }

void parallel_for(int64_t count, const std::function<void(int64_t)>& body) {
  shared().pool->run(count, body);
}

int thread_count() { return shared().pool->threads(); }

}  // namespace mpnn
