// What optimisers have in common. A rule is given x: parameter, gradient, states, and leaves the new ones there.
// Constants: RATE_SCALE, L1, TWICE_L2, the settings of the optimiser; FACTOR, what gradients are multiplied with first.
__device__ __forceinline__ float learning_rate(const Scalars* scalars) { return RATE_SCALE * scalars->rate; }

// start + 2 l2 theta + l1 sign(theta)
__device__ __forceinline__ float penalised(float start, float theta) {
  if constexpr (TWICE_L2 != 0.0f) start = fmaf(TWICE_L2, theta, start);
  if constexpr (L1 != 0.0f) start += L1 * sign(theta);
  return start;
}
