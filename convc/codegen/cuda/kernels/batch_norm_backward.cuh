// dx = gamma / sqrt(variance + eps) * (dy - dbeta / count - normalised x * dgamma / count).
template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  float x[V], gamma[V], mean[V], variance[V], dgamma[V], dbeta[V];
  const Index at = ((Index)row * PIXELS + pixel) * STORED + channel;
  load<V>(DY + at, v);
  load<V>(X + at, x);
  load<V>(GAMMA + channel, gamma);
  load<V>(MEAN + channel, mean);
  load<V>(VARIANCE + channel, variance);
  load<V>(DGAMMA + channel, dgamma);
  load<V>(DBETA + channel, dbeta);
  const float share = 1.0f / ((float)rows * PIXELS);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float scale = 1.0f / sqrtf(variance[i] + EPS);
    v[i] = (v[i] - dbeta[i] * share - (x[i] - mean[i]) * scale * (dgamma[i] * share)) * (gamma[i] * scale);
  }
}
