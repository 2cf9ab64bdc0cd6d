// The sum of `loss` over PART_ITEMS pixels from blockIdx.x * PART_ITEMS on, of any rows.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Index begin = (Index)blockIdx.x * PART_ITEMS, all = (Index)rows * PIXELS;
  const Index end = begin + PART_ITEMS < all ? begin + PART_ITEMS : all;
  float sum = 0.0f;
#pragma unroll 1
  for (Index first = begin; first < end; first += TEAMS) {
    // Teams without a pixel of their own do one again, so that all threads meet.
    const bool exists = first + team() < end;
    const float term = loss(ARGUMENTS, exists ? first + team() : begin);
    if (exists && member() == 0) sum += term;
  }
  deliver_sum(ARGUMENTS, sum);
}
