// Gradient of a convolution by its images, as a matrix product on CUDA cores: lines of the left operand are pixels of
// images, those of the right one channels; terms are the filters at each tap. Pixels go by phases of the stride, each
// with the taps that meet it, so a stride costs no terms that are zero; it costs tiles that end with a phase, which
// shows for small images only. Needs window_taps.cuh and simt_tile.cuh.
typedef Phases<R, STRIDE_H, DILATION_H, TOP> Down;
typedef Phases<S, STRIDE_W, DILATION_W, LEFT> Side;
constexpr int PHASE_H = divide_up(H, STRIDE_H), PHASE_W = divide_up(W, STRIDE_W), PHASES = STRIDE_H * STRIDE_W;
constexpr int V_READ = GROUPS == 1 ? vector_of(K_STORED) : vector_of(KG), V_FILTER = vector_of(CG_STORED);
constexpr int V_RESULT = GROUPS == 1 ? vector_of(C_STORED) : vector_of(CG);
constexpr int CHANNEL_VECTORS = divide_up(KG, V_READ), STEP_VECTORS = TILE_K / V_READ;
// Padding channels behind the last group are results as well.
constexpr int LAST_CHANNELS = C_STORED - (GROUPS - 1) * CG, TILES_N = divide_up(LAST_CHANNELS, TILE_N);

// A line of a phase as a pixel. `real`: of an image of this run, and within it.
struct Pixel {
  int row, h, w;
  bool real;

  __device__ __forceinline__ Pixel(int m, int rows, int phase) {
    row = m / (PHASE_H * PHASE_W);
    h = m / PHASE_W % PHASE_H * STRIDE_H + phase / STRIDE_W;
    w = m % PHASE_W * STRIDE_W + phase % STRIDE_W;
    real = row < rows && h < H && w < W;
  }
};

struct Cotangents {
  typedef Cotangent Element;
  typedef OffsetOf<is_long((i64)BATCH * OH * OW * K_STORED)>::type Offset;
  static constexpr int V = V_READ, REAL = least(KG, V_READ);
  static constexpr bool LINES_FIRST = K_STORED == 1;
  // The result that meets the pixel by the first tap of its phase, and its place if it is one.
  struct Line {
    Offset place;
    int i, j;
  };

  const Cotangent* numbers;
  int group, first, rows, phase;
  PhaseTaps down, side;

  __device__ __forceinline__ Line line(int m) const {
    const Pixel pixel(first + m, rows, phase);
    const int i = pixel.h / STRIDE_H + down.origin, j = pixel.w / STRIDE_W + side.origin;
    const Offset place = (((Offset)pixel.row * OH + i) * OW + j) * K_STORED + group * KG;
    // What is no pixel of this run meets no result.
    return {place, pixel.real ? i : -(1 << 29), j};
  }
  __device__ __forceinline__ bool find(const Line& line, int vector, Offset& at) const {
    const int tap = R * S == 1 ? 0 : vector / CHANNEL_VECTORS, channel = (vector - tap * CHANNEL_VECTORS) * V;
    const int r = Side::quotient(tap, side.count), s = tap - r * side.count;
    const int up = r * Down::STEP, left = s * Side::STEP;
    at = line.place - ((Offset)up * OW + left) * K_STORED + channel;
    const bool inside = (unsigned)(line.i - up) < OH && (unsigned)(line.j - left) < OW;
    return inside && vector < down.count * side.count * CHANNEL_VECTORS;
  }
};

struct Filters {
  typedef Filter Element;
  typedef OffsetOf<is_long((i64)GROUPS * KG_STORED * R * S * CG_STORED)>::type Offset;
  static constexpr int V = V_FILTER;
  struct Line {
    int channel;
  };

  const Filter* numbers;
  int group, first;
  PhaseTaps down, side;

  __device__ __forceinline__ Line line(int n) const { return {first + n}; }
  __device__ __forceinline__ bool find(const Line& line, int step, int depth, Offset& at) const {
    const int vector = step * STEP_VECTORS + depth / Cotangents::REAL;
    const int tap = R * S == 1 ? 0 : vector / CHANNEL_VECTORS;
    const int filter = (vector - tap * CHANNEL_VECTORS) * V_READ + depth % Cotangents::REAL;
    const int along = Side::quotient(tap, side.count);
    const int r = down.first + along * Down::PERIOD, s = side.first + (tap - along * side.count) * Side::PERIOD;
    at = ((((Offset)group * KG_STORED + filter) * R + r) * S + s) * CG_STORED + line.channel;
    return line.channel < CG_STORED && filter < KG && vector < down.count * side.count * CHANNEL_VECTORS;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(PARAMETERS) {
  float sums[SUMS_M][SUMS_N] = {};
  {
    const int phase = blockIdx.z % PHASES, part = blockIdx.z / PHASES % PARTS, group = blockIdx.z / (PHASES * PARTS);
    const int m0 = blockIdx.x / TILES_N * TILE_M, n0 = blockIdx.x % TILES_N * TILE_N;
    const PhaseTaps down = Down::of(phase / STRIDE_W), side = Side::of(phase % STRIDE_W);
    const int steps = divide_up(down.count * side.count * CHANNEL_VECTORS, STEP_VECTORS);
    const int part_steps = divide_up(steps, PARTS);
    Across<Cotangents, TILE_M> left({DY, group, m0, rows, phase, down, side});
    Along<Filters, TILE_N, Across<Cotangents, TILE_M>::DEPTH> right({FILTERS, group, n0, down, side});
    multiply(left, right, part * part_steps, least(steps, (part + 1) * part_steps), sums);
  }

  const int group = block_z() / (PHASES * PARTS), channels = group == GROUPS - 1 ? LAST_CHANNELS : CG;
  const int m0 = block_x() / TILES_N * TILE_M + first_m(thread_index());
  const int n0 = block_x() % TILES_N * TILE_N + first_n(thread_index());
#pragma unroll
  for (int i = 0; i < SUMS_M; ++i) {
    const Pixel pixel(m0 + beside_m(i), rows, block_z() % PHASES);
    if (!pixel.real) continue;
#pragma unroll
    for (int j = 0; j < SUMS_N; j += V_RESULT) {
      const int n = n0 + beside_n(j), channel = group * CG + n, place = pixel.h * W + pixel.w;
      if (n >= channels) continue;
      float v[V_RESULT];
#pragma unroll
      for (int e = 0; e < V_RESULT; ++e) v[e] = sums[i][j + e];
#if SPLIT
      typedef OffsetOf<is_long((i64)PARTS * BATCH * H * W * C_STORED)>::type Place;
      const int part = block_z() / PHASES % PARTS;
      store<V_RESULT>(SCRATCH + (((Place)part * rows + pixel.row) * (H * W) + place) * C_STORED + channel, v);
#else
      finish<V_RESULT>(ARGUMENTS, pixel.row, place, channel, v);
#endif
    }
  }
}
