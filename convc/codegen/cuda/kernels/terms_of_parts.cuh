// What sums_to_parts.cuh has stored: parts are added up as if they were pixels.
__device__ __forceinline__ void terms(PARAMETERS, Index part, int channel, float (&t)[QUANTITIES][V]) {
#pragma unroll
  for (int q = 0; q < QUANTITIES; ++q) load<V>(SCRATCH + (part * QUANTITIES + q) * STORED + channel, t[q]);
}
