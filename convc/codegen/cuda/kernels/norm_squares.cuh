// The square root of the sum of all squares. Sums are double precision, in which no square overflows or vanishes.
typedef double Sum;

// Four squares are summed in single precision where the largest of them tells that this is safe: conversions and
// double precision are slow on GPUs that are not made for it.
__device__ __forceinline__ Sum sum_of(const float (&v)[4]) {
  const float largest = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
  const float squares = fmaf(v[0], v[0], fmaf(v[1], v[1], fmaf(v[2], v[2], v[3] * v[3])));
  // A largest number that is fine says nothing about NaN, the sum does.
  if ((largest > 0x1p-50f || largest == 0.0f) && squares < 0x1p100f) return squares;
  Sum sum = 0.0;
#pragma unroll
  for (int i = 0; i < 4; ++i) sum = fma((double)v[i], (double)v[i], sum);
  return sum;
}

__device__ __forceinline__ float result_of(Sum sum) { return (float)sqrt(sum); }
