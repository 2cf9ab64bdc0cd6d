// Spectra of filters: SCRATCH[FILTER_PLACE][entry][filter][channel], as in fft_spectra.cu, conjugated, with the factors
// of the transform back on them. Backward by the data the filters are turned by 180 degrees.
constexpr int PAIRS = SIZE / 2;
static_assert(THREADS == PAIRS * 32, "a warp for each column");

// One block at least: without it the compiler spills registers to fit more of them.
extern "C" __global__ void __launch_bounds__(THREADS, 1) KERNEL(PARAMETERS) {
  __shared__ float plane[R][SIZE][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int channel = blockIdx.x % CHANNEL_BLOCKS * LANE_CHANNELS + lane % LANE_CHANNELS;
  const int filter = blockIdx.x / CHANNEL_BLOCKS * (32 / LANE_CHANNELS) + lane / LANE_CHANNELS;
  const bool exists = filter < KG_STORED && channel < CG_STORED;
  const auto* taps = FILTERS + (exists ? (i64)filter * (R * S * CG_STORED) + channel : 0);

#pragma unroll 1
  for (int r = warp; r < R; r += PAIRS) {
    const int row = TURNED ? R - 1 - r : r;
    float x[S], y[SIZE];
#pragma unroll
    for (int s = 0; s < S; ++s) {
      const int tap = row * S + (TURNED ? S - 1 - s : s);
      x[s] = exists ? 2.0f / (SIZE * SIZE) * to_float(taps[tap * CG_STORED]) : 0.0f;
    }
    transform_row(x, y);
#pragma unroll
    for (int j = 0; j < SIZE; ++j) plane[r][j][lane] = y[j];
  }
  __syncthreads();

  if (filter >= KG_STORED || channel >= FILTER_ROW) return;
  constexpr i64 ENTRY = (i64)KG_STORED * FILTER_ROW;
  float2* target = reinterpret_cast<float2*>(SCRATCH + FILTER_PLACE) + warp * SIZE * ENTRY;
  target += filter * FILTER_ROW + channel;
  if (warp == 0) {
#pragma unroll 1
    for (int column = 0; column < 2; ++column) {
      float x[R], y[SIZE];
#pragma unroll
      for (int r = 0; r < R; ++r) x[r] = plane[r][column][lane];
      transform_real_column(x, y);
      // Numbers that are their own conjugates stand for themselves alone.
      target[column * PAIRS * ENTRY] = make_float2(0.5f * y[0], 0.5f * y[1]);
#pragma unroll
      for (int k = 1; k < PAIRS; ++k) target[(column * PAIRS + k) * ENTRY] = make_float2(y[2 * k], y[2 * k + 1]);
    }
  } else {
    float x[2 * R], y[2 * SIZE];
#pragma unroll
    for (int i = 0; i < 2 * R; ++i) x[i] = plane[i / 2][2 * warp + i % 2][lane];
    transform_complex_column(x, y);
#pragma unroll
    for (int k = 0; k < SIZE; ++k) target[k * ENTRY] = make_float2(y[2 * k], y[2 * k + 1]);
  }
}
