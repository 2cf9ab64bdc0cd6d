// x * denominator^-beta.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  __shared__ float squares[BLOCK_PIXELS][SPAN];
  __shared__ __align__(16) float powers[BLOCK_PIXELS][CHUNK];
  const Index block = (Index)blockIdx.x * BLOCK_PIXELS, rest = (Index)rows * PIXELS - block;
  const int pixels = rest < BLOCK_PIXELS ? rest : BLOCK_PIXELS;
  // Padding is never written otherwise.
  for (int i = threadIdx.x; i < BLOCK_PIXELS * CHUNK; i += THREADS) powers[i / CHUNK][i % CHUNK] = 0.0f;
#pragma unroll 1
  for (int chunk = 0; chunk < STORED; chunk += CHUNK) {
    const int first = chunk - HALO_BEFORE;
    each_channel<SPAN>(pixels, first, [&](int p, int channel) {
      const float x = to_float(X[(block + p) * STORED + channel]);
      squares[p][channel - first] = x * x;
    });
    __syncthreads();
    each_channel<CHUNK>(pixels, chunk, [&](int p, int channel) {
      powers[p][channel - chunk] = power(denominator(squares[p], first, channel));
    });
    __syncthreads();
    each_vector(pixels, chunk, [&](int p, int channel) {
      const Index pixel = block + p;
      float x[V], scale[V];
      load<V>(X + pixel * STORED + channel, x);
      load<V>(&powers[p][channel - chunk], scale);
#pragma unroll
      for (int i = 0; i < V; ++i) x[i] *= scale[i];
      finish<V>(ARGUMENTS, (int)(pixel / PIXELS), (int)(pixel % PIXELS), channel, x);
    });
    // The next chunk's squares have been waited for by who writes powers, but not the other way round.
    __syncthreads();
  }
}
