// Spectra of tiles of images: SCRATCH[SPECTRA_PLACE][entry][tile of the chunk][channel], pairs of numbers.
//
// A tile of real numbers is transformed along rows, into two real columns and SIZE/2 - 1 complex ones, and then along
// these. Neighbouring lanes are neighbouring channels, behind the last one neighbouring tiles; warps share the rows,
// then each takes a column of complex numbers, or the two real ones. An entry is a complex number, or, in entries 0 and
// SIZE/2, two real ones beside each other; the conjugates of the others are nowhere.
constexpr int PAIRS = SIZE / 2;
static_assert(THREADS == PAIRS * 32, "a warp for each column");

// One block at least: without it the compiler spills registers to fit more of them.
extern "C" __global__ void __launch_bounds__(THREADS, 1) KERNEL(PARAMETERS) {
  __shared__ float plane[GIVEN_H][SIZE][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int channel = blockIdx.x % CHANNEL_BLOCKS * LANE_CHANNELS + lane % LANE_CHANNELS;
  const int slot = blockIdx.x / CHANNEL_BLOCKS * (32 / LANE_CHANNELS) + lane / LANE_CHANNELS;
  const int tile = CHUNK * CHUNK_TILES + slot;
  const bool in_chunk = slot < CHUNK_TILES && tile < rows * (TILES_H * TILES_W);
  const int top = tile / TILES_W % TILES_H * OUTPUTS_H - BEFORE_H, left = tile % TILES_W * OUTPUTS_W - BEFORE_W;
  const Pixel* image = IMAGES + (i64)(tile / (TILES_W * TILES_H)) * (IMAGE_H * IMAGE_W * INNER_STORED) + channel;

#pragma unroll 1
  for (int i = warp; i < GIVEN_H; i += PAIRS) {
    const bool exists = in_chunk && channel < INNER_STORED && top + i >= 0 && top + i < IMAGE_H;
    const int first = ((top + i) * IMAGE_W + left) * INNER_STORED;
    float x[GIVEN_W], y[SIZE];
#pragma unroll
    for (int j = 0; j < GIVEN_W; ++j) {
      const bool inside = exists && left + j >= 0 && left + j < IMAGE_W;
      x[j] = inside ? to_float(image[first + j * INNER_STORED]) : 0.0f;
    }
    transform_row(x, y);
#pragma unroll
    for (int j = 0; j < SIZE; ++j) plane[i][j][lane] = y[j];
  }
  __syncthreads();

  if (!in_chunk || channel >= SPECTRUM_ROW) return;
  constexpr i64 ENTRY = (i64)CHUNK_TILES * SPECTRUM_ROW;
  float2* target = reinterpret_cast<float2*>(SCRATCH + SPECTRA_PLACE) + warp * SIZE * ENTRY;
  target += (i64)slot * SPECTRUM_ROW + channel;
  if (warp == 0) {
#pragma unroll 1
    for (int column = 0; column < 2; ++column) {
      float x[GIVEN_H], y[SIZE];
#pragma unroll
      for (int i = 0; i < GIVEN_H; ++i) x[i] = plane[i][column][lane];
      transform_real_column(x, y);
#pragma unroll
      for (int k = 0; k < PAIRS; ++k) target[(column * PAIRS + k) * ENTRY] = make_float2(y[2 * k], y[2 * k + 1]);
    }
  } else {
    float x[2 * GIVEN_H], y[2 * SIZE];
#pragma unroll
    for (int i = 0; i < 2 * GIVEN_H; ++i) x[i] = plane[i / 2][2 * warp + i % 2][lane];
    transform_complex_column(x, y);
#pragma unroll
    for (int k = 0; k < SIZE; ++k) target[k * ENTRY] = make_float2(y[2 * k], y[2 * k + 1]);
  }
}
