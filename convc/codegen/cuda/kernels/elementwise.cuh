// One function for each element-wise operation, on numbers in registers.

// What differs from run to run beside the tensors. `rows` is an argument of its own.
struct Scalars {
  i64 seed, step, seen;
  float rate;
  int rows;
};

// NaN stays NaN in these, so that a diverged run is seen.
__device__ __forceinline__ float larger(float x, float y) { return y != y ? y : x >= y || x != x ? x : y; }
__device__ __forceinline__ float smaller(float x, float y) { return y != y ? y : x <= y || x != x ? x : y; }
__device__ __forceinline__ float relu(float x) { return larger(x, 0.0f); }
__device__ __forceinline__ float relu6(float x) { return smaller(larger(x, 0.0f), 6.0f); }
__device__ __forceinline__ float leaky_relu(float x, float slope) { return x > 0.0f ? x : slope * x; }
__device__ __forceinline__ float elu(float x, float alpha) { return x > 0.0f ? x : alpha * expm1f(fminf(x, 0.0f)); }
__device__ __forceinline__ float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }
__device__ __forceinline__ float heaviside(float x) { return x > 0.0f ? 1.0f : 0.0f; }
__device__ __forceinline__ float running_average(float old, float now, float momentum) {
  return (1.0f - momentum) * old + momentum * now;
}
// The exponential never overflows.
__device__ __forceinline__ float sigmoid(float x) {
  const float small = expf(-fabsf(x));
  return (x >= 0.0f ? 1.0f : small) / (1.0f + small);
}
