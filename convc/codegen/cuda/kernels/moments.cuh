// Count, mean and sum of squared deviations of the numbers of V channels, and how those of two sets are those of both
// (Chan, Golub & LeVeque 1979). All numbers are counted from one of the channel's own, its origin: means that are large
// beside the deviations would cost digits otherwise.
struct Moments {
  float count, mean[V], squares[V];
};

// `count`, `mean` and `squares` join.
__device__ __forceinline__ void join(Moments& all, float count, const float (&mean)[V], const float (&squares)[V]) {
  const float together = all.count + count, share = together > 0.0f ? count / together : 0.0f;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float apart = mean[i] - all.mean[i];
    all.mean[i] = fmaf(apart, share, all.mean[i]);
    all.squares[i] += fmaf(apart * apart, all.count * share, squares[i]);
  }
  all.count = together;
}

// NEAR pixels join: their own moments are computed from registers, in two passes.
template <int NEAR>
__device__ __forceinline__ void join_pixels(Moments& all, const float (&x)[NEAR][V]) {
  float mean[V], squares[V] = {};
#pragma unroll
  for (int i = 0; i < V; ++i) {
    mean[i] = x[0][i];
#pragma unroll
    for (int n = 1; n < NEAR; ++n) mean[i] += x[n][i];
    mean[i] *= 1.0f / NEAR;
    if (NEAR > 1)
#pragma unroll
      for (int n = 0; n < NEAR; ++n) squares[i] = fmaf(x[n][i] - mean[i], x[n][i] - mean[i], squares[i]);
  }
  join(all, (float)NEAR, mean, squares);
}
