// The sums of a part of the pixels go to SCRATCH [part][quantity][channel].
__device__ __forceinline__ void deliver(PARAMETERS, int part, int channel, float (&sums)[QUANTITIES][V]) {
#pragma unroll
  for (int q = 0; q < QUANTITIES; ++q) store<V>(SCRATCH + ((Index)part * QUANTITIES + q) * STORED + channel, sums[q]);
}
