// Scales down the weights of every unit whose L2 norm exceeds BOUND (Srebro & Shraibman 2005).
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Unit unit = unit_of_thread();
  double squares = 0.0;
  each_member(unit, [&](Index place, int) {
    const double w = to_float(W[place]);
    squares = fma(w, w, squares);
  });
  const float norm = (float)sqrt(block_total<TOGETHER>(squares));
  const float factor = norm > BOUND ? BOUND / norm : 1.0f;
  each_member(unit, [&](Index place, int) { RESULT[place] = from_float<Element>(to_float(W[place]) * factor); });
}
