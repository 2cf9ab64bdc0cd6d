// CUDA C++ on the host, for ThreadSanitizer and AddressSanitizer: each thread of a block is a thread of the system, blocks
// run one after the other, static memory is shared memory.
#pragma once
#include <math.h>
#include <pthread.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static
#define __builtin_assume(condition) ((condition) ? void() : __builtin_unreachable())

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Three {
  unsigned x, y, z;
};
inline thread_local Three threadIdx;
// The same for all threads, so shared; written between two barriers.
inline Three blockIdx, blockDim, gridDim;

inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<std::uint64_t>(x) * y >> 32; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float sinpif(float x) { return static_cast<float>(sin(M_PI * x)); }
inline float cospif(float x) { return static_cast<float>(cos(M_PI * x)); }
inline int min(int x, int y) { return x < y ? x : y; }
inline int max(int x, int y) { return x > y ? x : y; }
template <class T>
inline T __ldg(const T* p) {
  return *p;
}

namespace host {

inline float from_half(std::uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
inline std::uint16_t to_half(float x) { return std::bit_cast<std::uint16_t>(static_cast<_Float16>(x)); }

class Barrier {
 public:
  explicit Barrier(unsigned threads) { pthread_barrier_init(&barrier_, nullptr, threads); }
  ~Barrier() { pthread_barrier_destroy(&barrier_); }
  Barrier(const Barrier&) = delete;
  void wait() { pthread_barrier_wait(&barrier_); }

 private:
  pthread_barrier_t barrier_;
};

// What the lanes of a warp give each other.
struct Warp {
  explicit Warp(unsigned lanes) : barrier(lanes) {}
  Barrier barrier;
  std::uint64_t given[32];
};

inline Barrier* block;
inline Warp* warps[32];
inline void* dynamic;  // dynamic shared memory
inline std::size_t dynamic_bytes;

inline std::uint64_t exchange(std::uint64_t mine, unsigned lane) {
  Warp& warp = *warps[threadIdx.x / 32];
  warp.given[threadIdx.x % 32] = mine;
  warp.barrier.wait();
  const std::uint64_t found = warp.given[lane & 31];
  warp.barrier.wait();
  return found;
}

template <class T>
inline T shuffled(T value, unsigned lane) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Memory of exactly this size, so that whatever is behind it is nobody's.
inline void* allocate(std::size_t bytes) {
  void* made = nullptr;
  if (posix_memalign(&made, 64, bytes ? bytes : 1)) std::abort();
  std::memset(made, 0xff, bytes);
  return made;
}

inline Barrier* between;  // blocks
inline void (*kernel)();

// One thread, in all blocks.
inline void* run(void* number) {
  threadIdx = {static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(number)), 0, 0};
  for (unsigned z = 0; z < gridDim.z; ++z)
    for (unsigned y = 0; y < gridDim.y; ++y)
      for (unsigned x = 0; x < gridDim.x; ++x) {
        between->wait();
        if (threadIdx.x == 0) {
          blockIdx = {x, y, z};
          std::free(dynamic);
          dynamic = allocate(dynamic_bytes);
        }
        between->wait();
        kernel();
      }
  return nullptr;
}

// Runs a kernel for every thread of every block. A thread that has returned waits for the others before the next block:
// barriers that it does not come to are never complete. Then the process hangs, and who has started it ends it.
inline void launch(Three grid, unsigned threads, std::size_t bytes, void (*given)()) {
  gridDim = grid, blockDim = {threads, 1, 1}, dynamic_bytes = bytes, kernel = given;
  between = new Barrier(threads);
  block = new Barrier(threads);
  for (unsigned first = 0; first < threads; first += 32) warps[first / 32] = new Warp(threads - first < 32 ? threads - first : 32);
  static pthread_t all[1024];
  for (std::uintptr_t i = 0; i < threads; ++i)
    if (pthread_create(&all[i], nullptr, run, reinterpret_cast<void*>(i))) std::abort();
  for (unsigned i = 0; i < threads; ++i) pthread_join(all[i], nullptr);
}

// Arguments come from a file, and go back to one: for each its size in bytes, then the bytes.
struct Arguments {
  int count = 0;
  void* at[64];
  std::uint64_t bytes[64];

  void load(const char* name) {
    std::FILE* file = std::fopen(name, "rb");
    if (!file) std::abort();
    for (; count < 64 && std::fread(&bytes[count], sizeof *bytes, 1, file) == 1; ++count) {
      at[count] = allocate(bytes[count]);
      if (std::fread(at[count], 1, bytes[count], file) != bytes[count]) std::abort();
    }
    std::fclose(file);
  }
  void save(const char* name) const {
    std::FILE* file = std::fopen(name, "wb");
    if (!file) std::abort();
    for (int i = 0; i < count; ++i) std::fwrite(at[i], 1, bytes[i], file);
    std::fclose(file);
  }
};

}  // namespace host

inline void __syncthreads() { host::block->wait(); }
inline void __syncwarp(unsigned = ~0u) { host::warps[threadIdx.x / 32]->barrier.wait(); }
template <class T>
inline T __shfl_sync(unsigned, T value, int lane) {
  return host::shuffled(value, lane);
}
template <class T>
inline T __shfl_xor_sync(unsigned, T value, int mask) {
  return host::shuffled(value, threadIdx.x % 32 ^ mask);
}
template <class T>
inline T __shfl_down_sync(unsigned, T value, unsigned distance) {
  const unsigned lane = threadIdx.x % 32 + distance;
  return host::shuffled(value, lane < 32 ? lane : threadIdx.x % 32);
}
inline unsigned __ballot_sync(unsigned, bool mine) {
  unsigned all = 0;
  for (int lane = 0; lane < 32; ++lane) all |= static_cast<unsigned>(__shfl_sync(~0u, mine, lane)) << lane;
  return all;
}
