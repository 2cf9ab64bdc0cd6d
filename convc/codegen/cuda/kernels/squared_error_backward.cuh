// dloss * 2 (x - target) / elements.
template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  const Index item = (Index)row * PIXELS + pixel;
  float targets[V];
#if BY_LABELS
  const int label = TARGETS[item];
#pragma unroll
  for (int i = 0; i < V; ++i) targets[i] = channel + i == label ? 1.0f : 0.0f;
#else
  load<V>(TARGETS + item * STORED + channel, targets);
#endif
  const float scale = 2.0f * DLOSS / ((float)rows * (PIXELS * CHANNELS));
  load<V>(X + item * STORED + channel, v);
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = (v[i] - targets[i]) * scale;
}
