// C[M][N] = A[M][K] B[N][K]^T of 16-bit floats on tensor cores: cp.async into swizzled shared memory, ldmatrix, mma.
// M and N are any; K is a multiple of 8. The macros are where the tests plant defects.
typedef unsigned int u32;
typedef unsigned short u16;

#ifndef STAGES
#define STAGES 3
#endif
#ifndef WAIT
#define WAIT (STAGES - 2)
#endif
#ifndef BARRIER
#define BARRIER __syncthreads()
#endif
#ifndef SWIZZLE
#define SWIZZLE(row) (((row) >> 1) & 3)
#endif
#ifndef ROW_LIMIT
#define ROW_LIMIT(row, rows) ((row) < (rows))
#endif
#ifndef TYPE
#define TYPE "f16"
#endif

constexpr int TILE = 64, DEPTH = 32;  // of a block; four warps of 32 x 32 share it

__device__ __forceinline__ u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

__device__ __forceinline__ void copy16(u32 target, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}

__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where chunk `chunk` of 8 values of a row lies.
__device__ __forceinline__ int place(int row, int chunk) { return row * DEPTH + ((chunk ^ SWIZZLE(row)) << 3); }

extern "C" __global__ void __launch_bounds__(128)
    gemm_mma(const u16* __restrict__ A, const u16* __restrict__ B, float* __restrict__ C, int M, int N, int K) {
  __shared__ __align__(128) u16 a_tiles[STAGES][TILE * DEPTH];
  __shared__ __align__(128) u16 b_tiles[STAGES][TILE * DEPTH];
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int warp_m = (warp & 1) * 32, warp_n = (warp >> 1) * 32;
  const int m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
  const int steps = (K + DEPTH - 1) / DEPTH;
  float sums[2][4][4] = {};

  auto fetch = [&](int step) {
    const int stage = step % STAGES, k0 = step * DEPTH;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int chunk = thread + i * 128, row = chunk >> 2, k = k0 + (chunk & 3) * 8;
      const bool in_a = ROW_LIMIT(m0 + row, M) && k < K, in_b = n0 + row < N && k < K;
      copy16(shared_address(&a_tiles[stage][place(row, chunk & 3)]), in_a ? A + (size_t)(m0 + row) * K + k : A,
             in_a ? 16 : 0);
      copy16(shared_address(&b_tiles[stage][place(row, chunk & 3)]), in_b ? B + (size_t)(n0 + row) * K + k : B,
             in_b ? 16 : 0);
    }
  };

#pragma unroll
  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < steps) fetch(step);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;" ::"n"(WAIT) : "memory");
    BARRIER;
    if (step + STAGES - 1 < steps) fetch(step + STAGES - 1);
    asm volatile("cp.async.commit_group;" ::: "memory");
    const u16 *a_tile = a_tiles[step % STAGES], *b_tile = b_tiles[step % STAGES];
#pragma unroll
    for (int part = 0; part < DEPTH / 16; ++part) {
      u32 a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        load_matrices(a[i], shared_address(&a_tile[place(warp_m + i * 16 + (lane & 15), part * 2 + (lane >> 4))]));
#pragma unroll
      for (int j = 0; j < 2; ++j)
        load_matrices(b[j], shared_address(&b_tile[place(warp_n + j * 16 + (lane & 7) + ((lane >> 4) << 3),
                                                         part * 2 + ((lane >> 3) & 1))]));
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply(sums[i][j], a[i], b[j >> 1][(j & 1) * 2], b[j >> 1][(j & 1) * 2 + 1]);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int row = m0 + warp_m + i * 16 + (lane >> 2) + (k >> 1) * 8;
        const int column = n0 + warp_n + j * 8 + (lane & 3) * 2 + (k & 1);
        if (row < M && column < N) C[(size_t)row * N + column] = sums[i][j][k];
      }
}
