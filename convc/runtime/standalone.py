"""Standalone models: a net as a shared library with a C interface, which needs neither Python nor LLVM.

One library has the code of several tiers. Each tier is a program of its own (passes, plan and code), made from the same
net and the same parameters; weights are inside the library, or in a safetensors file beside it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convc.codegen.llvm.program import plan_step, step_object
from convc.codegen.llvm.spmd import default_waits, runtime_object
from convc.codegen.llvm.target import CPU_VARIABLE, CpuTarget, host_target, tier_targets
from convc.codegen.standalone.header import header_text
from convc.codegen.standalone.interface import Duration, Interface, LearningRate, interface_of, public_prefix
from convc.codegen.standalone.shared_library import build_library, c_compiler
from convc.codegen.standalone.tables import model_source, step_name
from convc.ir.diagnostic import fail, with_sources
from convc.ir.graph import Graph, Value
from convc.ir.ops import Cast, QuantizeWeights, Relayout, ScaleWeights
from convc.ir.rounding import rounded
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.base import Mode, Pass
from convc.passes.half_precision import HalfPrecision
from convc.passes.machine import TIERS, Variant
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe
from convc.passes.plan import Plan
from convc.passes.quantization import QuantizeProducts, Ranges
from convc.runtime.algorithms import AlgorithmOptions
from convc.runtime.atomic import replaced
from convc.runtime.build import build_net, choose_passes, cpu_planner, require_decided, require_loss
from convc.runtime.checkpoint import match, read_checkpoint, require_match, text_list, write_checkpoint
from convc.runtime.configuration import (
    STEP_WORDS,
    element_types,
    make_recipe,
    positive,
    refuse_unsupported,
)
from convc.runtime.memory_budget import require_memory
from convc.runtime.starting_weights import starting_weights
from convc.runtime.trained import weights_file

if TYPE_CHECKING:
    from convc.frontend.expressions import Quantity
    from convc.frontend.net import Net

# Code and numbers reach each other with 32-bit distances.
_MOST_INSIDE = 1 << 30


@dataclass(frozen=True)
class Standalone:
    """What was written: the public interface, the files, and where the weights inside or beside are from.

    `plans` are those of the tiers, best first; `weight_bytes` is what the weights take, inside or beside.
    """

    interface: Interface
    files: tuple[Path, ...]
    origin: str
    plans: Mapping[Variant, Plan]
    weight_bytes: int


def write_standalone(
    net: Net,
    library: Path,
    header: Path,
    *,
    mode: str = "infer",
    batch: int | None = None,
    precision: str | None = None,
    fp32: Sequence[str] = (),
    ranges: Ranges | None = None,
    cpu: Sequence[str] = (),
    prefix: str | None = None,
    weights: Path | None = None,
    beside: Path | None = None,
    algorithms: AlgorithmOptions | None = None,
    threads: int | None = None,
    passes: Sequence[str] | None = None,
    memory: int | None = None,
) -> Standalone:
    """Write a shared library and its header.

    `cpu` are the tiers whose code goes in (all unless it says); `weights` is a safetensors file or a run folder,
    without which the model has the first weights that the seed of the file draws (in a training, those of `init`).
    `beside` is the safetensors file that gets the weights, which then are not inside. In half precision an inference
    library has weights in 16 bits, inside or beside; for int8, which needs `ranges` measured with these weights, those
    inside have 8. The other arguments are those of `convc.compile`; `threads` is
    what algorithms are measured with, the library takes any number. Files appear when all of them are made.

    Errors: those of `convc.compile`, `missing-compiler`, `failed-compiler`, `value-prefix`, `value-cpu-tier`,
    `budget-size`, `value-optimizer`, `checkpoint-…`, `file-write`.
    """
    c_compiler()
    if mode not in ("infer", "train"):
        fail("value-mode", f"mode={mode!r} is neither 'infer' nor 'train'")
    kind: Mode = "train" if mode == "train" else "infer"
    types = element_types(precision, net.settings, kind, net.layers, fp32, ranges)
    chosen = _targets(cpu, _products(types))
    algorithms = algorithms or AlgorithmOptions()
    if (algorithms.tune is not None or algorithms.constants == "measured") and {
        target.tier for target in chosen.values()
    } != {host_target().tier}:
        message = f"measurements hold for this processor, and the library is for {', '.join(chosen)}"
        fail("value-cpu-tier", message, hint=f"--cpu {host_target().tier}")
    name = public_prefix(net.name, prefix)
    batch = net.settings.batch if batch is None else positive(batch, "batch")
    arrays, classes, origin = _weights(net, kind, weights)
    size = sum(array.nbytes for array in arrays.values())
    if beside is None and size > _MOST_INSIDE:
        message = f"{size:,} bytes of weights are more than a library can hold"
        fail("budget-size", message, hint="keep them beside it: --weights-beside FILE.safetensors")
    recipe = Recipe()
    if kind == "train":
        refuse_unsupported(net.settings, net.sources, STEP_WORDS)
        recipe = make_recipe(net.settings, net.graph(batch), types)
        if recipe.optimizer is None:
            message = f"a training step needs an optimiser, and the file of {net.name} names none"
            fail("value-optimizer", message, hint="write `optim sgd lr=0.1 momentum=0.9` into its train item")
    require_memory(net.graph(batch), batch, net.limits.memory_bytes)
    with with_sources(net.sources):
        plans: dict[Variant, Plan] = {
            tier: _plan(net, kind, batch, target, recipe, algorithms, threads, passes, memory, types)
            for tier, target in chosen.items()
        }
    halves = stored_types((plan.graph for plan in plans.values()), arrays) if kind == "infer" else {}
    if beside is not None:  # what other programs read has one number for each weight, and no steps
        halves = {name: dtype for name, dtype in halves.items() if dtype.is_half}
    interface = interface_of(
        next(iter(plans.values())).graph,
        prefix=name,
        mode=kind,
        batch=batch,
        tiers=tuple(plans),
        classes=classes,
        mean=net.input_mean,
        std=net.input_std,
        accumulate=recipe.accumulate,
        seed=net.settings.seed,
        rate=learning_rate(net),
        inside=beside is None,
    )
    steps = {
        tier: step_object(plan, chosen[tier], step_name(tier), net.limits.instructions) for tier, plan in plans.items()
    }
    objects = {f"{tier}.o": image for tier, image in steps.items()} | {"threads.o": runtime_object(default_waits())}
    for path in (library, header, *([beside] if beside is not None else [])):
        _make_folder(path.parent)
    with (
        replaced(header) as head,
        replaced(library) as temporary,
        tempfile.TemporaryDirectory(prefix="convc-") as scratch,
    ):
        text = header_text(interface)
        source, data = model_source(interface, plans, arrays, header="public.h", halves=halves)
        build_library(
            Path(scratch),
            temporary.absolute(),
            source=source,
            header=("public.h", text),
            data=data,
            objects=objects,
            exports=interface.functions,
            name=library.name,
        )
        # Last, so that whoever sees the new library sees what belongs to it.
        if beside is not None:
            about = {"kind": "weights", "net": net.name, "net_digest": net.digest()}
            about |= {"classes": json.dumps(classes)} if classes else {}
            write_checkpoint(beside, arrays, about, halves)
        head.write_text(text, encoding="utf-8")
    files = (library, header, *([beside] if beside is not None else []))
    return Standalone(interface, files, origin, plans, stored_bytes(arrays, halves))


def stored_bytes(arrays: Mapping[str, np.ndarray], types: Mapping[str, DType]) -> int:
    """What parameters take in a library, as float32 where `types` does not say otherwise."""
    steps = sum(4 * len(arrays[name]) for name, dtype in types.items() if dtype is DType.QW8)
    return steps + sum(array.size * types.get(name, DType.F32).bytes for name, array in arrays.items())


def stored_types(graphs: Iterable[Graph], arrays: Mapping[str, np.ndarray]) -> dict[str, DType]:
    """The weights that inference reads in 16 or in 8 bits only, which a library with these graphs keeps so: with norms
    folded into them those of 16 are rounded twice. One that is too large for the type is kept as float32."""
    found: dict[str, DType] = {}
    for graph in graphs:
        for name, parameter in graph.parameters.items():
            types = _read_as(parameter.value) if parameter.role == "weight" else set()
            kind = next(iter(types)) if len(types) == 1 else DType.F32
            found[name] = kind if found.get(name, kind) is kind else DType.F32
    return {
        name: kind
        for name, kind in found.items()
        if kind is DType.QW8
        or (kind.is_half and np.isfinite(rounded(np.asarray(arrays[name], np.float32), kind)).all())
    }


def _read_as(value: Value) -> set[DType]:
    """The types in which a weight enters the sums that it is for, whatever is done to it before."""
    found: set[DType] = set()
    for user, _ in value.users:
        if isinstance(user.op, (Cast, QuantizeWeights)):
            found.add(user.result.type.dtype)
        elif isinstance(user.op, (Relayout, ScaleWeights)):
            behind = _read_as(user.result)
            # Scaled along its inputs, an output has other whole numbers than before.
            if DType.QW8 in behind and isinstance(user.op, ScaleWeights) and user.op.axis != 0:
                behind = {DType.F32}
            found |= behind
        else:
            found.add(value.type.dtype)
    return found


def learning_rate(net: Net) -> LearningRate:
    """The schedule of the net's train item, without what only the front end knows about it."""
    schedule = net.settings.schedule
    return LearningRate(
        kind=schedule.kind,
        base=schedule.base,
        segments=tuple(
            (part.rate, None if part.duration is None else _duration(part.duration)) for part in schedule.segments
        ),
        every=_duration(schedule.every),
        gamma=schedule.gamma,
        power=schedule.power,
        floor=schedule.floor,
        maximum=schedule.maximum,
        warmup=_duration(schedule.warmup),
        epochs=net.settings.epochs,
    )


def _duration(quantity: Quantity) -> Duration:
    return Duration(float(quantity.value), quantity.unit == "e")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail("file-write", f"cannot create {folder}: {error.strerror}")


def _targets(cpu: Sequence[str], products: Sequence[Variant]) -> dict[Variant, CpuTarget]:
    """The targets of the tiers that `cpu`, or else the environment, asks for, best first, with variants for `products`.

    Error: `value-cpu-tier`.
    """
    known, forced = tier_targets(products), os.environ.get(CPU_VARIABLE, "").strip()
    cpu = cpu or ((forced,) if forced else ())
    for word in cpu:
        if word not in TIERS:
            fail("value-cpu-tier", f"unknown CPU tier '{word}'", hint=f"one of {', '.join(TIERS)}")
        if word not in known:
            fail("value-cpu-tier", f"processors of this architecture have no CPU tier '{word}'", hint=", ".join(known))
    return {name: target for name, target in known.items() if not cpu or target.tier in cpu}


def _products(types: HalfPrecision | QuantizeProducts | None) -> tuple[Variant, ...]:
    """The instructions for sums of products that the types of a program have a use for."""
    if isinstance(types, QuantizeProducts):
        return ("avx512vnni",)
    return ("avx512bf16",) if types is not None and "bf16" in types.kinds else ()


def _weights(net: Net, mode: Mode, given: Path | None) -> tuple[dict[str, np.ndarray], tuple[str, ...], str]:
    """Parameters and buffers by name, names of the classes where the file has them, and where all this is from."""
    start: Callable[[], Mapping[str, np.ndarray]] = dict
    origin = f"the first weights, as seed {net.settings.seed} draws them"
    if mode == "train" and (found := starting_weights(net)) is not None:
        start, origin = found.values, f"{found.path}, and where it has none the first ones of seed {net.settings.seed}"
    elif net.weights:
        origin = net.path
    # The interpreter's program: values are needed, machine code is not.
    with build_net(net, batch=1, mode=mode, target="reference", precision="fp32", start=start) as program:
        classes: tuple[str, ...] = ()
        if given is not None:
            path = weights_file(given)
            checkpoint = read_checkpoint(path)
            shapes = {name: array.shape for name, array in checkpoint.weights.items()}
            require_match(match(shapes, program.params.shapes), path, net.name)
            program.set_params(checkpoint.weights, str(path))
            classes, origin = text_list(checkpoint.metadata.get("classes")), str(path)
        return {name: program.params[name] for name in program.params}, classes, origin


def _plan(
    net: Net,
    mode: Mode,
    batch: int,
    target: CpuTarget,
    recipe: Recipe,
    algorithms: AlgorithmOptions,
    threads: int | None,
    passes: Sequence[str] | None,
    memory: int | None,
    types: Pass | None,
) -> Plan:
    """The program of one tier as far as its plan: what `convc.compile` would make on such a processor."""
    graph = net.graph(batch)
    if mode == "train":
        require_loss(graph)
    chooser = algorithms.chooser("cpu", threads, target)
    order = choose_passes(mode, recipe, passes, "cpu", chooser, memory, types=types, planner=cpu_planner(target))
    PassManager(order.graph).run(graph)
    require_decided(graph, "cpu")
    return plan_step(graph, target, order.plan)
