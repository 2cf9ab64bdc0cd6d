// x: mean, gradient -> (seen mean + rows gradient) / (seen + rows). What a mean of nothing holds does not matter.
struct Once {
  float kept, weight;
  bool nothing;
};

__device__ __forceinline__ Once prepare(PARAMETERS) {
  const float all = (float)(scalars->seen + rows);
  return {(float)scalars->seen / all, (float)rows / all, scalars->seen == 0};
}

template <int N>
__device__ __forceinline__ void rule(const Once& once, float (&x)[N]) {
  x[0] = fmaf(once.weight, x[1], once.nothing ? 0.0f : once.kept * x[0]);
}
