// The sum of the weights of every unit; padding is zeros, here and there.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Unit unit = unit_of_thread();
  double sum = 0.0;
  each_member(unit, [&](Index place, int) { sum += to_float(W[place]); });
  sum = block_total<TOGETHER>(sum);
  const int number = number_of(unit);
  if (threadIdx.x < TOGETHER && unit.exists && number >= 0) RESULT[number] = from_float<Element>((float)sum);
  if (blockIdx.x == 0)
    for (int i = NUMBERS + threadIdx.x; i < NUMBERS_STORED; i += THREADS) RESULT[i] = from_float<Element>(0.0f);
}
