// Gradient of a convolution by its filters, as a matrix product on CUDA cores: lines of the left operand are filters,
// those of the right one channels at each tap; terms are pixels of results, split into parts. Needs simt_tile.cuh.
constexpr int TAPS = R * S, PIXELS = OH * OW;
constexpr int V_LEFT = GROUPS == 1 ? vector_of(K_STORED) : vector_of(KG);
constexpr int V_RIGHT = GROUPS == 1 ? vector_of(C_STORED) : vector_of(CG);
// Padding channels that are vectors of their own are not computed.
constexpr int CHANNELS = divide_up(CG, V_RIGHT) * V_RIGHT;
constexpr int TILES_N = divide_up(TAPS * CHANNELS, TILE_N);
constexpr int PART_STEPS = divide_up(divide_up(BATCH * PIXELS, TILE_K), PARTS);

struct Cotangents {
  typedef Cotangent Element;
  typedef OffsetOf<is_long((i64)BATCH * PIXELS * K_STORED)>::type Offset;
  static constexpr int V = V_LEFT;
  struct Line {
    int channel;
    bool real;
  };

  const Cotangent* numbers;
  int group, first, pixels;

  __device__ __forceinline__ Line line(int m) const { return {group * KG + first + m, first + m < KG}; }
  __device__ __forceinline__ bool find(const Line& line, int step, int depth, Offset& at) const {
    const int pixel = step * TILE_K + depth;
    at = (Offset)pixel * K_STORED + line.channel;
    return line.real && pixel < pixels;
  }
};

struct Images {
  typedef Image Element;
  typedef OffsetOf<is_long((i64)BATCH * H * W * C_STORED)>::type Offset;
  static constexpr int V = V_RIGHT;
  struct Line {
    int h, w, channel;
  };

  const Image* numbers;
  int group, first, pixels;

  __device__ __forceinline__ Line line(int n) const {
    const int tap = (first + n) / CHANNELS, channel = (first + n) % CHANNELS;
    // Beyond the last tap all lines are above the image.
    const int h = tap < TAPS ? tap / S * DILATION_H - TOP : -(OH * STRIDE_H);
    return {h, tap % S * DILATION_W - LEFT, group * CG + channel};
  }
  __device__ __forceinline__ bool find(const Line& line, int step, int depth, Offset& at) const {
    const int pixel = step * TILE_K + depth, row = pixel / PIXELS;
    const int h = pixel % PIXELS / OW * STRIDE_H + line.h, w = pixel % OW * STRIDE_W + line.w;
    at = (((Offset)row * H + h) * W + w) * C_STORED + line.channel;
    return (unsigned)h < H && (unsigned)w < W && pixel < pixels;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(PARAMETERS) {
  float sums[SUMS_M][SUMS_N] = {};
  {
    const int part = blockIdx.z % PARTS, group = blockIdx.z / PARTS, pixels = rows * PIXELS;
    const int m0 = blockIdx.x / TILES_N * TILE_M, n0 = blockIdx.x % TILES_N * TILE_N;
    Along<Cotangents, TILE_M, TILE_K> left({DY, group, m0, pixels});
    Along<Images, TILE_N, TILE_K> right({X, group, n0, pixels});
    multiply(left, right, part * PART_STEPS, least(divide_up(pixels, TILE_K), (part + 1) * PART_STEPS), sums);
  }

  typedef OffsetOf<is_long((i64)PARTS * GROUPS * KG_STORED * TAPS * CG_STORED)>::type Place;
#if SPLIT
  float* const result = SCRATCH;
#else
  float* const result = DFILTERS;
#endif
  // Part after part has group after group.
  const Place first = (Place)(block_z() % PARTS * GROUPS + block_z() / PARTS) * KG_STORED;
  const int m0 = block_x() / TILES_N * TILE_M + first_m(thread_index());
  const int n0 = block_x() % TILES_N * TILE_N + first_n(thread_index());
#pragma unroll
  for (int i = 0; i < SUMS_M; ++i) {
    const int filter = m0 + beside_m(i);
    if (filter >= KG_STORED) continue;
#pragma unroll
    for (int j = 0; j < SUMS_N; j += V_RIGHT) {
      const int n = n0 + beside_n(j), tap = n / CHANNELS, channel = n % CHANNELS;
      if (tap >= TAPS) continue;
      float v[V_RIGHT];
#pragma unroll
      for (int e = 0; e < V_RIGHT; ++e) v[e] = filter < KG && channel + e < CG ? sums[i][j + e] : 0.0f;
      float* const place = result + ((first + filter) * TAPS + tap) * CG_STORED + channel;
      store<V_RIGHT>(place, v);
      if (channel + V_RIGHT == CHANNELS)
#pragma unroll
        for (int c = CHANNELS; c < CG_STORED; ++c) place[c - channel] = 0.0f;
    }
  }
}
