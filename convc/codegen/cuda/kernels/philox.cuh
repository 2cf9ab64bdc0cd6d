// Philox 4x32-10 (Salmon et al. 2011), keyed by seed and stream, counted by element and update: the same numbers as in
// every other back end.
struct Words {
  u32 first, second, third, fourth;
};

__device__ __forceinline__ Words philox(u64 element, u64 update, u32 seed, u32 stream) {
  Words w = {(u32)element, (u32)(element >> 32), (u32)update, (u32)(update >> 32)};
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const u64 left = (u64)w.first * 0xD2511F53u, right = (u64)w.third * 0xCD9E8D57u;
    w = {(u32)(right >> 32) ^ w.second ^ seed, (u32)right, (u32)(left >> 32) ^ w.fourth ^ stream, (u32)left};
    seed += 0x9E3779B9u;
    stream += 0xBB67AE85u;
  }
  return w;
}

// x / (1 - rate), or 0 where the bits are below the threshold.
__device__ __forceinline__ float dropout(float x, u32 bits, u32 threshold, float scale) {
  return bits >= threshold ? x * scale : 0.0f;
}

// A standard normal number (Box & Muller 1958): sqrt(-2 ln u) sin(pi v), u in (0, 1], v in [-1, 1).
__device__ __forceinline__ float gaussian(const Words& w) {
  const float u = ((w.first >> 8) + 1) * 0x1p-24f, v = (w.second >> 8) * 0x1p-23f - 1.0f;
  return sqrtf(-2.0f * logf(u)) * sinpif(v);
}
