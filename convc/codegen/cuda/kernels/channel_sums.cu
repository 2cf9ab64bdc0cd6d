// Sums of QUANTITIES numbers for each channel, which `terms` makes of a pixel, over PART_PIXELS pixels from
// blockIdx.x * PART_PIXELS on. `deliver` is given them. The lanes of a block are added up as a tree.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  __shared__ __align__(16) float collected[LANES][QUANTITIES][BLOCK_CHANNELS];
  const Place place = place_in_block();
  const Index begin = (Index)blockIdx.x * PART_PIXELS, all = ALL_PIXELS;
  const Index end = begin + PART_PIXELS < all ? begin + PART_PIXELS : all;
  float sums[QUANTITIES][V] = {};
  if (place.works) {
#pragma unroll UNROLL
    for (Index pixel = begin + place.lane; pixel < end; pixel += LANES) {
      float t[QUANTITIES][V];
      terms(ARGUMENTS, pixel, place.channel, t);
#pragma unroll
      for (int q = 0; q < QUANTITIES; ++q)
#pragma unroll
        for (int i = 0; i < V; ++i) sums[q][i] += t[q][i];
    }
  }
#pragma unroll
  for (int half = half_of(LANES); half > 0 && LANES > 1; half /= 2) {
    if (place.works && place.lane >= half && place.lane < 2 * half)
#pragma unroll
      for (int q = 0; q < QUANTITIES; ++q) store<V>(&collected[place.lane][q][place.own], sums[q]);
    __syncthreads();
    if (place.works && place.lane < half && place.lane + half < LANES)
#pragma unroll
      for (int q = 0; q < QUANTITIES; ++q) {
        float other[V];
        load<V>(&collected[place.lane + half][q][place.own], other);
#pragma unroll
        for (int i = 0; i < V; ++i) sums[q][i] += other[i];
      }
  }
  if (place.works && place.lane == 0) deliver(ARGUMENTS, blockIdx.x, place.channel, sums);
}
