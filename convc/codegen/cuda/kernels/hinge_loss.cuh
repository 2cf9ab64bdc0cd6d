__device__ __forceinline__ float loss(PARAMETERS, Index item) {
  const int label = LABELS[item];
  const Pixel<Image> x(X + item * STORED);
  const float right = score_of(x, label);
  float sum = 0.0f;
  x.each([&](int channel, float score) { sum += violation(channel, label, score, right); });
  return over_team(sum, Sum());
}
