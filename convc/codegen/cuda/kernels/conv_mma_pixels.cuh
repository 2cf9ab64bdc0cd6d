// Pixels of images as rows of a product, whose sums go over the taps of a window and the channels of a pixel. Needs
// mma_tile.cuh.

// Offsets of elements: 64 bits only for what has so many, also because the compiler stores 16 bytes as smaller pieces
// where 64 bits tell their place (NVRTC 13.0).
template <bool WIDE>
struct OffsetOf {
  typedef int type;
};
template <>
struct OffsetOf<true> {
  typedef i64 type;
};

__host__ __device__ constexpr bool is_wide(i64 elements) { return elements >> 31 > 0; }

// The sum goes over taps, and over PER_TAP channels of each.
struct Term {
  int tap, channel;
};
template <int PER_TAP>
__device__ __forceinline__ Term term(int step, int k) {
  if constexpr (PER_TAP % TILE_K == 0) {
    constexpr int STEPS = PER_TAP / TILE_K;
    return {step / STEPS, step % STEPS * TILE_K + k};
  } else {
    const int all = step * TILE_K + k;
    return {all / PER_TAP, all % PER_TAP};
  }
}

// A row of the product is a place of the window, at (top, left) of an image; tap (r, s) reads the pixel that is
// r * STEP_H below and s * STEP_W right of it. SAFE: no tap of any place is outside of the image.
template <typename Number, int HEIGHT, int WIDTH, int STORED, int PER_TAP, int STEP_H, int STEP_W, bool SAFE>
struct Pixels : Tile<TILE_M, true> {
  typedef typename OffsetOf<is_wide((i64)BATCH * HEIGHT * WIDTH * STORED)>::type Offset;
  static constexpr bool WHOLE = PER_TAP % 8 == 0 && STORED % 8 == 0;
  static constexpr int NOWHERE = -(1 << 30);

  const Number* images;
  int taps, taps_w;  // of the window, and of a row of it
  int top[MINE], left[MINE];
  Offset at[MINE];

  // `images` is where the channels of the group begin.
  __device__ __forceinline__ Pixels(const Number* images, int taps_h, int taps_w)
      : images(images), taps(taps_h * taps_w), taps_w(taps_w) {}

  __device__ __forceinline__ void set(int i, int image, int y, int x) {
    top[i] = y;
    left[i] = x;
    at[i] = (((Offset)image * HEIGHT + y) * WIDTH + x) * STORED;
  }
  __device__ __forceinline__ void set_nowhere(int i) {
    top[i] = NOWHERE;
    left[i] = 0;
    at[i] = 0;
  }
  __device__ __forceinline__ Source<Number> source(int i, int step, int e) const {
    const Term k = term<PER_TAP>(step, start() + e);
    const int r = k.tap / taps_w, s = k.tap - r * taps_w;
    const int y = top[i] + r * STEP_H, x = left[i] + s * STEP_W;
    const bool inside = (SAFE ? top[i] >= 0 : (u32)y < (u32)HEIGHT && (u32)x < (u32)WIDTH) &&
                        (PER_TAP % TILE_K == 0 || k.tap < taps);
    return {images + (inside ? at[i] + (r * STEP_H * WIDTH + s * STEP_W) * STORED + k.channel : 0), inside};
  }
};

// How many of 8 sums can be stored at once, where rows of `stored` numbers begin anywhere at a multiple of `start`.
__host__ __device__ constexpr int neighbours(int stored, int start) {
  int v = 8;
  while (stored % v || start % v) v /= 2;
  return v;
}
