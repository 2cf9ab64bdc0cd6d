// The gradient of a convolution by its 16-bit images, as products on tensor cores: rows are pixels of the images,
// columns their channels, and the sums go over taps and filters.
//
// A tap reaches a pixel in one of STRIDE_H * STRIDE_W only. So pixels whose places have the same remainders, a phase,
// are a product of their own, over the taps that reach them: no term is multiplied with zero for the stride.
//
// blockIdx.x: tile; blockIdx.z: (group * PARTS + part) * phases + phase. With PARTS > 1 the sums of each part of the
// terms go to SCRATCH [part][row][pixel][channel], for sum_image_parts. Needs conv_mma_pixels.cuh and window_taps.cuh.
typedef Cotangent Number;

// Of each group; the last one has the padding channels, too.
constexpr int COLUMNS = C_STORED - (GROUPS - 1) * CG;
constexpr int PER_TAP = GROUPS == 1 ? K_STORED : KG, PHASES = STRIDE_H * STRIDE_W;
typedef Phases<R, STRIDE_H, DILATION_H, TOP> Vertical;
typedef Phases<S, STRIDE_W, DILATION_W, LEFT> Horizontal;

constexpr bool SAFE = R == 1 && S == 1 && TOP == 0 && LEFT == 0 && (H + STRIDE_H - 1) / STRIDE_H <= OH &&
                      (W + STRIDE_W - 1) / STRIDE_W <= OW;

typedef Pixels<Number, OH, OW, K_STORED, PER_TAP, -Vertical::STEP, -Horizontal::STEP, SAFE> Cotangents;
typedef OffsetOf<is_wide((i64)PARTS * BATCH * (H * W) * C_STORED)>::type Offset;

struct Filters : Tile<TILE_N, false> {
  static constexpr bool WHOLE = CG_STORED % 8 == 0;
  const Number* filters;
  int channel, taps, taps_w;
  int first_r, first_s;

  __device__ __forceinline__ Source<Number> source(int i, int step, int e) const {
    const Term k = term<PER_TAP>(step, line(i));
    const int c = channel + start() + e, r = k.tap / taps_w, s = k.tap - r * taps_w;
    const bool inside = c < CG_STORED && k.channel < KG_STORED && (PER_TAP % TILE_K == 0 || k.tap < taps);
    const int tap = (first_r + r * Vertical::PERIOD) * S + first_s + s * Horizontal::PERIOD;
    return {filters + (inside ? (k.channel * (R * S) + tap) * CG_STORED + c : 0), inside};
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(PARAMETERS) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int phase = blockIdx.z % PHASES, part = blockIdx.z / PHASES % PARTS, group = blockIdx.z / (PHASES * PARTS);
  const int phase_h = phase / STRIDE_W, phase_w = phase % STRIDE_W;
  const PhaseTaps vertical = Vertical::of(phase_h), horizontal = Horizontal::of(phase_w);
  // Pixels of the phase.
  const int height = (H - phase_h + STRIDE_H - 1) / STRIDE_H, width = (W - phase_w + STRIDE_W - 1) / STRIDE_W;
  const int size = height * width, pixels = rows * size;
  const int tiles_m = (pixels + TILE_M - 1) / TILE_M, tiles_n = (COLUMNS + TILE_N - 1) / TILE_N;
  // The phases have grids of the same size, not the same number of tiles.
  if ((int)blockIdx.x >= tiles_m * tiles_n) return;
  const Place tile = place_of_block(tiles_m, tiles_n);

  Cotangents cotangents(DY + group * KG, vertical.count, horizontal.count);
#pragma unroll
  for (int i = 0; i < Cotangents::MINE; ++i) {
    const int m = tile.m + Cotangents::line(i), pixel = m % size;
    if (m < pixels)
      cotangents.set(i, m / size, pixel / width + vertical.origin, pixel % width + horizontal.origin);
    else
      cotangents.set_nowhere(i);
  }
  const Filters filters = {{},
                           FILTERS + (i64)group * KG * (R * S * CG_STORED),
                           tile.n,
                           cotangents.taps,
                           cotangents.taps_w,
                           vertical.first,
                           horizontal.first};

  Sums sums = {};
  const int steps = (cotangents.taps * PER_TAP + TILE_K - 1) / TILE_K, length = (steps + PARTS - 1) / PARTS;
  const int first = part * length, last = first + length < steps ? first + length : steps;
  add_products<Number>(sums, reinterpret_cast<u16*>(shared), cotangents, filters, first, last);
  deliver(sums, reinterpret_cast<float*>(shared), [&](int m, int n, float (&v)[8]) {
    constexpr int V = neighbours(C_STORED, GROUPS == 1 ? 8 : +CG);
    m += tile.m;
    n += tile.n;
    if (m >= pixels) return;
    const int row = m / size, inside = m % size;
    const int y = inside / width * STRIDE_H + phase_h, x = inside % width * STRIDE_W + phase_w;
#pragma unroll
    for (int e = 0; e < 8; e += V) {
      if (n + e >= (group == GROUPS - 1 ? COLUMNS : CG)) return;
      float sum[V];
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] = v[e + k];
      const int channel = group * CG + n + e;
      if constexpr (PARTS > 1)
        store<V>(SCRATCH + ((((Offset)part * rows + row) * (H * W) + y * W + x) * C_STORED + channel), sum);
      else
        finish<V>(ARGUMENTS, row, y * W + x, channel, sum);
    }
  });
}
