// Images enlarged by FACTOR, and the gradient of that, along each axis by the same weights (half-pixel centres).

// The two pixels of a row of `size` that position `i` of the enlarged row mixes, and the share of the second.
__device__ __forceinline__ void mixed(int i, int size, int& low, int& high, float& share) {
  if constexpr (BILINEAR) {
    const float place = fminf(fmaxf((i + 0.5f) / FACTOR - 0.5f, 0.0f), size - 1.0f);
    low = (int)place;
    high = min(low + 1, size - 1);
    share = place - low;
  } else {
    low = high = i / FACTOR;
    share = 0.0f;
  }
}

template <int V>
__device__ __forceinline__ void add(PARAMETERS, int row, int y, int x, int width, int height, int channel, float weight,
                                    float (&v)[V]) {
  float u[V];
  load<V>(X + (((Index)row * height + y) * width + x) * STORED + channel, u);
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = fmaf(weight, u[i], v[i]);
}

template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = 0.0f;
  int low, high, left, right;
  float down, across;
  if constexpr (!BACKWARD) {
    mixed(pixel / (W * FACTOR), H, low, high, down);
    mixed(pixel % (W * FACTOR), W, left, right, across);
    add<V>(ARGUMENTS, row, low, left, W, H, channel, (1.0f - down) * (1.0f - across), v);
    if constexpr (BILINEAR) {
      add<V>(ARGUMENTS, row, low, right, W, H, channel, (1.0f - down) * across, v);
      add<V>(ARGUMENTS, row, high, left, W, H, channel, down * (1.0f - across), v);
      add<V>(ARGUMENTS, row, high, right, W, H, channel, down * across, v);
    }
  } else {
    // A pixel has given to positions less than one pixel away.
    const int y = pixel / W, x = pixel % W, reach = BILINEAR ? FACTOR : 0;
    for (int i = max(y * FACTOR - reach, 0); i < min((y + 1) * FACTOR + reach, H * FACTOR); ++i) {
      mixed(i, H, low, high, down);
      const float vertical = (low == y ? 1.0f - down : 0.0f) + (high == y ? down : 0.0f);
      if (vertical == 0.0f) continue;
      for (int j = max(x * FACTOR - reach, 0); j < min((x + 1) * FACTOR + reach, W * FACTOR); ++j) {
        mixed(j, W, left, right, across);
        const float horizontal = (left == x ? 1.0f - across : 0.0f) + (right == x ? across : 0.0f);
        if (horizontal != 0.0f)
          add<V>(ARGUMENTS, row, i, j, W * FACTOR, H * FACTOR, channel, vertical * horizontal, v);
      }
    }
  }
}
