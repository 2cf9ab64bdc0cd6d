// Results from their spectra, SCRATCH[PRODUCT_PLACE][entry][tile of the chunk][channel]: what fft_spectra.cu does
// transposed, along columns first, for the OUTPUTS_H rows and OUTPUTS_W columns of a tile that nothing wraps into.
constexpr int PAIRS = SIZE / 2;
static_assert(THREADS == PAIRS * 32, "a warp for each column");

// One block at least: without it the compiler spills registers to fit more of them.
extern "C" __global__ void __launch_bounds__(THREADS, 1) KERNEL(PARAMETERS) {
  __shared__ float plane[OUTPUTS_H][SIZE][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int channel = blockIdx.x % CHANNEL_BLOCKS * LANE_CHANNELS + lane % LANE_CHANNELS;
  const int slot = blockIdx.x / CHANNEL_BLOCKS * (32 / LANE_CHANNELS) + lane / LANE_CHANNELS;
  const int tile = CHUNK * CHUNK_TILES + slot;
  const bool exists = slot < CHUNK_TILES && tile < rows * (TILES_H * TILES_W) && channel < RESULT_STORED;
  constexpr i64 ENTRY = (i64)CHUNK_TILES * PRODUCT_ROW;
  const float2* source =
      reinterpret_cast<const float2*>(SCRATCH + PRODUCT_PLACE) + warp * SIZE * ENTRY + slot * PRODUCT_ROW + channel;

  if (exists) {
    if (warp == 0) {
#pragma unroll 1
      for (int column = 0; column < 2; ++column) {
        float x[SIZE], y[OUTPUTS_H];
#pragma unroll
        for (int k = 0; k < PAIRS; ++k) {
          const float2 two = source[(column * PAIRS + k) * ENTRY];
          x[2 * k] = two.x, x[2 * k + 1] = two.y;
        }
        transform_real_column(x, y);
#pragma unroll
        for (int i = 0; i < OUTPUTS_H; ++i) plane[i][column][lane] = y[i];
      }
    } else {
      float x[2 * SIZE], y[2 * OUTPUTS_H];
#pragma unroll
      for (int k = 0; k < SIZE; ++k) {
        const float2 two = source[k * ENTRY];
        x[2 * k] = two.x, x[2 * k + 1] = two.y;
      }
      transform_complex_column(x, y);
#pragma unroll
      for (int i = 0; i < 2 * OUTPUTS_H; ++i) plane[i / 2][2 * warp + i % 2][lane] = y[i];
    }
  }
  __syncthreads();

  if (!exists) return;
  const int top = tile / TILES_W % TILES_H * OUTPUTS_H, left = tile % TILES_W * OUTPUTS_W;
#pragma unroll 1
  for (int i = warp; i < OUTPUTS_H && top + i < RESULT_H; i += PAIRS) {
    float x[SIZE], y[OUTPUTS_W];
#pragma unroll
    for (int j = 0; j < SIZE; ++j) x[j] = plane[i][j][lane];
    transform_row(x, y);
#pragma unroll
    for (int j = 0; j < OUTPUTS_W; ++j)
      if (left + j < RESULT_W) {
        float one[1] = {y[j]};
        finish<1>(ARGUMENTS, tile / (TILES_W * TILES_H), (top + i) * RESULT_W + left + j, channel, one);
      }
  }
}
