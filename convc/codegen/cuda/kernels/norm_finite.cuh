// 1 where all numbers are finite, else 0: a number times zero is zero, what is none is NaN, and no sum leaves that.
typedef float Sum;

__device__ __forceinline__ Sum sum_of(const float (&v)[4]) {
  return fmaf(v[0], 0.0f, fmaf(v[1], 0.0f, fmaf(v[2], 0.0f, v[3] * 0.0f)));
}

__device__ __forceinline__ float result_of(Sum sum) { return sum == 0.0f ? 1.0f : 0.0f; }
