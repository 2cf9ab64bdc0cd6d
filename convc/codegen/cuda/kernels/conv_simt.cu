// Convolution as a matrix product on CUDA cores: lines of the left operand are pixels of results, those of the right
// one filters; terms are the channels under the taps. Needs simt_tile.cuh.
constexpr int TAPS = R * S, PIXELS = OH * OW;
constexpr int V_READ = GROUPS == 1 ? vector_of(C_STORED) : vector_of(CG);
constexpr int V_RESULT = GROUPS == 1 ? vector_of(K_STORED) : vector_of(KG);
constexpr int CHANNEL_VECTORS = divide_up(CG, V_READ), DEPTH_VECTORS = TAPS * CHANNEL_VECTORS;
constexpr int STEPS = divide_up(DEPTH_VECTORS, TILE_K / V_READ), PART_STEPS = divide_up(STEPS, PARTS);
constexpr bool IS_SHORT = STEPS <= 2;
// Padding channels behind the last group are results as well.
constexpr int LAST_CHANNELS = K_STORED - (GROUPS - 1) * KG, TILES_N = divide_up(LAST_CHANNELS, TILE_N);

struct Pixels {
  typedef Image Element;
  typedef OffsetOf<is_long((i64)BATCH * H * W * C_STORED)>::type Offset;
  static constexpr int V = V_READ, REAL = least(CG, V_READ);
  static constexpr bool LINES_FIRST = C_STORED == 1;
  // The pixel under the first tap, and its place if it is one.
  struct Line {
    Offset place;
    int h, w;
  };

  const Image* numbers;
  int group, first, pixels;

  __device__ __forceinline__ Line line(int m) const {
    m += first;
    const int row = m / PIXELS, pixel = m % PIXELS;
    const int h = pixel / OW * STRIDE_H - TOP, w = pixel % OW * STRIDE_W - LEFT;
    const Offset place = (((Offset)row * H + h) * W + w) * C_STORED + group * CG;
    // What is no pixel of this run lies outside of any image.
    return {place, m < pixels ? h : -(1 << 29), w};
  }
  __device__ __forceinline__ bool find(const Line& line, int vector, Offset& at) const {
    const int tap = TAPS == 1 ? 0 : vector / CHANNEL_VECTORS, channel = (vector - tap * CHANNEL_VECTORS) * V;
    const int down = tap / S * DILATION_H, right = tap % S * DILATION_W;
    at = line.place + ((Offset)down * W + right) * C_STORED + channel;
    const bool inside = (unsigned)(line.h + down) < H && (unsigned)(line.w + right) < W;
    return inside && (DEPTH_VECTORS % (TILE_K / V) == 0 || vector < DEPTH_VECTORS);
  }
};

struct Filters {
  typedef Filter Element;
  typedef OffsetOf<is_long((i64)GROUPS * KG_STORED * TAPS * CG_STORED)>::type Offset;
  static constexpr int V = V_READ, REAL = least(CG, V_READ);
  static constexpr bool LINES_FIRST = false;
  struct Line {
    Offset filter;
    bool real;
  };

  const Filter* numbers;
  int group, first;

  __device__ __forceinline__ Line line(int n) const {
    n += first;
    return {((Offset)group * KG_STORED + n) * (TAPS * CG_STORED), n < KG};
  }
  __device__ __forceinline__ bool find(const Line& line, int vector, Offset& at) const {
    const int tap = TAPS == 1 ? 0 : vector / CHANNEL_VECTORS, channel = (vector - tap * CHANNEL_VECTORS) * V;
    at = line.filter + tap * CG_STORED + channel;
    return line.real && (DEPTH_VECTORS % (TILE_K / V) == 0 || vector < DEPTH_VECTORS);
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(PARAMETERS) {
  float sums[SUMS_M][SUMS_N] = {};
  {
    const int part = blockIdx.z % PARTS, group = blockIdx.z / PARTS;
    const int m0 = blockIdx.x / TILES_N * TILE_M, n0 = blockIdx.x % TILES_N * TILE_N;
    Across<Pixels, TILE_M> left({X, group, m0, rows * PIXELS});
    Across<Filters, TILE_N> right({FILTERS, group, n0});
    int last = least(STEPS, (part + 1) * PART_STEPS);
    // Two steps would be written out, with the operands of many terms in registers at once.
    if (IS_SHORT) asm volatile("" : "+r"(last));
    multiply(left, right, part * PART_STEPS, last, sums);
  }

  const int group = block_z() / PARTS, channels = group == GROUPS - 1 ? LAST_CHANNELS : KG, pixels = rows * PIXELS;
  const int m0 = block_x() / TILES_N * TILE_M + first_m(thread_index());
  const int n0 = block_x() % TILES_N * TILE_N + first_n(thread_index());
#pragma unroll
  for (int i = 0; i < SUMS_M; ++i) {
    const int m = m0 + beside_m(i);
    if (m >= pixels) continue;
#pragma unroll
    for (int j = 0; j < SUMS_N; j += V_RESULT) {
      const int n = n0 + beside_n(j), channel = group * KG + n;
      if (n >= channels) continue;
      float v[V_RESULT];
#pragma unroll
      for (int e = 0; e < V_RESULT; ++e) v[e] = sums[i][j + e];
#if SPLIT
      typedef OffsetOf<is_long((i64)PARTS * BATCH * PIXELS * K_STORED)>::type Place;
      store<V_RESULT>(SCRATCH + ((Place)(block_z() % PARTS) * pixels + m) * K_STORED + channel, v);
#else
      finish<V_RESULT>(ARGUMENTS, m / PIXELS, m % PIXELS, channel, v);
#endif
    }
  }
}
