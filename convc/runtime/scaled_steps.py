"""What a program with a scaled loss does beside its steps: it counts those that were skipped, and gives up in time."""

from __future__ import annotations

from typing import NoReturn

from convc.ir.diagnostic import fail
from convc.ir.ops.loss_scaling import LEAST_SCALE, MoveScale
from convc.lazy import dataclass
from convc.passes.training import LOSS_SCALE, PATIENCE, SKIPPED_UPDATES
from convc.runtime.executor import Executor


@dataclass
class ScaledSteps:
    """The counts lie with the optimiser's states, as `loss.…`, so that checkpoints hold them. `rule` moves the scale.

    `skipped` is how many updates the program is known to have skipped, `idle` how many in a row at a scale that does
    not fall.
    """

    executor: Executor
    rule: MoveScale
    skipped: int = 0
    idle: int = 0

    def read(self) -> tuple[float, int]:
        """The scale of the next step, and how many updates have been skipped so far."""
        return float(self.executor.read(LOSS_SCALE)), int(self.executor.read(SKIPPED_UPDATES))

    def before(self) -> None:
        """An update begins: somebody may have set the counts."""
        self.skipped = int(self.executor.read(SKIPPED_UPDATES))

    def after(self) -> bool:
        """An update is over. Whether it took place."""
        scale, skipped = self.read()
        if skipped == self.skipped:
            self.idle = 0
            return True
        self.skipped = skipped
        falls = self.rule.is_dynamic and scale > LEAST_SCALE
        self.idle = 0 if falls else self.idle + 1
        return False

    @property
    def hopeless(self) -> bool:
        return self.idle >= PATIENCE

    def give_up(self) -> NoReturn:
        """Error: `train-overflow`."""
        scale, _ = self.read()
        message = f"{self.idle} updates in a row were skipped: gradients are not finite at loss scale {scale:g}"
        hint = "a smaller learning rate, or `precision bf16`"
        if not self.rule.is_dynamic:
            hint = "`loss_scale=dynamic` finds one that fits"
        fail("train-overflow", message, hint=hint)
