// The gradient of pooling, gathered: each pixel asks the windows over it for what it gave. Nothing is added up in memory,
// so the order of the sums is fixed.

// Whether an earlier tap of the window holds its maximum as well: the first one takes the cotangent.
template <int V>
__device__ __forceinline__ void earlier(PARAMETERS, int row, int channel, int top, int left, int taps, const float (&y)[V],
                                        bool (&found)[V]) {
  for (int tap = 0; tap < taps; ++tap) {
    const int u = top + tap / S * DILATION_H, w = left + tap % S * DILATION_W;
    if (u < 0 || u >= H || w < 0 || w >= W) continue;
    float x[V];
    load<V>(X + (((Index)row * H + u) * W + w) * STORED + channel, x);
#pragma unroll
    for (int l = 0; l < V; ++l) found[l] = found[l] || x[l] == y[l];
  }
}

template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  const int u = pixel / W, w = pixel % W;
  float mine[V];
  if constexpr (MAXIMUM) load<V>(X + ((Index)row * (H * W) + pixel) * STORED + channel, mine);
#pragma unroll
  for (int l = 0; l < V; ++l) v[l] = 0.0f;
  for (int r = 0; r < R; ++r) {
    const int down = u + TOP - r * DILATION_H;
    if (down < 0 || down % STRIDE_H != 0 || down / STRIDE_H >= OH) continue;
    for (int s = 0; s < S; ++s) {
      const int across = w + LEFT - s * DILATION_W;
      if (across < 0 || across % STRIDE_W != 0 || across / STRIDE_W >= OW) continue;
      const int i = down / STRIDE_H, j = across / STRIDE_W;
      const Index at = (((Index)row * OH + i) * OW + j) * STORED + channel;
      float dy[V];
      load<V>(DY + at, dy);
      if constexpr (MAXIMUM) {
        float y[V];
        load<V>(Y + at, y);
        bool others[V];
        bool wanted = false;
#pragma unroll
        for (int l = 0; l < V; ++l) {
          others[l] = mine[l] != y[l];
          wanted = wanted || !others[l];
        }
        if (!wanted) continue;
        earlier<V>(ARGUMENTS, row, channel, i * STRIDE_H - TOP, j * STRIDE_W - LEFT, r * S + s, y, others);
#pragma unroll
        for (int l = 0; l < V; ++l) v[l] += others[l] ? 0.0f : dy[l];
      } else {
        const float share = divisor(i, j);
#pragma unroll
        for (int l = 0; l < V; ++l) v[l] += dy[l] / share;
      }
    }
  }
}
