// The same numbers in another order of memory. `moved` tells at which logical place of the operand an element comes from.
template <int V>
__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    v[i] = 0.0f;
    if (channel + i >= CHANNELS) continue;
    const int place = moved((channel + i) * PIXELS + pixel);
    // Planar operands lie in logical order, one stored channel after the other of X_PIXELS numbers each.
    const int at = X_PLANAR ? place : place % X_PIXELS * X_STORED + place / X_PIXELS;
    v[i] = to_float(X[(Index)row * X_SIZE + at]);
  }
}
