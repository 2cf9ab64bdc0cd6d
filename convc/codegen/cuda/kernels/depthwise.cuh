// What convolutions with few channels in a group share: a thread makes V neighbouring channels of SPAN pixels in a row,
// as those read the same columns under different taps. Needs the constants RESULT_GROUP and SOURCE_GROUP, channels of
// a group on either side; RESULT_STORED and SOURCE_STORED, those of a pixel; SOURCE_H, SOURCE_W; MOVE_W, columns from
// a thread's pixel to its next; STEP_H, STEP_W, from tap to tap; MOST_W, taps in a row; and the type `Source`.
template <bool LONG>
struct OffsetOf {
  typedef int type;
};
template <>
struct OffsetOf<true> {
  typedef i64 type;
};
typedef OffsetOf<((i64)BATCH * SOURCE_H * SOURCE_W * SOURCE_STORED >= 1ll << 31)>::type Offset;

// Neighbouring results belong to one group, or to NEAR groups as a whole.
constexpr bool IN_FOURS = RESULT_STORED % 4 == 0 && (GROUPS == 1 || RESULT_GROUP % 4 == 0 || 4 % RESULT_GROUP == 0);
constexpr int V = IN_FOURS ? 4 : 1, NEAR = GROUPS == 1 || RESULT_GROUP >= V ? 1 : V / RESULT_GROUP;
constexpr int PER_NEAR = V / NEAR, BLOCK_CHANNELS = BLOCK_VECTORS * V, TAPS = R * S;

__device__ __forceinline__ int group_of(int channel) { return GROUPS == 1 ? 0 : channel / RESULT_GROUP; }

// Whether pixel p reads column u of a thread's by tap t.
__host__ __device__ constexpr bool meets(int u, int p, int t) { return p * MOVE_W + t * STEP_W == u; }
constexpr int FIRST_U = STEP_W < 0 ? (MOST_W - 1) * STEP_W : 0;
constexpr int LAST_U = (SPAN - 1) * MOVE_W + (STEP_W > 0 ? (MOST_W - 1) * STEP_W : 0);
__host__ __device__ constexpr bool is_read(int u) {
  for (int p = 0; p < SPAN; ++p)
    for (int t = 0; t < MOST_W; ++t)
      if (meets(u, p, t)) return true;
  return false;
}

// Channel q of each of the NEAR groups from `group`, of a pixel; 0 beyond the last group.
__device__ __forceinline__ void load_near(const Source* pixel, int group, int q, bool valid, float (&x)[NEAR]) {
#pragma unroll
  for (int i = 0; i < NEAR; ++i) x[i] = 0.0f;
  if (!valid) return;
  if constexpr (SOURCE_GROUP == 1 && NEAR == 4) {
    // Padding channels are read with the others.
    if (group < SOURCE_STORED) load<NEAR>(pixel + group, x);
  } else {
#pragma unroll
    for (int i = 0; i < NEAR; ++i)
      if (group + i < GROUPS) x[i] = to_float(pixel[(group + i) * SOURCE_GROUP + q]);
  }
}

// Adds what `rows_count` rows of taps contribute. `weights` is [tap][q][channel of the block], at the thread's first
// channel; taps of a row are `tap`, tap + TAP_W, …, `count_w` of them; rows of taps are TAP_H apart.
template <int TAP_H, int TAP_W>
__device__ __forceinline__ void add_taps(const Source* image, const float* weights, int channel, int h, int w, int tap,
                                         int count_h, int count_w, float (&sums)[SPAN][V]) {
  const int group = group_of(channel);
#pragma unroll 1
  for (int a = 0; a < count_h; ++a, h += STEP_H, tap += TAP_H) {
    if ((unsigned)h >= SOURCE_H) continue;
#pragma unroll 1
    for (int q = 0; q < SOURCE_GROUP; ++q) {
      float weight[MOST_W][V];
#pragma unroll
      for (int t = 0; t < MOST_W; ++t) {
#pragma unroll
        for (int i = 0; i < V; ++i) weight[t][i] = 0.0f;
        if (t < count_w) load<V>(weights + ((tap + t * TAP_W) * SOURCE_GROUP + q) * BLOCK_CHANNELS, weight[t]);
      }
#pragma unroll
      for (int u = FIRST_U; u <= LAST_U; ++u)
        if (is_read(u)) {
          float x[NEAR];
          const bool valid = (unsigned)(w + u) < SOURCE_W;
          load_near(image + ((Offset)h * SOURCE_W + w + u) * SOURCE_STORED, group, q, valid, x);
#pragma unroll
          for (int p = 0; p < SPAN; ++p)
#pragma unroll
            for (int t = 0; t < MOST_W; ++t)
              if (meets(u, p, t))
#pragma unroll
                for (int i = 0; i < V; ++i) sums[p][i] = fmaf(x[i / PER_NEAR], weight[t][i], sums[p][i]);
        }
    }
  }
}
