"""The choice of algorithms, what is known of each, and layers in the place of one."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_DECIDE = (
    "tests/passes/algorithms/test_decision.py",
    "tests/passes/test_choose_algorithms.py",
    "tests/commands/test_explain.py",
)
_WINOGRAD = ("tests/passes/test_choose_algorithms.py", "tests/passes/algorithms/test_winograd.py")
_RANKED = (
    "tests/passes/rewriting/test_composition.py",
    "tests/passes/rewriting/test_ranked.py",
    "tests/runtime/test_rewriting.py",
)

MUTANTS = (
    Mutant(
        "chooses-the-slowest",
        "passes/algorithms/decision.py",
        "    best = min(candidates, key=lambda c: c.predicted or 0.0)\n",
        "    best = max(candidates, key=lambda c: c.predicted or 0.0)\n",
        "the slowest algorithm is chosen",
        _DECIDE,
    ),
    Mutant(
        "no-margin",
        "passes/algorithms/decision.py",
        "(plain.predicted or 0.0) < MARGIN * (best.predicted or 0.0)",
        "(plain.predicted or 0.0) < (best.predicted or 0.0)",
        "the direct algorithm loses by a hair",
        _DECIDE,
    ),
    Mutant(
        "error-budget-ignored",
        "passes/algorithms/decision.py",
        "    if error > limits.max_rel_error:\n",
        "    if error > 100 * limits.max_rel_error:\n",
        "an algorithm above the budget of errors is chosen",
        _DECIDE,
    ),
    Mutant(
        "scratch-budget-ignored",
        "passes/algorithms/decision.py",
        "    elif limits.scratch_bytes is not None and scratch > limits.scratch_bytes:\n",
        "    elif limits.scratch_bytes is not None and scratch > 2 * limits.scratch_bytes:\n",
        "an algorithm above the budget of scratch space is chosen",
        _DECIDE,
    ),
    Mutant(
        "measured-like-predicted",
        "passes/algorithms/decision.py",
        "    return (candidate.measured if measured else candidate.predicted) or 0.0\n",
        "    return candidate.predicted or 0.0\n",
        "measured times do not count",
        _DECIDE,
    ),
    Mutant(
        "backward-data-sizes-swapped",
        "passes/algorithms/problem.py",
        'direction, x, w, y = "backward_data", node.result.shape, second.shape, first.shape',
        'direction, x, w, y = "backward_data", first.shape, second.shape, node.result.shape',
        "the problem of backward data has input and output the wrong way round",
        (*_DECIDE, "tests/codegen/algorithms/test_im2col.py"),
    ),
    Mutant(
        "flops-without-groups",
        "passes/algorithms/problem.py",
        "        per_output = 2 * self.taps * (self.channels // self.groups)\n",
        "        per_output = 2 * self.taps * self.channels\n",
        "grouped convolutions seem to do more than they do",
        (*_DECIDE, "tests/passes/algorithms"),
    ),
    Mutant(
        "last-wish-ignored",
        "passes/choose_algorithms.py",
        "            return fitting[-1]\n",
        "            return fitting[0]\n",
        "of two wishes for a layer the earlier one counts",
        _DECIDE,
    ),
    Mutant(
        "choice-of-another-direction",
        "passes/choose_algorithms.py",
        '        earlier = self.recorded.get(f"{node.label} {Problem.of(node).direction}")\n',
        '        earlier = self.recorded.get(f"{node.label} forward")\n',
        "a recorded choice is repeated in every direction",
        _DECIDE,
    ),
    Mutant(
        "winograd-with-stride",
        "passes/algorithms/winograd.py",
        "        if problem.stride != (1, 1):\n",
        "        if problem.stride[0] != 1:\n",
        "wrong axis: Winograd takes convolutions that step along rows",
        _WINOGRAD,
    ),
    Mutant(
        "winograd-with-dilation",
        "passes/algorithms/winograd.py",
        "        if problem.dilation != (1, 1):\n",
        "        if problem.dilation[1] != 1:\n",
        "wrong axis: Winograd takes convolutions that are dilated along columns",
        _WINOGRAD,
    ),
    Mutant(
        "composed-steps-forget-the-stride",
        "passes/rewriting/composition.py",
        "        steps = result.stride[0] * dilation[0], result.stride[1] * dilation[1]\n",
        "        steps = dilation\n",
        "the kernel of a chain whose first layer steps over pixels",
        _RANKED,
    ),
    Mutant(
        "composed-padding-of-the-last",
        "passes/rewriting/composition.py",
        "result.start[0] - result.stride[0] * padding[0]",
        "result.start[0] - padding[0]",
        "wrong padding: that of a later layer counts too little",
        _RANKED,
    ),
    Mutant(
        "composed-axes-swapped",
        "passes/rewriting/composition.py",
        "height + step[0] * (rows - 1), width + step[1] * (columns - 1)",
        "height + step[1] * (rows - 1), width + step[0] * (columns - 1)",
        "wrong axis: the steps of rows and columns change places",
        _RANKED,
    ),
    Mutant(
        "factors-without-bias",
        "passes/rewriting/ranked.py",
        '            arrays[-1]["bias"] = np.asarray(weights["bias"], np.float32)\n',
        '            arrays[-1]["bias"] = np.zeros_like(weights["bias"], np.float32)\n',
        "a dropped bias: a factorised layer loses it",
        _RANKED,
    ),
    Mutant(
        "rank-for-speedup-off-by-one",
        "passes/rewriting/ranked.py",
        "            return Decision(_capped(fitting, full),",
        "            return Decision(_capped(fitting + 1, full),",
        "the rank for a speedup is one too large",
        _RANKED,
    ),
)
