// The sum of a number of each thread, added up in a fixed order; thread 0 has it.
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float warps[THREADS / 32];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = warps[0];
#pragma unroll
  for (int warp = 1; warp < THREADS / 32; ++warp) sum += warps[warp];
  return sum;
}

// A block's sum: part of the result in SCRATCH, or the only one.
__device__ __forceinline__ void deliver_sum(PARAMETERS, float own) {
  const float sum = block_sum(own);
  if (threadIdx.x > 0) return;
#if TO_PARTS
  SCRATCH[blockIdx.x] = sum;
#else
  *RESULT = from_float<Result>(sum / (DIVISOR));
#endif
}
