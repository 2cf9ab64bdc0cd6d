// One number per feature map, spread over the map; with SCALES it is what the map is multiplied with.
template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  load<V>(MAPS + (Index)row * STORED + channel, v);
  if constexpr (SCALES) {
    float x[V];
    load<V>(X + ((Index)row * PIXELS + pixel) * STORED + channel, x);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] *= x[i];
  }
}
