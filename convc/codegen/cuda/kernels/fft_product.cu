// Products of spectra: for each entry, RESULT[m][n] = sum of LEFT[m][d] RIGHT[d][n] over D_BEGIN <= d < D_END, complex
// numbers, or, in entries 0 and SIZE/2, pairs of real numbers. Where TRANSPOSED an operand lies as [m][d], or [n][d],
// else as [d][m], or [d][n]; its rows are of *_ROW complex numbers, a multiple of 4, and *_ENTRY are from entry to
// entry. Operands have *_COUNT rows m, or n; what would be behind them counts as zero. In gradients by filters the sums
// are in parts, the blocks' z, that begin PART_STRIDE numbers behind each other.
//
// A block has BLOCK_M x BLOCK_N sums, a thread ROWS x COLUMNS of them; DEPTH terms are in shared memory while the next
// ones wait in registers.
constexpr int DEPTH = 8;
constexpr int ROWS = BLOCK_M / 16, COLUMNS = BLOCK_N / 16;
static_assert(THREADS == 256 && ROWS % 2 == 0 && COLUMNS % 2 == 0, "16 x 16 threads with pairs of sums");
// In float2. Transposed stores of neighbouring lanes then take all banks.
constexpr int LEFT_STRIDE = BLOCK_M + 2, RIGHT_STRIDE = BLOCK_N + 2;

// Two complex numbers each of a thread's share of an operand's block.
template <bool TRANSPOSED, int BLOCK>
struct Share {
  static constexpr int FOURS = BLOCK * DEPTH / 2, OWN = (FOURS + THREADS - 1) / THREADS;
  float4 held[OWN];

  // The block from row (m or n) `first` and term d on.
  template <int ROW>
  __device__ __forceinline__ void fetch(const float2* operand, int first, int count, int d, int end) {
#pragma unroll
    for (int n = 0; n < OWN; ++n) {
      const int i = threadIdx.x + n * THREADS;
      const int row = first + (TRANSPOSED ? i / (DEPTH / 2) : i % (BLOCK / 2) * 2);
      const int term = d + (TRANSPOSED ? i % (DEPTH / 2) * 2 : i / (BLOCK / 2));
      const i64 place = TRANSPOSED ? (i64)row * ROW + term : (i64)term * ROW + row;
      const bool inside = (FOURS % THREADS == 0 || i < FOURS) && row < count && term < end;
      held[n] = inside ? *reinterpret_cast<const float4*>(operand + place) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
  }

  template <int STRIDE>
  __device__ __forceinline__ void fill(float2 (&stage)[DEPTH][STRIDE]) const {
#pragma unroll
    for (int n = 0; n < OWN; ++n) {
      const int i = threadIdx.x + n * THREADS;
      if (FOURS % THREADS != 0 && i >= FOURS) continue;
      if (TRANSPOSED) {
        stage[i % (DEPTH / 2) * 2][i / (DEPTH / 2)] = make_float2(held[n].x, held[n].y);
        stage[i % (DEPTH / 2) * 2 + 1][i / (DEPTH / 2)] = make_float2(held[n].z, held[n].w);
      } else {
        *reinterpret_cast<float4*>(&stage[i / (BLOCK / 2)][i % (BLOCK / 2) * 2]) = held[n];
      }
    }
  }
};

template <bool REAL>
__device__ __forceinline__ void multiply(const float2 (&left)[DEPTH][LEFT_STRIDE],
                                         const float2 (&right)[DEPTH][RIGHT_STRIDE], int row, int column,
                                         float (&sums)[ROWS][COLUMNS][2]) {
  // Unrolled it takes more registers than two blocks on an SM leave.
#pragma unroll 1
  for (int d = 0; d < DEPTH; ++d) {
    float2 a[ROWS], b[COLUMNS];
#pragma unroll
    for (int i = 0; i < ROWS; i += 2) {
      const float4 two = *reinterpret_cast<const float4*>(&left[d][row + i * 16]);
      a[i] = make_float2(two.x, two.y), a[i + 1] = make_float2(two.z, two.w);
    }
#pragma unroll
    for (int j = 0; j < COLUMNS; j += 2) {
      const float4 two = *reinterpret_cast<const float4*>(&right[d][column + j * 16]);
      b[j] = make_float2(two.x, two.y), b[j + 1] = make_float2(two.z, two.w);
    }
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        float(&sum)[2] = sums[i][j];
        sum[0] = fmaf(a[i].x, b[j].x, sum[0]);
        sum[1] = fmaf(REAL ? a[i].y : a[i].x, b[j].y, sum[1]);
        if (!REAL) {
          sum[0] = fmaf(-a[i].y, b[j].y, sum[0]);
          sum[1] = fmaf(a[i].y, b[j].x, sum[1]);
        }
      }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) KERNEL(PARAMETERS) {
  __shared__ __align__(16) float2 left[2][DEPTH][LEFT_STRIDE], right[2][DEPTH][RIGHT_STRIDE];
  // Warps are 4 x 8 lanes: fewer rows of the operands are read than in lanes all along a row.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = (warp / 2 * 4 + lane / 8) * 2, column = (warp % 2 * 8 + lane % 8) * 2;
  const int first_m = blockIdx.x / BLOCKS_N * BLOCK_M, first_n = blockIdx.x % BLOCKS_N * BLOCK_N;
  const int entry = blockIdx.y;
  const bool real = entry == 0 || entry == SIZE / 2;
  const float2* lefts = reinterpret_cast<const float2*>(SCRATCH + LEFT_PLACE) + entry * (i64)LEFT_ENTRY;
  const float2* rights = reinterpret_cast<const float2*>(SCRATCH + RIGHT_PLACE) + entry * (i64)RIGHT_ENTRY;

  Share<LEFT_TRANSPOSED, BLOCK_M> left_share;
  Share<RIGHT_TRANSPOSED, BLOCK_N> right_share;
  const auto fetch = [&](int d) {
    left_share.template fetch<LEFT_ROW>(lefts, first_m, LEFT_COUNT, d, D_END);
    right_share.template fetch<RIGHT_ROW>(rights, first_n, RIGHT_COUNT, d, D_END);
  };

  float sums[ROWS][COLUMNS][2] = {};
  fetch(D_BEGIN);
  left_share.fill(left[0]);
  right_share.fill(right[0]);
  __syncthreads();
  int stage = 0;
#pragma unroll 1
  for (int d = D_BEGIN; d < D_END; d += DEPTH) {
    const bool more = d + DEPTH < D_END;
    if (more) fetch(d + DEPTH);
    if (real)
      multiply<true>(left[stage], right[stage], row, column, sums);
    else
      multiply<false>(left[stage], right[stage], row, column, sums);
    stage = 1 - stage;
    if (more) {
      left_share.fill(left[stage]);
      right_share.fill(right[stage]);
    }
    __syncthreads();
  }

  float* results = SCRATCH + RESULT_PLACE + 2 * (entry * (i64)RESULT_ENTRY + blockIdx.z * (i64)PART_STRIDE);
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const int m = first_m + i / 2 * 32 + row + i % 2;
#pragma unroll
    for (int j = 0; j < COLUMNS; j += 2) {
      const int n = first_n + j * 16 + column;
      if (m < RESULT_COUNT && n < RESULT_ROW)
        *reinterpret_cast<float4*>(results + 2 * ((i64)m * RESULT_ROW + n)) =
            make_float4(sums[i][j][0], sums[i][j][1], sums[i][j + 1][0], sums[i][j + 1][1]);
    }
  }
}
