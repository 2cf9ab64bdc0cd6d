// The weights of each unit times the unit's number; what is padding stays zero.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  const Unit unit = unit_of_thread();
  const int number = unit.exists ? number_of(unit) : -1;
  const float scale = number >= 0 ? to_float(SCALE[number]) : 0.0f;
  each_member(unit, [&](Index place, int) {
    // Where the unit has channels that are padding these are zeros, whatever the scale is.
    const float w = to_float(W[place]);
    RESULT[place] = from_float<Element>(number >= 0 && is_real(place_of(place)) ? w * scale : 0.0f);
  });
}
