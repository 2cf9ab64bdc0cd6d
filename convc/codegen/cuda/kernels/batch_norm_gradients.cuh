// From what terms_of_batch_norm.cuh has added up to the gradients by beta and gamma.
__device__ __forceinline__ void deliver(PARAMETERS, int, int channel, float (&sums)[QUANTITIES][V]) {
  float variance[V];
  load<V>(VARIANCE + channel, variance);
#pragma unroll
  for (int i = 0; i < V; ++i) sums[1][i] /= sqrtf(variance[i] + EPS);
  clear_padding(channel, sums[0]);
  clear_padding(channel, sums[1]);
  store<V>(DBETA + channel, sums[0]);
  store<V>(DGAMMA + channel, sums[1]);
}
