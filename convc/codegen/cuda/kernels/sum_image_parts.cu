// The sums of the parts, [part][row][pixel][channel], in their order; then `finish`.
constexpr int V = RESULT_STORED % 4 == 0 ? 4 : 1;

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const i64 vectors = (i64)rows * RESULT_PIXELS * (RESULT_STORED / V), index = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (index >= vectors) return;
  float sum[V] = {};
#pragma unroll 4
  for (int part = 0; part < PARTS; ++part) {
    float v[V];
    load<V>(SCRATCH + (part * vectors + index) * V, v);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += v[i];
  }
  const i64 pixel = index / (RESULT_STORED / V);
  finish<V>(ARGUMENTS, pixel / RESULT_PIXELS, pixel % RESULT_PIXELS, index % (RESULT_STORED / V) * V, sum);
}
