// Instructions that lanes of a warp execute together: shuffles, votes, matrix loads, matrix products.
//
// `mask` has the lanes that take part. The scheduler has made sure that all lanes of the member mask have arrived.
#pragma once

#include "memory.hpp"

namespace emulator {

enum Shuffle { UPWARD, DOWNWARD, BUTTERFLY, INDEX };

// Operands: result, predicate (whether the source was in range), value, b, and c = segment mask and clamp.
template <Shuffle MODE>
inline void shuffle(Warp& warp, const Instruction& i, uint32_t mask) {
  uint32_t values[LANES], ranges = 0, results[LANES];
  std::memcpy(values, place<uint32_t>(warp, i.operand[2]), sizeof values);
  each_lane(mask, [&](uint32_t lane) {
    const uint32_t b = place<uint32_t>(warp, i.operand[3])[lane] & 31, c = place<uint32_t>(warp, i.operand[4])[lane];
    const uint32_t segment = c >> 8 & 31, lowest = lane & segment, last = lowest | (c & 31 & ~segment);
    int64_t from = MODE == UPWARD ? int64_t(lane) - b : MODE == DOWNWARD ? lane + b : MODE == BUTTERFLY ? lane ^ b
                                                                                : lowest | (b & ~segment);
    const bool in_range = MODE == UPWARD ? from >= int64_t(last) : from <= int64_t(last);
    if (!in_range) from = lane;
    if (!(mask >> from & 1)) fail(DIVERGED, lane, "shuffles from lane %d, which does not take part", int(from));
    ranges |= uint32_t(in_range) << lane;
    results[lane] = values[from];
  });
  each_lane(mask, [&](uint32_t lane) { place<uint32_t>(warp, i.operand[0])[lane] = results[lane]; });
  uint32_t& p = *place<uint32_t>(warp, i.operand[1]);
  p = (p & ~mask) | (ranges & mask);
}

// Operands: result, predicate.
inline void ballot(Warp& warp, const Instruction& i, uint32_t mask) {
  const uint32_t found = *place<uint32_t>(warp, i.operand[1]) & mask;
  each_lane(mask, [&](uint32_t lane) { place<uint32_t>(warp, i.operand[0])[lane] = found; });
}

template <class Body>
inline void vote(Warp& warp, const Instruction& i, uint32_t mask, Body body) {
  uint32_t& p = *place<uint32_t>(warp, i.operand[0]);
  p = (p & ~mask) | (body(*place<uint32_t>(warp, i.operand[1]) & mask, mask) ? mask : 0);
}

inline void active_mask(Warp& warp, const Instruction& i, uint32_t mask) {
  each_lane(mask, [&](uint32_t lane) { place<uint32_t>(warp, i.operand[0])[lane] = mask; });
}

template <class T>
inline void match_any(Warp& warp, const Instruction& i, uint32_t mask) {
  const T* values = place<T>(warp, i.operand[1]);
  uint32_t results[LANES];
  each_lane(mask, [&](uint32_t lane) {
    results[lane] = 0;
    each_lane(mask, [&](uint32_t other) { results[lane] |= uint32_t(values[other] == values[lane]) << other; });
  });
  each_lane(mask, [&](uint32_t lane) { place<uint32_t>(warp, i.operand[0])[lane] = results[lane]; });
}

// Operands: members or 0, value, predicate: whether all have the same value.
template <class T>
inline void match_all(Warp& warp, const Instruction& i, uint32_t mask) {
  const T* values = place<T>(warp, i.operand[1]);
  const T first = values[std::countr_zero(mask)];
  bool same = true;
  each_lane(mask, [&](uint32_t lane) { same = same && values[lane] == first; });
  each_lane(mask, [&](uint32_t lane) { place<uint32_t>(warp, i.operand[0])[lane] = same ? mask : 0; });
  uint32_t& p = *place<uint32_t>(warp, i.operand[2]);
  p = (p & ~mask) | (same ? mask : 0);
}

template <class T, class Body>
inline void reduce(Warp& warp, const Instruction& i, uint32_t mask, Body body) {
  const T* values = place<T>(warp, i.operand[1]);
  T result = values[std::countr_zero(mask)];
  each_lane(mask & (mask - 1), [&](uint32_t lane) { result = T(body(result, values[lane])); });
  each_lane(mask, [&](uint32_t lane) { place<T>(warp, i.operand[0])[lane] = result; });
}

inline void whole_warp(uint32_t mask, const char* what) {
  if (mask != FULL) fail(DIVERGED, uint32_t(std::countr_zero(mask)), "%s needs all 32 lanes, not 0x%08x", what, mask);
}

// N matrices of 8 x 8 values of 16 bits; lane 8 j + r has the address of row r of matrix j. Operands: N destinations,
// the address. Lane 4 g + t gets values 2 t and 2 t + 1 of row g, or of column g if transposed.
template <uint32_t N, bool TRANSPOSED, class A>
inline void load_matrices(Warp& warp, const Instruction& i, uint32_t mask) {
  whole_warp(mask, "ldmatrix");
  uint64_t addresses[LANES];
  addresses_of<SHARED>(warp, i, uint32_t((1ull << 8 * N) - 1), place<A>(warp, i.operand[N]), i.immediate[0], 16,
                       addresses);
  uint16_t rows[N][8][8];
  const SharedView view(warp);
  for (uint32_t row = 0; row < 8 * N; row++) {
    in_shared(warp, row, addresses[row], 16);
    std::memcpy(rows[row / 8][row % 8], read_shared(warp, view, SEVERAL, addresses[row], 16), 16);
  }
  for (uint32_t n = 0; n < N; n++) {
    uint32_t* d = place<uint32_t>(warp, i.operand[n]);
    for (uint32_t lane = 0; lane < LANES; lane++) {
      const uint32_t g = lane / 4, t = lane % 4 * 2;
      const uint16_t low = TRANSPOSED ? rows[n][t][g] : rows[n][g][t];
      const uint16_t high = TRANSPOSED ? rows[n][t + 1][g] : rows[n][g][t + 1];
      d[lane] = low | uint32_t(high) << 16;
    }
  }
}

template <uint32_t N, bool TRANSPOSED, class A>
inline void store_matrices(Warp& warp, const Instruction& i, uint32_t mask) {
  whole_warp(mask, "stmatrix");
  uint64_t addresses[LANES];
  addresses_of<SHARED>(warp, i, uint32_t((1ull << 8 * N) - 1), place<A>(warp, i.operand[0]), i.immediate[0], 16,
                       addresses);
  for (uint32_t row = 0; row < 8 * N; row++) {
    uint16_t values[8];
    for (uint32_t k = 0; k < 8; k++) {
      const uint32_t g = TRANSPOSED ? k : row % 8, t = TRANSPOSED ? row % 8 : k;
      values[k] = uint16_t(place<uint32_t>(warp, i.operand[1 + row / 8])[g * 4 + t / 2] >> (t % 2 * 16));
    }
    in_shared(warp, row, addresses[row], 16);
    std::memcpy(write_shared(warp, SEVERAL, addresses[row], 16, values), values, 16);
  }
}

// D = A B + C with A of 16 x K, B of K x 8. A register has E = 4 / sizeof(T) values along K; with g = lane / 4 and
// t = lane % 4, step s of K / (4 E) has A[g][4 E s + E t ..] and A[g + 8][..] in registers 2 s and 2 s + 1 of A, and
// B[4 E s + E t ..][g] in register s of B. C and D have rows g and g + 8, columns 2 t and 2 t + 1.
// Products and their sum are exact up to double precision, and rounded once.
template <class TA, class TB, class Sum, uint32_t STEPS>
inline void multiply_matrices(Warp& warp, const Instruction& i, uint32_t mask) {
  whole_warp(mask, "mma");
  constexpr uint32_t E = 4 / sizeof(TA), K = 4 * E * STEPS, REGISTERS = sizeof(Sum) == 4 ? 4 : 2;
  using Exact = std::conditional_t<std::is_integral_v<Sum>, int32_t, double>;
  using Factor = std::conditional_t<std::is_integral_v<Sum>, int32_t, float>;
  alignas(64) Factor a[16][K], b[K][8];
  alignas(64) Exact sums[16][8];
  // The four lanes of one g hold 4 E neighbours of a row of A, or of a column of B.
  for (uint32_t step = 0; step < STEPS; step++) {
    for (uint32_t upper = 0; upper < 2; upper++) {
      const TA* values = place<TA>(warp, i.operand[REGISTERS + 2 * step + upper]);
      for (uint32_t g = 0; g < 8; g++)
        for (uint32_t k = 0; k < 4 * E; k++) a[g + 8 * upper][4 * E * step + k] = Factor(values[4 * E * g + k]);
    }
    const TB* values = place<TB>(warp, i.operand[REGISTERS + 2 * STEPS + step]);
    for (uint32_t g = 0; g < 8; g++)
      for (uint32_t k = 0; k < 4 * E; k++) b[4 * E * step + k][g] = Factor(values[4 * E * g + k]);
  }
  constexpr uint32_t PER = 4 / sizeof(Sum), C = REGISTERS + 3 * STEPS;  // values in a register of C
  const auto where = [](uint32_t lane, uint32_t k, uint32_t& row, uint32_t& column) {
    row = lane / 4 + 8 * (k / 2), column = lane % 4 * 2 + k % 2;
  };
  for (uint32_t lane = 0; lane < LANES; lane++) {
    for (uint32_t k = 0; k < 4; k++) {
      uint32_t row, column;
      where(lane, k, row, column);
      sums[row][column] = Exact(place<Sum>(warp, i.operand[C + k / PER])[lane * PER + k % PER]);
    }
  }
  for (uint32_t row = 0; row < 16; row++) {
    Exact line[8];
    std::memcpy(line, sums[row], sizeof line);
    for (uint32_t k = 0; k < K; k++)
      for (uint32_t column = 0; column < 8; column++) line[column] += Exact(a[row][k]) * Exact(b[k][column]);
    std::memcpy(sums[row], line, sizeof line);
  }
  for (uint32_t lane = 0; lane < LANES; lane++) {
    for (uint32_t k = 0; k < 4; k++) {
      uint32_t row, column;
      where(lane, k, row, column);
      Sum& d = place<Sum>(warp, i.operand[k / PER])[lane * PER + k % PER];
      if constexpr (std::is_integral_v<Sum>) d = sums[row][column];
      else d = from_double<Sum>(sums[row][column]);
    }
  }
}

}  // namespace emulator
