__device__ __forceinline__ void deliver(PARAMETERS, int, int channel, float (&sums)[QUANTITIES][V]) {
  clear_padding(channel, sums[0]);
  store<V>(RESULT + channel, sums[0]);
}
