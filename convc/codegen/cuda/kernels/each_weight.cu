// Each weight changed by itself, WIDTH neighbouring channels at a time; padding becomes zero. `changed` is given the
// weight and its logical number, by which random bits are counted.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  for (i64 i = (i64)blockIdx.x * THREADS + threadIdx.x; i < SIZE / WIDTH; i += (i64)gridDim.x * THREADS) {
    const Index first = (Index)(i * WIDTH);
    Place place = place_of(first);
    float v[WIDTH];
    load<WIDTH>(W + first, v);
#pragma unroll
    for (int k = 0; k < WIDTH; ++k, ++place.channel)
      v[k] = is_real(place) ? changed(ARGUMENTS, v[k], logical(place)) : 0.0f;
    store<WIDTH>(RESULT + first, v);
  }
}
