// Element types, and vectors of them in memory. Kernels compute in float; memory holds float, f16 or bf16.
// No header of CUDA's is needed: NVRTC has none on machines without a toolkit.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct f16 {
  u16 bits;
};
struct bf16 {
  u16 bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// To the nearest, ties to even; beyond the largest number infinite.
template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  bf16 y;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
  const u32 bits = __float_as_uint(x);
  y.bits = x != x ? (u16)(bits >> 16 | 0x40) : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
  return y;
}

// V neighbours in memory as one access of at most 16 bytes each; `p` is aligned to that.
template <int BYTES>
struct Word;
template <>
struct Word<2> {
  typedef u16 type;
};
template <>
struct Word<4> {
  typedef u32 type;
};
template <>
struct Word<8> {
  typedef uint2 type;
};
template <>
struct Word<16> {
  typedef uint4 type;
};

template <int V, typename T>
__device__ __forceinline__ void load(const T* p, float (&v)[V]) {
  constexpr int PIECE = V * sizeof(T) <= 16 ? V : 16 / sizeof(T);
  typedef typename Word<PIECE * sizeof(T)>::type Piece;
#pragma unroll
  for (int first = 0; first < V; first += PIECE) {
    union {
      Piece word;
      T numbers[PIECE];
    } piece;
    piece.word = *reinterpret_cast<const Piece*>(p + first);
#pragma unroll
    for (int i = 0; i < PIECE; ++i) v[first + i] = to_float(piece.numbers[i]);
  }
}

template <int V, typename T>
__device__ __forceinline__ void store(T* p, const float (&v)[V]) {
  constexpr int PIECE = V * sizeof(T) <= 16 ? V : 16 / sizeof(T);
  typedef typename Word<PIECE * sizeof(T)>::type Piece;
#pragma unroll
  for (int first = 0; first < V; first += PIECE) {
    union {
      Piece word;
      T numbers[PIECE];
    } piece;
#pragma unroll
    for (int i = 0; i < PIECE; ++i) piece.numbers[i] = from_float<T>(v[first + i]);
    *reinterpret_cast<Piece*>(p + first) = piece.word;
  }
}
