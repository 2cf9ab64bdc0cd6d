// - sum of targets * log softmax, where the targets are SMOOTH / CHANNELS and at the label 1 - SMOOTH more.
__device__ __forceinline__ float loss(PARAMETERS, Index item) {
  const int label = LABELS[item];
  const Pixel<Image> x(X + item * STORED);
  const Exponentials e = exponentials(x);
  float matched = 0.0f;
  x.each([&](int channel, float number) {
    const float below = number - e.largest;
    if (channel == label) matched += (1.0f - SMOOTH) * below;
    if (SMOOTH != 0.0f) matched += SMOOTH / CHANNELS * below;
  });
  return (logf(e.sum) - over_team(matched, Sum())) * weight(ARGUMENTS, label);
}
