"""A compiled net: what `convc.compile` returns.

A program owns the tensors of a training step or of an inference graph and runs it. Arrays at this interface are NCHW
float32 and integer labels; results are fresh arrays. Any thread may call it, one call at a time: others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph
from convc.ir.op import Op
from convc.ir.ops.loss_scaling import MoveScale
from convc.passes.base import Mode
from convc.passes.manager import PassReport
from convc.passes.sections import ACCUMULATOR, BATCH, EVERYTHING, Section
from convc.passes.training import LOSS_SCALE, SKIPPED_UPDATES
from convc.runtime.checkpoint import Match, match, read_checkpoint, require_match, write_checkpoint
from convc.runtime.executor import Executor, Result
from convc.runtime.gate import Gate
from convc.runtime.initial import initial_value
from convc.runtime.operands import as_images, as_labels, as_targets, is_finite_number, one_hot
from convc.runtime.parameters import STATE_ROLES, Parameters, as_parameter
from convc.runtime.scaled_steps import ScaledSteps

if TYPE_CHECKING:
    from convc.codegen.cuda.program import CudaStep
    from convc.passes.plan import Plan
    from convc.runtime.choices import Choice
    from convc.runtime.profile import Profile

# The learning rate for a progress in epochs (2.5: in the middle of the third) and a number of updates done.
Rate = Callable[[float, int], float]

_WITH_GRADIENTS = Section.FORWARD | Section.GRADIENT | Section.STATISTICS


class Program:
    """A net compiled for a mode, a batch size and a target.

    `params` maps names to parameters and buffers (see `Parameters`), `graph` is the graph that runs, `reports` tells
    what each pass did, `image` is the shape (C, H, W) of an image, `classes` the number of outputs, `loss` the op that
    makes a loss of (logits, labels), which is known in infer mode, too. `steps` counts updates. `epoch`, the progress
    in epochs, may be set and decides the learning rate of `step`. `start` gives the values that take the place of some
    initialisers, and is called when the first value is needed. `forward` makes the graph of the net anew, as it was
    before any pass, for those who translate it. `accumulate` batches make one update. Where the loss is scaled, updates
    whose gradients are not finite are skipped: they count as `skipped_steps`, and not as `steps`.
    """

    def __init__(
        self,
        graph: Graph,
        executor: Executor,
        *,
        mode: Mode,
        target: str,
        seed: int,
        rate: Rate | None = None,
        loss: Op | None = None,
        reports: Iterable[PassReport] = (),
        about: Callable[[], Mapping[str, str]] = dict,
        start: Callable[[], Mapping[str, np.ndarray]] = dict,
        forward: Callable[[], Graph] | None = None,
        accumulate: int = 1,
    ) -> None:
        self.graph = graph
        self.mode: Mode = mode
        self.target = target
        self.seed = seed
        self.batch = executor.batch
        self.loss = loss
        self.forward = forward
        self._about = about
        self._start = start
        self._started = False
        self.steps = 0
        self.accumulate = accumulate
        self._waiting = (0, 0)
        self._executor = executor
        self.reports = (*reports, *(self.plan.reports if self.plan is not None else ()))
        self._rate = rate
        self._epoch = 0.0
        self._gate = Gate(f"the program of {graph.name}")
        self.image = graph.inputs["x"].type.shape[1:]
        self.classes = graph.outputs["logits"].type.shape[1]
        self._states = tuple(name for name, p in graph.parameters.items() if p.role in STATE_ROLES)
        # First values are drawn when they are needed: most programs are given other ones at once.
        self._undrawn = dict(graph.parameters)
        self._untouched = True
        self.params = Parameters(graph, self._read, self._write)
        rules = [node.op for node in graph.nodes_of(MoveScale) if isinstance(node.op, MoveScale)]
        self._scaled = ScaledSteps(executor, rules[0]) if rules else None

    def __repr__(self) -> str:
        return f"<Program {self.graph.name}: {self.mode}, batch {self.batch}, {self.target}>"

    # Running

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """The value that the loss reads (logits), float32 (n, classes) or (n, classes, H, W).

        x is (n, C, H, W), 1 <= n <= batch. In train mode dropout is drawn and batch norm uses the statistics of the
        rows given; nothing changes.
        """
        images = as_images(x, self.image, self.batch)
        with self._gate:
            return self._run(Section.FORWARD, images, None, 0.0).logits

    def outputs(self, x: ArrayLike) -> dict[str, np.ndarray]:
        """All outputs of an inference program by name, float32, for images as in a call."""
        if self.mode != "infer":
            fail("value-mode", "`outputs` needs a program compiled for inference", hint='compile(net, mode="infer")')
        images = as_images(x, self.image, self.batch)
        with self._gate:
            self._run(Section.FORWARD | Section.GRADIENT, images, None, 0.0)
            return {name: self._executor.output(name, len(images)) for name in self.graph.outputs}

    def value_and_grad(self, x: ArrayLike, labels: ArrayLike) -> tuple[float, dict[str, np.ndarray]]:
        """The loss (weighted sum, mean over the rows, without decay) and its gradient by trained parameter.

        Updates the running statistics of batch norm, and neither parameters, optimiser states nor the count of steps.
        Where the loss is scaled gradients may be infinite, until steps have found a scale that fits.
        """
        self._require_training("value_and_grad")
        images, rows = self._training_operands(x, labels)
        with self._gate:
            result = self._run(_WITH_GRADIENTS, images, rows, 0.0)
            gradients = {
                name: self._executor.gradient(name)
                for name, parameter in self.graph.parameters.items()
                if parameter.trainable and not parameter.frozen
            }
        assert result.loss is not None
        return result.loss, gradients

    def step(self, x: ArrayLike, labels: ArrayLike, lr: float | None = None, *, update: bool | None = None) -> float:
        """Forward, backward and update; returns the loss before the update.

        Without `lr` the learning rate follows from `epoch` by the file's schedule. Where the file says `accumulate=k`
        every k-th call updates, by the mean gradient over all rows since the last update; `update` decides otherwise.
        Where the loss is scaled, an update with gradients that are not finite is skipped; `train-overflow` if that
        happens 50 times in a row at a scale that cannot fall any further.
        """
        self._require_training("step")
        if self._rate is None:
            fail(
                "value-optimizer",
                f"`step` needs an optimiser, and the file of {self.graph.name} names none",
                hint="write `optim sgd lr=0.1 momentum=0.9` into its train item",
            )
        rate = self._rate(self._epoch, self.steps) if lr is None else lr
        if not is_finite_number(rate):
            fail("value-learning-rate", f"the learning rate is a finite number, not {rate!r}")
        images, rows = self._training_operands(x, labels)
        result = self.train_batch(images, rows, float(rate), update=update)
        assert result.loss is not None
        return result.loss

    def train_batch(self, images: np.ndarray, labels: np.ndarray, lr: float, *, update: bool | None = None) -> Result:
        """`step` without checks, for loops that have checked: float32 C-contiguous images, int32 labels in range."""
        with self._gate:
            batches, rows = self._waiting
            complete = self.accumulate == 1 or (batches + 1 >= self.accumulate if update is None else update)
            scaled = self._scaled if complete else None
            if scaled is not None:
                self._draw(SKIPPED_UPDATES)
                scaled.before()
            result = self._run(EVERYTHING if complete else BATCH, images, self.targets(labels), lr)
            done = complete if scaled is None else scaled.after()
            self.steps += done
            self._waiting = (0, 0) if complete else (batches + 1, rows + len(images))
            if complete and not done:
                # The mean that was not finite is of no use to anybody, and a state that holds it cannot be saved.
                for name in self.unbounded_names:
                    self._write(name, np.zeros(self.graph.parameters[name].value.shape, np.float32))
            if scaled is not None and scaled.hopeless:
                scaled.give_up()
        return result

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """int32 labels as the step reads them: one-hot where it compares with numbers."""
        wanted = self.graph.inputs.get("labels")
        numeric = wanted is not None and wanted.type.dtype.is_float and labels.dtype.kind != "f"
        return one_hot(labels, self.classes) if numeric else labels

    @property
    def waiting(self) -> tuple[int, int]:
        """How many batches, and rows in all, wait for the update that they are part of: (0, 0) after every update.

        May be set, to go on with a `state_dict` that was taken between two updates.
        """
        return self._waiting

    @waiting.setter
    def waiting(self, value: tuple[int, int]) -> None:
        batches, rows = value
        if not self.could_wait(batches, rows):
            most = f"at most {self.accumulate - 1} batches of {self.batch} rows"
            fail("value-waiting", f"{batches} batches of {rows} rows cannot wait for an update: {most} can")
        self._waiting = batches, rows

    def could_wait(self, batches: object, rows: object) -> bool:
        """Whether so many batches and rows can wait for an update."""
        if not (isinstance(batches, int) and isinstance(rows, int)):
            return False
        return 0 <= batches < self.accumulate and batches <= rows <= batches * self.batch

    def profile(self, x: ArrayLike, labels: ArrayLike | None = None, *, rounds: int = 15) -> Profile:
        """Where the time of a step (in infer mode: of a call) goes, per kernel; changes nothing.

        The median of `rounds`. Not every target can tell.
        """
        profile = getattr(self._executor, "profile", None)
        if profile is None:
            fail("value-target", f"the target {self.target} does not profile", hint="compile for target='cpu'")
        images = as_images(x, self.image, self.batch)
        if self.mode == "infer":
            rows = None
        elif labels is None:
            fail("value-labels", "profiling a training step needs labels")
        else:
            rows = self._targets(labels, len(images))
        with self._gate:
            self._draw_all()
            return profile(images, rows, rounds)

    def artifact(self, kind: str) -> bytes | None:
        """What the back end made of the graph: `llvm`, `asm` or `obj`, for GPUs `cu`, `ptx` or `sass`; None if not."""
        make = getattr(self._executor, "artifact", None)
        if make is None:
            return None
        with self._gate:
            return make(kind)

    @property
    def cuda_step(self) -> CudaStep | None:
        """The launches of a program for GPUs; None for any other target."""
        return getattr(self._executor, "cuda_step", None)

    @property
    def architecture(self) -> Choice | None:
        """The architecture of GPUs that was compiled for, with the reason; None for any other target."""
        return getattr(self._executor, "architecture", None)

    @property
    def plan(self) -> Plan | None:
        """Schedule, layouts and memory of compiled code; None for a target that runs the graph as it is."""
        return getattr(self._executor, "plan", None)

    # Tensors

    @property
    def epoch(self) -> float:
        """Progress in epochs, from 0; the schedule reads it."""
        return self._epoch

    @epoch.setter
    def epoch(self, value: float) -> None:
        if not (is_finite_number(value) and value >= 0):
            fail("value-epoch", f"the epoch is a number of at least 0, not {value!r}")
        self._epoch = float(value)

    @property
    def learning_rate(self) -> float | None:
        """The rate that `step` would use now; None without an optimiser."""
        return None if self._rate is None else self._rate(self._epoch, self.steps)

    @property
    def loss_scale(self) -> float | None:
        """What the loss of the next step is multiplied with before it is differentiated; None where it is not."""
        return float(self._read(LOSS_SCALE)) if LOSS_SCALE in self.graph.parameters else None

    @property
    def skipped_steps(self) -> int:
        """How many updates were skipped because gradients were not finite; they are none of `steps`."""
        return int(self._read(SKIPPED_UPDATES)) if self._scaled is not None else 0

    @cached_property
    def about(self) -> dict[str, str]:
        """What checkpoints say about the net: its name and a digest of what it computes."""
        return dict(self._about())

    def reset(self, seed: int | None = None) -> None:
        """Begin anew: parameters as their initialisers draw them or, in a training that starts from a file, as the file
        has them; optimiser states, step count and epoch at zero.
        """
        if seed is not None:
            self.seed = seed
        with self._gate:
            self._undrawn = dict(self.graph.parameters)
            self._untouched = self._started = False
            self.steps = 0
            self._waiting = (0, 0)
            self._epoch = 0.0

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that training changes: parameters, buffers and optimiser states (`conv1.weight.momentum`).

        Together with `steps` and `epoch` (and `waiting`, between two updates of several batches) it is all that a
        bit-exact continuation needs.
        """
        with self._gate:
            return {name: self._read(name) for name in self.graph.parameters}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Take back what `state_dict` gave; a missing, unknown or misshapen array is an error, and nothing changes."""
        parameters = self.graph.parameters
        wrong = [name for name in (*parameters, *state) if (name in parameters) != (name in state)]
        if wrong:
            where = "the state" if wrong[0] not in state else f"the program of {self.graph.name}"
            fail("value-state", f"{where} has no {wrong[0]}")
        arrays = {name: as_parameter(parameters[name], array) for name, array in state.items()}
        with self._gate:
            for name, array in arrays.items():
                self._write(name, array)
            self._waiting = (0, 0)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the optimiser's states within `state_dict`."""
        return self._states

    @property
    def unbounded_names(self) -> tuple[str, ...]:
        """Names of those tensors of `state_dict` that need not be finite between two updates: the mean gradients of an
        update that will be skipped."""
        parameters = self.graph.parameters.items() if self._scaled is not None else ()
        return tuple(name for name, parameter in parameters if parameter.role == ACCUMULATOR)

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write parameters and buffers to a safetensors file. Non-finite values are refused."""
        with self._gate:
            weights = {name: self._read(name) for name in self.params}
        self.write_weights(Path(path), weights, metadata or {})

    def write_weights(self, path: Path, weights: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
        """`save` for arrays that have been read already."""
        write_checkpoint(path, weights, {"kind": "weights", **self.about, **metadata})

    def load_params(self, path: str | Path, strict: bool = True) -> Match:
        """Read parameters and buffers from a safetensors file; tells what was loaded and what was not.

        `strict` refuses a file that is not exactly of this net and lists the differences; otherwise what matches by
        name and shape is loaded. Non-finite values are refused, and after any error nothing has changed.
        """
        weights = read_checkpoint(path).weights
        found = match({name: array.shape for name, array in weights.items()}, self.params.shapes)
        if strict:
            require_match(found, Path(path), self.graph.name, hint="strict=False loads what matches")
        self.set_params({name: weights[name] for name in found.loaded}, str(path))
        return found

    def set_params(self, weights: Mapping[str, ArrayLike], origin: str = "the weights") -> None:
        """Assign several parameters or none: names, shapes and finiteness are checked before the first is set."""
        arrays = {name: as_parameter(self.graph.parameters[name], array) for name, array in weights.items()}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                fail("checkpoint-not-finite", f"{name} in {origin} holds values that are not finite")
        with self._gate:
            for name, array in arrays.items():
                self._write(name, array)

    # Life

    def close(self) -> None:
        """Give back memory; waits for a call in progress. Further calls are errors. May be called repeatedly."""
        if self._gate.close():
            self._executor.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, name: str) -> np.ndarray:
        with self._gate:
            self._draw(name)
            return self._executor.read(name)

    def _write(self, name: str, array: np.ndarray) -> None:
        with self._gate:
            self._undrawn.pop(name, None)
            self._executor.write(name, array)

    def _draw(self, name: str) -> None:
        """Make sure that a parameter has its first value."""
        self._begin()
        if name in self._undrawn:
            if self._needs_value(name):
                self._executor.write(name, self._first_value(name))
            del self._undrawn[name]

    def _draw_all(self) -> None:
        self._begin()
        wanted = [name for name in self._undrawn if self._needs_value(name)]
        self._executor.fill({name: partial(self._first_value, name) for name in wanted})
        self._undrawn.clear()

    def _begin(self) -> None:
        """Set what starts from given values."""
        if not self._started:
            for name, array in self._start().items():
                if name in self._undrawn:
                    self._write(name, as_parameter(self.graph.parameters[name], array))
            self._started = True

    def _needs_value(self, name: str) -> bool:
        return not (self._untouched and self.graph.parameters[name].initial.kind == "zeros")

    def _first_value(self, name: str) -> np.ndarray:
        return initial_value(self.graph.parameters[name], self.seed)

    def _run(self, sections: Section, x: np.ndarray, labels: np.ndarray | None, lr: float) -> Result:
        if self._undrawn:
            self._draw_all()
        return self._executor.run(
            sections, x, labels, lr=lr, step=self.steps + 1, seed=self.seed, seen=self._waiting[1]
        )

    def _training_operands(self, x: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        images = as_images(x, self.image, self.batch)
        return images, self._targets(labels, len(images))

    def _targets(self, labels: ArrayLike, rows: int) -> np.ndarray:
        wanted = self.graph.inputs.get("labels")
        if wanted is not None and wanted.type.dtype.is_float:
            return as_targets(labels, rows, wanted.shape[1:])
        return as_labels(labels, rows, wanted.shape[1:] if wanted is not None else (), self.classes)

    def _require_training(self, what: str) -> None:
        if self.mode != "train":
            fail(
                "value-mode",
                f"`{what}` needs a program compiled for training; this one is for inference",
                hint='compile(net, mode="train")',
            )
