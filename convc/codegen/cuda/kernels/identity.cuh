// The source of element-wise kernels, whose chain reads all that it needs by itself.
template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = 0.0f;
}
