"""A loss that is scaled: what is differentiated, what is skipped, and what becomes of the scale."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_OPS = ("tests/codegen/test_ops.py", "tests/ir/test_ops.py")
_LIBRARIES = ("tests/codegen/test_standalone_scaling.py",)
_STEPS = ("tests/codegen/test_scaled_steps.py", "tests/runtime/test_loss_scaling.py")

MUTANTS = (
    Mutant(
        "loss-is-not-scaled",
        "ir/ops/loss_scaling.py",
        "return b.add(Multiply(), dy, operands[1]), None",
        "return dy, None",
        "the gradients of the plain loss are divided by the scale",
        ("tests/ir/test_gradients.py", *_STEPS),
    ),
    Mutant(
        "overflow-is-not-seen-in-the-rest",
        "codegen/llvm/norms.py",
        "                    rest.carried = [add(f, rest.carried[0], place, 1)]\n",
        "                    rest.carried = [rest.carried[0]]\n",
        "elements that fill no vector are left out",
        _OPS,
    ),
    Mutant(
        "update-is-not-guarded",
        "codegen/llvm/updates.py",
        "    _lower_sweep(k, make_rule, op.guard(k.kernel.anchor.operands))\n",
        "    _lower_sweep(k, make_rule)\n",
        "gradients that are not finite reach the parameters",
        (*_OPS, *_STEPS),
    ),
    Mutant(
        "scale-falls-below-one",
        "codegen/llvm/loss_scaling.py",
        '_larger(f, _smaller(f, scale, least), f.binary("fmul", scale, f.constant(op.backoff)))',
        'f.binary("fmul", scale, f.constant(op.backoff))',
        "the scale is halved for ever",
        (*_OPS, *_STEPS),
    ),
    Mutant(
        "good-updates-are-never-forgotten",
        "ir/ops/loss_scaling.py",
        "return np.asarray(smaller), np.zeros_like(good), np.asarray(skipped + 1)",
        "return np.asarray(smaller), good, np.asarray(skipped + 1)",
        "a scale that has just been halved is doubled again",
        (*_OPS, *_STEPS),
    ),
    Mutant(
        "skipped-step-counts",
        "runtime/program.py",
        "            self.steps += done\n",
        "            self.steps += complete\n",
        "Adam corrects for steps that were none",
        _STEPS,
    ),
    Mutant(
        "mean-that-overflowed-is-kept",
        "runtime/program.py",
        "            if complete and not done:\n",
        "            if False:\n",
        "a state that holds an infinite mean gradient cannot be saved",
        _STEPS,
    ),
    Mutant(
        "libraries-begin-without-a-scale",
        "codegen/standalone/tables.py",
        "first = c_float(parameter.initial.value if is_state(parameter) else 0.0)",
        "first = c_float(0.0)",
        "a loss times zero has no gradient",
        _LIBRARIES,
    ),
    Mutant(
        "merged-gradients-of-a-scaled-loss",
        "passes/common_subexpressions.py",
        "        gradients |= {node.operands[0] for node in graph.nodes_of(Unscale)}\n",
        "",
        "one gradient of two parameters is divided by the scale twice",
        ("tests/passes/test_golden.py", *_STEPS),
    ),
)
