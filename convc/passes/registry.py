"""All passes by name, and how a command line asks for them: `fold`, `specialize:mode=train,accumulate=yes`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from inspect import cleandoc

from convc.ir.diagnostic import fail
from convc.passes.base import AnyPass, Pass, PlanPass
from convc.passes.canonicalize import Canonicalize
from convc.passes.choose_algorithms import ChooseAlgorithms
from convc.passes.common_subexpressions import CommonSubexpressions
from convc.passes.dead_code import DeadCode
from convc.passes.fold_batch_norm import FoldBatchNorm
from convc.passes.fold_constants import FoldConstants
from convc.passes.fold_input_scale import FoldInputScale
from convc.passes.half_precision import HalfPrecision
from convc.passes.options import BadOption, UnknownOption, known, read_options
from convc.passes.planning import PLANNING
from convc.passes.quantization import Observe, QuantizeProducts
from convc.passes.recompute import Recompute
from convc.passes.separate_moments import SeparateMoments
from convc.passes.specialize import Specialize
from convc.passes.training import Training

_KINDS: tuple[type[Pass], ...] = (
    Specialize,
    Training,
    DeadCode,
    Canonicalize,
    FoldConstants,
    CommonSubexpressions,
    FoldBatchNorm,
    FoldInputScale,
    HalfPrecision,
    Observe,
    QuantizeProducts,
    ChooseAlgorithms,
    Recompute,
    SeparateMoments,
)
PASSES: dict[str, type[Pass]] = {kind.name: kind for kind in _KINDS}
PLAN_PASSES: dict[str, type[PlanPass]] = {step.name: type(step) for step in PLANNING}
ALL_PASSES: dict[str, type[AnyPass]] = {**PASSES, **PLAN_PASSES}


def explanation(kind: type[AnyPass]) -> tuple[str, str]:
    """What a pass does, in a sentence, and the graph before and after: the docstring of its module."""
    sentence, _, rest = cleandoc(sys.modules[kind.__module__].__doc__ or "").partition("\n\n")
    return " ".join(sentence.split()), rest


def parse_pass(text: str, defaults: Iterable[AnyPass] = ()) -> AnyPass:
    """A pass from `NAME` or `NAME:option=value,option=value`.

    `defaults` are passes whose options hold where the text gives none, found by name: those of the usual order. Errors:
    `name-pass`, `name-pass-option`, `value-pass-option`.
    """
    name, _, rest = text.strip().partition(":")
    kind = ALL_PASSES.get(name)
    if kind is None:
        fail("name-pass", f"there is no pass `{name}`", hint=known(name, ALL_PASSES))
    usual = next((step for step in defaults if step.name == name), None)
    values = dict(usual.options) if usual is not None else {}
    try:
        values |= read_options(kind, name, rest.split(","))
    except UnknownOption as error:
        fail("name-pass-option", f"the pass {error}", hint=error.hint)
    except BadOption as error:
        fail("value-pass-option", str(error))
    return kind(**values)
