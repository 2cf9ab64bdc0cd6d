// What means are divided by.

// How many positions along one axis a mean is over: taps from `low` to before `high`.
__device__ __forceinline__ int counted(int start, int taps, int dilation, int low, int high) {
  int count = 0;
  for (int tap = 0; tap < taps; ++tap) count += start + tap * dilation >= low && start + tap * dilation < high;
  return count;
}

// What the window at (i, j) divides its sum by. Declared padding counts, what a partial last window sees beyond does not.
__device__ __forceinline__ float divisor(int i, int j) {
  const int down = COUNT_PADDING ? counted(i * STRIDE_H - TOP, R, DILATION_H, -TOP, H + BOTTOM)
                                 : counted(i * STRIDE_H - TOP, R, DILATION_H, 0, H);
  const int across = COUNT_PADDING ? counted(j * STRIDE_W - LEFT, S, DILATION_W, -LEFT, W + RIGHT)
                                   : counted(j * STRIDE_W - LEFT, S, DILATION_W, 0, W);
  return (float)(down * across);
}
