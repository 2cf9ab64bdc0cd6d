// The gradient by the filters from its spectra: PARTS of sums, SCRATCH[SUM_PLACE][part][entry][filter][channel], that
// are added in their order. Otherwise like fft_results.cu, with the factors of the transform back.
constexpr int PAIRS = SIZE / 2;
static_assert(THREADS == PAIRS * 32, "a warp for each column");

// One block at least: without it the compiler spills registers to fit more of them.
extern "C" __global__ void __launch_bounds__(THREADS, 1) KERNEL(PARAMETERS) {
  __shared__ float plane[R][SIZE][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int channel = blockIdx.x % CHANNEL_BLOCKS * LANE_CHANNELS + lane % LANE_CHANNELS;
  const int filter = blockIdx.x / CHANNEL_BLOCKS * (32 / LANE_CHANNELS) + lane / LANE_CHANNELS;
  const bool exists = filter < KG_STORED && channel < CG_STORED;
  constexpr i64 ENTRY = (i64)KG_STORED * SUM_ROW, PART = SIZE * PAIRS * ENTRY;
  const float2* source = reinterpret_cast<const float2*>(SCRATCH + SUM_PLACE) + filter * SUM_ROW + channel;
  const auto sum = [&](int entry) {
    float2 total = source[entry * ENTRY];
#pragma unroll 1
    for (int part = 1; part < PARTS; ++part) {
      const float2 one = source[part * PART + entry * ENTRY];
      total.x += one.x;
      total.y += one.y;
    }
    return total;
  };

  if (exists) {
    if (warp == 0) {
#pragma unroll 1
      for (int column = 0; column < 2; ++column) {
        float x[SIZE], y[R];
#pragma unroll
        for (int k = 0; k < PAIRS; ++k) {
          const float2 two = sum(column * PAIRS + k);
          // Numbers that are their own conjugates stand for themselves alone.
          x[2 * k] = k == 0 ? 0.5f * two.x : two.x, x[2 * k + 1] = k == 0 ? 0.5f * two.y : two.y;
        }
        transform_real_column(x, y);
#pragma unroll
        for (int r = 0; r < R; ++r) plane[r][column][lane] = y[r];
      }
    } else {
      float x[2 * SIZE], y[2 * R];
#pragma unroll
      for (int k = 0; k < SIZE; ++k) {
        const float2 two = sum(warp * SIZE + k);
        x[2 * k] = two.x, x[2 * k + 1] = two.y;
      }
      transform_complex_column(x, y);
#pragma unroll
      for (int i = 0; i < 2 * R; ++i) plane[i / 2][2 * warp + i % 2][lane] = y[i];
    }
  }
  __syncthreads();

  if (!exists) return;
#pragma unroll 1
  for (int r = warp; r < R; r += PAIRS) {
    float x[SIZE], y[S];
#pragma unroll
    for (int j = 0; j < SIZE; ++j) x[j] = plane[r][j][lane];
    transform_row(x, y);
#pragma unroll
    for (int s = 0; s < S; ++s)
      DFILTERS[((i64)(filter * R + r) * S + s) * CG_STORED + channel] = 2.0f / (SIZE * SIZE) * y[s];
  }
}
