// Filters, transformed: SCRATCH[block of results][chunk of channels][point][channel of the chunk][result of the block],
// which is the order in which winograd.cu takes them; what the convolution has no filters for is zero. Backward by the
// data the filters are turned by 180 degrees, and their results are the channels.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  constexpr int POINTS = EXTENT_H * EXTENT_W;
  const int result_in_block = threadIdx.x % BLOCK_FILTERS;
  const int channel_in_chunk = threadIdx.x / BLOCK_FILTERS + blockIdx.y * (THREADS / BLOCK_FILTERS);
  const int chunk = blockIdx.x % CHUNKS, block = blockIdx.x / CHUNKS;
  const int channel = chunk * DEPTH + channel_in_chunk, result = block * BLOCK_FILTERS + result_in_block;
  if (channel_in_chunk >= DEPTH) return;

  // Channels of the padding are zero in memory.
  const int k = TURNED ? channel : result, c = TURNED ? result : channel;
  const bool exists = k < KG_STORED && c < CG_STORED;
  const auto* taps = FILTERS + (exists ? (size_t)k * (R * S * CG_STORED) + c : 0);
  float x[R][S];
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int s = 0; s < S; ++s) {
      const int tap = TURNED ? (R - 1 - r) * S + S - 1 - s : r * S + s;
      x[r][s] = exists ? to_float(taps[tap * CG_STORED]) : 0.0f;
    }
  float* target = SCRATCH + ((size_t)blockIdx.x * POINTS * DEPTH + channel_in_chunk) * BLOCK_FILTERS + result_in_block;
  transform_filters(x, [&](int i, const float (&row)[EXTENT_W]) {
#pragma unroll
    for (int j = 0; j < EXTENT_W; ++j) target[(i * EXTENT_W + j) * (DEPTH * BLOCK_FILTERS)] = row[j];
  });
}
