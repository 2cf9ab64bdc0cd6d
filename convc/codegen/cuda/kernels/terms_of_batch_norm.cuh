// What the gradients by beta and gamma add up: dy, and dy times what x differs from its mean by.
__device__ __forceinline__ void terms(PARAMETERS, Index pixel, int channel, float (&t)[QUANTITIES][V]) {
  float x[V], mean[V];
  load<V>(MEAN + channel, mean);
  load<V>(X + pixel * STORED + channel, x);
  load<V>(DY + pixel * STORED + channel, t[0]);
#pragma unroll
  for (int i = 0; i < V; ++i) t[1][i] = t[0][i] * (x[i] - mean[i]);
}
