// s <- alpha s + (1 - alpha) g^2;  theta <- theta - lr g / (sqrt(s) + eps)  (Tieleman & Hinton 2012); with momentum
// v <- momentum v + g / (sqrt(s) + eps);  theta <- theta - lr v.
struct Once {
  float rate, factor;
};

__device__ __forceinline__ Once prepare(PARAMETERS) { return {learning_rate(scalars), FACTOR}; }

template <int N>
__device__ __forceinline__ void rule(const Once& once, float (&x)[N]) {
  const float gradient = penalised(x[1] * once.factor, x[0]);
  x[2] = fmaf(ALPHA, x[2], ONE_MINUS_ALPHA * (gradient * gradient));
  float step = gradient / (sqrtf(x[2]) + EPS);
  if constexpr (N > 3) x[3] = step = fmaf(MOMENTUM, x[3], step);
  x[0] = fmaf(-once.rate, step, x[0]);
}
