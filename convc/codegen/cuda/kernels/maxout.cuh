// The maximum of each GROUP consecutive channels, and its gradient, which goes to the first maximum of each group.
template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  const auto* x = X + ((Index)row * PIXELS + pixel) * X_STORED;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int c = channel + i;
    v[i] = 0.0f;
    if (c >= CHANNELS) continue;
    if constexpr (!BACKWARD) {
      v[i] = to_float(x[c * GROUP]);
      for (int member = 1; member < GROUP; ++member) v[i] = larger(v[i], to_float(x[c * GROUP + member]));
    } else {
      const Index at = ((Index)row * PIXELS + pixel) * Y_STORED + c / GROUP;
      const float y = to_float(Y[at]);
      bool mine = to_float(x[c]) == y;
      for (int before = c / GROUP * GROUP; before < c; ++before) mine = mine && to_float(x[before]) != y;
      v[i] = mine ? to_float(DY[at]) : 0.0f;
    }
  }
}
