// What is made of the sums of all CHUNKS chunks, by one block.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Sum* parts = reinterpret_cast<const Sum*>(SCRATCH);
  Sum sum = 0;
  for (int i = threadIdx.x; i < CHUNKS; i += THREADS) sum += parts[i];
  sum = block_total<1>(sum);
  if (threadIdx.x == 0) *RESULT = result_of(sum);
}
