// v <- momentum v + g;  theta <- theta - lr v, or with Nesterov's acceleration theta - lr (g + momentum v).
struct Once {
  float rate, factor;
};

__device__ __forceinline__ Once prepare(PARAMETERS) { return {learning_rate(scalars), FACTOR}; }

template <int N>
__device__ __forceinline__ void rule(const Once& once, float (&x)[N]) {
  const float gradient = penalised(x[1] * once.factor, x[0]);
  float step = gradient;
  if constexpr (N > 2) {
    x[2] = fmaf(MOMENTUM, x[2], gradient);
    step = NESTEROV ? fmaf(MOMENTUM, x[2], gradient) : x[2];
  }
  x[0] = fmaf(-once.rate, step, x[0]);
}
