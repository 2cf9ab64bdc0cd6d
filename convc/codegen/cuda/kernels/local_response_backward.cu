// dx_i = dy_i * d_i^-beta - 2 alpha beta / size * x_i * (sum of dy_c * x_c * d_c^(-beta - 1) over all c in whose windows
// i is).
// Windows are turned around: what has i in its window begins AFTER channels below i.
constexpr int WIDE = SPAN + HALO_BEFORE + HALO_AFTER;

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  __shared__ float squares[BLOCK_PIXELS][WIDE], pulls[BLOCK_PIXELS][SPAN];
  __shared__ __align__(16) float powers[BLOCK_PIXELS][CHUNK], sums[BLOCK_PIXELS][CHUNK];
  const Index block = (Index)blockIdx.x * BLOCK_PIXELS, rest = (Index)rows * PIXELS - block;
  const int pixels = rest < BLOCK_PIXELS ? rest : BLOCK_PIXELS;
  // Padding is never written otherwise.
  for (int i = threadIdx.x; i < BLOCK_PIXELS * CHUNK; i += THREADS)
    powers[i / CHUNK][i % CHUNK] = sums[i / CHUNK][i % CHUNK] = 0.0f;
#pragma unroll 1
  for (int chunk = 0; chunk < STORED; chunk += CHUNK) {
    const int first = chunk - HALO_AFTER, first_square = first - HALO_BEFORE;
    each_channel<WIDE>(pixels, first_square, [&](int p, int channel) {
      const float x = to_float(X[(block + p) * STORED + channel]);
      squares[p][channel - first_square] = x * x;
    });
    __syncthreads();
    each_channel<SPAN>(pixels, first, [&](int p, int channel) {
      const Index at = (block + p) * STORED + channel;
      const float d = denominator(squares[p], first_square, channel), scale = power(d);
      if (channel >= chunk && channel < chunk + CHUNK) powers[p][channel - chunk] = scale;
      pulls[p][channel - first] = to_float(DY[at]) * to_float(X[at]) * scale / d;
    });
    __syncthreads();
    each_channel<CHUNK>(pixels, chunk, [&](int p, int channel) {
      sums[p][channel - chunk] = window_sum(pulls[p], first, channel - AFTER, channel + BEFORE + 1);
    });
    __syncthreads();
    each_vector(pixels, chunk, [&](int p, int channel) {
      const Index pixel = block + p;
      float dy[V], x[V], scale[V], sum[V];
      load<V>(DY + pixel * STORED + channel, dy);
      load<V>(X + pixel * STORED + channel, x);
      load<V>(&powers[p][channel - chunk], scale);
      load<V>(&sums[p][channel - chunk], sum);
#pragma unroll
      for (int i = 0; i < V; ++i) dy[i] = dy[i] * scale[i] - FACTOR * x[i] * sum[i];
      finish<V>(ARGUMENTS, (int)(pixel / PIXELS), (int)(pixel % PIXELS), channel, dy);
    });
    __syncthreads();
  }
}
