// Global, shared, local and parameter memory: every access is checked, and counted where the launch asks for it.
#pragma once

#include <algorithm>
#include <cstdio>

#include "arithmetic.hpp"

namespace emulator {

// Who touched a granule of shared memory last. `warp` and `lane` are meaningful where `clock` is of this block.
struct Written {
  uint32_t clock = 0;
  uint8_t warp = 0, lane = 0;
  uint8_t atomic = 0;
  uint8_t pending = 0;  // a cp.async is on its way here
};

struct Read {
  uint32_t clock = 0;
  uint32_t lane = 0;
};

constexpr uint32_t SEVERAL = 32;  // for a lane: more than one of the warp, or the warp as one

struct Block {
  uint32_t index[3], number;
  std::vector<Warp> warps;
  std::vector<char> registers;
  std::vector<char> shared;
  std::vector<Written> written;  // per granule
  std::vector<Read> read;        // per granule and warp
  uint32_t start = 0;            // clocks up to here are of earlier blocks in this place
  std::vector<uint32_t> order;   // of its warps, by priority
  bool running = false;
};

// Happens-before. A warp's clock moves on when it passes a barrier, and a barrier tells it the clocks of the others.
inline bool ordered(const Warp& warp, uint32_t lane, uint32_t other, uint32_t other_lane, uint32_t clock) {
  if (other != warp.index) return warp.clocks[other] >= clock;
  return clock < warp.clocks[other] || (lane == other_lane && lane != SEVERAL);
}

inline uint32_t first_lane(uint32_t lane) { return lane == SEVERAL ? 0 : lane; }

inline const char* person(uint32_t lane, uint32_t warp) {
  static thread_local char text[2][48];
  static thread_local int turn = 0;
  char* into = text[turn ^= 1];
  if (lane == SEVERAL) snprintf(into, sizeof text[0], "warp %u", warp);
  else snprintf(into, sizeof text[0], "lane %u of warp %u", lane, warp);
  return into;
}

inline void in_shared(Warp& warp, uint32_t lane, uint64_t address, uint32_t size) {
  const uint64_t bytes = warp.block->shared.size();
  if (address & (size - 1))
    fail(ALIGNMENT, lane, "%u bytes of shared memory at %llu, which is no multiple of %u", size,
         (unsigned long long)address, size);
  if (address > bytes || bytes - address < size)
    fail(BOUNDS, lane, "%u bytes at %lld of the %llu bytes of shared memory", size, (long long)address,
         (unsigned long long)bytes);
}

// What checking a read takes, in one place, so that it stays in registers from lane to lane.
struct SharedView {
  const char* data;
  const Written* written;
  Read* read;
  uint64_t bytes;
  uint32_t warps, index, bits, start, clock;
  bool races, copies, initialised;

  explicit SharedView(Warp& warp) {
    Block& block = *warp.block;
    const Launch& launch = *warp.launch;
    data = block.shared.data(), written = block.written.data(), read = block.read.data();
    bytes = block.shared.size(), warps = uint32_t(block.warps.size()), index = warp.index;
    bits = launch.granule_bits, start = block.start, clock = warp.clock();
    races = launch.check_races, copies = launch.check_copies, initialised = launch.check_initialised;
  }
};

[[gnu::noinline]] [[noreturn]] inline void bad_read(Check check, uint32_t lane, uint64_t address, const Written& by) {
  const char* why[] = {"which nobody has written", "to which a cp.async is on its way, of ", "written by "};
  const uint32_t kind = check == UNINITIALISED ? 0 : check == PENDING_COPY ? 1 : 2;
  fail(check, first_lane(lane), "reads shared memory at %llu, %s%s%s", (unsigned long long)address, why[kind],
       kind ? person(by.lane, by.warp) : "", kind == 2 ? ", with no barrier between" : "");
}

// The place of `size` bytes that `lane` reads.
inline const char* read_shared(Warp& warp, const SharedView& view, uint32_t lane, uint64_t address, uint32_t size) {
  if (address & (size - 1) || address > view.bytes || view.bytes - address < size) [[unlikely]]
    in_shared(warp, first_lane(lane), address, size);
  const uint32_t last = uint32_t(address + size - 1) >> view.bits;
  for (uint32_t g = uint32_t(address) >> view.bits; g <= last; g++) {
    const Written by = view.written[g];
    if (by.pending && view.copies) [[unlikely]] bad_read(PENDING_COPY, lane, address, by);
    if (by.clock <= view.start) [[unlikely]] {
      if (view.initialised && !by.pending) bad_read(UNINITIALISED, lane, address, by);
    } else if (view.races && !ordered(warp, lane, by.warp, by.lane, by.clock)) [[unlikely]] {
      bad_read(RACE, lane, address, by);
    }
    Read& entry = view.read[g * view.warps + view.index];
    if (entry.clock != view.clock) entry = {view.clock, lane};
    else if (entry.lane != lane) entry.lane = SEVERAL;
  }
  return view.data + address;
}

// Checks that `size` bytes may be written now; `fresh` are the new bytes, where they are known.
inline char* write_shared(Warp& warp, uint32_t lane, uint64_t address, uint32_t size, const void* fresh,
                          bool atomic = false, bool pending = false) {
  in_shared(warp, first_lane(lane), address, size);
  Block& block = *warp.block;
  const Launch& launch = *warp.launch;
  char* data = block.shared.data() + address;
  const uint32_t last = uint32_t(address + size - 1) >> launch.granule_bits;
  const uint32_t warps = uint32_t(block.warps.size());
  for (uint32_t g = uint32_t(address) >> launch.granule_bits; g <= last; g++) {
    Written& by = block.written[g];
    if (by.pending && launch.check_copies)
      fail(PENDING_COPY, first_lane(lane), "writes shared memory at %llu, to which a cp.async is on its way, of %s",
           (unsigned long long)address, person(by.lane, by.warp));
    if (atomic && by.clock <= block.start && launch.check_initialised)
      fail(UNINITIALISED, first_lane(lane), "changes shared memory at %llu, which nobody has written",
           (unsigned long long)address);
    if (launch.check_races) {
      if (by.clock > block.start && !(atomic && by.atomic) && !ordered(warp, lane, by.warp, by.lane, by.clock) &&
          !(fresh && std::memcmp(data, fresh, size) == 0))
        fail(RACE, first_lane(lane), "writes shared memory at %llu, written by %s, with no barrier between",
             (unsigned long long)address, person(by.lane, by.warp));
      for (uint32_t other = 0; other < warps; other++) {
        const Read& seen = block.read[g * warps + other];
        if (seen.clock > block.start && !ordered(warp, lane, other, seen.lane, seen.clock) &&
            !(fresh && std::memcmp(data, fresh, size) == 0))
          fail(RACE, first_lane(lane), "writes shared memory at %llu, read by %s, with no barrier between",
               (unsigned long long)address, person(seen.lane, other));
      }
    }
    by = {warp.clock(), uint8_t(warp.index), uint8_t(lane), atomic, pending};
  }
  return data;
}

// Which block has touched a granule of global memory: its number + 1, or MANY. Blocks of a launch are in no order, so
// what one writes none other may read or write, except by atomics.
constexpr uint32_t MANY = 0xffffffffu;

struct GlobalShadow {
  std::vector<uint32_t> written, read, changed;  // by a store, by a load, by an atomic
};

enum Access { READ, WRITE, CHANGE };

[[gnu::noinline]] inline void between_blocks(Warp& warp, uint32_t lane, uint64_t window, uint64_t offset,
                                             uint32_t size, Access access, const void* fresh) {
  const Launch& launch = *warp.launch;
  GlobalShadow& shadow = launch.shadows[window];
  const Buffer& buffer = launch.buffers[window];
  const uint32_t me = warp.block->number + 1, bits = launch.global_bits;
  if (shadow.written.empty()) {
    const size_t granules = (buffer.bytes >> bits) + 1;
    shadow.written.assign(granules, 0), shadow.read.assign(granules, 0), shadow.changed.assign(granules, 0);
  }
  const auto other = [&](uint32_t who) { return who && who != me; };
  const auto note = [&](uint32_t& who) { who = other(who) ? MANY : me; };
  const char* verbs[] = {"reads", "writes", "changes"};
  const auto race = [&](const char* what, uint32_t who) {
    char text[64];
    if (who == MANY) snprintf(text, sizeof text, "several blocks have");
    else snprintf(text, sizeof text, "block number %u has", who - 1);
    fail(RACE, lane, "%s offset %llu of buffer %llu, which %s %s", verbs[access], (unsigned long long)offset,
         (unsigned long long)window, text, what);
  };
  for (uint64_t g = offset >> bits; g <= (offset + size - 1) >> bits; g++) {
    uint32_t &written = shadow.written[g], &read = shadow.read[g], &changed = shadow.changed[g];
    if (access != CHANGE && other(changed)) race("changed", changed);
    if (other(written) && !(fresh && std::memcmp(buffer.data + offset, fresh, size) == 0)) race("written", written);
    if (access != READ && other(read)) race("read", read);
    note(access == READ ? read : access == WRITE ? written : changed);
  }
}

inline char* global(Warp& warp, uint32_t lane, uint64_t address, uint32_t size, uint32_t alignment, Access access,
                    const void* fresh = nullptr) {
  const bool write = access != READ;
  const Launch& launch = *warp.launch;
  if (address & (alignment - 1))
    fail(ALIGNMENT, lane, "%u bytes of global memory at 0x%llx, which is no multiple of %u", size,
         (unsigned long long)address, alignment);
  const uint64_t window = (address >> WINDOW_BITS) - 1;
  if (window >= launch.buffer_count)
    fail(BOUNDS, lane, "%s %u bytes at 0x%llx, which is the address of nothing", write ? "writes" : "reads", size,
         (unsigned long long)address);
  const Buffer& buffer = launch.buffers[window];
  const uint64_t offset = address - buffer.base;
  if (offset > buffer.bytes || buffer.bytes - offset < size)
    fail(BOUNDS, lane, "%s %u bytes at offset %lld of buffer %llu, which has %llu bytes", write ? "writes" : "reads",
         size, (long long)offset, (unsigned long long)window, (unsigned long long)buffer.bytes);
  if (write && !buffer.writable)
    fail(READ_ONLY, lane, "writes at offset %lld of buffer %llu, which is read-only", (long long)offset,
         (unsigned long long)window);
  if (buffer.writable && launch.check_blocks) between_blocks(warp, lane, window, offset, size, access, fresh);
  return buffer.data + offset;
}

inline char* local(Warp& warp, uint32_t lane, uint64_t address, uint32_t size) {
  const uint64_t bytes = warp.launch->local_bytes;
  if (address & (size - 1))
    fail(ALIGNMENT, lane, "%u bytes of local memory at %llu, which is no multiple of %u", size,
         (unsigned long long)address, size);
  if (address > bytes || bytes - address < size)
    fail(BOUNDS, lane, "%u bytes at %lld of the %llu bytes of local memory", size, (long long)address,
         (unsigned long long)bytes);
  return warp.local.data() + lane * bytes + address;
}

// Counters: an instruction of a warp is served in as many transactions as it needs.

// Shared memory has 32 banks of 4 bytes. Lanes are served together as far as 128 bytes go; in each such phase, a
// bank delivers one word, to as many lanes as want it.
[[gnu::noinline]] inline void count_shared(Warp& warp, const Instruction& i, uint32_t mask, const uint64_t* addresses,
                                           uint32_t size) {
  const uint32_t together = size <= 4 ? 32 : 128 / size, words = std::max(size / 4, 1u);
  uint64_t* counts = warp.launch->executions + 4 * (&i - warp.launch->code);
  for (uint32_t from = 0; from < LANES; from += together) {
    uint32_t seen[32][32], number[32] = {}, most_words = 0;
    for (uint32_t lane = from; lane < from + together; lane++) {
      if (!(mask >> lane & 1)) continue;
      for (uint32_t k = 0; k < words; k++) {
        const uint32_t word = uint32_t(addresses[lane] / 4 + k), bank = word % 32;
        if (std::find(seen[bank], seen[bank] + number[bank], word) != seen[bank] + number[bank]) continue;
        seen[bank][number[bank]++] = word;
        most_words = std::max(most_words, number[bank]);
      }
    }
    counts[2] += most_words;
    counts[3] += most_words > 0;
  }
}

// Global memory comes in sectors of 32 bytes.
[[gnu::noinline]] inline void count_global(Warp& warp, const Instruction& i, uint32_t mask, const uint64_t* addresses,
                                           uint32_t size) {
  uint64_t sectors[LANES * 2];
  uint32_t number = 0;
  each_lane(mask, [&](uint32_t lane) {
    for (uint64_t s = addresses[lane] / 32; s <= (addresses[lane] + size - 1) / 32; s++)
      if (std::find(sectors, sectors + number, s) == sectors + number) sectors[number++] = s;
  });
  uint64_t* counts = warp.launch->executions + 4 * (&i - warp.launch->code);
  counts[2] += number;
  counts[3] += std::min(number, (std::popcount(mask) * size + 31) / 32);
}

enum Space { GLOBAL, SHARED, LOCAL, GENERIC };

// Addresses of all lanes, and what they cost.
template <Space SPACE, class A>
inline void addresses_of(Warp& warp, const Instruction& i, uint32_t mask, const A* base, int64_t offset, uint32_t size,
                         uint64_t* into) {
  for (uint32_t lane = 0; lane < LANES; lane++) into[lane] = uint64_t(A(base[lane] + A(offset)));
  if (!warp.launch->count) return;
  if constexpr (SPACE == SHARED) count_shared(warp, i, mask, into, size);
  if constexpr (SPACE == GLOBAL) count_global(warp, i, mask, into, size);
  if constexpr (SPACE == GENERIC) {
    uint32_t wide = 0;
    each_lane(mask, [&](uint32_t lane) { wide |= uint32_t(into[lane] >> WINDOW_BITS != 0) << lane; });
    if (wide == mask) count_global(warp, i, mask, into, size);
    if (wide == 0 && into[std::countr_zero(mask)] < LOCAL_BASE) count_shared(warp, i, mask, into, size);
  }
}

template <Space SPACE>
inline const char* place_to_read(Warp& warp, const SharedView& view, uint32_t lane, uint64_t address, uint32_t size) {
  if constexpr (SPACE == GLOBAL) return global(warp, lane, address, size, size, READ);
  if constexpr (SPACE == SHARED) return read_shared(warp, view, lane, address, size);
  if constexpr (SPACE == LOCAL) return local(warp, lane, address, size);
  if (address >> WINDOW_BITS) return global(warp, lane, address, size, size, READ);
  if (address >= LOCAL_BASE) return local(warp, lane, address - LOCAL_BASE, size);
  return read_shared(warp, view, lane, address - SHARED_BASE, size);
}

template <Space SPACE>
inline char* place_to_write(Warp& warp, uint32_t lane, uint64_t address, uint32_t size, const void* fresh) {
  if constexpr (SPACE == GLOBAL) return global(warp, lane, address, size, size, WRITE, fresh);
  if constexpr (SPACE == SHARED) return write_shared(warp, lane, address, size, fresh);
  if constexpr (SPACE == LOCAL) return local(warp, lane, address, size);
  if (address >> WINDOW_BITS) return global(warp, lane, address, size, size, WRITE, fresh);
  if (address >= LOCAL_BASE) return local(warp, lane, address - LOCAL_BASE, size);
  return write_shared(warp, lane, address - SHARED_BASE, size, fresh);
}

// load: operands are N destinations and the base address. store: the base address and N sources.

template <Space SPACE, class A, class T, uint32_t N>
inline void load(Warp& warp, const Instruction& i, uint32_t mask) {
  uint64_t addresses[LANES];
  addresses_of<SPACE>(warp, i, mask, place<A>(warp, i.operand[N]), i.immediate[0], sizeof(T) * N, addresses);
  const SharedView view(warp);
  each_lane(mask, [&](uint32_t lane) {
    T values[N];
    std::memcpy(values, place_to_read<SPACE>(warp, view, lane, addresses[lane], sizeof values), sizeof values);
    for (uint32_t n = 0; n < N; n++) place<T>(warp, i.operand[n])[lane] = values[n];
  });
}

template <Space SPACE, class A, class T, uint32_t N>
inline void store(Warp& warp, const Instruction& i, uint32_t mask) {
  uint64_t addresses[LANES];
  addresses_of<SPACE>(warp, i, mask, place<A>(warp, i.operand[0]), i.immediate[0], sizeof(T) * N, addresses);
  each_lane(mask, [&](uint32_t lane) {
    T values[N];
    for (uint32_t n = 0; n < N; n++) values[n] = place<T>(warp, i.operand[1 + n])[lane];
    std::memcpy(place_to_write<SPACE>(warp, lane, addresses[lane], sizeof values, values), values, sizeof values);
  });
}

template <class T, uint32_t N>
inline void load_parameter(Warp& warp, const Instruction& i, uint32_t mask) {
  const Launch& launch = *warp.launch;
  const uint64_t* base = place<uint64_t>(warp, i.operand[N]);
  each_lane(mask, [&](uint32_t lane) {
    const uint64_t address = base[lane] + uint64_t(i.immediate[0]);
    if (address > launch.parameter_bytes || launch.parameter_bytes - address < sizeof(T) * N)
      fail(BOUNDS, lane, "%zu bytes at %lld of the %llu bytes of parameters", sizeof(T) * N, (long long)address,
           (unsigned long long)launch.parameter_bytes);
    for (uint32_t n = 0; n < N; n++)
      place<T>(warp, i.operand[n])[lane] = bits<T>(launch.parameters + address + n * sizeof(T));
  });
}

// Read-modify-write: operands are the old value, the base address, and up to two values. Lanes go one after the other.
template <Space SPACE, class A, class T, class Body>
inline void atomic(Warp& warp, const Instruction& i, uint32_t mask, Body body) {
  uint64_t addresses[LANES];
  addresses_of<SPACE>(warp, i, mask, place<A>(warp, i.operand[1]), i.immediate[0], sizeof(T), addresses);
  each_lane(mask, [&](uint32_t lane) {
    uint64_t address = addresses[lane];
    char* at;
    if (SPACE == SHARED || (SPACE == GENERIC && !(address >> WINDOW_BITS)))
      at = write_shared(warp, lane, SPACE == GENERIC ? address - SHARED_BASE : address, sizeof(T), nullptr, true);
    else
      at = global(warp, lane, address, sizeof(T), sizeof(T), CHANGE);
    const T old = bits<T>(at);
    const T fresh = body(old, place<T>(warp, i.operand[2])[lane], place<T>(warp, i.operand[3])[lane]);
    std::memcpy(at, &fresh, sizeof fresh);
    place<T>(warp, i.operand[0])[lane] = old;
  });
}

// cp.async: bytes that are on their way until the thread waits for their group.

inline void land(Warp& warp, Copy& copy) {
  if (copy.landed) return;
  char* target = warp.block->shared.data() + copy.target;
  if (copy.filled) std::memcpy(target, copy.source, copy.filled);
  std::memset(target + copy.filled, 0, copy.bytes - copy.filled);
  copy.landed = true;
}

inline bool lands_at_once(Warp& warp, const Copy& copy) {
  if (warp.launch->landing != EITHER) return warp.launch->landing == AT_ISSUE;
  uint32_t mixed = (copy.target ^ warp.launch->seed * 0x9e3779b9u ^ copy.group * 0x85ebca6bu) * 0xc2b2ae35u;
  return mixed >> 31;
}

// Operands: target and source addresses, and how many bytes come from the source (or a predicate to ignore it).
template <uint32_t BYTES, class A>
inline void copy_async(Warp& warp, const Instruction& i, uint32_t mask) {
  const A* targets = place<A>(warp, i.operand[0]);
  const uint64_t* sources = place<uint64_t>(warp, i.operand[1]);
  const uint32_t* sizes = place<uint32_t>(warp, i.operand[2]);
  if (warp.launch->count) {
    uint64_t from[LANES];
    uint32_t reading = 0;
    for (uint32_t lane = 0; lane < LANES; lane++) {
      from[lane] = sources[lane] + uint64_t(i.immediate[1]);
      reading |= uint32_t(sizes[lane] > 0) << lane;
    }
    count_global(warp, i, mask & reading, from, BYTES);
  }
  each_lane(mask, [&](uint32_t lane) {
    const uint64_t target = targets[lane] + uint64_t(i.immediate[0]), source = sources[lane] + uint64_t(i.immediate[1]);
    const uint32_t filled = sizes[lane];
    if (filled > BYTES) fail(BOUNDS, lane, "cp.async of %u bytes asks for %u of its source", BYTES, filled);
    if (source & (BYTES - 1))
      fail(ALIGNMENT, lane, "cp.async from 0x%llx, which is no multiple of %u", (unsigned long long)source, BYTES);
    write_shared(warp, lane, target, BYTES, nullptr, false, true);
    const char* from = filled ? global(warp, lane, source, filled, 1, READ) : nullptr;
    Copy copy{from, uint32_t(target), BYTES, filled, warp.copy_group[lane], false};
    if (lands_at_once(warp, copy)) land(warp, copy);
    warp.copies[lane].push_back(copy);
  });
}

// Waits until all but the latest `but` groups of a lane are there.
inline void wait_for_copies(Warp& warp, uint32_t lane, uint32_t but, bool open_too) {
  std::vector<Copy>& copies = warp.copies[lane];
  size_t done = 0;
  const uint32_t bits = warp.launch->granule_bits;
  for (; done < copies.size(); done++) {
    Copy& copy = copies[done];
    if (!open_too && copy.group + but >= warp.copy_group[lane]) break;
    land(warp, copy);
    for (uint32_t g = copy.target >> bits; g <= (copy.target + copy.bytes - 1) >> bits; g++) {
      Written& by = warp.block->written[g];
      // From now on the bytes are this lane's, as if it had stored them here.
      by = {warp.clock(), uint8_t(warp.index), uint8_t(lane), 0, 0};
    }
  }
  copies.erase(copies.begin(), copies.begin() + std::ptrdiff_t(done));
}

inline void commit_copies(Warp& warp, const Instruction&, uint32_t mask) {
  each_lane(mask, [&](uint32_t lane) { warp.copy_group[lane]++; });
}

inline void wait_group(Warp& warp, const Instruction& i, uint32_t mask) {
  each_lane(mask, [&](uint32_t lane) { wait_for_copies(warp, lane, uint32_t(i.immediate[0]), false); });
}

inline void wait_all(Warp& warp, const Instruction&, uint32_t mask) {
  each_lane(mask, [&](uint32_t lane) { wait_for_copies(warp, lane, 0, true); });
}

}  // namespace emulator
