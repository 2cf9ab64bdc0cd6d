// One block adds up the sums that others have left in SCRATCH, as many as there are with so many rows.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const int parts = PARTS;
  float sum = 0.0f;
#pragma unroll 4
  for (int part = threadIdx.x; part < parts; part += THREADS) sum += SCRATCH[part];
  deliver_sum(ARGUMENTS, sum);
}
