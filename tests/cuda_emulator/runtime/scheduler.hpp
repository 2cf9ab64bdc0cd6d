// Who runs when: lanes of a warp, warps of the resident blocks, blocks of the grid; barriers; the end of it all.
//
// A warp is a state machine: every lane has a program counter, and lanes that have the same may run together. Which
// do, and for how long, is the schedule's choice; nothing that a program may rely on depends on it.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <random>

#include "collective.hpp"

namespace emulator {

[[noreturn]] void fail(Check check, uint32_t lane, const char* format, ...) {
  char text[200];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Fault{check, lane, text};
}

// Operands of a barrier: its number, the count of threads, result, predicate. Immediates: mode, whether there is a
// count, whether all lanes of a warp must come together (.aligned). The order is that of BARRIER_MODES in lowering_warps.py.
enum BarrierMode : int64_t { SYNC, ARRIVE, COUNT, ALL, ANY };

class Machine {
 public:
  explicit Machine(Launch& launch) : launch_(launch), random_(launch.seed) {}

  void run() {
    std::vector<uint32_t> queue = order(launch_.grid[0] * launch_.grid[1] * launch_.grid[2], launch_.blocks);
    resident_.resize(std::min<size_t>(launch_.resident, queue.size()));
    size_t next = 0, running = 0;
    for (Block& block : resident_) begin(block, queue[next++]), running++;
    for (size_t turn = 0; running;) {
      Warp* warp = choose(turn);
      run_warp(*warp);
      Block& block = *warp->block;
      // Each pass releases one barrier, of which a block may have several.
      while ((!warp->ready || news_) && release(block)) {}
      news_ = false;
      if (any_ready(block)) continue;
      if (any_alive(block)) stuck(block);
      running--, block.running = false;
      if (next < queue.size()) begin(block, queue[next++]), running++;
    }
  }

  // Where it was, when something is thrown.
  const Warp* current = nullptr;
  uint32_t current_pc = 0;

 private:
  Launch& launch_;
  std::mt19937 random_;
  std::vector<Block> resident_;
  uint64_t spent_ = 0;
  bool news_ = false;  // somebody has arrived at a barrier without waiting

  std::vector<uint32_t> order(uint32_t number, uint32_t kind) {
    std::vector<uint32_t> found(number);
    for (uint32_t k = 0; k < number; k++) found[k] = kind == BACKWARD ? number - 1 - k : k;
    if (kind == SHUFFLED) std::shuffle(found.begin(), found.end(), random_);
    return found;
  }

  void begin(Block& block, uint32_t number) {
    const uint32_t* size = launch_.block;
    const uint32_t threads = size[0] * size[1] * size[2], warps = (threads + LANES - 1) / LANES;
    block.number = number;
    block.index[0] = number % launch_.grid[0];
    block.index[1] = number / launch_.grid[0] % launch_.grid[1];
    block.index[2] = number / launch_.grid[0] / launch_.grid[1];
    for (const Warp& warp : block.warps) block.start = std::max(block.start, warp.clocks[warp.index]);
    block.warps.resize(warps);
    block.registers.resize(warps * launch_.image_bytes + 64);
    block.shared.assign(launch_.shared_bytes, char(0xff));  // NaN
    const size_t granules = (launch_.shared_bytes >> launch_.granule_bits) + 1;
    block.written.resize(granules);
    block.read.resize(granules * warps);
    block.order = order(warps, launch_.warps);
    block.running = true;
    char* registers = block.registers.data();
    registers += -reinterpret_cast<uintptr_t>(registers) & 63;
    for (uint32_t w = 0; w < warps; w++) {
      Warp& warp = block.warps[w];
      const uint32_t lanes = std::min(LANES, threads - w * LANES);
      warp.block = &block, warp.launch = &launch_, warp.index = w;
      warp.registers = registers + w * launch_.image_bytes;
      warp.ready = lanes == LANES ? FULL : (1u << lanes) - 1;
      warp.at_collective = warp.at_barrier = warp.ended = 0;
      warp.local.assign(LANES * launch_.local_bytes, char(0xff));
      warp.clocks.assign(warps, block.start);
      warp.clock()++;
      std::memcpy(warp.registers, launch_.image, launch_.image_bytes);
      for (uint32_t lane = 0; lane < LANES; lane++) {
        warp.pc[lane] = 0, warp.copy_group[lane] = 0;
        warp.copies[lane].clear();
        const uint32_t t = w * LANES + lane;
        const uint32_t thread[3] = {t % size[0], t / size[0] % size[1], t / size[0] / size[1]};
        for (uint32_t axis = 0; axis < 3; axis++) {
          place<uint32_t>(warp, launch_.special[axis])[lane] = thread[axis];
          place<uint32_t>(warp, launch_.special[3 + axis])[lane] = size[axis];
          place<uint32_t>(warp, launch_.special[6 + axis])[lane] = block.index[axis];
          place<uint32_t>(warp, launch_.special[9 + axis])[lane] = launch_.grid[axis];
        }
        place<uint32_t>(warp, launch_.lane_special[0])[lane] = lane;
        place<uint32_t>(warp, launch_.lane_special[1])[lane] = w;
        place<uint32_t>(warp, launch_.lane_special[2])[lane] = launch_.shared_bytes;
      }
    }
  }

  static bool any_ready(const Block& block) {
    return std::any_of(block.warps.begin(), block.warps.end(), [](const Warp& warp) { return warp.ready != 0; });
  }

  static bool any_alive(const Block& block) {
    return std::any_of(block.warps.begin(), block.warps.end(), [](const Warp& warp) { return warp.alive() != 0; });
  }

  // With a quantum, warps take turns; without one, the first that is ready runs until it has to wait.
  Warp* choose(size_t& turn) {
    const size_t warps = resident_[0].warps.size(), all = resident_.size() * warps;
    const auto at = [&](size_t k) -> Warp* {
      Block& block = resident_[k / warps];
      Warp* warp = &block.warps[block.order[k % warps]];
      return block.running && warp->ready ? warp : nullptr;
    };
    if (launch_.quantum && launch_.random_quantum) turn = random_() % all;
    for (size_t k = 0; k < all; k++) {
      const size_t place = launch_.quantum ? (turn + k) % all : k;
      if (Warp* warp = at(place)) return turn = place + 1, warp;
    }
    fail(DEADLOCK, 0, "nothing is ready");
  }

  // Lanes to run next, all at one program counter, and the counter at which others wait to be joined.
  uint32_t choose_lanes(const Warp& warp, uint32_t& pc, uint32_t& stop) {
    uint32_t chosen = 0;
    stop = NOWHERE;
    if (launch_.lanes == CONVERGED) {
      pc = NOWHERE;
      each_lane(warp.ready, [&](uint32_t lane) { pc = std::min(pc, warp.pc[lane]); });
      each_lane(warp.ready, [&](uint32_t lane) {
        if (warp.pc[lane] == pc) chosen |= 1u << lane;
        else stop = std::min(stop, warp.pc[lane]);
      });
      return chosen;
    }
    uint32_t leader = uint32_t(std::countr_zero(warp.ready));
    if (launch_.lanes == DESCENDING) leader = 31 - uint32_t(std::countl_zero(warp.ready));
    if (launch_.lanes == ANY_LANE) {
      uint32_t skip = random_() % uint32_t(std::popcount(warp.ready)), rest = warp.ready;
      while (skip--) rest &= rest - 1;
      leader = uint32_t(std::countr_zero(rest));
    }
    pc = warp.pc[leader];
    if (launch_.lanes != ANY_LANE) return 1u << leader;
    each_lane(warp.ready, [&](uint32_t lane) { chosen |= uint32_t(warp.pc[lane] == pc) << lane; });
    return chosen;
  }

  void run_warp(Warp& warp) {
    current = &warp;
    uint64_t fuel = launch_.quantum ? launch_.quantum : NOWHERE;
    if (launch_.quantum && launch_.random_quantum) fuel = 1 + random_() % launch_.quantum;
    while (warp.ready && fuel) {
      uint32_t pc, stop;
      const uint32_t active = choose_lanes(warp, pc, stop);
      uint64_t slice = launch_.lanes == ANY_LANE ? std::min<uint64_t>(fuel, 1 + random_() % 64) : fuel;
      const uint64_t given = slice;
      run_lanes(warp, active, pc, stop, slice);
      fuel -= given - slice;
      spent_ += given - slice;
      if (spent_ > launch_.budget)
        fail(BUDGET, 0, "%llu instructions of warps, and no end", (unsigned long long)launch_.budget);
    }
  }

  static void set_pc(Warp& warp, uint32_t mask, uint32_t pc) {
    each_lane(mask, [&](uint32_t lane) { warp.pc[lane] = pc; });
  }

  // Runs lanes that are at `pc` until they part, wait, end, come to `stop` or have no fuel left.
  void run_lanes(Warp& warp, uint32_t active, uint32_t pc, uint32_t stop, uint64_t& fuel) {
    const Instruction* code = launch_.code;
    uint64_t* executions = launch_.executions;
    for (; fuel; fuel--) {
      if (pc >= stop) break;
      current_pc = pc;
      const Instruction& i = code[pc];
      const uint32_t mask = active & (*place<uint32_t>(warp, i.guard) ^ i.negated);
      executions[4 * pc]++;
      executions[4 * pc + 1] += uint64_t(std::popcount(mask));
      switch (i.kind) {
        case PLAIN:
          if (mask) reinterpret_cast<Handler>(i.handler)(warp, i, mask);
          pc++;
          break;
        case BRANCH:
          if (mask == active) pc = i.target;
          else if (mask == 0) pc++;
          else {
            set_pc(warp, mask, i.target);
            set_pc(warp, active & ~mask, pc + 1);
            fuel--;
            return;
          }
          break;
        case INDEXED_BRANCH: {
          set_pc(warp, active & ~mask, pc + 1);
          const uint32_t* index = place<uint32_t>(warp, i.operand[0]);
          each_lane(mask, [&](uint32_t lane) {
            if (index[lane] >= uint64_t(i.immediate[0])) fail(BOUNDS, lane, "branches to target %u", index[lane]);
            warp.pc[lane] = launch_.targets[i.target + index[lane]];
          });
          fuel--;
          return;
        }
        case EXIT:
          end(warp, mask);
          active &= ~mask;
          pc++;
          if (!active) {
            fuel--;
            return;
          }
          break;
        case COLLECTIVE:
          if (mask == 0) {
            pc++;
            break;
          }
          set_pc(warp, active & ~mask, pc + 1);
          set_pc(warp, mask, pc);
          warp.ready &= ~mask, warp.at_collective |= mask;
          if (meet(warp, pc, mask) && mask == active) {
            pc++;
            break;
          }
          fuel--;
          return;
        case BARRIER:
          if (mask == 0) {
            pc++;
            break;
          }
          set_pc(warp, active & ~mask, pc + 1);
          set_pc(warp, mask, pc);
          arrive(warp, i, mask);
          fuel--;
          return;
      }
    }
    set_pc(warp, active, pc);
  }

  // Lanes that end no longer have to come to a collective instruction.
  void end(Warp& warp, uint32_t mask) {
    each_lane(mask, [&](uint32_t lane) { wait_for_copies(warp, lane, 0, true); });
    warp.ready &= ~mask, warp.ended |= mask;
    for (uint32_t rest = warp.at_collective; rest;) {
      const uint32_t lane = uint32_t(std::countr_zero(rest)), pc = warp.pc[lane];
      uint32_t together = 0;
      each_lane(rest, [&](uint32_t other) { together |= uint32_t(warp.pc[other] == pc) << other; });
      rest &= ~together;
      const uint32_t back = current_pc;
      current_pc = pc;
      meet(warp, pc, 1u << lane);
      current_pc = back;
    }
  }

  // Executes a collective instruction if all lanes that it wants are there: whether those of `mask` may go on.
  bool meet(Warp& warp, uint32_t pc, uint32_t mask) {
    const Instruction& i = launch_.code[pc];
    const uint32_t* members = place<uint32_t>(warp, i.operand[15]);
    const uint32_t wanted = members[std::countr_zero(mask)];
    uint32_t here = 0;
    each_lane(warp.at_collective, [&](uint32_t lane) {
      if (warp.pc[lane] != pc) return;
      if (members[lane] != wanted && (mask >> lane & 1))
        fail(DIVERGED, lane, "lanes name different members, 0x%08x and 0x%08x", members[lane], wanted);
      here |= uint32_t(members[lane] == wanted) << lane;
    });
    if (mask & ~wanted)
      fail(DIVERGED, uint32_t(std::countr_zero(mask & ~wanted)), "is not among the members, 0x%08x", wanted);
    if ((wanted & warp.alive()) != here) return false;
    reinterpret_cast<Handler>(i.handler)(warp, i, here);
    warp.at_collective &= ~here, warp.ready |= here;
    set_pc(warp, here, pc + 1);
    return here == mask;
  }

  // Barriers

  struct Arrived {  // without waiting
    uint32_t threads = 0;
    std::vector<uint32_t> clocks;
  };
  std::vector<std::pair<std::pair<const Block*, uint32_t>, Arrived>> arrived_;

  Arrived& arrived(const Block& block, uint32_t number) {
    for (auto& [key, value] : arrived_)
      if (key == std::pair{&block, number}) return value;
    arrived_.push_back({{&block, number}, {}});
    arrived_.back().second.clocks.assign(block.warps.size(), 0);
    return arrived_.back().second;
  }

  static void join(std::vector<uint32_t>& into, const std::vector<uint32_t>& from) {
    for (size_t k = 0; k < into.size(); k++) into[k] = std::max(into[k], from[k]);
  }

  void arrive(Warp& warp, const Instruction& i, uint32_t mask) {
    if (i.immediate[0] != ARRIVE) {
      warp.ready &= ~mask, warp.at_barrier |= mask;
      return;
    }
    Arrived& found = arrived(*warp.block, place<uint32_t>(warp, i.operand[0])[std::countr_zero(mask)]);
    found.threads += uint32_t(std::popcount(mask));
    // Barriers count warps: lanes that a block has no threads for come with the first one.
    if (mask & 1) found.threads += LANES - uint32_t(std::popcount(warp.alive() | warp.ended));
    news_ = true;
    join(found.clocks, warp.clocks);
    warp.clock()++;
    set_pc(warp, mask, current_pc + 1);
  }

  // Lets the threads go on that wait at a barrier which is complete: whether there was one.
  bool release(Block& block) {
    for (Warp& first : block.warps) {
      if (!first.at_barrier) continue;
      const uint32_t lane = uint32_t(std::countr_zero(first.at_barrier)), pc = first.pc[lane];
      const Instruction& i = launch_.code[pc];
      const uint32_t number = place<uint32_t>(first, i.operand[0])[lane];
      if (number >= 16) fail(BOUNDS, lane, "barrier %u of 16", number);
      uint32_t waiting = 0, alive = 0, threads = 0, ended = 0;
      for (Warp& warp : block.warps) {
        const uint32_t here = waits_at(warp, number);
        waiting += uint32_t(std::popcount(here)), alive += uint32_t(std::popcount(warp.alive()));
        ended += uint32_t(std::popcount(warp.ended));
        if (here && here == warp.alive()) threads += LANES;
      }
      current = &first, current_pc = pc;
      if (i.immediate[1]) {
        const uint32_t wanted = place<uint32_t>(first, i.operand[1])[lane];
        threads += arrived(block, number).threads;
        if (threads > wanted || wanted % LANES)
          fail(DIVERGED, lane, "%u threads at a barrier for %u", threads, wanted);
        if (threads < wanted) continue;
      } else {
        if (waiting < alive) continue;
        if (ended) fail(DIVERGED, lane, "waits at a barrier that %u threads never reach: they have ended", ended);
      }
      pass(block, number);
      return true;
    }
    return false;
  }

  static uint32_t waits_at(Warp& warp, uint32_t number) {
    uint32_t found = 0;
    each_lane(warp.at_barrier, [&](uint32_t lane) {
      const Instruction& i = warp.launch->code[warp.pc[lane]];
      found |= uint32_t(place<uint32_t>(warp, i.operand[0])[lane] == number) << lane;
    });
    return found;
  }

  void pass(Block& block, uint32_t number) {
    Arrived& others = arrived(block, number);
    std::vector<uint32_t> clocks = others.clocks;
    others.clocks.assign(clocks.size(), 0), others.threads = 0;
    uint32_t votes = 0, voters = 0;
    for (Warp& warp : block.warps) {
      const uint32_t here = waits_at(warp, number);
      if (!here) continue;
      join(clocks, warp.clocks);
      const uint32_t pc = warp.pc[std::countr_zero(here)];
      const Instruction& i = launch_.code[pc];
      each_lane(here, [&](uint32_t lane) {
        current = &warp, current_pc = warp.pc[lane];
        if (warp.pc[lane] != pc && i.immediate[2])
          fail(DIVERGED, lane, "lanes of a warp wait at different barriers, this one and pc%u", pc);
      });
      if (i.immediate[2] && here != warp.alive())
        fail(DIVERGED, uint32_t(std::countr_zero(here)), "waits at a barrier without the rest of its warp");
      votes += uint32_t(std::popcount(*place<uint32_t>(warp, i.operand[3]) & here));
      voters += uint32_t(std::popcount(here));
    }
    for (Warp& warp : block.warps) {
      const uint32_t here = waits_at(warp, number);
      if (!here) continue;
      join(warp.clocks, clocks);
      warp.clock()++;
      each_lane(here, [&](uint32_t lane) {
        const Instruction& i = launch_.code[warp.pc[lane]];
        if (i.immediate[0] == COUNT) place<uint32_t>(warp, i.operand[2])[lane] = votes;
        if (i.immediate[0] == ALL || i.immediate[0] == ANY) {
          const bool found = i.immediate[0] == ALL ? votes == voters : votes > 0;
          uint32_t& p = *place<uint32_t>(warp, i.operand[2]);
          p = (p & ~(1u << lane)) | uint32_t(found) << lane;
        }
        warp.pc[lane]++;
      });
      warp.at_barrier &= ~here, warp.ready |= here;
    }
  }

  // Nothing in the block can go on: says who waits where.
  [[noreturn]] void stuck(Block& block) {
    const Warp* first = nullptr;
    uint32_t here = 0, elsewhere = 0, ended = 0, elsewhere_pc = 0, lane_of_first = 0;
    for (const Warp& warp : block.warps) {
      ended += uint32_t(std::popcount(warp.ended));
      each_lane(warp.alive(), [&](uint32_t lane) {
        if (!first) first = &warp, current_pc = warp.pc[lane], lane_of_first = lane;
        if (warp.pc[lane] == current_pc) here++;
        else elsewhere++, elsewhere_pc = warp.pc[lane];
      });
    }
    current = first;
    if (elsewhere)
      fail(DIVERGED, lane_of_first, "%u threads wait here, %u elsewhere (pc%u), %u have ended: nobody can go on", here,
           elsewhere, elsewhere_pc, ended);
    fail(DIVERGED, lane_of_first, "%u threads wait here, %u have ended: nobody can go on", here, ended);
  }
};

inline int run(Launch& launch, const Handler* handlers) {
  for (uint64_t k = 0; k < launch.instructions; k++)
    launch.code[k].handler = reinterpret_cast<uint64_t>(handlers[launch.code[k].handler]);
  std::vector<GlobalShadow> shadows(launch.buffer_count);
  launch.shadows = shadows.data();
  Machine machine(launch);
  try {
    machine.run();
    return launch.fault = NONE;
  } catch (const Fault& fault) {
    launch.fault = fault.check;
    launch.fault_pc = machine.current_pc;
    snprintf(launch.fault_text, sizeof launch.fault_text, "%s", fault.text.c_str());
    if (machine.current) {
      const uint32_t t = machine.current->index * LANES + fault.lane;
      const uint32_t* size = launch.block;
      const uint32_t thread[3] = {t % size[0], t / size[0] % size[1], t / size[0] / size[1]};
      std::memcpy(launch.fault_thread, thread, sizeof thread);
      std::memcpy(launch.fault_block, machine.current->block->index, sizeof thread);
    }
    return int(launch.fault);
  }
}

}  // namespace emulator
