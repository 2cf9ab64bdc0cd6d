// The gradient by the filters of a convolution, by Winograd's algorithm transposed as a map of its filters. A block
// computes all taps of BLOCK_FILTERS x BLOCK_CHANNELS filters from one of PARTS of the tiles:
//
//   for each chunk of DEPTH tiles:   P[point]  = transformed tiles of the cotangents     in shared memory
//                                    V[point]  = transformed tiles of the images
//                                    S[point] += P[point]ᵀ V[point]                      in registers
//   taps = transform_filter_gradients(S)
//
// Parts lie one after the other in SCRATCH, each like the gradient, and sum_filter_parts.cu adds them; a single one is
// the gradient. Warps, points and lanes: as in winograd.cu. A thread reads tiles of images or of cotangents, as it
// happens; the next ones wait in registers while those in shared memory are multiplied.
constexpr int POINTS = EXTENT_H * EXTENT_W;
constexpr int POINTS_OF_WARP = POINTS * 32 / THREADS;
constexpr int ROWS = BLOCK_FILTERS / 4, COLUMNS = BLOCK_CHANNELS / 8;
static_assert(POINTS_OF_WARP * THREADS == POINTS * 32, "each warp has as many points");
static_assert(ROWS % 4 == 0 && COLUMNS % 4 == 0, "sums come in squares of four");
static_assert(EXTENT_H >= OUTPUTS_H && EXTENT_W >= OUTPUTS_W, "cotangents wait where pixels do");

constexpr int P_FLOATS = POINTS * DEPTH * BLOCK_FILTERS, V_FLOATS = POINTS * DEPTH * BLOCK_CHANNELS;
constexpr int STAGE_FLOATS = P_FLOATS + V_FLOATS;
constexpr int IMAGE_ITEMS = BLOCK_CHANNELS * DEPTH, ALL_ITEMS = IMAGE_ITEMS + BLOCK_FILTERS * DEPTH;
constexpr int ITEMS = (ALL_ITEMS + THREADS - 1) / THREADS;  // tiles of a channel, of a thread
constexpr int TILES_W = (OW + OUTPUTS_W - 1) / OUTPUTS_W, TILES_H = (OH + OUTPUTS_H - 1) / OUTPUTS_H;
constexpr int ROUND_ROWS = ROWS / ROUNDS, ROUND_FILTERS = 4 * ROUND_ROWS;
static_assert(ROUND_ROWS * ROUNDS == ROWS, "rounds are of equal size");

__device__ __forceinline__ void read_image(const Image* images, int tile, bool exists, int channel,
                                           float (&x)[EXTENT_H][EXTENT_W]) {
  const int column = tile % TILES_W * OUTPUTS_W - LEFT, row = tile / TILES_W % TILES_H * OUTPUTS_H - TOP;
  const int first = ((tile / (TILES_W * TILES_H) * H + row) * W + column) * C_STORED + channel;
  exists = exists && channel < C_STORED;
#pragma unroll
  for (int i = 0; i < EXTENT_H; ++i)
#pragma unroll
    for (int j = 0; j < EXTENT_W; ++j) {
      const bool inside = exists && row + i >= 0 && row + i < H && column + j >= 0 && column + j < W;
      x[i][j] = inside ? to_float(images[first + (i * W + j) * C_STORED]) : 0.0f;
    }
}

__device__ __forceinline__ void read_cotangents(const Cotangent* cotangents, int tile, bool exists, int filter,
                                                float (&x)[EXTENT_H][EXTENT_W]) {
  const int column = tile % TILES_W * OUTPUTS_W, row = tile / TILES_W % TILES_H * OUTPUTS_H;
  const int first = ((tile / (TILES_W * TILES_H) * OH + row) * OW + column) * K_STORED + filter;
  exists = exists && filter < K_STORED;
#pragma unroll
  for (int i = 0; i < OUTPUTS_H; ++i)
#pragma unroll
    for (int j = 0; j < OUTPUTS_W; ++j) {
      const bool inside = exists && row + i < OH && column + j < OW;
      x[i][j] = inside ? to_float(cotangents[first + (i * OW + j) * K_STORED]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  extern __shared__ float4 memory[];
  float* shared = reinterpret_cast<float*>(memory);
  const int thread = threadIdx.x, warp = thread / 32, lane_row = thread % 32 / 8, lane_column = thread % 8;
  const int first_channel = blockIdx.x % CHANNEL_BLOCKS * BLOCK_CHANNELS;
  const int first_filter = blockIdx.x / CHANNEL_BLOCKS % FILTER_BLOCKS * BLOCK_FILTERS;
  const int part = blockIdx.x / (CHANNEL_BLOCKS * FILTER_BLOCKS);
  const int tiles = rows * (TILES_H * TILES_W);
  const int of_part = (tiles + PARTS - 1) / PARTS;
  const int begin = min(part * of_part, tiles), end = min(begin + of_part, tiles);

  float waiting[ITEMS][EXTENT_H][EXTENT_W];
  const auto fetch = [&](int tile) {
#pragma unroll
    for (int n = 0; n < ITEMS; ++n) {
      const int item = thread + n * THREADS;
      if (item < IMAGE_ITEMS) {
        const int t = tile + item / BLOCK_CHANNELS;
        read_image(X, t, t < end, first_channel + item % BLOCK_CHANNELS, waiting[n]);
      } else if (item < ALL_ITEMS) {
        const int t = tile + (item - IMAGE_ITEMS) / BLOCK_FILTERS;
        read_cotangents(DY, t, t < end, first_filter + item % BLOCK_FILTERS, waiting[n]);
      }
    }
  };
  const auto fill = [&](float* stage) {
#pragma unroll
    for (int n = 0; n < ITEMS; ++n) {
      const int item = thread + n * THREADS;
      if (item < IMAGE_ITEMS) {
        float* target = stage + P_FLOATS + item;
        transform_images(waiting[n], [&](int i, const float (&row)[EXTENT_W]) {
#pragma unroll
          for (int j = 0; j < EXTENT_W; ++j) target[(i * EXTENT_W + j) * IMAGE_ITEMS] = row[j];
        });
      } else if (item < ALL_ITEMS) {
        float* target = stage + item - IMAGE_ITEMS;
        float x[OUTPUTS_H][OUTPUTS_W];
#pragma unroll
        for (int i = 0; i < OUTPUTS_H; ++i)
#pragma unroll
          for (int j = 0; j < OUTPUTS_W; ++j) x[i][j] = waiting[n][i][j];
        transform_cotangents(x, [&](int i, const float (&row)[EXTENT_W]) {
#pragma unroll
          for (int j = 0; j < EXTENT_W; ++j) target[(i * EXTENT_W + j) * (BLOCK_FILTERS * DEPTH)] = row[j];
        });
      }
    }
  };

  float sums[POINTS_OF_WARP][ROWS][COLUMNS] = {};
  fetch(begin);
  fill(shared);
  __syncthreads();
  int stage = 0;
#pragma unroll 1
  for (int tile = begin; tile < end; tile += DEPTH) {
    const bool more = tile + DEPTH < end;
    if (more) fetch(tile + DEPTH);
    const int point = warp * POINTS_OF_WARP;
    const float* current = shared + stage;
    multiply<BLOCK_FILTERS, BLOCK_CHANNELS>(current + point * (DEPTH * BLOCK_FILTERS) + lane_row * 4,
             current + P_FLOATS + point * (DEPTH * BLOCK_CHANNELS) + lane_column * 4, sums);
    if (STAGES == 1) __syncthreads();
    if (STAGES == 2) stage = STAGE_FLOATS - stage;
    if (more) fill(shared + stage);
    __syncthreads();
  }

  // In each round every thread gives away ROUND_ROWS of its rows of sums; then threads take all points of a filter.
  float* target = PARTS == 1 ? DFILTERS : SCRATCH + (i64)part * (KG_STORED * R * S * CG_STORED);
#pragma unroll 1
  for (int round = 0; round < ROUNDS; ++round) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
      if (i / ROUND_ROWS == round)
#pragma unroll
        for (int p = 0; p < POINTS_OF_WARP; ++p)
#pragma unroll
          for (int j = 0; j < COLUMNS; j += 4) {
            const int row = (warp * POINTS_OF_WARP + p) * ROUND_FILTERS + lane_row * ROUND_ROWS + i % ROUND_ROWS;
            *reinterpret_cast<float4*>(shared + row * BLOCK_CHANNELS + lane_column * 4 + j * 8) =
                make_float4(sums[p][i][j], sums[p][i][j + 1], sums[p][i][j + 2], sums[p][i][j + 3]);
          }
    __syncthreads();
#pragma unroll 1
    for (int item = thread; item < ROUND_FILTERS * BLOCK_CHANNELS; item += THREADS) {
      const int slot = item / BLOCK_CHANNELS, i = round * ROUND_ROWS + slot % ROUND_ROWS;
      const int filter = first_filter + i / 4 * 16 + slot / ROUND_ROWS * 4 + i % 4;
      const int channel = first_channel + item % BLOCK_CHANNELS;
      if (filter >= KG_STORED || channel >= CG_STORED) continue;
      float products[EXTENT_H][EXTENT_W];
#pragma unroll
      for (int p = 0; p < POINTS; ++p)
        products[p / EXTENT_W][p % EXTENT_W] = shared[p * (ROUND_FILTERS * BLOCK_CHANNELS) + item];
      transform_filter_gradients(products, [&](int r, const float (&taps)[S]) {
#pragma unroll
        for (int s = 0; s < S; ++s) target[((filter * R + r) * S + s) * CG_STORED + channel] = taps[s];
      });
    }
    __syncthreads();
  }
}
