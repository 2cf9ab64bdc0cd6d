// Gradient by its filters of a convolution with few channels in a group. A block makes one row of taps of one channel
// of its filters, over one part of the pixels; its threads' sums are added as a tree. Needs depthwise.cuh.
typedef OffsetOf<((i64)BATCH * OH * OW * K_STORED >= 1ll << 31)>::type Place;
constexpr int COLUMNS = (OW + SPAN - 1) / SPAN, LANES = THREADS / BLOCK_VECTORS;
constexpr int PART_ITEMS = (BATCH * OH * COLUMNS + PARTS - 1) / PARTS;

// Asked for four blocks, ptxas does not keep numbers in memory to make room for more.
extern "C" __global__ void __launch_bounds__(THREADS, 4) KERNEL(PARAMETERS) {
  __shared__ __align__(16) float collected[LANES][BLOCK_CHANNELS];
  const int own = threadIdx.x % BLOCK_VECTORS * V, channel = blockIdx.y * BLOCK_CHANNELS + own;
  const int lane = threadIdx.x / BLOCK_VECTORS, r = blockIdx.z / CG_STORED, q = blockIdx.z % CG_STORED;
  const int part = blockIdx.x, group = group_of(channel);
  const int all = rows * (OH * COLUMNS), items = (part + 1) * PART_ITEMS < all ? (part + 1) * PART_ITEMS : all;
  float sums[S][V] = {};
  // Padding channels, which memory has behind q, and filters are zeros.
  if (q < CG && channel < K)
#pragma unroll 1
    for (int item = part * PART_ITEMS + lane; item < items; item += LANES) {
      const int row = item / (OH * COLUMNS), i = item / COLUMNS % OH, j = item % COLUMNS * SPAN;
      const int h = i * STRIDE_H + r * DILATION_H - TOP, w = j * STRIDE_W - LEFT;
      if ((unsigned)h >= H) continue;
      const Source* const pixels = X + (((Offset)row * H + h) * W + w) * C_STORED;
      float dy[SPAN][V];
#pragma unroll
      for (int p = 0; p < SPAN; ++p) {
#pragma unroll
        for (int e = 0; e < V; ++e) dy[p][e] = 0.0f;
        if (j + p < OW) load<V>(DY + (((Place)row * OH + i) * OW + j + p) * K_STORED + channel, dy[p]);
      }
#pragma unroll
      for (int u = FIRST_U; u <= LAST_U; ++u)
        if (is_read(u)) {
          float x[NEAR];
          load_near(pixels + u * C_STORED, group, q, (unsigned)(w + u) < W, x);
#pragma unroll
          for (int p = 0; p < SPAN; ++p)
#pragma unroll
            for (int s = 0; s < S; ++s)
              if (meets(u, p, s))
#pragma unroll
                for (int e = 0; e < V; ++e) sums[s][e] = fmaf(x[e / PER_NEAR], dy[p][e], sums[s][e]);
        }
    }

#if SPLIT
  float* const result = SCRATCH + (i64)part * (GROUPS * KG_STORED) * TAPS * CG_STORED;
#else
  float* const result = DFILTERS;
#endif
#pragma unroll
  for (int s = 0; s < S; ++s) {
    store<V>(&collected[lane][own], sums[s]);
    __syncthreads();
#pragma unroll
    for (int half = HALF_LANES; half > 0; half /= 2) {
      if (lane < half && lane + half < LANES) {
        float other[V];
        load<V>(&collected[lane + half][own], other);
#pragma unroll
        for (int e = 0; e < V; ++e) sums[s][e] += other[e];
        store<V>(&collected[lane][own], sums[s]);
      }
      __syncthreads();
    }
    if (lane == 0)
#pragma unroll
      for (int e = 0; e < V; ++e)
        if (channel + e < GROUPS * KG_STORED)
          result[((i64)(channel + e) * TAPS + r * S + s) * CG_STORED + q] = channel + e < K ? sums[s][e] : 0.0f;
    __syncthreads();
  }
}
