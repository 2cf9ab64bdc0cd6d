// For some points of a transform the products of two matrices in shared memory, DEPTH terms of each sum. Of the left
// matrix a thread has fours of neighbours 16 apart, of the right one fours 32 apart: ROWS and COLUMNS in all.
template <int LEFT, int RIGHT, int POINTS, int ROWS, int COLUMNS>
__device__ __forceinline__ void multiply(const float* left, const float* right, float (&sums)[POINTS][ROWS][COLUMNS]) {
  // Unrolled it takes more registers than there are.
#pragma unroll 1
  for (int d = 0; d < DEPTH; ++d)
#pragma unroll
    for (int p = 0; p < POINTS; ++p) {
      float a[ROWS], b[COLUMNS];
#pragma unroll
      for (int i = 0; i < ROWS; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(left + (p * DEPTH + d) * LEFT + i * 4);
        a[i] = four.x, a[i + 1] = four.y, a[i + 2] = four.z, a[i + 3] = four.w;
      }
#pragma unroll
      for (int j = 0; j < COLUMNS; j += 4) {
        const float4 four = *reinterpret_cast<const float4*>(right + (p * DEPTH + d) * RIGHT + j * 8);
        b[j] = four.x, b[j + 1] = four.y, b[j + 2] = four.z, b[j + 3] = four.w;
      }
#pragma unroll
      for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) sums[p][i][j] = fmaf(a[i], b[j], sums[p][i][j]);
    }
}
