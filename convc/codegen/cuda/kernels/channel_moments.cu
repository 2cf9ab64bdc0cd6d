// Mean and variances of each channel over PART_PIXELS pixels from blockIdx.x * PART_PIXELS on. With TO_PARTS they go to
// SCRATCH [part][mean, squares][channel]; a launch with FROM_PARTS joins these. The lanes of a block join as a tree.
__device__ __forceinline__ void load_origin(PARAMETERS, int channel, float (&origin)[V]) {
  const Index all = (Index)rows * PIXELS;
  float a[V], b[V], c[V];
  load<V>(X + all / 4 * STORED + channel, a);
  load<V>(X + all / 2 * STORED + channel, b);
  load<V>(X + (all - all / 4 - 1) * STORED + channel, c);
  // The one in the middle: a single pixel unlike all others, as corners may be, is none.
#pragma unroll
  for (int i = 0; i < V; ++i) origin[i] = fmaxf(fminf(a[i], b[i]), fminf(fmaxf(a[i], b[i]), c[i]));
}

__device__ __forceinline__ void load_pixel(PARAMETERS, Index pixel, int channel, const float (&origin)[V],
                                           float (&x)[V]) {
  load<V>(X + pixel * STORED + channel, x);
#pragma unroll
  for (int i = 0; i < V; ++i) x[i] -= origin[i];
}

__device__ __forceinline__ void gather(PARAMETERS, const Place& place, const float (&origin)[V], Moments& own) {
  const Index all = (Index)rows * PIXELS;
#if FROM_PARTS
  const int parts = (all + PART_PIXELS - 1) / PART_PIXELS;
#pragma unroll UNROLL
  for (int part = place.lane; part < parts; part += LANES) {
    float mean[V], squares[V];
    const float* const stored = SCRATCH + (Index)part * (2 * STORED) + place.channel;
    load<V>(stored, mean);
    load<V>(stored + STORED, squares);
    const Index rest = all - (Index)part * PART_PIXELS;
    join(own, (float)(rest < PART_PIXELS ? rest : PART_PIXELS), mean, squares);
  }
#else
  const Index begin = (Index)blockIdx.x * PART_PIXELS;
  const Index end = begin + PART_PIXELS < all ? begin + PART_PIXELS : all;
  Index pixel = begin + place.lane;
#pragma unroll 1
  for (; pixel + (UNROLL - 1) * LANES < end; pixel += UNROLL * LANES) {
    float x[UNROLL][V];
#pragma unroll
    for (int n = 0; n < UNROLL; ++n) load_pixel(ARGUMENTS, pixel + n * LANES, place.channel, origin, x[n]);
    join_pixels(own, x);
  }
#pragma unroll 1
  for (; pixel < end; pixel += LANES) {
    float x[1][V];
    load_pixel(ARGUMENTS, pixel, place.channel, origin, x[0]);
    join_pixels(own, x);
  }
#endif
}

__device__ __forceinline__ void deliver(PARAMETERS, int channel, const float (&origin)[V], Moments& own) {
#if TO_PARTS
  float* const stored = SCRATCH + (Index)blockIdx.x * (2 * STORED) + channel;
  store<V>(stored, own.mean);
  store<V>(stored + STORED, own.squares);
#else
  float unbiased[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    own.mean[i] += origin[i];
    // A single value has no unbiased variance.
    unbiased[i] = own.squares[i] / fmaxf(own.count - 1.0f, 1.0f);
    own.squares[i] /= own.count;
  }
  clear_padding(channel, own.mean);
  clear_padding(channel, own.squares);
  clear_padding(channel, unbiased);
  store<V>(MEAN + channel, own.mean);
  store<V>(VARIANCE + channel, own.squares);
  store<V>(UNBIASED + channel, unbiased);
#endif
}

// Asked for three blocks, ptxas does not keep numbers in memory to make room for more.
extern "C" __global__ void __launch_bounds__(THREADS, 3) KERNEL(PARAMETERS) {
  __shared__ __align__(16) float collected[LANES][2][BLOCK_CHANNELS];
  __shared__ float counts[LANES];
  const Place place = place_in_block();
  Moments own = {};
  float origin[V] = {};
  if (place.works) {
    load_origin(ARGUMENTS, place.channel, origin);
    gather(ARGUMENTS, place, origin, own);
  }
#pragma unroll
  for (int half = half_of(LANES); half > 0 && LANES > 1; half /= 2) {
    if (place.works && place.lane >= half && place.lane < 2 * half) {
      store<V>(&collected[place.lane][0][place.own], own.mean);
      store<V>(&collected[place.lane][1][place.own], own.squares);
      if (place.own == 0) counts[place.lane] = own.count;
    }
    __syncthreads();
    if (place.works && place.lane < half && place.lane + half < LANES) {
      float mean[V], squares[V];
      load<V>(&collected[place.lane + half][0][place.own], mean);
      load<V>(&collected[place.lane + half][1][place.own], squares);
      join(own, counts[place.lane + half], mean, squares);
    }
  }
  if (place.works && place.lane == 0) deliver(ARGUMENTS, place.channel, origin, own);
}
