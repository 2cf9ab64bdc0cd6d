// y = max(a x + y, 0) in vectors of four, and what is left one by one.
#ifndef LIMIT
#define LIMIT n
#endif
#ifndef OFFSET
#define OFFSET 0
#endif

extern "C" __global__ void axpy_relu(float a, const float* __restrict__ x, float* __restrict__ y, int n) {
  const int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
  const int whole = LIMIT / 4 * 4;
  for (int i = thread * 4; i < whole; i += threads * 4) {
    const float4 u = *(const float4*)(x + i + OFFSET);
    float4 v = *(float4*)(y + i);
    v.x = fmaxf(fmaf(a, u.x, v.x), 0.0f), v.y = fmaxf(fmaf(a, u.y, v.y), 0.0f);
    v.z = fmaxf(fmaf(a, u.z, v.z), 0.0f), v.w = fmaxf(fmaf(a, u.w, v.w), 0.0f);
    *(float4*)(y + i) = v;
  }
  for (int i = whole + thread; i < LIMIT; i += threads) y[i] = fmaxf(fmaf(a, x[i], y[i]), 0.0f);
}
