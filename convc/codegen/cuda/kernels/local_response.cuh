// Denominators k + alpha / size * (sum of squares over a window of channels), and their powers. A block takes
// BLOCK_PIXELS pixels, and their channels CHUNK at a time. Where a chunk is not all of them, HALO_BEFORE and HALO_AFTER
// are how far windows reach beyond it.
//
// Sums are made one channel per thread, which asks all banks of shared memory; results V channels per thread.
constexpr int VECTORS = CHUNK / V, SPAN = CHUNK + HALO_BEFORE + HALO_AFTER;

// Calls `use(pixel of the block, channel)` for the real channels among `count` from `first` on.
template <int COUNT, typename Use>
__device__ __forceinline__ void each_channel(int pixels, int first, Use use) {
  for (int i = threadIdx.x; i < pixels * COUNT; i += THREADS) {
    const int channel = first + i % COUNT;
    if (channel >= 0 && channel < CHANNELS) use(i / COUNT, channel);
  }
}

// The sum of `numbers`, which begin with channel `first`, from channel `from` to before `to`, as far as there are.
__device__ __forceinline__ float window_sum(const float* numbers, int first, int from, int to) {
  float sum = 0.0f;
  for (int c = from > 0 ? from : 0; c < (to < CHANNELS ? to : CHANNELS); ++c) sum += numbers[c - first];
  return sum;
}

__device__ __forceinline__ float denominator(const float* squares, int first, int channel) {
  return ADDED + SHARE * window_sum(squares, first, channel - BEFORE, channel + AFTER + 1);
}

// d to the power of -BETA.
__device__ __forceinline__ float power(float d) {
  if (BETA == 0.75f) {
    const float root = rsqrtf(d);
    return root * sqrtf(root);
  }
  if (BETA == 0.5f) return rsqrtf(d);
  if (BETA == 1.0f) return 1.0f / d;
  return exp2f(-BETA * log2f(d));
}

// Calls `use(pixel of the block, channel)` for each vector of the chunk, padding included.
template <typename Use>
__device__ __forceinline__ void each_vector(int pixels, int chunk, Use use) {
  for (int i = threadIdx.x; i < pixels * VECTORS; i += THREADS) {
    const int channel = chunk + i % VECTORS * V;
    if (channel < STORED) use(i / VECTORS, channel);
  }
}
