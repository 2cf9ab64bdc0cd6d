// Borders of a constant around images; negative ones cut off.
template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  const int y = pixel / OW - TOP, x = pixel % OW - LEFT;
  if (y >= 0 && y < H && x >= 0 && x < W) {
    load<V>(X + (((Index)row * H + y) * W + x) * STORED + channel, v);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = BORDER;
  }
}
