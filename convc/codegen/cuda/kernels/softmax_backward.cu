// dx = y * (dy - sum of dy * y) for a soft-max y; dy - exp(y) * sum of dy for a logarithm of one.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Item item = item_of_team(rows);
  const Pixel<Cotangent> dy(DY + (Index)item.number * STORED);
  const Pixel<Image> y(Y + (Index)item.number * STORED);
  float sum = 0.0f;
  each_vector([&](int n, int channel) {
    float d[V], v[V];
    dy.get(n, channel, d);
    y.get(n, channel, v);
    // Padding is zero in both.
#pragma unroll
    for (int i = 0; i < V; ++i) sum = LOGARITHM ? sum + d[i] : fmaf(d[i], v[i], sum);
  });
  sum = over_team(sum, Sum());
  if (!item.exists) return;
  each_vector([&](int n, int channel) {
    float d[V], v[V];
    dy.get(n, channel, d);
    y.get(n, channel, v);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = LOGARITHM ? d[i] - expf(v[i]) * sum : v[i] * (d[i] - sum);
    finish<V>(ARGUMENTS, item.row, item.pixel, channel, v);
  });
}
