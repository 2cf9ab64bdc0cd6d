// What a launch is made of: instructions, warps, blocks, buffers; how a handler reaches the registers of its lanes.
//
// A register is 32 lanes in a row in the register file of a warp; a predicate is 32 bits. A handler executes one
// instruction for all lanes of `mask` at once.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

namespace emulator {

constexpr uint32_t FULL = 0xffffffffu;
constexpr uint32_t LANES = 32;
constexpr uint32_t NOWHERE = 0xffffffffu;  // behind every program counter

struct Warp;
struct Instruction;
using Handler = void (*)(Warp&, const Instruction&, uint32_t mask);

// What an instruction is for the scheduler. The order is that of `Kind` in program.py.
enum Kind : uint32_t { PLAIN, BRANCH, INDEXED_BRANCH, EXIT, COLLECTIVE, BARRIER };

// Mirrored by INSTRUCTION in program.py.
struct Instruction {
  uint64_t handler;      // its index in the table; the pointer itself once the launch has begun
  int64_t immediate[3];
  uint32_t kind;
  uint32_t guard;        // place of the predicate; one that is true everywhere where the text has none
  uint32_t negated;      // all ones for @!p
  uint32_t target;       // of a branch; of an indexed branch, its first entry in the table of targets
  uint32_t operand[16];  // places in the register file
};

// What went wrong. The order is that of CHECKS in faults.py.
enum Check : uint32_t {
  NONE, BOUNDS, ALIGNMENT, READ_ONLY, UNINITIALISED, PENDING_COPY, RACE, DIVERGED, DEADLOCK, BUDGET, UNSUPPORTED
};

struct Fault {
  Check check;
  uint32_t lane;
  std::string text;
};

// Mirrored by _Buffer in launching.py. `base` is its address on the device, in a window of its own.
struct Buffer {
  char* data;
  uint64_t bytes;
  uint64_t base;
  uint32_t writable, unused;
};

// Generic addresses below the first window are shared and local memory.
constexpr uint32_t WINDOW_BITS = 36;
constexpr uint64_t SHARED_BASE = 1ull << 30, LOCAL_BASE = 1ull << 32;

enum LaneOrder : uint32_t { CONVERGED, ASCENDING, DESCENDING, ANY_LANE };
enum Order : uint32_t { FORWARD, BACKWARD, SHUFFLED };
enum Landing : uint32_t { AT_WAIT, AT_ISSUE, EITHER };

// Mirrored by _Launch in launching.py.
struct Launch {
  Instruction* code;
  uint64_t instructions;
  const uint32_t* targets;     // of indexed branches
  const char* image;           // the register file as every warp finds it
  uint64_t image_bytes;
  const char* parameters;
  uint64_t parameter_bytes;
  const Buffer* buffers;
  uint64_t buffer_count;
  uint64_t* executions;        // [instructions][4]: by warps, by lanes, transactions, fewest transactions
  uint64_t budget;             // instructions of warps after which the launch is given up
  uint32_t grid[3], block[3];
  uint32_t shared_bytes, local_bytes;
  uint32_t granule_bits;       // log2 of the bytes that the shadow of shared memory tells apart
  uint32_t global_bits;        // and that of global memory
  uint32_t special[12];        // places of %tid, %ntid, %ctaid, %nctaid
  uint32_t lane_special[3];    // places of %laneid, %warpid, dynamic shared bytes
  // The schedule.
  uint32_t lanes, warps, blocks, quantum, random_quantum, resident, landing, seed;
  // Checks and counters that may be left out.
  uint32_t check_races, check_blocks, check_copies, check_initialised, count;
  // What came of it.
  uint32_t fault, fault_block[3], fault_thread[3];
  uint64_t fault_pc;
  char fault_text[256];
  struct GlobalShadow* shadows;  // of each buffer, while the launch runs
};

struct Copy {  // a cp.async on its way
  const char* source;
  uint32_t target, bytes, filled;  // copies `filled` bytes, writes zeros up to `bytes`
  uint32_t group;
  bool landed;
};

struct Block;

struct Warp {
  Block* block;
  Launch* launch;
  char* registers;
  uint32_t index;                 // in the block
  uint32_t pc[LANES];
  // Each lane that the block has a thread for is in one of these.
  uint32_t ready, at_collective, at_barrier, ended;
  std::vector<char> local;
  std::vector<Copy> copies[LANES];
  uint32_t copy_group[LANES];
  std::vector<uint32_t> clocks;   // how far each warp of the block was when this one last heard of it

  uint32_t alive() const { return ready | at_collective | at_barrier; }
  uint32_t& clock() { return clocks[index]; }
};

// Calls body(lane) for the lanes of a mask, lowest first.
template <class Body>
inline void each_lane(uint32_t mask, Body body) {
  for (; mask; mask &= mask - 1) body(uint32_t(std::countr_zero(mask)));
}

template <class T>
inline T* place(Warp& warp, uint32_t offset) {
  return reinterpret_cast<T*>(warp.registers + offset);
}

template <class T>
inline T bits(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

[[noreturn]] void fail(Check check, uint32_t lane, const char* format, ...) __attribute__((format(printf, 3, 4)));

// Lane-wise instructions. PER is how many values one lane has: two for packed halves.

template <class D, class A, uint32_t PER = 1, class Body>
inline void map1(Warp& warp, const Instruction& i, uint32_t mask, Body body) {
  D* d = place<D>(warp, i.operand[0]);
  const A* a = place<A>(warp, i.operand[1]);
  if (mask == FULL) {
#pragma GCC ivdep
    for (uint32_t k = 0; k < LANES * PER; k++) d[k] = body(a[k]);
  } else {
    each_lane(mask, [&](uint32_t lane) {
      for (uint32_t k = lane * PER; k < (lane + 1) * PER; k++) d[k] = body(a[k]);
    });
  }
}

template <class D, class A, class B, uint32_t PER = 1, class Body>
inline void map2(Warp& warp, const Instruction& i, uint32_t mask, Body body) {
  D* d = place<D>(warp, i.operand[0]);
  const A* a = place<A>(warp, i.operand[1]);
  const B* b = place<B>(warp, i.operand[2]);
  if (mask == FULL) {
#pragma GCC ivdep
    for (uint32_t k = 0; k < LANES * PER; k++) d[k] = body(a[k], b[k]);
  } else {
    each_lane(mask, [&](uint32_t lane) {
      for (uint32_t k = lane * PER; k < (lane + 1) * PER; k++) d[k] = body(a[k], b[k]);
    });
  }
}

template <class D, class A, class B, class C, uint32_t PER = 1, class Body>
inline void map3(Warp& warp, const Instruction& i, uint32_t mask, Body body) {
  D* d = place<D>(warp, i.operand[0]);
  const A* a = place<A>(warp, i.operand[1]);
  const B* b = place<B>(warp, i.operand[2]);
  const C* c = place<C>(warp, i.operand[3]);
  if (mask == FULL) {
#pragma GCC ivdep
    for (uint32_t k = 0; k < LANES * PER; k++) d[k] = body(a[k], b[k], c[k]);
  } else {
    each_lane(mask, [&](uint32_t lane) {
      for (uint32_t k = lane * PER; k < (lane + 1) * PER; k++) d[k] = body(a[k], b[k], c[k]);
    });
  }
}

template <class A, class Body>
inline void compare(Warp& warp, const Instruction& i, uint32_t mask, Body body) {
  const A* a = place<A>(warp, i.operand[1]);
  const A* b = place<A>(warp, i.operand[2]);
  uint32_t found = 0;
  for (uint32_t lane = 0; lane < LANES; lane++) found |= uint32_t(body(a[lane], b[lane])) << lane;
  uint32_t& p = *place<uint32_t>(warp, i.operand[0]);
  p = (p & ~mask) | (found & mask);
}

// A function of predicates, 32 of them at once.
template <class Body>
inline void map_predicates(Warp& warp, const Instruction& i, uint32_t mask, Body body) {
  const uint32_t found = body(*place<uint32_t>(warp, i.operand[1]), *place<uint32_t>(warp, i.operand[2]));
  uint32_t& p = *place<uint32_t>(warp, i.operand[0]);
  p = (p & ~mask) | (found & mask);
}

template <class T>
inline void select(Warp& warp, const Instruction& i, uint32_t mask) {
  T* d = place<T>(warp, i.operand[0]);
  const T* a = place<T>(warp, i.operand[1]);
  const T* b = place<T>(warp, i.operand[2]);
  const uint32_t p = *place<uint32_t>(warp, i.operand[3]);
  each_lane(mask, [&](uint32_t lane) { d[lane] = p >> lane & 1 ? a[lane] : b[lane]; });
}

// Several narrow values in one wide one, lowest first, and back.
template <class Wide, class Narrow>
inline void pack(Warp& warp, const Instruction& i, uint32_t mask) {
  constexpr uint32_t N = sizeof(Wide) / sizeof(Narrow);
  each_lane(mask, [&](uint32_t lane) {
    Narrow parts[N];
    for (uint32_t n = 0; n < N; n++) parts[n] = place<Narrow>(warp, i.operand[1 + n])[lane];
    place<Wide>(warp, i.operand[0])[lane] = bits<Wide>(parts);
  });
}

template <class Wide, class Narrow>
inline void unpack(Warp& warp, const Instruction& i, uint32_t mask) {
  constexpr uint32_t N = sizeof(Wide) / sizeof(Narrow);
  each_lane(mask, [&](uint32_t lane) {
    const Wide wide = place<Wide>(warp, i.operand[N])[lane];
    Narrow parts[N];
    std::memcpy(parts, &wide, sizeof wide);
    for (uint32_t n = 0; n < N; n++) place<Narrow>(warp, i.operand[n])[lane] = parts[n];
  });
}

}  // namespace emulator
