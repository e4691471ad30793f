// A pool of threads of our own. A level of a decoding order takes a fraction of a millisecond, so
// between two of them a worker looks for work for a while before it sleeps.
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <unistd.h>

#include "engine.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define MPNN_PAUSE() _mm_pause()
#else
#define MPNN_PAUSE() std::this_thread::yield()
#endif

namespace mpnn {
namespace {

constexpr int kSpins = 4000;  // about 0.1 ms

class Pool {
 public:
  ~Pool() { resize(1); }

  void resize(int threads) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
    stopping_ = false;
    const uint64_t generation = generation_.load();
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, generation] { work(generation); });
  }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  void run(int64_t count, const std::function<void(int64_t)>& body) {
    if (workers_.empty() || count <= 1) {
      for (int64_t i = 0; i < count; i++) body(i);
      return;
    }
    body_ = &body;
    count_ = count;
    next_.store(0);
    busy_.store(static_cast<int>(workers_.size()));
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    take();
    for (int spin = 0; busy_.load(std::memory_order_acquire) > 0; spin++) {
      if (spin < kSpins) MPNN_PAUSE(); else std::this_thread::yield();
    }
  }

 private:
  void take() {
    for (int64_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) (*body_)(i);
  }

  void work(uint64_t seen) {
    while (true) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; spin++)
        MPNN_PAUSE();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
      }
      seen++;
      if (stopping_) return;
      take();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  int64_t count_ = 0;
  const std::function<void(int64_t)>* body_ = nullptr;
};

Pool& pool() {
  // Never destroyed: threads may not be joined at exit. A forked process has none of its parent's
  // threads, and starts its own.
  static Pool* instance = new Pool;
  static pid_t owner = getpid();
  if (owner != getpid()) {
    const int threads = instance->threads();
    instance = new Pool;
    owner = getpid();
    instance->resize(threads);
  }
  return *instance;
}

}  // namespace

void parallel_for(int64_t count, const std::function<void(int64_t)>& body) {
  pool().run(count, body);
}

void set_threads(int threads) {
  if (threads != pool().threads()) pool().resize(threads);
}

int thread_count() { return pool().threads(); }

}  // namespace mpnn
