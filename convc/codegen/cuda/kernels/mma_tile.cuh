// A product on tensor cores, as a block of threads computes a tile of it: TILE_M x TILE_N sums of TILE_K terms at a
// time. Operands are 16-bit floats, sums float. A warp has WARP_M x WARP_N of the sums. Needs tensor_core.cuh.
//
// Constants: TILE_M, TILE_N, TILE_K, WARP_M, WARP_N, THREADS; STAGES, how many steps of operands shared memory holds;
// BAND, how many tiles below each other run at the same time; BLOCKS, how many blocks an SM has the registers for.
static_assert(TILE_M % WARP_M == 0 && TILE_N % WARP_N == 0, "warps fill a tile");
static_assert(WARP_M % 16 == 0 && (WARP_N == 16 || WARP_N == 32 || WARP_N == 64), "fragments fill a warp's sums");
static_assert(THREADS == 32 * (TILE_M / WARP_M) * (TILE_N / WARP_N), "each warp has its own sums");
static_assert(STAGES >= 2, "a step to multiply, a step to fetch");
static_assert(TILE_K % 32 == 0, "fragments change places an even number of times in a step");

// Operands in shared memory

// A tile of an operand, EXTENT rows (or columns) of the product wide and TILE_K deep, and which chunks of 8 numbers of
// it this thread fetches. A chunk is what lies together in memory: ALONG_SUM, 8 terms of one row of the product;
// otherwise one term of 8 rows.
//
// A chunk's place is turned by its line, so that neither a chunk of 8 lines nor 8 chunks of a line share a bank.
template <int EXTENT, bool ALONG_SUM_>
struct Tile {
  static constexpr bool ALONG_SUM = ALONG_SUM_;
  static constexpr int LINES = ALONG_SUM ? EXTENT : TILE_K, LENGTH = ALONG_SUM ? TILE_K : EXTENT;
  static constexpr int SIZE = LINES * LENGTH, CHUNKS = LENGTH / 8;
  static constexpr int MINE = (LINES * CHUNKS + THREADS - 1) / THREADS;
  static_assert(THREADS % CHUNKS == 0 && (CHUNKS & (CHUNKS - 1)) == 0, "the chunks of a thread stand below each other");

  static __device__ __forceinline__ int place(int line, int chunk) {
    constexpr int LINES_OF_128_BYTES = CHUNKS < 8 ? 8 / CHUNKS : 1, TURNS = CHUNKS < 8 ? CHUNKS : 8;
    return line * LENGTH + ((chunk ^ (line / LINES_OF_128_BYTES % TURNS)) << 3);
  }
  // The line of this thread's i-th chunk, and where in a line its chunks begin.
  static __device__ __forceinline__ int line(int i) { return (threadIdx.x + i * THREADS) / CHUNKS; }
  static __device__ __forceinline__ int start() { return threadIdx.x % CHUNKS * 8; }
  static __device__ __forceinline__ bool has(int i) {
    return LINES * CHUNKS % THREADS == 0 || threadIdx.x + i * THREADS < LINES * CHUNKS;
  }
  static __device__ __forceinline__ int mine(int i) { return place(line(i), threadIdx.x % CHUNKS); }
};

// Where a number of an operand is; outside of the operand it is zero, and `at` anywhere.
template <typename Number>
struct Source {
  const Number* at;
  bool inside;
};

// An operand is a tile with
//   WHOLE             whether its chunks are aligned to 16 bytes and wholly inside of it or outside
//   source(i, step, e)  the Source of number e of the thread's i-th chunk in this step; of WHOLE ones e is 0

template <typename Operand>
struct Chunks {
  uint4 chunk[Operand::MINE];

  __device__ __forceinline__ void load(const Operand& operand, int step) {
#pragma unroll
    for (int i = 0; i < Operand::MINE; ++i) {
      chunk[i] = make_uint4(0, 0, 0, 0);
      if (!Operand::has(i)) continue;
      if constexpr (Operand::WHOLE) {
        const auto source = operand.source(i, step, 0);
        if (source.inside) chunk[i] = *reinterpret_cast<const uint4*>(source.at);
      } else {
        u32 words[4];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const auto source = operand.source(i, step, e);
          const u32 bits = source.inside ? (u32)source.at->bits : 0;
          words[e / 2] = e % 2 ? words[e / 2] | bits << 16 : bits;
        }
        chunk[i] = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
  __device__ __forceinline__ void store(u16* tile) const {
#pragma unroll
    for (int i = 0; i < Operand::MINE; ++i)
      if (Operand::has(i)) *reinterpret_cast<uint4*>(tile + Operand::mine(i)) = chunk[i];
  }
};

// What a warp multiplies at once: 16 terms of its sums.
template <typename A, typename B>
struct Fragments {
  u32 a[WARP_M / 16][4], b[WARP_N / 8][2];

  __device__ __forceinline__ void load(const u16* a_tile, const u16* b_tile, int part) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m = warp % (TILE_M / WARP_M) * WARP_M, n = warp / (TILE_M / WARP_M) * WARP_N;
    // Of the four matrices the first two are below each other in the product, the next two are further along the sum.
    const int along = (lane & 7) + (lane >> 3 & 1) * 8, across = lane >> 4;
    // The other way round.
    const int behind = (lane & 7) + (lane >> 4) * 8, beside = lane >> 3 & 1;
#pragma unroll
    for (int i = 0; i < WARP_M / 16; ++i) {
      const int row = m + i * 16;
      const int place = A::ALONG_SUM ? A::place(row + along, part * 2 + across)
                                     : A::place(part * 16 + behind, row / 8 + beside);
      load_matrices<!A::ALONG_SUM>(a[i], shared_address(a_tile + place));
    }
#pragma unroll
    for (int j = 0; j < WARP_N / 16; ++j) {
      const int row = n + j * 16;
      const int place = B::ALONG_SUM ? B::place(row + behind, part * 2 + beside)
                                     : B::place(part * 16 + along, row / 8 + across);
      u32 both[4];
      load_matrices<!B::ALONG_SUM>(both, shared_address(b_tile + place));
#pragma unroll
      for (int k = 0; k < 4; ++k) b[j * 2 + k / 2][k % 2] = both[k];
    }
  }
};

typedef float Sums[WARP_M / 16][WARP_N / 8][4];

template <typename Number, typename A, typename B>
__device__ __forceinline__ void multiply(Sums& sums, const Fragments<A, B>& fragments) {
#pragma unroll
  for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
    for (int j = 0; j < WARP_N / 8; ++j)
      // There and back, so that neighbours in time share an operand.
      multiply<Number>(sums[i][i % 2 ? WARP_N / 8 - 1 - j : j], fragments.a[i],
                       fragments.b[i % 2 ? WARP_N / 8 - 1 - j : j]);
}

// Adds the products of steps first, ..., last - 1. All threads of the block call it, with the same steps.
//
// While a warp multiplies, the next fragments are on their way to registers and the next tiles to shared memory: as
// asynchronous copies STAGES - 1 steps ahead, or, where there are none or chunks must be gathered, through registers.
template <typename Number, typename A, typename B>
__device__ __forceinline__ void add_products(Sums& sums, u16* shared, const A& a, const B& b, int first, int last) {
  constexpr int STAGE = A::SIZE + B::SIZE, FRAGMENTS = TILE_K / 16;
  if (first >= last) return;
  Fragments<A, B> fragments[2];
#if __CUDA_ARCH__ >= 800
  if constexpr (A::WHOLE && B::WHOLE) {
    auto fetch = [&](int step, u16* tiles) {
      if (step < last) {
#pragma unroll
        for (int i = 0; i < A::MINE; ++i)
          if (A::has(i)) {
            const auto source = a.source(i, step, 0);
            copy_chunk(shared_address(tiles + A::mine(i)), source.at, source.inside);
          }
#pragma unroll
        for (int i = 0; i < B::MINE; ++i)
          if (B::has(i)) {
            const auto source = b.source(i, step, 0);
            copy_chunk(shared_address(tiles + A::SIZE + B::mine(i)), source.at, source.inside);
          }
      }
      // Empty groups, too, so that the number of groups tells which step they belong to.
      end_copies();
    };
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) fetch(first + stage, shared + stage * STAGE);
    await_copies<STAGES - 2>();
    __syncthreads();
    fragments[0].load(shared, shared + A::SIZE, 0);
    int reading = 0, writing = STAGES - 1;
    for (int step = first; step < last; ++step) {
      const u16* tiles = shared + reading * STAGE;
      reading = reading + 1 == STAGES ? 0 : reading + 1;
#pragma unroll
      for (int part = 0; part < FRAGMENTS; ++part) {
        if (part + 1 < FRAGMENTS) {
          fragments[(part + 1) % 2].load(tiles, tiles + A::SIZE, part + 1);
        } else if (step + 1 < last) {
          await_copies<STAGES - 2>();
          __syncthreads();
          fragments[0].load(shared + reading * STAGE, shared + reading * STAGE + A::SIZE, 0);
        }
        // Where the last step was, whose fragments all warps have had at the barrier since.
        if (part == 0) {
          fetch(step + STAGES - 1, shared + writing * STAGE);
          writing = writing + 1 == STAGES ? 0 : writing + 1;
        }
        multiply<Number>(sums, fragments[part % 2]);
      }
    }
    return;
  }
#endif
  Chunks<A> a_chunks;
  Chunks<B> b_chunks;
  a_chunks.load(a, first);
  b_chunks.load(b, first);
  a_chunks.store(shared);
  b_chunks.store(shared + A::SIZE);
  __syncthreads();
  fragments[0].load(shared, shared + A::SIZE, 0);
  u16 *tiles = shared, *next = shared + STAGE;
  for (int step = first; step < last; ++step) {
    const bool more = step + 1 < last;
    if (more) {
      a_chunks.load(a, step + 1);
      b_chunks.load(b, step + 1);
    }
#pragma unroll
    for (int part = 0; part < FRAGMENTS; ++part) {
      if (part + 1 < FRAGMENTS) {
        fragments[(part + 1) % 2].load(tiles, tiles + A::SIZE, part + 1);
      } else if (more) {
        a_chunks.store(next);
        b_chunks.store(next + A::SIZE);
        __syncthreads();
        fragments[0].load(next, next + A::SIZE, 0);
      }
      multiply<Number>(sums, fragments[part % 2]);
    }
    u16* const read = tiles;
    tiles = next;
    next = read;
  }
}

// Results

// Calls emit(m, n, v) for every 8 neighbours of a row of this warp's sums; m and n count in the block's tile. A lane
// has pairs of 8 rows, which would be stored 4 bytes at a time; through shared memory each gets 8 neighbours.
template <typename Emit>
__device__ __forceinline__ void deliver(const Sums& sums, float* shared, const Emit& emit) {
  constexpr int LENGTH = WARP_N + 8, EIGHTS = WARP_N / 8;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int m = warp % (TILE_M / WARP_M) * WARP_M, n = warp / (TILE_M / WARP_M) * WARP_N;
  float* const lines = shared + warp * 16 * LENGTH;
  // Every other 8 numbers have their halves exchanged: 8 lanes read 4 numbers each from different banks.
  auto half = [](int line, int eight) { return (WARP_N == 64 ? eight >> 2 : WARP_N == 32 ? line : eight) & 1; };
  __syncthreads();  // until no warp reads operands any more
#pragma unroll
  for (int i = 0; i < WARP_M / 16; ++i) {
#pragma unroll
    for (int j = 0; j < WARP_N / 8; ++j)
#pragma unroll
      for (int k = 0; k < 4; k += 2) {
        const int line = lane / 4 + k * 4, place = line * LENGTH + j * 8 + (lane % 4 * 2 ^ half(line, j) * 4);
        *reinterpret_cast<float2*>(lines + place) = make_float2(sums[i][j][k], sums[i][j][k + 1]);
      }
    __syncwarp();
#pragma unroll
    for (int piece = lane; piece < 16 * EIGHTS; piece += 32) {
      const int line = piece / EIGHTS, eight = piece % EIGHTS;
      const float* const place = lines + line * LENGTH + eight * 8;
      float v[8];
#pragma unroll
      for (int k = 0; k < 8; k += 4) {
        const float4 four = *reinterpret_cast<const float4*>(place + (k ^ half(line, eight) * 4));
        v[k] = four.x, v[k + 1] = four.y, v[k + 2] = four.z, v[k + 3] = four.w;
      }
      emit(m + i * 16 + line, n + eight * 8, v);
    }
    __syncwarp();
  }
}

// Which tile of the product a block has. Blocks that run at the same time have neighbouring tiles, BAND of them below
// each other, so that what one reads is in the cache for others.
struct Place {
  int m, n;
};
__device__ __forceinline__ Place place_of_block(int tiles_m, int tiles_n) {
  const int in_band = blockIdx.x % (BAND * tiles_n), first = blockIdx.x / (BAND * tiles_n) * BAND;
  const int height = tiles_m - first < BAND ? tiles_m - first : BAND;
  return {(first + in_band % height) * TILE_M, in_band / height * TILE_N};
}
