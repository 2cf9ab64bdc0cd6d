// Winograd's convolution, fused: a block computes BLOCK_TILES tiles of BLOCK_FILTERS results.
//
//   for each chunk of DEPTH channels:   V[point]  = transformed tiles of the images      in shared memory
//                                       U[point]  = transformed filters (winograd_filters.cu)
//                                       M[point] += V[point]ᵀ U[point]                   in registers
//   results = transform_outputs(M)      through shared memory, some tiles of a block at a time
//
// A warp has POINTS_OF_WARP of the points, with all tiles and all results of the block: 4 x 8 lanes have ROWS x COLUMNS
// sums each. Pixels of the next chunk wait in registers while this one is multiplied. With two STAGES chunks take turns
// in shared memory, and filters come by asynchronous copies; with one they wait in registers, too.
constexpr int POINTS = EXTENT_H * EXTENT_W;
constexpr int POINTS_OF_WARP = POINTS * 32 / THREADS;
constexpr int ROWS = BLOCK_TILES / 4, COLUMNS = BLOCK_FILTERS / 8;
static_assert(POINTS_OF_WARP * THREADS == POINTS * 32, "each warp has as many points");
static_assert(ROWS % 4 == 0 && COLUMNS % 4 == 0, "sums come in squares of four");

// Neighbouring lanes transform DEPTH channels of neighbouring tiles: rows are so long that their stores take all banks.
constexpr int V_ROW = BLOCK_TILES + 32 / DEPTH;
constexpr int V_FLOATS = POINTS * DEPTH * V_ROW, U_FLOATS = POINTS * DEPTH * BLOCK_FILTERS;
constexpr int STAGE_FLOATS = V_FLOATS + U_FLOATS;
constexpr int ITEMS = (BLOCK_TILES * DEPTH + THREADS - 1) / THREADS;  // tiles of one channel, of a thread
constexpr int COPIES = (U_FLOATS / 4 + THREADS - 1) / THREADS;

constexpr int TILES_W = (RESULT_W + OUTPUTS_W - 1) / OUTPUTS_W, TILES_H = (RESULT_H + OUTPUTS_H - 1) / OUTPUTS_H;

constexpr int ROUND_ROWS = ROWS / ROUNDS, ROUND_TILES = 4 * ROUND_ROWS;
static_assert(ROUND_ROWS * ROUNDS == ROWS, "rounds are of equal size");

// Where a thread reads: the index of a tile's first pixel, maybe outside, and which rows (bits 0 to 15) and columns
// (bits 16 to 31) of it exist. Images have less than 2^31 numbers.
struct Place {
  int first;
  u32 inside;
};

__device__ __forceinline__ Place place_of(int tile, int tiles, int channel) {
  const int column = tile % TILES_W * OUTPUTS_W - BEFORE_W, row = tile / TILES_W % TILES_H * OUTPUTS_H - BEFORE_H;
  Place place;
  place.first = ((tile / (TILES_W * TILES_H) * IMAGE_H + row) * IMAGE_W + column) * INNER_STORED + channel;
  place.inside = 0;
  if (tile < tiles) {
#pragma unroll
    for (int i = 0; i < EXTENT_H; ++i) place.inside |= (row + i >= 0 && row + i < IMAGE_H) << i;
#pragma unroll
    for (int j = 0; j < EXTENT_W; ++j) place.inside |= (column + j >= 0 && column + j < IMAGE_W) << (16 + j);
  }
  return place;
}

__device__ __forceinline__ void read_tile(const Pixel* images, const Place& place, bool exists,
                                          float (&x)[EXTENT_H][EXTENT_W]) {
#pragma unroll
  for (int i = 0; i < EXTENT_H; ++i)
#pragma unroll
    for (int j = 0; j < EXTENT_W; ++j) {
      const bool inside = exists && (place.inside >> i & place.inside >> (16 + j) & 1);
      x[i][j] = inside ? to_float(images[place.first + (i * IMAGE_W + j) * INNER_STORED]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  extern __shared__ float4 memory[];
  float* shared = reinterpret_cast<float*>(memory);
  const int thread = threadIdx.x, warp = thread / 32, lane_row = thread % 32 / 8, lane_column = thread % 8;
  const int first_tile = blockIdx.x / FILTER_BLOCKS * BLOCK_TILES, block = blockIdx.x % FILTER_BLOCKS;
  const int tiles = rows * (TILES_H * TILES_W);

  Place places[ITEMS];
  float pixels[ITEMS][EXTENT_H][EXTENT_W];
#if !ASYNCHRONOUS
  float4 waiting[COPIES];
#endif
#pragma unroll
  for (int n = 0; n < ITEMS; ++n) {
    const int item = thread + n * THREADS;
    const bool mine = item < BLOCK_TILES * DEPTH;
    places[n] = place_of(mine ? first_tile + item / DEPTH : tiles, tiles, item % DEPTH);
  }

  // Loads what chunk number `chunk` is made of.
  const auto fetch = [&](int chunk, float* stage) {
    const int first = (block * CHUNKS + chunk) * (U_FLOATS / 4);
#pragma unroll
    for (int n = 0; n < COPIES; ++n) {
      const int i = thread + n * THREADS;
      if (U_FLOATS / 4 % THREADS == 0 || i < U_FLOATS / 4) {
        const float4* from = reinterpret_cast<const float4*>(SCRATCH) + (first + i);
#if ASYNCHRONOUS
        const u32 to = (u32)__cvta_generic_to_shared(stage + V_FLOATS + 4 * i);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#else
        waiting[n] = *from;
#endif
      }
    }
#pragma unroll
    for (int n = 0; n < ITEMS; ++n) {
      const int channel = chunk * DEPTH + (thread + n * THREADS) % DEPTH;
      Place place = places[n];
      // Lest addresses be computed before the loop and kept: there are no registers for them.
      asm volatile("" : "+r"(place.first), "+r"(place.inside));
      read_tile(IMAGES + chunk * DEPTH, place, INNER_STORED % DEPTH == 0 || channel < INNER_STORED, pixels[n]);
    }
  };
  // Puts it into shared memory.
  const auto fill = [&](float* stage) {
#pragma unroll
    for (int n = 0; n < ITEMS; ++n) {
      const int item = thread + n * THREADS;
      if (BLOCK_TILES * DEPTH % THREADS == 0 || item < BLOCK_TILES * DEPTH) {
        float* target = stage + item % DEPTH * V_ROW + item / DEPTH;
        transform_images(pixels[n], [&](int i, const float (&row)[EXTENT_W]) {
#pragma unroll
          for (int j = 0; j < EXTENT_W; ++j) target[(i * EXTENT_W + j) * (DEPTH * V_ROW)] = row[j];
        });
      }
    }
#if ASYNCHRONOUS
    asm volatile("cp.async.wait_all;" ::: "memory");
#else
#pragma unroll
    for (int n = 0; n < COPIES; ++n) {
      const int i = thread + n * THREADS;
      if (U_FLOATS / 4 % THREADS == 0 || i < U_FLOATS / 4)
        *reinterpret_cast<float4*>(stage + V_FLOATS + 4 * i) = waiting[n];
    }
#endif
  };

  float sums[POINTS_OF_WARP][ROWS][COLUMNS] = {};
  fetch(0, shared);
  fill(shared);
  __syncthreads();
#pragma unroll 1
  for (int chunk = 0; chunk < CHUNKS; ++chunk) {
    const float* stage = shared + (STAGES == 2 ? chunk % 2 * STAGE_FLOATS : 0);
    float* next = shared + (STAGES == 2 ? (chunk + 1) % 2 * STAGE_FLOATS : 0);
    if (chunk + 1 < CHUNKS) fetch(chunk + 1, next);
    const int point = warp * POINTS_OF_WARP;
    multiply<V_ROW, BLOCK_FILTERS>(stage + point * (DEPTH * V_ROW) + lane_row * 4,
             stage + V_FLOATS + point * (DEPTH * BLOCK_FILTERS) + lane_column * 4, sums);
    if (STAGES == 1) __syncthreads();
    if (chunk + 1 < CHUNKS) fill(next);
    __syncthreads();
  }

  // In each round every thread gives away ROUND_ROWS of its rows of sums; then threads take all points of a tile.
#pragma unroll 1
  for (int round = 0; round < ROUNDS; ++round) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
      if (i / ROUND_ROWS == round)
#pragma unroll
        for (int p = 0; p < POINTS_OF_WARP; ++p)
#pragma unroll
          for (int j = 0; j < COLUMNS; j += 4) {
            const int row = (warp * POINTS_OF_WARP + p) * ROUND_TILES + lane_row * ROUND_ROWS + i % ROUND_ROWS;
            *reinterpret_cast<float4*>(shared + row * BLOCK_FILTERS + lane_column * 4 + j * 8) =
                make_float4(sums[p][i][j], sums[p][i][j + 1], sums[p][i][j + 2], sums[p][i][j + 3]);
          }
    __syncthreads();
#pragma unroll 1
    for (int item = thread; item < ROUND_TILES * (BLOCK_FILTERS / VECTOR); item += THREADS) {
      const int of_block = item % (BLOCK_FILTERS / VECTOR) * VECTOR, slot = item / (BLOCK_FILTERS / VECTOR);
      const int i = round * ROUND_ROWS + slot % ROUND_ROWS;
      const int tile = first_tile + i / 4 * 16 + slot / ROUND_ROWS * 4 + i % 4;
      const int channel = block * BLOCK_FILTERS + of_block;
      if (tile >= tiles || channel >= RESULT_STORED) continue;
      float products[VECTOR][EXTENT_H][EXTENT_W], outputs[VECTOR][OUTPUTS_H][OUTPUTS_W];
#pragma unroll
      for (int p = 0; p < POINTS; ++p) {
        float several[VECTOR];
        load<VECTOR>(shared + (p * ROUND_TILES + slot) * BLOCK_FILTERS + of_block, several);
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) products[v][p / EXTENT_W][p % EXTENT_W] = several[v];
      }
#pragma unroll
      for (int v = 0; v < VECTOR; ++v)
        transform_outputs(products[v], [&](int y, const float (&row)[OUTPUTS_W]) {
#pragma unroll
          for (int x = 0; x < OUTPUTS_W; ++x) outputs[v][y][x] = row[x];
        });
      const int left = tile % TILES_W * OUTPUTS_W, top = tile / TILES_W % TILES_H * OUTPUTS_H;
#pragma unroll
      for (int y = 0; y < OUTPUTS_H; ++y)
#pragma unroll
        for (int x = 0; x < OUTPUTS_W; ++x)
          if (top + y < RESULT_H && left + x < RESULT_W) {
            float several[VECTOR];
#pragma unroll
            for (int v = 0; v < VECTOR; ++v) several[v] = outputs[v][y][x];
            finish<VECTOR>(ARGUMENTS, tile / (TILES_W * TILES_H), (top + y) * RESULT_W + left + x, channel, several);
          }
    }
    __syncthreads();
  }
}
