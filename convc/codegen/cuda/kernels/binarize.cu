// The sign of each weight times the mean size of its output's weights (Rastegari et al. 2016). Zero is above zero here.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Unit unit = unit_of_thread();
  double sizes = 0.0;
  each_member(unit, [&](Index place, int) { sizes += fabsf(to_float(W[place])); });
  const float mean = (float)(block_total<TOGETHER>(sizes) / COUNT);
  each_member(unit, [&](Index place, int) {
    const float bit = to_float(W[place]) < 0.0f ? -mean : mean;
    RESULT[place] = from_float<Element>(is_real(place_of(place)) ? bit : 0.0f);
  });
}
