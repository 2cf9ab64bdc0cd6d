"""`convc.fit`: train a net on a data set, from the first epoch to the test, into a run folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.ir.diagnostic import CompileError, fail, with_sources
from convc.lazy import dataclass
from convc.passes.manager import PassReport
from convc.passes.plan import Plan
from convc.passes.plan_report import memory_report
from convc.runtime import environment
from convc.runtime.algorithms import AlgorithmOptions, Tune, read_choices, record
from convc.runtime.atomic import write_text
from convc.runtime.build import build_net
from convc.runtime.checkpoint import Match, read_checkpoint
from convc.runtime.choices import explain_algorithms, explain_memory
from convc.runtime.curves import Curves
from convc.runtime.data import DataSet
from convc.runtime.diagnose import Replay, explain
from convc.runtime.evaluate import Evaluation, evaluate
from convc.runtime.interrupt import Interrupted, Interrupts
from convc.runtime.metrics import EpochRecord, Metrics
from convc.runtime.numbered import Numbered, copy_state, make_numbered, newest
from convc.runtime.program import Program
from convc.runtime.progress import Reporter, Style, figure, make_reporter, percent
from convc.runtime.rounding_report import losses_of_step, losses_table, summary
from convc.runtime.run_folder import RunFolder, open_folder
from convc.runtime.run_settings import parse_settings, require_continuation
from convc.runtime.training_loop import NotFinite, TrainingLoop, finite, is_over
from convc.runtime.training_plan import TrainingPlan, make_plan
from convc.runtime.training_state import Position, load_state, parse_position, save_state

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.frontend.settings import DataSetting


@dataclass(frozen=True)
class FitResult:
    """What a training reached. Accuracies are fractions in 0…1, None where there was no such part.

    The test was made with `weights`: those of the best epoch by validation accuracy or, without a validation part, by
    training loss. Test images never have a part in that choice. `stopped` is why the training ended before its last
    epoch (`early_stop`), None if it did not. Where the loss was scaled, `loss_scale` is what it came to, and `skipped`
    counts the updates that were skipped since gradients were not finite.
    """

    folder: Path
    epochs: int
    steps: int
    seconds: float
    history: tuple[EpochRecord, ...]
    best_epoch: int
    validation_accuracy: float | None
    test_accuracy: float | None
    test_loss: float | None
    weights: Path
    stopped: str | None = None
    loss_scale: float | None = None
    skipped: int | None = None


def fit(
    net: Net,
    *,
    data: str | DataSetting | DataSet | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    target: str = "cpu",
    arch: str | None = None,
    precision: str | None = None,
    fp32: Sequence[str] = (),
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    init: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    report: Style = "auto",
    algo: str = "auto",
    scratch: int | None = None,
    max_error: float | None = None,
    tune: Tune | None = None,
    constants: str = "table",
    memory: int | None = None,
    fit_bytes: int | None = None,
    inspect: Callable[[Program], None] | None = None,
    numerics: bool = False,
) -> FitResult:
    """Train `net`; None means the file's value. What is chosen for the user is printed with the reason.

    `data` is a data item of the language (`'idx "dir/" val=500'`) or a `DataSet`. `out` is the run folder (default
    `runs/NAME-N`); `resume` goes on, bit by bit, with the run in it (default: the last one), starts afresh where there
    is none, and returns at once what a finished run reached. `init` names a file of weights to start from: what matches
    by name and shape is taken. It replaces the file of the train item's `init`, not its `freeze=`. `report` is "auto"
    (a progress bar on a terminal, else lines), "lines", "json" or "quiet". `algo`, `scratch`, `max_error`, `tune` and
    `constants` are those of `convc.compile`; what is chosen is kept in the run folder, and used again when the run
    goes on. `memory` bounds the bytes of the training step and `fp32` names layers that stay in float32, as in
    `convc.compile`; with `fit_bytes` the batch is the
    largest for which the step takes no more. `inspect` is called with the compiled training step before the first one.
    With `numerics` what rounding loses in a step is counted, op by op, before the training and after it.

    The first Ctrl-C (or SIGTERM) stops at the next step, saves and raises `Interrupted`, a `KeyboardInterrupt`; the
    second stops at once. Raises `CompileError` for bad input, a full disk, or a loss that is not finite.
    """
    with ExitStack() as stack:
        reporter = make_reporter(report)
        stack.callback(reporter.close)
        interrupts = stack.enter_context(Interrupts(_acknowledge))
        overrides: dict[str, Any] = {"data": data, "epochs": epochs, "batch": batch, "precision": precision}
        overrides |= {"seed": seed, "init": None if init is None else Path(init)}
        overrides |= {"fp32": tuple(fp32) or None}
        overrides |= {"memory": memory, "fit_bytes": fit_bytes}
        given = {name: value for name, value in overrides.items() if value is not None}
        # Errors about data and the like point into the file: shown with its line.
        sources = {**net.sources, **({"--data": f"data {data}"} if isinstance(data, str) else {})}
        with with_sources(sources):
            algorithms = AlgorithmOptions(algo, scratch, max_error, tune, constants)
            plan = make_plan(net, given, target, threads, algorithms, reporter, interrupts.check, resume, arch)
        folder, continued = open_folder(None if out is None else Path(out), net.name, resume)
        stack.callback(folder.close)
        training = _Training(plan, folder, reporter, interrupts, stack, inspect, numerics)
        try:
            return training.run(continued)
        except CompileError as error:
            reporter.record("error", str(error), diagnostics=[d.message for d in error.diagnostics])
            raise
        except Interrupted as interrupted:
            interrupted.folder, interrupted.command = str(folder.path), training.command
            reporter.record("interrupt", f"{interrupted}; go on with: {training.command}", command=training.command)
            raise


def _acknowledge(signal_name: str) -> None:
    # Another thread may be in the middle of a print: this goes past Python's buffers and their locks.
    text = f"\n{signal_name}: finishing this step, then saving; once more aborts at once\n"
    os.write(2, text.encode())


class _Training:
    """The course of one call of `fit`, once it is clear what to train, with what, and where."""

    def __init__(
        self,
        plan: TrainingPlan,
        folder: RunFolder,
        reporter: Reporter,
        interrupts: Interrupts,
        stack: ExitStack,
        inspect: Callable[[Program], None] | None,
        numerics: bool,
    ) -> None:
        self.plan, self.folder, self.reporter, self.interrupts = plan, folder, reporter, interrupts
        self._stack, self._inspect, self._numerics = stack, inspect, numerics
        self.metrics = Metrics(folder.path)
        self.curves = Curves(folder.path / "curves.png", f"{plan.net.name}, {plan.dataset.name}")

    @property
    def command(self) -> str:
        """What to type to go on with this run."""
        return f"convc train {shlex.quote(str(self.folder.model))} --out {shlex.quote(str(self.folder.path))} --resume"

    def run(self, continued: bool) -> FitResult:
        plan, folder, reporter = self.plan, self.folder, self.reporter
        if continued:
            require_continuation(
                parse_settings(folder.read_json(folder.settings), folder.settings), plan.run, folder.path
            )
        else:
            if plan.init is not None:
                plan.init.read()  # what is wrong with it is told before anything is written
            # First of all, since this file marks the folder as a run.
            folder.write_json(folder.settings, plan.run.to_json())
        reporter.attach(folder.log)
        reporter.emit("folder", f"run folder {folder.path}", folder=str(folder.path))
        saved = self._saved_position() if continued else None
        if saved is not None and is_over(saved, plan.settings.epochs, plan.stopping) and folder.result.exists():
            return self._finished_before(saved)
        folder.result.unlink(missing_ok=True)  # of fewer epochs
        for choice in plan.choices:
            reporter.emit("choice", str(choice), **asdict(choice))
        self._write_description(continued)
        position = self._restore() if saved is not None else self._begin()
        self.metrics.restart(position.epoch)
        self._announce(position)
        if self._inspect is not None:
            self._inspect(self.program)
        loop = TrainingLoop(
            program=self.program,
            train=plan.train,
            validation=plan.dataset.validation,
            batch=plan.settings.batch,
            epochs=plan.settings.epochs,
            rate=plan.rate,
            counts_correct="correct" in self.program.graph.outputs,
            folder=folder,
            metrics=self.metrics,
            curves=self.curves,
            reporter=reporter,
            interrupts=self.interrupts,
            infer=lambda: self.infer,
            about=self.about,
            plateau=plan.plateau,
            stopping=plan.stopping,
            numbered=self._numbered(),
            position=position,
        )
        self._report_numerics(position, "before the training")
        try:
            loop.run()
        except NotFinite as failure:
            self._explain(position, str(failure))
        self._report_numerics(position, "after it")
        return self._finish(position)

    # Programs

    @cached_property
    def program(self) -> Program:
        """The training step. Compiling it takes the time between the first lines and the first step."""
        return self._build("train")

    @cached_property
    def infer(self) -> Program:
        return self._build("infer")

    def _build(self, mode: str) -> Program:
        plan = self.plan
        program = build_net(
            plan.net,
            mode=mode,
            target=plan.run.target,
            arch=plan.arch,
            precision=plan.run.precision,
            fp32=plan.fp32,
            threads=plan.threads,
            settings=plan.settings,
            rate=plan.rate,
            algorithms=replace(plan.algorithms, recorded=self._recorded.get(mode, {})),
            memory=plan.memory if mode == "train" else None,
            planned=self._report_memory if mode == "train" else None,
        )
        self._stack.callback(program.close)
        self._record(mode, program)
        self.interrupts.check()
        return program

    def _report_memory(self, plan: Plan, passes: list[PassReport]) -> None:
        """What the training step takes, before it takes it: for the log, and for whoever gave a budget."""
        report = memory_report(plan, passes)
        choice = explain_memory(report)
        tell = self.reporter.record if self.plan.memory is None else self.reporter.emit
        tell("memory", str(choice), bytes=report.arena_bytes + report.persistent_bytes, why=choice.why)

    @cached_property
    def _recorded(self) -> dict[str, dict[str, str]]:
        """The algorithms that this run has chosen for its programs, by mode: part of what makes its bits."""
        path = self.folder.choices
        return read_choices(self.folder.read_json(path)) if path.exists() else {}

    def _record(self, mode: str, program: Program) -> None:
        chosen = record(program.reports)
        if not chosen or chosen == self._recorded.get(mode):
            return
        choice = explain_algorithms(mode, chosen, measured=self.plan.algorithms.tune is not None)
        self.reporter.emit("choice", str(choice), **asdict(choice))
        self._recorded[mode] = chosen
        self.folder.write_json(self.folder.choices, {"schema": 1, **self._recorded})

    @cached_property
    def about(self) -> dict[str, str]:
        """What checkpoints of this run say about it; nothing that differs between two runs of the same bits."""
        return {**self.plan.about, **environment.versions(self.plan.run.target)}

    # Beginning

    def _numbered(self) -> Numbered | None:
        settings = self.plan.settings
        return make_numbered(settings.checkpoint, self.folder.path) if settings.explicit("checkpoint") else None

    def _write_description(self, continued: bool) -> None:
        plan, folder = self.plan, self.folder
        if continued:
            folder.write_json(folder.settings, plan.run.to_json())
        write_text(folder.model, plan.model)
        folder.write_json(folder.environment, environment.describe(plan.run.target, plan.threads))

    def _begin(self) -> Position:
        position = Position()
        if self.plan.init is not None:
            self._report_init(self._load_init())
            # The file with the weights may be gone when the run is to be continued.
            save_state(self.folder.state, self.program, position, self.about)
        return position

    def _load_init(self) -> Match:
        assert self.plan.init is not None
        found, weights = self.plan.init.read()
        self.program.set_params(weights, str(self.plan.init.path))
        return found

    def _report_init(self, found: Match) -> None:
        assert self.plan.init is not None
        path = self.plan.init.path
        text = f"{len(found.loaded)} of {len(self.program.params)} parameters come from {path}"
        self.reporter.emit("init", text, loaded=list(found.loaded), file=str(path))
        for line in found.lines():
            self.reporter.emit("init-difference", f"  {line}", difference=line)
        parameters = self.program.graph.parameters
        drawn = [name for name in (*found.missing, *found.different) if parameters[name].frozen]
        if drawn:
            text = f"warning: frozen, though not from {path} but drawn at random: {', '.join(drawn)}"
            self.reporter.emit("warning", text, message=text, parameters=drawn)

    def _saved_position(self) -> Position | None:
        if not self.folder.state.exists():
            kept = newest(self.folder.path)
            if kept is None:
                return None
            copy_state(kept, self.folder.state)
            self.reporter.emit("restored", f"there was no {self.folder.state.name}: it is now {kept.name}")
        position = parse_position(self.folder.state, read_checkpoint(self.folder.state).metadata)
        # Between two epochs nothing is under way; a state from elsewhere may claim anything.
        rows = min(position.batch * self.plan.settings.batch, len(self.plan.dataset.train))
        batches = -(-len(self.plan.dataset.train) // self.plan.settings.batch)
        if position.batch > batches or position.images != rows:
            where = f"{position.images} images in {position.batch} batches of {batches}"
            fail("checkpoint-unreadable", f"{self.folder.state} is damaged: it stands at {where}")
        return position

    def _restore(self) -> Position:
        """The last saved state, or the beginning where none has been saved."""
        if self.folder.state.exists():
            return load_state(self.folder.state, self.program)
        self.program.reset()
        if self.plan.init is not None:
            self._load_init()
        return Position()

    def _announce(self, position: Position) -> None:
        dataset, reporter = self.plan.dataset, self.reporter
        sizes = ", ".join(f"{len(split):,} {part}" for part, split in dataset.parts())
        reporter.emit(
            "data", f"{dataset.name}: {sizes} images", **{part: len(split) for part, split in dataset.parts()}
        )
        count = sum(p.value.type.size for p in self.program.graph.parameters.values() if p.trainable)
        frozen = sum(p.value.type.size for p in self.program.graph.parameters.values() if p.trainable and p.frozen)
        apart = f", {frozen:,} of them frozen" if frozen else ""
        reporter.emit(
            "net", f"{self.plan.net.name}: {count:,} trainable parameters{apart}", parameters=count, frozen=frozen
        )
        l2 = self.plan.settings.decay.l2
        if l2:
            text = f"decay l2={l2:g}, which PyTorch calls weight_decay={2 * l2:g}"
            reporter.emit("decay", text, l2=l2, weight_decay=2 * l2)
        if position.step:
            where = f"epoch {position.epoch + 1}, batch {position.batch}"
            reporter.emit("resumed", f"going on after step {position.step} ({where})", step=position.step)

    # End

    def _report_numerics(self, position: Position, when: str) -> None:
        if self._numerics:
            losses = losses_of_step(self.program, self.plan.train, self.plan.settings.batch, position)
            text = "\n".join([f"numerics {when}: {summary(losses)}", *losses_table(losses)])
            self.reporter.emit("numerics", text, when=when, ops=[asdict(loss) for loss in losses])

    def _explain(self, position: Position, what: str) -> None:
        step = position.step + (self.program.waiting[0] > 0)
        self.reporter.emit("failure", f"{what} in step {step}; looking for its origin", step=step)
        plan = self.plan
        replay = Replay(self.program, plan.train, plan.settings.batch, plan.rate, self._restore, self.interrupts.check)
        saved = self.folder.state.exists()
        kept = f"the last good state is kept in {self.folder.state}" if saved else "no state had been saved before"
        number = position.epoch * replay.batches + position.batch
        raise CompileError([explain(replay, number, step, what, kept)], plan.net.sources) from None

    def _finish(self, position: Position) -> FitResult:
        problem = self.curves.draw(self.metrics.records)
        if problem:
            self.reporter.emit("warning", problem)
        result = self._result(position, self._test())
        content = {key: value for key, value in asdict(result).items() if key not in ("folder", "history", "weights")}
        self.folder.write_json(
            self.folder.result, {"schema": 1, "finished": True, **content, "weights": result.weights.name}
        )
        self._conclude(result)
        return result

    def _test(self) -> Evaluation | None:
        if self.plan.dataset.test is None:
            return None
        best = self.folder.best
        self.infer.set_params(read_checkpoint(best).weights, str(best))
        return evaluate(self.infer, self.plan.dataset.test, check=self.interrupts.check)

    def _result(self, position: Position, test: Evaluation | None) -> FitResult:
        history = tuple(self.metrics.records)
        best = next((record for record in history if record.epoch == position.best_epoch), None)
        return FitResult(
            folder=self.folder.path,
            epochs=position.epoch,
            steps=position.step,
            seconds=round(position.total_seconds, 3),
            history=history,
            best_epoch=position.best_epoch,
            validation_accuracy=best.validation_accuracy if best else None,
            test_accuracy=test["accuracy"] if test else None,
            test_loss=finite(test["loss"]) if test else None,
            weights=self.folder.best,
            stopped=self._why_stopped(position),
            loss_scale=history[-1].loss_scale if history else None,
            skipped=history[-1].skipped if history else None,
        )

    def _why_stopped(self, position: Position) -> str | None:
        stopping = self.plan.stopping
        if stopping is None or position.epoch >= self.plan.settings.epochs:
            return None
        return stopping.reason(position.early_stop)

    def _finished_before(self, position: Position) -> FitResult:
        """A run that had reached its end: what it had, without computing anything."""
        content = self.folder.read_json(self.folder.result)
        self.metrics.restart(position.epoch)
        test = content.get("test_accuracy"), content.get("test_loss")
        accuracy, loss = (value if isinstance(value, (int, float)) else None for value in test)
        evaluation = None if accuracy is None else Evaluation(accuracy=accuracy, top5=0.0, loss=loss, count=0)
        result = self._result(position, evaluation)
        why = f": {result.stopped}" if result.stopped else ""
        text = f"this run had finished after {position.epoch} epochs{why}"
        self.reporter.emit("finished", text, epochs=position.epoch, stopped=result.stopped)
        self._conclude(result)
        return result

    def _conclude(self, result: FitResult) -> None:
        emit = self.reporter.emit
        if result.validation_accuracy is not None:
            text = f"best validation accuracy {percent(result.validation_accuracy)} in epoch {result.best_epoch}"
            emit("best", text, epoch=result.best_epoch, accuracy=result.validation_accuracy)
        if result.test_accuracy is None:
            emit("no-test", f"{self.plan.dataset.name} has no test part (test=N sets images aside)")
        else:
            text = f"tested with the weights of epoch {result.best_epoch}"
            if result.test_loss is not None:
                text += f": loss {figure(result.test_loss)}"
            emit("weights", text, weights=str(result.weights), epoch=result.best_epoch)
            emit(
                "test",
                f"test accuracy {percent(result.test_accuracy)}",
                accuracy=result.test_accuracy,
                loss=result.test_loss,
            )
        if result.loss_scale is not None:
            text = f"loss scale {result.loss_scale:.10g}; {result.skipped} updates skipped"
            emit("loss-scale", text, loss_scale=result.loss_scale, skipped=result.skipped)
        emit(
            "end",
            f"run folder {result.folder}",
            folder=str(result.folder),
            finished=True,
            epochs=result.epochs,
            stopped=result.stopped,
            seconds=result.seconds,
        )
