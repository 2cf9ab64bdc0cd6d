"""From a forward graph to a program: passes, then a back end. `convc.compile` and the trainer stand on this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convc.frontend.limits import DEFAULT_LIMITS
from convc.ir.diagnostic import fail, with_sources
from convc.ir.graph import Graph
from convc.ir.op import Op
from convc.ir.ops.loss import CountCorrect
from convc.lazy import dataclass
from convc.passes.algorithms.problem import CONVOLUTIONS, Problem
from convc.passes.algorithms.table import BY_NAME
from convc.passes.base import Mode, Pass, PlanPass
from convc.passes.choose_algorithms import AUTO, ChooseAlgorithms
from convc.passes.dump import Dump
from convc.passes.machine import Tier
from convc.passes.manager import PassManager, PassReport
from convc.passes.memory import PlanMemory
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING
from convc.passes.quantization import Ranges
from convc.passes.recompute import Recompute
from convc.passes.registry import parse_pass
from convc.passes.specialize import Specialize
from convc.passes.training import Training
from convc.runtime.algorithms import AlgorithmOptions
from convc.runtime.choices import Choice
from convc.runtime.configuration import (
    STEP_WORDS,
    check_target,
    element_types,
    make_rate,
    make_recipe,
    positive,
    refuse_precision,
    refuse_unsupported,
    seed_number,
)
from convc.runtime.cuda_driver import capability_of, choose_architecture
from convc.runtime.executor import Executor, ReferenceExecutor
from convc.runtime.memory_budget import require_memory
from convc.runtime.program import Program, Rate

if TYPE_CHECKING:
    from convc.codegen.llvm.target import CpuTarget
    from convc.frontend.net import Net
    from convc.frontend.settings import TrainSettings
    from convc.runtime.cuda import Device


# Told what the passes have done before a program is made: its plan, and the reports of the passes over the graph.
Planned = Callable[[Plan, list[PassReport]], None]
_PLAIN = Recipe()
_AUTOMATIC = AlgorithmOptions()
# Of the work of a large training step, to compute again what is cheap rather than keep it.
_SPARE = 0.01


def build_net(
    net: Net,
    *,
    batch: int | None = None,
    mode: str = "infer",
    target: str = "cpu",
    arch: str | None = None,
    precision: str | None = None,
    fp32: Sequence[str] = (),
    ranges: Ranges | None = None,
    algorithms: AlgorithmOptions = _AUTOMATIC,
    threads: int | None = None,
    dump_dir: Path | None = None,
    seed: int | None = None,
    settings: TrainSettings | None = None,
    rate: Rate | None = None,
    start: Callable[[], Mapping[str, np.ndarray]] = dict,
    passes: Sequence[str] | None = None,
    memory: int | None = None,
    planned: Planned | None = None,
) -> Program:
    """`convc.compile`; `settings` and `rate` replace the net's own, `start` gives weights to start from. `fp32` are
    patterns of the layers that stay in float32, `ranges` what `calibrate` has measured for int8. `planned` is called
    with the plan and what the passes did before anything is compiled or allocated."""
    settings = settings or net.settings
    if mode not in ("infer", "train"):
        fail("value-mode", f"mode={mode!r} is neither 'infer' nor 'train'")
    check_target(target, arch)
    refuse_precision(target, precision)
    if memory is not None:
        memory = positive(memory, "memory")
        require_plans(target)
    kind: Mode = "train" if mode == "train" else "infer"
    types = element_types(precision, settings, kind, net.layers, fp32, ranges)
    batch = settings.batch if batch is None else positive(batch, "batch")
    seed = settings.seed if seed is None else seed_number(seed)
    forward, recipe = net.graph(batch), Recipe()
    require_memory(forward, batch, net.limits.memory_bytes)
    if mode == "train":
        refuse_unsupported(settings, net.sources, STEP_WORDS)
        recipe = make_recipe(settings, forward, types)
        if recipe.optimizer is not None and rate is None:
            # Nobody knows yet how many steps an epoch will have; it matters only where epochs and steps are mixed.
            rate = make_rate(settings.schedule, 1, settings.epochs)
    with with_sources(net.sources):
        return build(
            forward,
            mode=kind,
            batch=batch,
            target=target,
            arch=arch,
            seed=seed,
            threads=None if threads is None else positive(threads, "threads"),
            recipe=recipe,
            rate=rate,
            dump_dir=dump_dir,
            about=lambda: {"net": net.name, "net_digest": net.digest()},
            start=(lambda: {**net.weights, **start()}) if net.weights else start,
            remake=lambda: net.graph(1),
            most_instructions=net.limits.instructions,
            passes=passes,
            algorithms=algorithms,
            memory=memory,
            planned=planned,
            types=types,
        )


def build(
    forward: Graph,
    *,
    mode: Mode,
    batch: int,
    target: str,
    seed: int,
    arch: str | None = None,
    threads: int | None = None,
    recipe: Recipe = _PLAIN,
    rate: Rate | None = None,
    dump_dir: Path | None = None,
    about: Callable[[], Mapping[str, str]] = dict,
    start: Callable[[], Mapping[str, np.ndarray]] = dict,
    remake: Callable[[], Graph] | None = None,
    most_instructions: int = DEFAULT_LIMITS.instructions,
    passes: Sequence[str] | None = None,
    algorithms: AlgorithmOptions = _AUTOMATIC,
    memory: int | None = None,
    planned: Planned | None = None,
    types: Pass | None = None,
) -> Program:
    """Make a program of `forward`, which is rewritten in place; `remake` makes another one like it.

    See `convc.compile` and `build_net` for the other arguments.
    """
    if mode == "train":
        require_loss(forward)
    choice = choose_architecture(arch) if target == "cuda" else None
    loss = main_loss(forward)
    dump = None if dump_dir is None else Dump(dump_dir)
    planner = gpu_planner(choice) if choice is not None else None
    chooser = algorithms.chooser(target, threads, arch=arch)
    chosen = choose_passes(mode, recipe, passes, target, chooser, memory, types=types, planner=planner)
    reports = PassManager(chosen.graph, dump=dump).run(forward)
    require_decided(forward, target)
    executor = make_executor(
        forward,
        target,
        batch=batch,
        threads=threads,
        architecture=choice,
        most_instructions=most_instructions,
        passes=chosen.plan,
        dump=dump,
        planned=None if planned is None else lambda plan: planned(plan, reports),
    )
    return Program(
        forward,
        executor,
        mode=mode,
        target=target,
        seed=seed,
        rate=rate,
        loss=loss,
        accumulate=recipe.accumulate,
        reports=reports,
        about=about,
        start=start,
        forward=remake,
    )


@dataclass(frozen=True)
class Planner:
    """Makes plans by passes (the graph gains `relayout` nodes), for processors of a tier."""

    make: Callable[[Graph, Sequence[PlanPass]], Plan]
    tier: Tier


@dataclass(frozen=True)
class Order:
    """The passes of a program in their order: over the graph, then over the plan."""

    graph: tuple[Pass, ...]
    plan: tuple[PlanPass, ...] = PLANNING


def choose_passes(
    mode: Mode,
    recipe: Recipe,
    chosen: Sequence[str] | None,
    target: str = "cpu",
    choose: ChooseAlgorithms | None = None,
    memory: int | None = None,
    types: Pass | None = None,
    planner: Planner | None = None,
) -> Order:
    """The usual passes, or those that were chosen, with the options of the usual ones.

    Whoever names passes over the graph names all of them. Those over the plan are needed anyway; naming one, at the
    end, gives it options. A program that is to take `memory` bytes recomputes and checks its plan whatever was named,
    by what plans of `planner` take (by default those for this processor).
    Errors: `missing-pass`, `unavailable-pass`, `value-pass-order`.
    """
    usual = pipeline(mode, recipe=recipe, choose=choose, types=types)
    passes = [parse_pass(text, (*usual, *PLANNING)) for text in chosen or ()]
    over_graph = tuple(step for step in passes if isinstance(step, Pass))
    given = {step.name: step for step in passes if isinstance(step, PlanPass)}
    for step, following in pairwise(passes):
        if isinstance(step, PlanPass) and isinstance(following, Pass):
            message = f"`{step.name}` plans the graph that `{following.name}` has left, and comes after it"
            fail("value-pass-order", message, hint=f"put {', '.join(given)} at the end")
    for needed in (Specialize, Training) if mode == "train" else (Specialize,):
        if over_graph and not any(isinstance(step, needed) for step in over_graph):
            order = ", ".join(step.name for step in usual)
            what = "a training step" if mode == "train" else "inference"
            fail("missing-pass", f"{what} needs the pass `{needed.name}`", hint=f"the usual order is {order}")
    for step in passes:
        why = step.refused.get(mode) or step.refused.get(target)
        if why is not None:
            hint = f"`convc opt FILE.ir -p {step.name}` runs it on a graph" if isinstance(step, Pass) else None
            fail("unavailable-pass", f"the pass `{step.name}` cannot be used here: {why}", hint=hint)
    order = over_graph or usual
    if mode == "train" and not any(isinstance(step, Recompute) for step in order):
        if memory is not None:
            order = (*order, Recompute(memory))
        elif target == "cpu" and not over_graph:
            order = (*order, Recompute(spare=_SPARE))
    plan = tuple(given.get(step.name, step) for step in PLANNING)
    order = tuple(_measuring(step, plan, planner) if isinstance(step, Recompute) else step for step in order)
    return Order(order, tuple(_limited(step, memory) if isinstance(step, PlanMemory) else step for step in plan))


def cpu_planner(cpu: CpuTarget | None = None) -> Planner:
    """Plans for the processor `cpu`, by default this one."""
    from convc.codegen.llvm.program import plan_step
    from convc.codegen.llvm.target import host_target

    processor = cpu or host_target()
    return Planner(lambda graph, passes: plan_step(graph, processor, passes), processor.tier)


def gpu_planner(architecture: Choice) -> Planner:
    """Plans for GPUs of an architecture."""
    from convc.codegen.cuda.program import plan_step

    capability = capability_of(architecture)
    # Scratch space of convolutions is estimated as that of a processor; what is measured is that of the plan.
    return Planner(lambda graph, passes: plan_step(graph, capability, passes), "avx512")


def planner_for(target: str, arch: str | None = None) -> Planner:
    """The planner of a target that plans. Errors: those of `choose_architecture`."""
    return gpu_planner(choose_architecture(arch)) if target == "cuda" else cpu_planner()


def _measuring(step: Recompute, plan: tuple[PlanPass, ...], planner: Planner | None) -> Recompute:
    """Recomputation that judges by plans, made as that of the program will be."""
    chosen = planner or cpu_planner()
    return replace(step, tier=chosen.tier, measure=lambda graph: chosen.make(graph, plan).memory.total_bytes)


def _limited(step: PlanMemory, memory: int | None) -> PlanMemory:
    return step if memory is None else replace(step, limit=memory)


def require_plans(target: str) -> None:
    """Error: `value-target` for a target whose programs have no plan."""
    if target == "reference":
        fail("value-target", f"the target {target} plans no memory", hint="compile for target='cpu'")


def require_decided(graph: Graph, target: str) -> None:
    """Refuse (`missing-pass`) a family of algorithms that no pass has made an algorithm of."""
    for node in graph.nodes_of(*CONVOLUTIONS):
        assert isinstance(node.op, CONVOLUTIONS)
        algorithm = node.op.algorithm
        if target != "reference" and algorithm not in (AUTO, *BY_NAME):
            message = f"{node.label} asks for `{algorithm}`, and no pass has decided which"
            fail("missing-pass", message, node.span, hint=f"add -p {ChooseAlgorithms.name}")
        if target == "cuda" and algorithm != AUTO:
            from convc.codegen.cuda.algorithms import OnGpu

            reason = OnGpu(algorithm).obstacle(Problem.of(node))
            if reason is not None:
                message = f"{node.label} cannot be computed by `{algorithm}`: {reason}"
                fail("unavailable-algorithm", message, node.span, hint=f"add -p {ChooseAlgorithms.name}")


def make_executor(
    graph: Graph,
    target: str,
    *,
    batch: int,
    threads: int | None = None,
    architecture: Choice | None = None,
    most_instructions: int = DEFAULT_LIMITS.instructions,
    passes: Sequence[PlanPass] = PLANNING,
    dump: Dump | None = None,
    planned: Callable[[Plan], None] | None = None,
) -> Executor:
    """The back end `target` for a graph that the passes have prepared; `architecture` is that of GPUs, by default what
    `choose_architecture` says.

    `planned` is called with the plan, if there is one, before anything is compiled or allocated.
    """
    if target == "reference":
        return ReferenceExecutor(graph, batch=batch)
    if target == "cuda":
        from convc.runtime.cuda import CudaExecutor

        chosen = architecture or choose_architecture(None)
        return CudaExecutor(
            graph, capability_of(chosen), _open_device, batch=batch, passes=passes, dump=dump, planned=planned,
            architecture=chosen,
        )  # fmt: skip
    from convc.runtime.native import NativeExecutor

    return NativeExecutor(
        graph,
        batch=batch,
        threads=threads,
        most_instructions=most_instructions,
        passes=passes,
        dump=dump,
        planned=planned,
    )


def _open_device(capability: int, plan: Plan) -> Device:
    from convc.runtime.cupy_device import open_device

    return open_device(capability, plan)


def require_loss(forward: Graph) -> None:
    """Error: `value-loss`."""
    if "loss" not in forward.outputs:
        message = f"the net {forward.name} has no loss, so there is nothing to train"
        fail("value-loss", message, hint="end the net with `loss softmax`")


def main_loss(forward: Graph) -> Op | None:
    """The op that makes a loss of (logits, labels): the one of the net's end, not of an auxiliary branch."""
    logits, labels = forward.outputs["logits"], forward.inputs.get("labels")
    for node, index in logits.users:
        if (
            index == 0
            and len(node.operands) == 2
            and node.operands[1] is labels
            and not isinstance(node.op, CountCorrect)
        ):
            return node.op
    return None
