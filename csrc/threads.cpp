// The threads of a walk: those of OpenMP, which torch uses too. A second pool that spins beside torch's costs stalls of
// milliseconds. A core that was built without OpenMP begins threads at each call. Where a team cannot be had, the work is
// done by the caller alone: the result is the same bits.
#include "core.h"

#include <atomic>
#include <thread>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define FORKS 1
#endif

namespace openlstm {

static std::atomic<bool> busy{false};    // one team at a time: callers from many Python threads would fight for the cores
static std::atomic<bool> forked{false};  // OpenMP's threads did not survive it, and waiting for them never ends

#if FORKS
[[maybe_unused]] static const int watched = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

void parallel(int threads, void (*work)(void *, int, int), void *arguments) {
#if defined(_OPENMP)
  if (omp_in_parallel()) threads = 1;
#endif
  if (threads < 2 || forked || busy.exchange(true)) return work(arguments, 0, 1);
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
  work(arguments, omp_get_thread_num(), omp_get_num_threads());
#else
  std::vector<std::thread> team;
  for (int k = 1; k < threads; k++) team.emplace_back(work, arguments, k, threads);
  work(arguments, 0, threads);
  for (std::thread &one : team) one.join();
#endif
  busy = false;
}

// Short waits spin; long ones, where cores are scarce, let others run.
template <class Done>
static void spin(Done done) {
  for (int spins = 0; !done(); spins++) {
    if (spins > 10000) std::this_thread::yield();
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
  }
}

// Everyone waits until all have come.
void meet(void *at, int threads) {
  Barrier &barrier = *static_cast<Barrier *>(at);
  const int round = __atomic_load_n(&barrier.round, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&barrier.waiting, 1, __ATOMIC_ACQ_REL) == threads) {
    __atomic_store_n(&barrier.waiting, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier.round, round + 1, __ATOMIC_RELEASE);
    return;
  }
  spin([&] { return __atomic_load_n(&barrier.round, __ATOMIC_ACQUIRE) != round; });
}

void await(const int *done, int steps) {
  spin([&] { return __atomic_load_n(done, __ATOMIC_ACQUIRE) >= steps; });
}
void announce(int *done, int steps) { __atomic_store_n(done, steps, __ATOMIC_RELEASE); }

}  // namespace openlstm
