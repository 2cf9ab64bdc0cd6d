// s <- s + g^2;  theta <- theta - lr g / (sqrt(s) + eps)  (Duchi, Hazan & Singer 2011).
struct Once {
  float rate, factor;
};

__device__ __forceinline__ Once prepare(PARAMETERS) { return {learning_rate(scalars), FACTOR}; }

template <int N>
__device__ __forceinline__ void rule(const Once& once, float (&x)[N]) {
  const float gradient = penalised(x[1] * once.factor, x[0]);
  x[2] = fmaf(gradient, gradient, x[2]);
  x[0] -= once.rate * gradient / (sqrtf(x[2]) + EPS);
}
