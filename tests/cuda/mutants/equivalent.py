"""Mutants that nobody can notice, and why."""

from __future__ import annotations

# The trees of channel_moments.cu and channel_sums.cu, round by round: lanes half to 2 half - 1 store, lanes below half
# add what lane + half has stored. So in every round a lane from half on is done: nobody reads its numbers again.
_DONE_LANE = "A lane from half on that joins another one changes numbers of its own only, and nobody reads them again."
_OWN_ROW = (
    "A lane below half stores its own row, which nobody reads before its own round, when it stores the row again."
)
_ONE_LANE = "With one lane the loop runs once, and nothing inside of it applies: no lane is below 1 and has a partner."
_ZERO_ANYWAY = "Padding of what is summed is zero, so its moments and sums are: clearing them is a precaution."
_ALL_REPEATS = "A block goes on with what other blocks do: the same sums in the same order at the same places. Slower."
_PADDING_RESULT = "Results there are padding, and `finish` stores zeros in padding whatever its sums are."
_PADDING_FILTER = "Filters from KG to KG_STORED are zeros in memory, and so are those channels of cotangents."
_FINDS = "What is read is not stored, since `deposit` asks again; and `find` checks its place itself."
_ONE_MORE_COLUMN = (
    "`is_read` is true of more columns then, but no pixel meets them by any tap: what is read is not used."
)
_ONE_GROUP = "Only convolutions with several groups are computed so, and in their filters nothing is padded."

_MOMENTS_JOIN = "if (place.works && place.lane < half && place.lane + half < LANES) {"
_SUMS_JOIN = "if (place.works && place.lane < half && place.lane + half < LANES)"
_ROUNDS = "for (int half = half_of(LANES); half > 0 && LANES > 1; half /= 2) {"
_REPEATS = "for (int repeat = 0; repeat < REPEATS && item < items; ++repeat, item += stride) { #2"
_FILTER_ROW = "return line.channel < CG_STORED && filter < KG && vector < down.count * side.count * CHANNEL_VECTORS;"
_FILTER_RESULT = (
    "result[((i64)(channel + e) * TAPS + r * S + s) * CG_STORED + q] = channel + e < K ? sums[s][e] : 0.0f;"
)
_WEIGHT = "weights[i] = k < K ? to_float(FILTERS[((Offset)k * TAPS + tap) * CG_STORED + q]) : 0.0f;"
_WEIGHT_DATA = "weights[i] = c < C ? to_float(FILTERS[(filter * TAPS + tap) * CG_STORED + c - group * CG]) : 0.0f;"
_VALID = "const bool valid = active(slot) && source.find(lines[slot], step"

EQUIVALENT: dict[str, str] = {
    "pool_backward.cuh: bound: if (u < 0 || u >= H || w < 0 || w >= W) continue; #2": (
        "An earlier tap of a window lies in the row of this pixel, which is inside of the image, or above: u < H."
    ),
    f"channel_moments.cu: bound: {_MOMENTS_JOIN}": _DONE_LANE,
    f"channel_moments.cu: no condition: {_MOMENTS_JOIN}": _DONE_LANE,
    "channel_moments.cu: no condition: if (place.works && place.lane >= half && place.lane < 2 * half) {": _OWN_ROW,
    f"channel_moments.cu: no condition: {_ROUNDS}": _ONE_LANE,
    f"channel_sums.cu: bound: {_SUMS_JOIN}": _DONE_LANE,
    f"channel_sums.cu: no condition: {_SUMS_JOIN}": _DONE_LANE,
    "channel_sums.cu: no condition: if (place.works && place.lane >= half && place.lane < 2 * half)": _OWN_ROW,
    f"channel_sums.cu: no condition: {_ROUNDS}": _ONE_LANE,
    "channel_block.cuh: bound: while (half * 2 < lanes) half *= 2;": (
        "Where the number of lanes is a power of two a round comes before the others in which no lane has a partner."
    ),
    "channel_block.cuh: bound: if (channel + i >= CHANNELS) v[i] = 0.0f;": _ZERO_ANYWAY,
    "channel_block.cuh: one less: for (int i = 0; i < V; ++i)": _ZERO_ANYWAY,
    "norm_parts.cu: bound: const int size = count < CHUNK ? (int)count : CHUNK;": (
        "A minimum: where both are equal it does not matter which of them is taken."
    ),
    "team.cuh: bound: return {real, real / PIXELS, real % PIXELS, number < all};": (
        "The team behind the last pixel has the last pixel, as always, and stores the same numbers again."
    ),
    "team.cuh: one more: for (int n = 0; n < MEMBER_VECTORS; ++n) {": (
        "MEMBER_VECTORS is rounded up: one more vector begins at or behind STORED; `channel < STORED` leaves it out."
    ),
    f"conv_depthwise.cu: no condition: {_REPEATS}": _ALL_REPEATS,
    f"conv_depthwise_data.cu: no condition: {_REPEATS}": _ALL_REPEATS,
    f"conv_depthwise.cu: not zero: {_WEIGHT}": _PADDING_RESULT,
    f"conv_depthwise_data.cu: not zero: {_WEIGHT_DATA}": _PADDING_RESULT,
    "conv_depthwise_filters.cu: no barrier: __syncthreads(); #3": (
        "Between the last reading of `collected`, in the round of half == 1, and the next store to it is the barrier "
        "of that round; what comes after it uses registers only. The barrier could go."
    ),
    "conv_depthwise_filters.cu: bound: if (q < CG && channel < K)": _ONE_GROUP,
    "conv_depthwise_filters.cu: no condition: if (q < CG && channel < K) #2": _ONE_GROUP,
    f"conv_depthwise_filters.cu: bound: {_FILTER_RESULT}": _ONE_GROUP,
    f"conv_depthwise_filters.cu: not zero: {_FILTER_RESULT}": _ONE_GROUP,
    "depthwise.cuh: bound: if (group < SOURCE_STORED) load<NEAR>(pixel + group, x);": (
        "There are as many results as sources there, and no thread comes here for a channel from RESULT_STORED on."
    ),
    "depthwise.cuh: one more: for (int p = 0; p < SPAN; ++p)": _ONE_MORE_COLUMN,
    "depthwise.cuh: one more: for (int t = 0; t < MOST_W; ++t)": _ONE_MORE_COLUMN,
    f"conv_simt_data.cu: bound: {_FILTER_ROW} #2": _PADDING_FILTER,
    f"conv_simt_data.cu: no condition: {_FILTER_ROW}": _PADDING_FILTER,
    "conv_simt_filters.cu: bound: const int h = tap < TAPS ? tap / S * DILATION_H - TOP : -(OH * STRIDE_H);": (
        "Sums of the columns behind the last tap are dropped; `find` checks that what they read is inside of the image."
    ),
    "simt_tile.cuh: bound: return (LINES * VECTORS) % THREADS == 0 || index(slot) < LINES * VECTORS;": (
        "With TILE_K of 16 the vectors of every tile in simt.TILES are a multiple of its threads: nothing is compared."
    ),
    f"simt_tile.cuh: no condition: {_VALID} * VECTORS + vector(slot), at); #2": _FINDS,
    f"simt_tile.cuh: no condition: {_VALID}, index(slot) / VECTORS, at); #2": _FINDS,
    "simt_tile.cuh: bound: if (first >= last) return;": (
        "A part without steps begins where the terms end: `find` finds none, and the loop has no round."
    ),
    "conv_mma_data.cu: bound: if ((int)blockIdx.x >= tiles_m * tiles_n) return;": (
        "The block behind the last tile computes sums of no pixel or filter, and `deliver` leaves all out. Slower."
    ),
}
