// TEAM threads treat the channels of a pixel together: some lanes of a warp, or the whole block.
constexpr int TEAMS = THREADS / TEAM, MEMBER_VECTORS = (STORED / V + TEAM - 1) / TEAM;

__device__ __forceinline__ int team() { return threadIdx.x / TEAM; }
__device__ __forceinline__ int member() { return threadIdx.x % TEAM; }

struct Sum {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct Largest {
  __device__ __forceinline__ float operator()(float a, float b) const { return larger(a, b); }
};

// Joins a number of each member by `both`, the same bits for all of them. All threads of the block take part.
template <typename Both>
__device__ __forceinline__ float over_team(float x, Both both) {
#pragma unroll
  for (int distance = (TEAM < 32 ? TEAM : 32) / 2; distance > 0; distance /= 2)
    x = both(x, __shfl_xor_sync(~0u, x, distance));
  if constexpr (TEAM > 32) {
    __shared__ float warps[THREADS / 32];
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warps[0];
#pragma unroll
    for (int warp = 1; warp < TEAM / 32; ++warp) x = both(x, warps[warp]);
    __syncthreads();
  }
  return x;
}

// Calls `use(number of the vector, its channel)` for each of a member's vectors.
template <typename Use>
__device__ __forceinline__ void each_vector(Use use) {
#pragma unroll(KEPT ? MEMBER_VECTORS : 1)
  for (int n = 0; n < MEMBER_VECTORS; ++n) {
    const int channel = (n * TEAM + member()) * V;
    if (channel < STORED) use(n, channel);
  }
}

// The numbers of a pixel that a member takes; in registers if KEPT, otherwise they are read whenever they are used.
template <typename T>
struct Pixel {
  const T* numbers;
  float kept[KEPT ? MEMBER_VECTORS : 1][V];

  __device__ __forceinline__ explicit Pixel(const T* at) : numbers(at) {
    if constexpr (KEPT) each_vector([&](int n, int channel) { load<V>(numbers + channel, kept[n]); });
  }
  __device__ __forceinline__ void get(int n, int channel, float (&v)[V]) const {
    if constexpr (KEPT) {
#pragma unroll
      for (int i = 0; i < V; ++i) v[i] = kept[n][i];
    } else {
      load<V>(numbers + channel, v);
    }
  }
  // Calls `use(channel, number)` for the real channels.
  template <typename Use>
  __device__ __forceinline__ void each(Use use) const {
    each_vector([&](int n, int channel) {
      float v[V];
      get(n, channel, v);
#pragma unroll
      for (int i = 0; i < V; ++i)
        if (STORED == CHANNELS || channel + i < CHANNELS) use(channel + i, v[i]);
    });
  }
};

// What a soft-max is made of: the largest number, and the sum of the exponentials of what the others differ by from it.
struct Exponentials {
  float largest, sum;
};

template <typename T>
__device__ __forceinline__ Exponentials exponentials(const Pixel<T>& x) {
  float largest = -__int_as_float(0x7f800000), sum = 0.0f;
  x.each([&](int, float number) { largest = larger(largest, number); });
  largest = over_team(largest, Largest());
  x.each([&](int, float number) { sum += expf(number - largest); });
  return {largest, over_team(sum, Sum())};
}

// Teams without a pixel of their own do the last one's work again, so that all threads meet at barriers.
struct Item {
  int number, row, pixel;
  bool exists;
};

__device__ __forceinline__ Item item_of_team(int rows) {
  const int number = blockIdx.x * TEAMS + team(), all = rows * PIXELS, real = number < all ? number : all - 1;
  return {real, real / PIXELS, real % PIXELS, number < all};
}
