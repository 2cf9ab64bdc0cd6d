// Gradient by its images of a convolution with few channels in a group. A thread's pixels are of one phase of the
// stride, so that the same taps meet all of them. Needs window_taps.cuh and depthwise.cuh.
typedef Phases<R, STRIDE_H, DILATION_H, TOP> Down;
typedef Phases<S, STRIDE_W, DILATION_W, LEFT> Side;
constexpr int PHASE_W = (W + STRIDE_W - 1) / STRIDE_W, COLUMNS = (PHASE_W + SPAN - 1) / SPAN;

// Asked for four blocks, ptxas does not keep numbers in memory to make room for more.
extern "C" __global__ void __launch_bounds__(THREADS, 4) KERNEL(PARAMETERS) {
  __shared__ __align__(16) float weights[TAPS * KG * BLOCK_CHANNELS];
  const int first = blockIdx.y * BLOCK_CHANNELS;
  for (int i = threadIdx.x; i < TAPS * KG * BLOCK_CHANNELS; i += THREADS) {
    const int c = first + i % BLOCK_CHANNELS, q = i / BLOCK_CHANNELS % KG, tap = i / (BLOCK_CHANNELS * KG);
    const int group = group_of(c);
    const Offset filter = (Offset)group * KG + q;
    weights[i] = c < C ? to_float(FILTERS[(filter * TAPS + tap) * CG_STORED + c - group * CG]) : 0.0f;
  }
  __syncthreads();

  const int own = threadIdx.x % BLOCK_VECTORS * V, channel = first + own;
  if (channel >= C_STORED) return;
  const int items = rows * (H * STRIDE_W * COLUMNS), stride = THREADS / BLOCK_VECTORS;
  int item = blockIdx.x * (stride * REPEATS) + threadIdx.x / BLOCK_VECTORS;
#pragma unroll 1
  for (int repeat = 0; repeat < REPEATS && item < items; ++repeat, item += stride) {
    const int row = item / (H * STRIDE_W * COLUMNS), h = item / (STRIDE_W * COLUMNS) % H;
    const int phase = item / COLUMNS % STRIDE_W, column = item % COLUMNS * SPAN;
    const PhaseTaps down = Down::of(h % STRIDE_H), side = Side::of(phase);
    float sums[SPAN][V] = {};
    const Source* const image = DY + (Offset)row * OH * OW * K_STORED;
    const int i = h / STRIDE_H + down.origin, j = column + side.origin, tap = down.first * S + side.first;
    add_taps<Down::PERIOD * S, Side::PERIOD>(image, weights + own, channel, i, j, tap, down.count, side.count, sums);
#pragma unroll
    for (int p = 0; p < SPAN; ++p) {
      const int w = (column + p) * STRIDE_W + phase;
      if (w < W) finish<V>(ARGUMENTS, row, h * W + w, channel, sums[p]);
    }
  }
}
