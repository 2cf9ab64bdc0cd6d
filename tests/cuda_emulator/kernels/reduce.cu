// out[0] = sum of x in a fixed order: shuffles within a warp, shared memory between warps; one block.
#ifndef BARRIER
#define BARRIER __syncthreads()
#endif
#ifndef FIRST_PARTNER
#define FIRST_PARTNER 16
#endif

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int partner = FIRST_PARTNER; partner > 0; partner >>= 1) value += __shfl_xor_sync(0xffffffffu, value, partner);
  return value;
}

extern "C" __global__ void __launch_bounds__(256) reduce(const float* __restrict__ x, float* __restrict__ out, int n) {
  __shared__ float warp_sums[8];
  float sum = 0.0f;
  for (int i = threadIdx.x; i < n; i += 256) sum += x[i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  BARRIER;
  if (threadIdx.x >= 32) return;
  sum = warp_sum(threadIdx.x < 8 ? warp_sums[threadIdx.x] : 0.0f);
  if (threadIdx.x == 0) out[0] = sum;
}
