"""The order of passes, with the reason for each place."""

from __future__ import annotations

from convc.ir.ops.update import Update
from convc.lazy import dataclass
from convc.passes.base import Mode, Pass
from convc.passes.canonicalize import Canonicalize
from convc.passes.choose_algorithms import ChooseAlgorithms
from convc.passes.common_subexpressions import CommonSubexpressions
from convc.passes.dead_code import DeadCode
from convc.passes.fold_batch_norm import FoldBatchNorm
from convc.passes.fold_constants import FoldConstants
from convc.passes.fold_input_scale import FoldInputScale
from convc.passes.separate_moments import SeparateMoments
from convc.passes.specialize import Specialize
from convc.passes.training import LossScaling, ParameterRounding, Training


@dataclass(frozen=True)
class Recipe:
    """What a training step does with the gradients, beside differentiating: see `Training` and `Specialize`.

    `accumulate` is the number of batches that make one update.
    """

    optimizer: Update | None = None
    decay_bias: bool = False
    clip: float | None = None
    accumulate: int = 1
    max_norm: float | None = None
    class_weights: tuple[float, ...] = ()
    scaling: LossScaling | None = None
    rounding: ParameterRounding | None = None


def pipeline(
    mode: Mode,
    optimizer: Update | None = None,
    *,
    recipe: Recipe | None = None,
    choose: ChooseAlgorithms | None = None,
    types: Pass | None = None,
) -> tuple[Pass, ...]:
    """The passes that turn the forward graph of a net into an inference program or a training step.

    `optimizer` alone is short for a recipe that says nothing else. `choose` is left out for targets that compute
    convolutions by their definition, `types`, which decides what is computed in fewer bits, for programs in float32.
    """
    # Last: when nothing will be added or removed any more, every direction is chosen by itself.
    choices = () if choose is None else (choose,)
    # After the layers have the form of their mode: folded weights are cast as they are used. Before differentiation:
    # gradients are of the types of what they are gradients of.
    narrowing = () if types is None else (types,)
    if mode == "infer":
        return (
            Canonicalize(),  # first: a border within its convolution, nothing between the layers that are folded
            FoldConstants(),  # the normalisation of the input as one number per channel
            # Before `specialize`, which takes the layers apart that they look for: both see batch norm and loss whole.
            FoldInputScale(),
            FoldBatchNorm(),
            Specialize("infer"),  # everything after may rely on there being no loss and no dropout
            *narrowing,
            CommonSubexpressions(),  # a layer used twice is folded twice, into equal weights
            DeadCode(),  # removes what only the loss needed
            *choices,
        )
    recipe = recipe or Recipe(optimizer)
    several = recipe.accumulate > 1
    return (
        Canonicalize(),  # before differentiation: what is gone has no gradient, and no mask to keep for it
        FoldConstants(),  # likewise
        # Before differentiation: the training forms are the ones with gradients.
        Specialize("train", several, recipe.class_weights),
        *narrowing,
        Training(
            recipe.optimizer, recipe.decay_bias, recipe.clip, several, recipe.max_norm, recipe.scaling, recipe.rounding
        ),
        # Not before: batch norm that is used twice updates its statistics twice. Gradients repeat constants and masks.
        CommonSubexpressions(),
        Canonicalize(),  # gradients of losses with weights begin with a multiplication by 1
        DeadCode(),  # gradients that nobody wanted: of the input, of frozen layers
        *choices,
        # Which kernels can compute statistics depends on the algorithms; on a GPU none compute anything beside.
        *(() if choose is None or choose.gpu is not None else (SeparateMoments(),)),
    )
