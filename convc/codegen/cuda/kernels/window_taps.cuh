// Which taps of a filter meet a pixel of the images, along one axis.
//
// Pixel u of an image meets result i by tap r where i * stride = u + before - r * dilation. All pixels with the same
// remainder by the stride, a phase, meet by the same taps: first, first + PERIOD and so on, `count` of them; the t-th
// meets pixel a * stride + phase in result a + origin - t * STEP. So no tap is tried in vain, whatever the stride.
__host__ __device__ constexpr int common_divisor(int a, int b) { return b == 0 ? a : common_divisor(b, a % b); }

struct PhaseTaps {
  int first, count, origin;
};

template <int TAPS, int STRIDE, int DILATION, int BEFORE>
struct Phases {
  static constexpr int DIVISOR = common_divisor(STRIDE, DILATION), PERIOD = STRIDE / DIVISOR, STEP = DILATION / DIVISOR;
  static constexpr int MOST = (TAPS + PERIOD - 1) / PERIOD;  // taps of a phase; others have one less, or none

  static __device__ __forceinline__ PhaseTaps of(int phase) {
    PhaseTaps found = {0, 0, 0};
#pragma unroll
    for (int r = 0; r < PERIOD && r < TAPS; ++r) {
      const int distance = phase + BEFORE - r * DILATION;
      if (distance % STRIDE == 0) found = {r, (TAPS - r + PERIOD - 1) / PERIOD, distance / STRIDE};
    }
    return found;
  }
  // tap / count, by constants.
  static __device__ __forceinline__ int quotient(int tap, int count) {
    if (MOST == 1) return tap;
    return count == MOST ? tap / MOST : tap / (MOST > 1 ? MOST - 1 : 1);
  }
};
