// Pooling: the largest value under each window (MAXIMUM), or the mean.
template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  const int i = pixel / OW, j = pixel % OW;
#pragma unroll
  for (int l = 0; l < V; ++l) v[l] = MAXIMUM ? -__int_as_float(0x7f800000) : 0.0f;
  for (int r = 0; r < R; ++r) {
    const int y = i * STRIDE_H + r * DILATION_H - TOP;
    if (y < 0 || y >= H) continue;
    for (int s = 0; s < S; ++s) {
      const int x = j * STRIDE_W + s * DILATION_W - LEFT;
      if (x < 0 || x >= W) continue;
      float u[V];
      load<V>(X + (((Index)row * H + y) * W + x) * STORED + channel, u);
#pragma unroll
      for (int l = 0; l < V; ++l) v[l] = MAXIMUM ? larger(v[l], u[l]) : v[l] + u[l];
    }
  }
  if (!MAXIMUM) {
    const float share = divisor(i, j);
#pragma unroll
    for (int l = 0; l < V; ++l) v[l] /= share;
  }
}
