// Where weights lie: [group][output of the group][tap][channel]. Outputs are padded from OWN to OUTPUTS, channels from
// CHANNELS to STORED, with zeros. The logical order is [group][output][channel][tap].
struct Place {
  int group, output, tap, channel;
};

__device__ __forceinline__ Place place_of(Index stored) {
  const Index span = (Index)TAPS * STORED, output = stored / span;
  return {(int)(output / OUTPUTS), (int)(output % OUTPUTS), (int)(stored % span / STORED), (int)(stored % STORED)};
}

__device__ __forceinline__ bool is_real(const Place& p) { return p.output < OWN && p.channel < CHANNELS; }

__device__ __forceinline__ u64 logical(const Place& p) {
  return (((u64)p.group * OWN + p.output) * CHANNELS + p.channel) * TAPS + p.tap;
}
