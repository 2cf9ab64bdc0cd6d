// Weights unit by unit. A block has TOGETHER units that lie side by side, THREADS / TOGETHER threads for each. Units of
// padding are among them, so that all weights of a result are written. A unit has MEMBERS / MINOR_COUNT runs, MAJOR
// apart, of MINOR_COUNT weights, MINOR apart. UNIT_GROUPS groups, GROUP apart, have GROUP_UNITS units each, UNIT apart.
constexpr int SLICES = THREADS / TOGETHER;

struct Unit {
  Index first;
  int group, row;  // its number among those of its group as they lie
  bool exists;
};

__device__ __forceinline__ Unit unit_of_thread() {
  const int unit = blockIdx.x * TOGETHER + threadIdx.x % TOGETHER;
  const int group = unit / GROUP_UNITS, row = unit % GROUP_UNITS;
  return {(Index)group * (Index)GROUP + (Index)row * (Index)UNIT, group, row, unit < UNIT_GROUPS * GROUP_UNITS};
}

// The number of a unit in logical order: rows are taps of stored channels where each feature is a unit, and channels or
// outputs elsewhere. -1 for padding.
__device__ __forceinline__ int number_of(const Unit& unit) {
  const int channel = unit.row % ROW_STORED, tap = unit.row / ROW_STORED;
  return channel < ROW_REAL ? (unit.group * ROW_REAL + channel) * ROW_TAPS + tap : -1;
}

// Calls `visit(place, member)` for this thread's members of a unit.
template <typename Visit>
__device__ __forceinline__ void each_member(const Unit& unit, Visit visit) {
  if (!unit.exists) return;
#pragma unroll 4
  for (int m = threadIdx.x / TOGETHER; m < MEMBERS; m += SLICES)
    visit(unit.first + m / MINOR_COUNT * (Index)MAJOR + m % MINOR_COUNT * (Index)MINOR, m);
}
