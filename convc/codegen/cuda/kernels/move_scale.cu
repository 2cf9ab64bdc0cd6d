// The scale of a loss after an update that was good, or had to be skipped, and how many were; one thread. SCALE, GOOD,
// SKIPPED and OK are the old numbers; GROWTH, BACKOFF, INTERVAL, LEAST and MOST constants.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  float scale = SCALE, good = GOOD, skipped = SKIPPED;
  // A scale beyond the bounds stays where it is.
  if (OK == 0.0f) {
    scale = fmaxf(fminf(scale, LEAST), scale * BACKOFF);
    good = 0.0f;
    skipped += 1.0f;
  } else if (good + 1.0f < INTERVAL) {
    good += 1.0f;
  } else {
    scale = fminf(fmaxf(scale, MOST), scale * GROWTH);
    good = 0.0f;
  }
  store_results(ARGUMENTS, scale, good, skipped);
}
