// A part is an image.
__device__ __forceinline__ void deliver(PARAMETERS, int row, int channel, float (&sums)[QUANTITIES][V]) {
  finish<V>(ARGUMENTS, row, 0, channel, sums[0]);
}
