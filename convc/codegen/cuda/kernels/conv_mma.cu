// Convolution of 16-bit images as one product on tensor cores: rows are pixels of the result, columns filters, and the
// sums go over taps and channels. The rows of images are never copied out: their chunks are fetched from the images.
//
// blockIdx.x: tile; blockIdx.z: group * PARTS + part. With PARTS > 1 the sums of each part of the terms go to SCRATCH
// [part][row][pixel][channel], for sum_image_parts. Needs conv_mma_pixels.cuh.
typedef Image Number;

// Of each group; the last one has the padding channels, too.
constexpr int COLUMNS = K_STORED - (GROUPS - 1) * KG, TERMS = R * S * CG_STORED;
constexpr int STEPS = (TERMS + TILE_K - 1) / TILE_K, PART = (STEPS + PARTS - 1) / PARTS;
constexpr bool SAFE = TOP == 0 && LEFT == 0 && (OH - 1) * STRIDE_H + (R - 1) * DILATION_H < H &&
                      (OW - 1) * STRIDE_W + (S - 1) * DILATION_W < W;

typedef Pixels<Number, H, W, C_STORED, CG_STORED, DILATION_H, DILATION_W, SAFE> Images;
typedef OffsetOf<is_wide((i64)PARTS * BATCH * (OH * OW) * K_STORED)>::type Offset;

struct Filters : Tile<TILE_N, true> {
  static constexpr bool WHOLE = TERMS % 8 == 0;
  const Number* filters;
  int first;

  __device__ __forceinline__ Source<Number> source(int i, int step, int e) const {
    const int filter = first + line(i), k = step * TILE_K + start() + e;
    const bool inside = filter < KG_STORED && (TERMS % TILE_K == 0 || k < TERMS);
    return {filters + (inside ? filter * TERMS + k : 0), inside};
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(PARAMETERS) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int group = blockIdx.z / PARTS, part = blockIdx.z % PARTS, pixels = rows * (OH * OW);
  const Place tile = place_of_block((pixels + TILE_M - 1) / TILE_M, (COLUMNS + TILE_N - 1) / TILE_N);

  Images images(X + group * CG, R, S);
#pragma unroll
  for (int i = 0; i < Images::MINE; ++i) {
    const int m = tile.m + Images::line(i), pixel = m % (OH * OW);
    if (m < pixels)
      images.set(i, m / (OH * OW), pixel / OW * STRIDE_H - TOP, pixel % OW * STRIDE_W - LEFT);
    else
      images.set_nowhere(i);
  }
  const Filters filters = {{}, FILTERS + (i64)group * KG * TERMS, tile.n};

  Sums sums = {};
  const int first = part * PART, last = first + PART < STEPS ? first + PART : STEPS;
  add_products<Number>(sums, reinterpret_cast<u16*>(shared), images, filters, first, last);
  deliver(sums, reinterpret_cast<float*>(shared), [&](int m, int n, float (&v)[8]) {
    constexpr int V = neighbours(K_STORED, GROUPS == 1 ? 8 : +KG);
    m += tile.m;
    n += tile.n;
    if (m >= pixels) return;
#pragma unroll
    for (int e = 0; e < 8; e += V) {
      if (n + e >= (group == GROUPS - 1 ? COLUMNS : KG)) return;
      float sum[V];
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] = v[e + k];
      const int channel = group * KG + n + e;
      if constexpr (PARTS > 1)
        store<V>(SCRATCH + (((Offset)part * pixels + m) * K_STORED + channel), sum);
      else
        finish<V>(ARGUMENTS, m / (OH * OW), m % (OH * OW), channel, sum);
    }
  });
}
