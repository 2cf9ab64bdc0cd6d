// The sum of all numbers: PART_ITEMS vectors of V from blockIdx.x * PART_ITEMS on, without what is padding.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Index begin = (Index)blockIdx.x * PART_ITEMS, all = (Index)ROWS * ROW_ITEMS;
  const Index end = begin + PART_ITEMS < all ? begin + PART_ITEMS : all;
  float sums[V] = {};
#pragma unroll UNROLL
  for (Index i = begin + threadIdx.x; i < end; i += THREADS) {
    float v[V];
    numbers(ARGUMENTS, i * V, v);
#pragma unroll
    for (int n = 0; n < V; ++n)
      if (is_real(i % ROW_ITEMS * V + n)) sums[n] += v[n];
  }
#pragma unroll
  for (int distance = V / 2; distance > 0; distance /= 2)
#pragma unroll
    for (int n = 0; n < distance; ++n) sums[n] += sums[n + distance];
  deliver_sum(ARGUMENTS, sums[0]);
}
