// A weight divided by the share that is kept, or nothing.
__device__ __forceinline__ float changed(PARAMETERS, float w, u64 element) {
  return dropout(w, philox(element, (u64)STEP, (u32)SEED, STREAM).first, THRESHOLD, KEPT);
}
