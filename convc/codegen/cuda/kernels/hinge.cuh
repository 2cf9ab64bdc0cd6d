// What the scores of other classes lack of being MARGIN below that of the label.
__device__ __forceinline__ float violation(int channel, int label, float score, float right) {
  return channel == label ? 0.0f : relu(MARGIN + score - right);
}

template <typename T>
__device__ __forceinline__ float score_of(const Pixel<T>& x, int label) {
  float right = 0.0f;
  x.each([&](int channel, float score) { right = channel == label ? score : right; });
  return over_team(right, Sum());
}
