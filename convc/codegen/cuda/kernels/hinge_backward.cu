// Each violation pulls its score down and that of the label up.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Item item = item_of_team(rows);
  const int label = LABELS[item.number];
  const Pixel<Image> x(X + (Index)item.number * STORED);
  const float right = score_of(x, label), scale = DLOSS / ((float)rows * PIXELS);
  float violated = 0.0f;
  x.each([&](int channel, float score) { violated += violation(channel, label, score, right) > 0.0f ? 1.0f : 0.0f; });
  violated = over_team(violated, Sum());
  if (!item.exists) return;
  each_vector([&](int n, int channel) {
    float v[V];
    x.get(n, channel, v);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float pulled = violation(channel + i, label, v[i], right) > 0.0f ? 1.0f : 0.0f;
      v[i] = (channel + i == label ? -violated : pulled) * scale;
    }
    finish<V>(ARGUMENTS, item.row, item.pixel, channel, v);
  });
}
