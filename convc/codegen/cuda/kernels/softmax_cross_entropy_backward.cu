// (softmax - targets) * dloss / pixels, times the weight of the label.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Item item = item_of_team(rows);
  const int label = LABELS[item.number];
  const Pixel<Image> x(X + (Index)item.number * STORED);
  const Exponentials e = exponentials(x);
  const float scale = DLOSS / ((float)rows * PIXELS) * weight(ARGUMENTS, label);
  if (!item.exists) return;
  each_vector([&](int n, int channel) {
    float v[V];
    x.get(n, channel, v);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float target = (channel + i == label ? 1.0f - SMOOTH : 0.0f) + SMOOTH / CHANNELS;
      v[i] = (expf(v[i] - e.largest) / e.sum - target) * scale;
    }
    finish<V>(ARGUMENTS, item.row, item.pixel, channel, v);
  });
}
