// The gradient of a convolution by its filters, as one product on tensor cores: rows are filters, columns taps and
// channels, and the sums go over the pixels of all cotangents. The tiles are few and the sums long, so each of PARTS
// takes some of the pixels.
//
// blockIdx.x: tile; blockIdx.z: group * PARTS + part. With PARTS > 1 the sums of each part go to SCRATCH [part][filter]
// [tap][channel], for sum_filter_parts. Needs conv_mma_pixels.cuh.
typedef Image Number;

constexpr int COLUMNS = R * S * CG_STORED;
constexpr bool SAFE = TOP == 0 && LEFT == 0 && (OH - 1) * STRIDE_H + (R - 1) * DILATION_H < H &&
                      (OW - 1) * STRIDE_W + (S - 1) * DILATION_W < W;
typedef OffsetOf<is_wide((i64)BATCH * (H * W) * C_STORED) || is_wide((i64)BATCH * (OH * OW) * K_STORED)>::type Offset;
typedef OffsetOf<is_wide((i64)PARTS * GROUPS * KG_STORED * COLUMNS)>::type SumOffset;

struct Cotangents : Tile<TILE_M, false> {
  static constexpr bool WHOLE = K_STORED % 8 == 0 && (GROUPS == 1 || KG % 8 == 0);
  const Number* cotangents;
  int filter, pixels;

  __device__ __forceinline__ Source<Number> source(int i, int step, int e) const {
    const int pixel = step * TILE_K + line(i), m = filter + start() + e;
    const bool inside = m < KG_STORED && pixel < pixels;
    return {cotangents + (inside ? (Offset)pixel * K_STORED + m : 0), inside};
  }
};

struct Images : Tile<TILE_N, false> {
  static constexpr bool WHOLE = C_STORED % 8 == 0 && CG_STORED % 8 == 0;
  const Number* images;
  int column, pixels;

  __device__ __forceinline__ Source<Number> source(int i, int step, int e) const {
    const int n = column + start() + e, tap = n / CG_STORED;
    const int all = step * TILE_K + line(i), image = all / (OH * OW), pixel = all % (OH * OW);
    const int y = pixel / OW * STRIDE_H + tap / S * DILATION_H - TOP;
    const int x = pixel % OW * STRIDE_W + tap % S * DILATION_W - LEFT;
    const bool inside = n < COLUMNS && all < pixels && (SAFE || ((u32)y < (u32)H && (u32)x < (u32)W));
    return {images + (inside ? (((Offset)image * H + y) * W + x) * C_STORED + n % CG_STORED : 0), inside};
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(PARAMETERS) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int group = blockIdx.z / PARTS, part = blockIdx.z % PARTS, pixels = rows * (OH * OW);
  const Place tile = place_of_block((KG_STORED + TILE_M - 1) / TILE_M, (COLUMNS + TILE_N - 1) / TILE_N);
  const Cotangents cotangents = {{}, DY + group * KG, tile.m, pixels};
  const Images images = {{}, X + group * CG, tile.n, pixels};

  Sums sums = {};
  const int steps = (pixels + TILE_K - 1) / TILE_K, length = (steps + PARTS - 1) / PARTS;
  const int first = part * length, last = first + length < steps ? first + length : steps;
  add_products<Number>(sums, reinterpret_cast<u16*>(shared), cotangents, images, first, last);
  float* const result = PARTS > 1 ? SCRATCH : DFILTERS;
  const int row = (PARTS > 1 ? part * GROUPS + group : group) * KG_STORED;
  deliver(sums, reinterpret_cast<float*>(shared), [&](int m, int n, float (&v)[8]) {
    constexpr int V = neighbours(COLUMNS, 8);
    m += tile.m;
    n += tile.n;
    if (m >= KG_STORED) return;
#pragma unroll
    for (int e = 0; e < 8; e += V) {
      if (n + e >= COLUMNS) return;
      float sum[V];
      // Padding stays zero where its sums do not: zero times infinity.
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const bool real = m < KG & (CG == CG_STORED || (n + e + k) % CG_STORED < CG);
        sum[k] = real ? v[e + k] : 0.0f;
      }
      store<V>(result + ((SumOffset)(row + m) * COLUMNS + n + e), sum);
    }
  });
}
