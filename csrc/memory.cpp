// Memory for runs. Fresh pages cost as much as the arithmetic of a small layer, so that large blocks are kept for the
// next run, up to a limit, and asked for in huge pages.
#include "core.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace openlstm {

namespace {
struct Block {
  float *at;
  std::size_t bytes;
};
constexpr std::size_t LARGE = 1 << 18, HUGE_PAGE = 1 << 21, KEPT = std::size_t(1) << 28, COUNT = 32;

std::mutex &lock() {  // never destroyed: tensors may outlive everything at exit
  static std::mutex *one = new std::mutex;
  return *one;
}
std::vector<Block> &spare() {
  static std::vector<Block> *all = new std::vector<Block>;
  return *all;
}
std::size_t alignment(std::size_t bytes) { return bytes >= HUGE_PAGE ? HUGE_PAGE : 64; }
void release(Block block) { ::operator delete(block.at, std::align_val_t(alignment(block.bytes))); }
}  // namespace

float *take(std::size_t &bytes) {
  if (bytes >= LARGE) {
    std::unique_lock<std::mutex> held(lock(), std::try_to_lock);  // in a forked child nobody may ever unlock it
    if (held) {
      std::vector<Block> &all = spare();
      std::size_t best = all.size();
      for (std::size_t k = 0; k < all.size(); k++)
        if (all[k].bytes >= bytes && all[k].bytes <= 2 * bytes && (best == all.size() || all[k].bytes < all[best].bytes)) best = k;
      if (best < all.size()) {
        const Block found = all[best];
        all.erase(all.begin() + static_cast<std::ptrdiff_t>(best));
        bytes = found.bytes;
        return found.at;
      }
    }
  }
  if (bytes >= HUGE_PAGE) bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  float *at = static_cast<float *>(::operator new(bytes, std::align_val_t(alignment(bytes))));
#if defined(__linux__)
  if (bytes >= HUGE_PAGE) madvise(at, bytes, MADV_HUGEPAGE);
#endif
  return at;
}

void give(float *at, std::size_t bytes) {
  std::vector<Block> old;
  if (bytes < LARGE || bytes > KEPT / 2) {
    old.push_back({at, bytes});
  } else {
    std::unique_lock<std::mutex> held(lock(), std::try_to_lock);
    if (!held) {
      old.push_back({at, bytes});
    } else {
      std::vector<Block> &all = spare();
      all.push_back({at, bytes});
      std::size_t total = 0;
      for (const Block &block : all) total += block.bytes;
      while (total > KEPT || all.size() > COUNT) {  // the oldest go first
        total -= all.front().bytes;
        old.push_back(all.front());
        all.erase(all.begin());
      }
    }
  }
  for (Block block : old) release(block);
}

}  // namespace openlstm
