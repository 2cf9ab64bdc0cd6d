// Products of matrices on CUDA cores, tile by tile, for convolutions as matrix products.
//
// A block makes TILE_M x TILE_N sums, SUMS_M x SUMS_N in each thread, from tiles of both operands in shared memory,
// DEPTH terms deep. Shared memory has two of each: while one is read, loads of the next are on their way in registers.
// A tile lies [depth][line], a line being a row of the left operand or a column of the right one, so that a thread
// reads four neighbouring lines at a time. Where memory has neighbouring terms of a line (`Across`), storing them
// turns them; where it has neighbouring lines (`Along`), it need not.

#ifndef BARRIER_FILLED
#define BARRIER_FILLED __syncthreads()
#endif
#ifndef BARRIER_STEP
#define BARRIER_STEP __syncthreads()
#endif

__host__ __device__ constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }
// How many of `channels` neighbours may be read at once.
__host__ __device__ constexpr int vector_of(int channels) { return channels % 4 == 0 ? 4 : 1; }

// Places in memory are counted in 32 bits where these are enough: half the instructions and registers.
template <bool LONG>
struct OffsetOf {
  typedef int type;
};
template <>
struct OffsetOf<true> {
  typedef i64 type;
};
__host__ __device__ constexpr bool is_long(i64 elements) { return elements >= 1ll << 31; }

// V numbers on their way from memory, not yet made floats: that would wait for them.
template <int V, typename T>
struct Piece {
  typedef typename Word<V * sizeof(T)>::type Whole;
  union {
    Whole whole;
    T numbers[V];
  };
  __device__ __forceinline__ void read(const T* p, bool valid) {
    whole = valid ? __ldg(reinterpret_cast<const Whole*>(p)) : Whole{};
  }
};

// The thread and the block, read anew each time: what is kept for after the main loop has no register in it.
__device__ __forceinline__ int thread_index() {
  int x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  __builtin_assume(x >= 0 && x < THREADS);
  return x;
}
__device__ __forceinline__ int block_x() {
  int x;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
  __builtin_assume(x >= 0);
  return x;
}
__device__ __forceinline__ int block_z() {
  int z;
  asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(z));
  __builtin_assume(z >= 0 && z < 1 << 16);
  return z;
}

constexpr int THREADS_M = TILE_M / SUMS_M, THREADS_N = TILE_N / SUMS_N;
static_assert(THREADS == THREADS_M * THREADS_N && THREADS_M % 8 == 0 && THREADS_N % 4 == 0, "warps are 8 x 4 threads");

// A source has vectors of V terms, REAL of which count: the others are padding of few channels.
template <class Source, int LINES>
struct Across {
  static constexpr int V = Source::V, VECTORS = TILE_K / V, DEPTH = VECTORS * Source::REAL;
  static constexpr int COUNT = divide_up(LINES * VECTORS, THREADS);
  // Threads side by side read what is side by side in memory: vectors of a line, 32 bytes of floats, or pixels of a
  // single channel. Storing, they meet each bank once, as such vectors lie 16 banks apart, single terms 4.
  static constexpr int SIDE = Source::LINES_FIRST ? 1 : V == 4 ? 2 : 8, REAL = Source::REAL;
  static constexpr int PITCH = LINES + (V == 1 || REAL == 4 ? 4 : REAL == 2 ? 8 : 16);
  static_assert(TILE_K % (V * SIDE) == 0, "threads side by side are of the same step");

  Source source;
  typename Source::Line lines[COUNT];
  Piece<V, typename Source::Element> pieces[COUNT];

  __device__ __forceinline__ explicit Across(const Source& from) : source(from) {
#pragma unroll
    for (int slot = 0; slot < COUNT; ++slot) lines[slot] = source.line(line(slot));
  }

  static __device__ __forceinline__ int index(int slot) { return thread_index() + slot * THREADS; }
  static __device__ __forceinline__ int line(int slot) { return index(slot) / SIDE % LINES; }
  static __device__ __forceinline__ int vector(int slot) {
    return index(slot) % SIDE + index(slot) / (SIDE * LINES) * SIDE;
  }
  static __device__ __forceinline__ bool active(int slot) {
    return (LINES * VECTORS) % THREADS == 0 || index(slot) < LINES * VECTORS;
  }

  __device__ __forceinline__ void fetch(int step) {
    __builtin_assume(step >= 0);
#pragma unroll
    for (int slot = 0; slot < COUNT; ++slot) {
      typename Source::Offset at = 0;
      const bool valid = active(slot) && source.find(lines[slot], step * VECTORS + vector(slot), at);
      pieces[slot].read(source.numbers + at, valid);
    }
  }
  __device__ __forceinline__ void deposit(float* tile) const {
#pragma unroll
    for (int slot = 0; slot < COUNT; ++slot)
      if (active(slot)) {
        float* const place = tile + vector(slot) * REAL * PITCH + line(slot);
#pragma unroll
        for (int i = 0; i < REAL; ++i) place[i * PITCH] = to_float(pieces[slot].numbers[i]);
      }
  }
};

// A source has vectors of V lines.
template <class Source, int LINES, int DEPTH_>
struct Along {
  static constexpr int V = Source::V, VECTORS = LINES / V, DEPTH = DEPTH_, PITCH = LINES;
  static constexpr int COUNT = divide_up(DEPTH * VECTORS, THREADS);

  Source source;
  typename Source::Line lines[COUNT];
  Piece<V, typename Source::Element> pieces[COUNT];

  __device__ __forceinline__ explicit Along(const Source& from) : source(from) {
#pragma unroll
    for (int slot = 0; slot < COUNT; ++slot) lines[slot] = source.line(index(slot) % VECTORS * V);
  }

  static __device__ __forceinline__ int index(int slot) { return thread_index() + slot * THREADS; }
  static __device__ __forceinline__ bool active(int slot) {
    return (DEPTH * VECTORS) % THREADS == 0 || index(slot) < DEPTH * VECTORS;
  }

  __device__ __forceinline__ void fetch(int step) {
    __builtin_assume(step >= 0);
#pragma unroll
    for (int slot = 0; slot < COUNT; ++slot) {
      typename Source::Offset at = 0;
      const bool valid = active(slot) && source.find(lines[slot], step, index(slot) / VECTORS, at);
      pieces[slot].read(source.numbers + at, valid);
    }
  }
  __device__ __forceinline__ void deposit(float* tile) const {
#pragma unroll
    for (int slot = 0; slot < COUNT; ++slot)
      if (active(slot)) {
        float v[V];
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] = to_float(pieces[slot].numbers[i]);
        store<V>(tile + index(slot) * V, v);
      }
  }
};

// Where a thread's sums lie in the tile: fours of neighbours, TILE / (SUMS / 4) apart. Warps are 8 x 4 threads, in an
// order in which any eight neighbours read few different words of either operand.
__device__ __forceinline__ int first_m(int thread) {
  return (thread / 32 % (THREADS_M / 8) * 8 + (thread >> 1 & 7)) * 4;
}
__device__ __forceinline__ int first_n(int thread) {
  return (thread / 32 / (THREADS_M / 8) * 4 + (thread & 1) + (thread >> 4 & 1) * 2) * 4;
}
__device__ __forceinline__ constexpr int beside_m(int i) { return i / 4 * (TILE_M / (SUMS_M / 4)) + i % 4; }
__device__ __forceinline__ constexpr int beside_n(int j) { return j / 4 * (TILE_N / (SUMS_N / 4)) + j % 4; }

// Steps `first` up to `last` of the terms, the same for all threads of the block.
template <class Left, class Right>
__device__ __forceinline__ void multiply(Left& left, Right& right, int first, int last, float (&sums)[SUMS_M][SUMS_N]) {
  constexpr int DEPTH = Left::DEPTH;
  static_assert(Right::DEPTH == DEPTH, "both operands have the same terms");
  // Two stages; each has the left tile and the right one behind it.
  constexpr int RIGHT = DEPTH * Left::PITCH, STAGE = RIGHT + DEPTH * Right::PITCH;
  __shared__ __align__(16) float tiles[2 * STAGE];
  if (first >= last) return;
  left.fetch(first);
  right.fetch(first);
  left.deposit(tiles);
  right.deposit(tiles + RIGHT);
  BARRIER_FILLED;
  const float* const left_lines = tiles + first_m(threadIdx.x);
  const float* const right_lines = tiles + RIGHT + first_n(threadIdx.x);
  int stage = 0;
  for (int step = first; step < last; ++step) {
    const bool more = step + 1 < last;
    if (more) {
      left.fetch(step + 1);
      right.fetch(step + 1);
    }
    // More terms at once would want more registers for their operands than there are.
#pragma unroll 8
    for (int d = 0; d < DEPTH; ++d) {
      float a[SUMS_M], b[SUMS_N];
#pragma unroll
      for (int i = 0; i < SUMS_M; i += 4)
        load<4>(left_lines + stage + d * Left::PITCH + beside_m(i), *reinterpret_cast<float(*)[4]>(a + i));
#pragma unroll
      for (int j = 0; j < SUMS_N; j += 4)
        load<4>(right_lines + stage + d * Right::PITCH + beside_n(j), *reinterpret_cast<float(*)[4]>(b + j));
#pragma unroll
      for (int i = 0; i < SUMS_M; ++i)
#pragma unroll
        for (int j = 0; j < SUMS_N; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    }
    stage = STAGE - stage;
    if (more) {
      left.deposit(tiles + stage);
      right.deposit(tiles + RIGHT + stage);
      BARRIER_STEP;
    }
  }
}
