// A gradient by filters from the sums of the parts, which lie like it one after the other, added in their order.
constexpr i64 ELEMENTS = (i64)GROUPS * KG_STORED * R * S * CG_STORED;
constexpr int V = ELEMENTS % 4 == 0 ? 4 : 1;

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const i64 first = ((i64)blockIdx.x * THREADS + threadIdx.x) * V;
  if (first >= ELEMENTS) return;
  float sum[V] = {};
#pragma unroll 4
  for (int part = 0; part < PARTS; ++part) {
    float v[V];
    load<V>(SCRATCH + part * ELEMENTS + first, v);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += v[i];
  }
  store<V>(DFILTERS + first, sum);
}
