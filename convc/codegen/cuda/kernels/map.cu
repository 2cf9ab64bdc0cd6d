// Element by element: `source` makes WIDTH neighbouring channels of a pixel, `finish` does the rest.
// Asked for three blocks, ptxas does not keep numbers in memory to make room for more.
extern "C" __global__ void __launch_bounds__(THREADS, 3) KERNEL(PARAMETERS) {
  const Index total = (Index)ROWS * (PIXELS * (STORED / WIDTH));
  for (Index i = blockIdx.x * THREADS + threadIdx.x; i < total; i += (Index)gridDim.x * THREADS) {
    const int channel = i % (STORED / WIDTH) * WIDTH;
    const int pixel = i / (STORED / WIDTH) % PIXELS, row = i / (STORED / WIDTH * PIXELS);
    float v[WIDTH];
    source<WIDTH>(ARGUMENTS, row, pixel, channel, v);
    finish<WIDTH>(ARGUMENTS, row, pixel, channel, v);
  }
}
