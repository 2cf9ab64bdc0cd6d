// Batch norm with given statistics: gamma (x - mean) / sqrt(variance + eps) + beta.
template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  float gamma[V], beta[V], mean[V], variance[V];
  load<V>(X + ((Index)row * PIXELS + pixel) * STORED + channel, v);
  load<V>(GAMMA + channel, gamma);
  load<V>(BETA + channel, beta);
  load<V>(MEAN + channel, mean);
  load<V>(VARIANCE + channel, variance);
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = (v[i] - mean[i]) / sqrtf(variance[i] + EPS) * gamma[i] + beta[i];
}
