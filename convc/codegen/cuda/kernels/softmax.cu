// The soft-max over the channels of each pixel, or its logarithm.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Item item = item_of_team(rows);
  const Pixel<Image> x(X + (Index)item.number * STORED);
  const Exponentials e = exponentials(x);
  const float logarithm = LOGARITHM ? logf(e.sum) : 0.0f;
  if (!item.exists) return;
  each_vector([&](int n, int channel) {
    float v[V];
    x.get(n, channel, v);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = LOGARITHM ? v[i] - e.largest - logarithm : expf(v[i] - e.largest) / e.sum;
    finish<V>(ARGUMENTS, item.row, item.pixel, channel, v);
  });
}
