// One pass over all parameters with equal settings: of each of the TENSORS tensors of a sweep (T0, T1, …) a block of
// memory, SIZE numbers in the same order. `rule` changes the numbers at one place; the last few fill no vector.
template <int V>
__device__ __forceinline__ void change(PARAMETERS, const Once& once, Place place) {
  float v[TENSORS][V];
  load_tensors<V>(ARGUMENTS, place, v);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float x[TENSORS];
#pragma unroll
    for (int t = 0; t < TENSORS; ++t) x[t] = v[t][i];
    rule(once, x);
#pragma unroll
    for (int t = 0; t < TENSORS; ++t) v[t][i] = x[t];
  }
  store_tensors<V>(ARGUMENTS, place, v);
}

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  // Not even numbers that are none are touched then.
  if (GUARD == 0.0f) return;
  const Once once = prepare(ARGUMENTS);
  for (Place i = (Place)blockIdx.x * THREADS + threadIdx.x; i < SIZE / 4; i += (Place)gridDim.x * THREADS)
    change<4>(ARGUMENTS, once, i * 4);
  if (blockIdx.x == 0 && (int)threadIdx.x < SIZE % 4) change<1>(ARGUMENTS, once, SIZE / 4 * 4 + (Place)threadIdx.x);
}
