// A number that a type of 16 bits has, `Half`, beside the exact one: the nearest, or one at random (Gupta, Agrawal,
// Gopalakrishnan & Narayanan 2015), up with the probability that is the distance from the number below. DROPPED: how
// many bits of the fraction the type has no room for.
constexpr bool F16 = DROPPED == 13;
constexpr u32 MASK = (1u << DROPPED) - 1;

__device__ __forceinline__ float rounded_at_random(float x, u32 bits) {
  // What is dropped carries into what is kept as often as it is large.
  const u32 chance = bits & MASK;
  float kept = __uint_as_float((__float_as_uint(x) + chance) & ~MASK);
  const float size = fabsf(x);
  if (F16) {
    // Below 2^-14 there are multiples of 2^-24 only.
    const float steps = floorf(size * 0x1p24f + (float)chance / (1u << DROPPED));
    if (size < 0x1p-14f) kept = copysignf(steps * 0x1p-24f, x);
    if (fabsf(kept) >= 0x1p16f) kept = copysignf(__uint_as_float(0x7f800000u), x);
  }
  return size < __uint_as_float(0x7f800000u) ? kept : x;
}

__device__ __forceinline__ float changed(PARAMETERS, float w, u64 element) {
  if constexpr (NEAREST) return to_float(from_float<Half>(w));
  return rounded_at_random(w, philox(element, (u64)STEP, (u32)SEED, STREAM).first);
}
