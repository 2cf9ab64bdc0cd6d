// How a block lies over channels and pixels: BLOCK_VECTORS threads along the channels, V channels each, and LANES along
// the pixels. A few threads may be left over; they take part in barriers only.
constexpr int LANES = THREADS / BLOCK_VECTORS, BLOCK_CHANNELS = BLOCK_VECTORS * V;

// The first `half` of the tree that adds LANES up: the largest power of two below.
__host__ __device__ constexpr int half_of(int lanes) {
  int half = 1;
  while (half * 2 < lanes) half *= 2;
  return half;
}

struct Place {
  int lane, own, channel;  // along pixels; first channel within the block, and of all
  bool works;
};

// blockIdx.y: which of the blocks along the channels.
__device__ __forceinline__ Place place_in_block() {
  Place place;
  place.lane = threadIdx.x / BLOCK_VECTORS;
  place.own = threadIdx.x % BLOCK_VECTORS * V;
  place.channel = blockIdx.y * BLOCK_CHANNELS + place.own;
  place.works = place.lane < LANES && place.channel < STORED;
  return place;
}

// Zeros in padding channels.
__device__ __forceinline__ void clear_padding(int channel, float (&v)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i)
    if (channel + i >= CHANNELS) v[i] = 0.0f;
}
