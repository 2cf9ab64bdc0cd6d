// Convolution with few channels in a group: no product of matrices is worth its tiles. Needs depthwise.cuh. Filters
// pass through shared memory: in KRSC those of neighbouring channels are a filter apart.
constexpr int COLUMNS = (OW + SPAN - 1) / SPAN;

// Asked for four blocks, ptxas does not keep numbers in memory to make room for more.
extern "C" __global__ void __launch_bounds__(THREADS, 4) KERNEL(PARAMETERS) {
  __shared__ __align__(16) float weights[TAPS * CG * BLOCK_CHANNELS];
  const int first = blockIdx.y * BLOCK_CHANNELS;
  for (int i = threadIdx.x; i < TAPS * CG * BLOCK_CHANNELS; i += THREADS) {
    const int k = first + i % BLOCK_CHANNELS, q = i / BLOCK_CHANNELS % CG, tap = i / (BLOCK_CHANNELS * CG);
    weights[i] = k < K ? to_float(FILTERS[((Offset)k * TAPS + tap) * CG_STORED + q]) : 0.0f;
  }
  __syncthreads();

  const int own = threadIdx.x % BLOCK_VECTORS * V, channel = first + own;
  if (channel >= K_STORED) return;
  const int items = rows * (OH * COLUMNS), stride = THREADS / BLOCK_VECTORS;
  int item = blockIdx.x * (stride * REPEATS) + threadIdx.x / BLOCK_VECTORS;
#pragma unroll 1
  for (int repeat = 0; repeat < REPEATS && item < items; ++repeat, item += stride) {
    const int row = item / (OH * COLUMNS), i = item / COLUMNS % OH, j = item % COLUMNS * SPAN;
    float sums[SPAN][V] = {};
    const Source* const image = X + (Offset)row * H * W * C_STORED;
    const int h = i * STRIDE_H - TOP, w = j * STRIDE_W - LEFT;
    add_taps<S, 1>(image, weights + own, channel, h, w, 0, R, S, sums);
#pragma unroll
    for (int p = 0; p < SPAN; ++p)
      if (j + p < OW) finish<V>(ARGUMENTS, row, i * OW + j + p, channel, sums[p]);
  }
}
