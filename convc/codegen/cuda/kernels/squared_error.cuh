// The squares of what x differs by from its targets: numbers that lie like it, or 1 at the label.
__device__ __forceinline__ float loss(PARAMETERS, Index item) {
  const Pixel<Image> x(X + item * STORED);
  float sum = 0.0f;
#if BY_LABELS
  const int label = TARGETS[item];
  x.each([&](int channel, float number) {
    const float error = number - (channel == label ? 1.0f : 0.0f);
    sum = fmaf(error, error, sum);
  });
#else
  const Pixel<Target> targets(TARGETS + item * STORED);
  each_vector([&](int n, int channel) {
    float v[V], t[V];
    x.get(n, channel, v);
    targets.get(n, channel, t);
    // Padding is zero in both.
#pragma unroll
    for (int i = 0; i < V; ++i) sum = fmaf(v[i] - t[i], v[i] - t[i], sum);
  });
#endif
  return over_team(sum, Sum());
}
