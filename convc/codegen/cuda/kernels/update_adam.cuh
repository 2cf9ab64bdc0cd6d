// m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
// theta <- theta - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)  (Kingma & Ba 2015).
// DECOUPLED: penalties go past the moments, straight to theta (Loshchilov & Hutter 2019).
struct Once {
  float plain, factor, rate, correction;  // rate and correction: without the bias of m and v towards zero
};

// 1 - beta^t = -expm1(t ln beta) keeps all digits in single precision, however little is left.
__device__ __forceinline__ float one_minus_power(float log_beta, i64 t) { return -expm1f(log_beta * (float)t); }

__device__ __forceinline__ Once prepare(PARAMETERS) {
  const float rate = learning_rate(scalars);
  const float first = one_minus_power(LOG_BETA1, scalars->step), second = one_minus_power(LOG_BETA2, scalars->step);
  return {rate, FACTOR, rate / first, 1.0f / sqrtf(second)};
}

template <int N>
__device__ __forceinline__ void rule(const Once& once, float (&x)[N]) {
  float gradient = x[1] * once.factor;
  if constexpr (!DECOUPLED) {
    gradient = penalised(gradient, x[0]);
  } else if constexpr (L1 != 0.0f || TWICE_L2 != 0.0f) {
    x[0] = fmaf(-once.plain, penalised(0.0f, x[0]), x[0]);
  }
  x[2] = fmaf(BETA1, x[2], ONE_MINUS_BETA1 * gradient);
  x[3] = fmaf(BETA2, x[3], ONE_MINUS_BETA2 * (gradient * gradient));
  x[0] -= once.rate * x[2] / fmaf(sqrtf(x[3]), once.correction, EPS);
}
