// C[M][N] = A[M][K] B[K][N] in single precision: tiles of 64 x 64 x 8, 4 x 4 sums in each of 256 threads.
#ifndef BARRIER_FILLED
#define BARRIER_FILLED __syncthreads()
#endif
#ifndef BARRIER_READ
#define BARRIER_READ __syncthreads()
#endif

constexpr int TILE = 64, DEPTH = 8;

extern "C" __global__ void __launch_bounds__(256)
    gemm(const float* __restrict__ A, const float* __restrict__ B, float* __restrict__ C, int M, int N, int K) {
  __shared__ __align__(16) float a_tile[DEPTH][TILE + 4];  // transposed; the padding keeps banks apart
  __shared__ __align__(16) float b_tile[DEPTH][TILE];
  const int thread = threadIdx.x, row0 = thread / 16 * 4, column0 = thread % 16 * 4;
  const int m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
  float sums[4][4] = {};
  for (int k0 = 0; k0 < K; k0 += DEPTH) {
    for (int i = thread; i < TILE * DEPTH; i += 256) {
      const int m = m0 + i / DEPTH, k = k0 + i % DEPTH;
      a_tile[i % DEPTH][i / DEPTH] = m < M && k < K ? A[(size_t)m * K + k] : 0.0f;
      const int n = n0 + i % TILE, l = k0 + i / TILE;
      b_tile[i / TILE][i % TILE] = n < N && l < K ? B[(size_t)l * N + n] : 0.0f;
    }
    BARRIER_FILLED;
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      const float4 a = *(const float4*)&a_tile[k][row0], b = *(const float4*)&b_tile[k][column0];
      const float left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
    }
    BARRIER_READ;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (m0 + row0 + i < M && n0 + column0 + j < N) C[(size_t)(m0 + row0 + i) * N + n0 + column0 + j] = sums[i][j];
}
