// Numbers: bfloat16, rounding, saturation, minima, and the integer instructions that C++ has no operator for.
#pragma once

#include "machine.hpp"

namespace emulator {

using half = _Float16;

// Rounds to odd: a later rounding to nearest of fewer than 23 bits then is the rounding of the exact value.
inline float to_odd(double value, double rest = 0) {
  float f = float(value);
  if (std::isnan(value) || std::isinf(value)) return f;
  if (std::isinf(f)) return f;
  const bool inexact = double(f) != value || rest != 0;
  if (!inexact) return f;
  uint32_t u = bits<uint32_t>(&f);
  const bool away = double(f) == value ? (rest < 0) != (value < 0) : std::fabs(double(f)) > std::fabs(value);
  if (away) u -= 1;
  u |= 1;
  return bits<float>(&u);
}

struct bfloat {
  uint16_t raw;
  bfloat() = default;
  explicit bfloat(float value) {
    const uint32_t u = bits<uint32_t>(&value);
    const uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    raw = (u & 0x7fffffff) > 0x7f800000 ? 0x7fff : uint16_t(rounded);
  }
  explicit bfloat(double value) : bfloat(to_odd(value)) {}
  operator float() const {
    const uint32_t u = uint32_t(raw) << 16;
    return bits<float>(&u);
  }
};

struct tf32 {  // 32 bits of which 19 count
  uint32_t raw;
  operator float() const {
    const uint32_t u = raw & 0xffffe000u;
    return bits<float>(&u);
  }
};

template <class T> constexpr bool is_small_float = std::is_same_v<T, half> || std::is_same_v<T, bfloat>;
template <class T> constexpr bool is_float = std::is_floating_point_v<T> || is_small_float<T>;
// What T is computed in: sums and products of small floats are exact enough in single precision to be rounded once.
template <class T> using Wide = std::conditional_t<is_small_float<T>, float, T>;

template <class T> inline T from_double(double value) {
  if constexpr (std::is_same_v<T, half>) return half(to_odd(value));
  else return T(value);
}

template <class T> inline T flush(T value) {  // .ftz: subnormal numbers become zeros of their sign
  using W = Wide<T>;
  const W w = W(value);
  const W smallest = std::is_same_v<T, half> ? W(6.103515625e-05f) : std::numeric_limits<W>::min();
  return std::fabs(w) < smallest ? T(std::copysign(W(0), w)) : value;
}

template <class T> inline T saturate(T value) {  // .sat: to [0, 1], NaN to 0
  using W = Wide<T>;
  const W w = W(value);
  return w > W(0) ? (w < W(1) ? value : T(W(1))) : T(W(0));
}

template <class T> inline T fused(T a, T b, T c) {
  if constexpr (is_small_float<T>) {
    const double product = double(float(a)) * double(float(b)), addend = double(float(c));
    const double sum = product + addend, part = sum - product;
    const double rest = (product - (sum - part)) + (addend - part);  // what the sum has lost, exactly
    return T(to_odd(sum, std::isfinite(sum) ? rest : 0));
  } else {
    return std::fma(a, b, c);
  }
}

template <class T> inline T least(T a, T b) {
  if constexpr (is_float<T>) {
    using W = Wide<T>;
    const W x = W(a), y = W(b);
    if (x != x) return b;
    if (y != y) return a;
    return x < y || (x == y && std::signbit(x)) ? a : b;
  } else {
    return a < b ? a : b;
  }
}

template <class T> inline T most(T a, T b) {
  if constexpr (is_float<T>) {
    using W = Wide<T>;
    const W x = W(a), y = W(b);
    if (x != x) return b;
    if (y != y) return a;
    return x > y || (x == y && !std::signbit(x)) ? a : b;
  } else {
    return a > b ? a : b;
  }
}

template <class T> inline bool unordered(T a, T b) {
  return Wide<T>(a) != Wide<T>(a) || Wide<T>(b) != Wide<T>(b);
}

// Division that cannot trap: what PTX leaves open is all ones.
template <class T> inline T quotient(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a / b;
  else if (b == 0) return T(-1);
  else if (std::is_signed_v<T> && b == T(-1)) return T(0 - std::make_unsigned_t<T>(a));
  else return T(a / b);
}

template <class T> inline T remainder(T a, T b) {
  if (b == 0) return T(-1);
  if (std::is_signed_v<T> && b == T(-1)) return 0;
  return T(a % b);
}

template <class T> inline T shifted_left(T a, uint32_t by) { return by >= sizeof(T) * 8 ? T(0) : T(a << by); }

template <class T> inline T shifted_right(T a, uint32_t by) {
  if (by >= sizeof(T) * 8) return std::is_signed_v<T> && a < 0 ? T(-1) : T(0);
  return T(a >> by);
}

template <class T> inline T high_half(T a, T b) {
  using W = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  return T((W(a) * W(b)) >> (sizeof(T) * 8));
}

template <class T> inline T clamped(__int128 value) {
  constexpr __int128 low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  return T(value < low ? low : value > high ? high : value);
}

// Conversions

enum Rounding { NEAREST, ZERO, DOWN, UP };

template <class D, class A> inline D narrowed(A value) { return clamped<D>(value); }

template <class D> inline D integer(double rounded) {  // from a whole number; NaN is 0, what is too large the nearest
  if (rounded != rounded) return 0;
  constexpr double low = double(std::numeric_limits<D>::min());
  constexpr double above = 2.0 * double(std::numeric_limits<D>::max() / 2 + 1);
  if (rounded < low) return std::numeric_limits<D>::min();
  if (rounded >= above) return std::numeric_limits<D>::max();
  return D(rounded);
}

// What integer() yields for values that a 32-bit signed integer has room for: this one is vectorised.
inline int32_t integer_of(float rounded) {
  const float bounded = rounded >= 2147483648.0f ? 0.0f : rounded < -2147483648.0f ? -2147483648.0f : rounded;
  return rounded >= 2147483648.0f ? 2147483647 : rounded != rounded ? 0 : int32_t(bounded);
}

// Single precision with a rounding of its own, of value + rest.
template <Rounding MODE> inline float directed(double value, double rest) {
  const float f = float(value);
  if (!std::isfinite(value)) return f;
  const double error = double(f) != value ? double(f) - value : -rest;  // its sign is that of f - (value + rest)
  const bool above = error > 0, below = error < 0, negative = value < 0;
  if (MODE == DOWN ? above : MODE == UP ? false : !negative && above) return std::nextafter(f, -INFINITY);
  if (MODE == UP ? below : MODE == DOWN ? false : negative && below) return std::nextafter(f, INFINITY);
  return f;
}

template <Rounding MODE> inline float directed_fma(float a, float b, float c) {
  const double product = double(a) * double(b), sum = product + c, part = sum - product;
  return directed<MODE>(sum, std::isfinite(sum) ? (product - (sum - part)) + (c - part) : 0);
}

template <class T> inline double exactly(T value) {
  if constexpr (is_small_float<T>) return double(float(value));
  else return double(value);
}

template <Rounding MODE> inline double whole(double value) {
  if constexpr (MODE == NEAREST) return std::nearbyint(value);
  if constexpr (MODE == ZERO) return std::trunc(value);
  if constexpr (MODE == DOWN) return std::floor(value);
  return std::ceil(value);
}

template <class T> inline T toward_zero(double value) {  // of a normal number or zero
  T rounded = from_double<T>(value);
  if (std::fabs(exactly(rounded)) > std::fabs(value)) {
    using U = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
    const U below = U(bits<U>(&rounded) - 1);
    rounded = bits<T>(&below);
  }
  return rounded;
}

inline uint32_t to_tf32(float value) {  // to nearest, ties away from zero
  const uint32_t u = bits<uint32_t>(&value);
  return std::isfinite(value) ? (u + 0x1000u) & 0xffffe000u : u;
}

// Bits

inline uint32_t truth_table(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t found = 0;
  for (uint32_t k = 0; k < 8; k++)
    if (table >> k & 1) found |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  return found;
}

inline uint32_t permuted(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t found = 0;
  for (uint32_t k = 0; k < 4; k++) {
    const uint32_t choice = selector >> (4 * k) & 15;
    uint32_t byte = uint32_t(bytes >> (8 * (choice & 7))) & 255;
    if (choice & 8) byte = byte & 128 ? 255 : 0;
    found |= byte << (8 * k);
  }
  return found;
}

template <class T> inline T field(T a, uint32_t start, uint32_t length) {  // bfe
  constexpr uint32_t BITS = sizeof(T) * 8;
  start &= 255, length &= 255;
  if (length == 0) return 0;
  const uint32_t top = std::min(start + length - 1, BITS - 1);
  const bool sign = std::is_signed_v<T> && (a >> top & 1);
  T found = 0;
  for (uint32_t k = 0; k < BITS; k++) {
    const bool bit = k < length && start + k < BITS ? a >> (start + k) & 1 : sign;
    found = T(found | T(bit) << k);
  }
  return found;
}

template <class T> inline T inserted(T a, T b, uint32_t start, uint32_t length) {  // bfi
  constexpr uint32_t BITS = sizeof(T) * 8;
  start &= 255, length &= 255;
  for (uint32_t k = 0; k < length && start + k < BITS; k++) {
    const T bit = T(1) << (start + k);
    b = T((b & ~bit) | ((a >> k & 1) << (start + k)));
  }
  return b;
}

template <class T> inline T reversed(T a) {
  T found = 0;
  for (uint32_t k = 0; k < sizeof(T) * 8; k++) found = T(found << 1 | (a >> k & 1));
  return found;
}

template <class T> inline uint32_t highest(T a) {  // bfind
  if (std::is_signed_v<T> && a < 0) a = T(~a);
  using U = std::make_unsigned_t<T>;
  return U(a) == 0 ? 0xffffffffu : uint32_t(sizeof(T) * 8 - 1 - std::countl_zero(U(a)));
}

template <class A, class B> inline int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
  for (uint32_t k = 0; k < 4; k++) sum += int32_t(A(a >> (8 * k))) * int32_t(B(b >> (8 * k)));
  return sum;
}

// Two words of 16 bits times the lower two bytes.
template <class A, class B> inline int32_t dot2(uint32_t a, uint32_t b, int32_t sum) {
  for (uint32_t k = 0; k < 2; k++) sum += int32_t(A(a >> (16 * k))) * int32_t(B(b >> (8 * k)));
  return sum;
}

}  // namespace emulator
