// 1 where the first largest number of a pixel is at the label, or where its targets have their first largest one.
struct Best {
  float number;
  int channel;
};

// NaN counts as largest, as it does for whoever checks the result.
__device__ __forceinline__ bool is_better(float x, int i, const Best& best) {
  const bool nan = x != x, other = best.number != best.number;
  if (nan || other) return nan && (!other || i < best.channel);
  return x > best.number || (x == best.number && i < best.channel);
}

template <typename T>
__device__ __forceinline__ int first_largest(const Pixel<T>& x) {
  Best best = {-__int_as_float(0x7f800000), CHANNELS};
  x.each([&](int channel, float number) {
    if (is_better(number, channel, best)) best = {number, channel};
  });
#pragma unroll
  for (int distance = (TEAM < 32 ? TEAM : 32) / 2; distance > 0; distance /= 2) {
    const float number = __shfl_xor_sync(~0u, best.number, distance);
    const int channel = __shfl_xor_sync(~0u, best.channel, distance);
    if (is_better(number, channel, best)) best = {number, channel};
  }
  if constexpr (TEAM > 32) {
    __shared__ Best warps[THREADS / 32];
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < TEAM / 32; ++warp)
      if (is_better(warps[warp].number, warps[warp].channel, best)) best = warps[warp];
    __syncthreads();
  }
  return best.channel;
}

__device__ __forceinline__ float loss(PARAMETERS, Index item) {
  const int found = first_largest(Pixel<Image>(X + item * STORED));
#if BY_LABELS
  const int right = TARGETS[item];
#else
  const int right = first_largest(Pixel<Target>(TARGETS + item * STORED));
#endif
  return found == right ? 1.0f : 0.0f;
}
