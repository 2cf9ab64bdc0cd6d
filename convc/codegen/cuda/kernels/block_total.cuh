// The sum of what the threads of a block hold, added up in pairs, always in the same order. Every STRIDE-th thread
// belongs to the same sum; each thread gets its own. THREADS / STRIDE is a power of two.
template <int STRIDE, typename Sum>
__device__ __forceinline__ Sum block_total(Sum mine) {
  __shared__ Sum sums[THREADS];
  const int thread = threadIdx.x;
  sums[thread] = mine;
#pragma unroll
  for (int half = THREADS / 2; half >= STRIDE; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  __syncthreads();
  return sums[thread % STRIDE];
}
