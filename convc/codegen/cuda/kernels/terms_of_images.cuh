// The numbers of the images X themselves.
__device__ __forceinline__ void terms(PARAMETERS, Index pixel, int channel, float (&t)[QUANTITIES][V]) {
  load<V>(X + pixel * STORED + channel, t[0]);
}
