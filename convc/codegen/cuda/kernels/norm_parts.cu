// One sum for every CHUNK numbers of each of many tensors; `chunk_of` tells where a chunk lies, and how long it is.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  i64 count;
  const float* chunk = chunk_of(ARGUMENTS, blockIdx.x, count);
  const int size = count < CHUNK ? (int)count : CHUNK;
  Sum sum = 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < size / 4; i += THREADS) {
    float v[4];
    load<4>(chunk + i * 4, v);
    sum += sum_of(v);
  }
  if ((int)threadIdx.x < size % 4) {
    const float v[4] = {chunk[size / 4 * 4 + threadIdx.x], 0.0f, 0.0f, 0.0f};
    sum += sum_of(v);
  }
  sum = block_total<1>(sum);
  if (threadIdx.x == 0) reinterpret_cast<Sum*>(SCRATCH)[blockIdx.x] = sum;
}
