"""What is measured, one row of the comparison at a time, and the files that its contestants need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from convc.codegen.onnx.model import DEFAULT_OPSET, encode
from convc.frontend.limits import parse_limits
from convc.frontend.load import load
from convc.frontend.net import Net
from convc.frontend.settings import OptimizerSetting
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph
from convc.ir.ops.dropconnect import DropConnect
from convc.ir.ops.random import Dropout, Noise
from convc.ir.printer import print_ir
from convc.lazy import dataclass
from convc.passes.training import DECAYED_ROLES
from convc.runtime.benchmark.task import GRAPH, MODEL, TRAIN, WEIGHTS, Task
from convc.runtime.build import build_net
from convc.runtime.configuration import make_recipe

# What a file that names no optimiser is trained with here.
_OPTIMIZER = OptimizerSetting("sgd", momentum=0.9)


@dataclass(frozen=True)
class Case:
    """A net (`net`, `set`, `limits` as for `convc.load`; limits as `NAME=N`), a mode, images and threads at a time, and
    the precision of products and activations."""

    file: Path
    mode: str
    batch: int
    threads: int
    net: str | None = None
    set: Mapping[str, Any] = field(default_factory=dict[str, Any])
    limits: tuple[str, ...] = ()
    precision: str = "fp32"

    def open(self, still: bool = False) -> Net:
        return open_case_net(str(self.file), self.net, self.set, self.limits, still=still)


class _StillNet(Net):
    """A net that draws nothing in training: what libraries draw by their own generators cannot be compared."""

    def graph(self, batch: int) -> Graph:
        graph = super().graph(batch)
        for node in list(graph.nodes):
            op = node.op
            if isinstance(op, (Dropout, DropConnect)):
                graph.set_op(node, replace(op, rate=0.0))
            elif isinstance(op, Noise):
                graph.set_op(node, replace(op, std=0.0))
        return graph


def open_case_net(
    file: str, net: str | None, set: Mapping[str, Any], limits: tuple[str, ...], *, still: bool = False
) -> Net:
    """The net of a file; where it names no optimiser it has SGD with momentum 0.9. `still` takes its draws away."""
    found = load(file, net=net, set=set, limits=parse_limits(limits))
    settings = found.settings
    if settings.optimizer is None:
        settings = replace(settings, optimizer=_OPTIMIZER)
    fields: dict[str, Any] = {name: getattr(found, name) for name in found.__dataclass_fields__}
    fields["settings"] = settings
    return (_StillNet if still else Net)(**fields)


def draws(graph: Graph) -> bool:
    """Whether training draws random numbers."""
    return any(graph.nodes_of(Dropout, DropConnect, Noise))


def write_material(case: Case, folder: Path, *, model: bool, still: bool = False) -> Task:
    """Write what contestants need into `folder`, the ONNX model only if `model` and if the net has one."""
    net = case.open(still)
    graph = net.graph(case.batch)
    labels = graph.inputs.get("labels")
    folder.mkdir()
    (folder / GRAPH).write_text(print_ir(graph), encoding="utf-8")
    problem = ""
    with build_net(net, batch=1, mode=case.mode, target="reference", precision="fp32") as program:
        program.save(folder / WEIGHTS)
        if model:
            assert program.forward is not None
            weights = {name: program.params[name] for name in program.params}
            try:
                (folder / MODEL).write_bytes(encode(program.forward(), weights, DEFAULT_OPSET, program.about))
            except CompileError as error:
                problem = f"no ONNX model: {error.diagnostics[0].message}"
    task = Task(
        str(folder),
        str(case.file),
        case.net,
        dict(case.set),
        case.limits,
        case.mode,
        case.batch,
        case.threads,
        still,
        case.precision,
        graph.inputs["x"].shape[1:],
        graph.outputs["logits"].shape[1],
        None if labels is None else ("float" if labels.type.dtype.is_float else "int", labels.shape),
        _optimizer(net, graph) if case.mode == TRAIN else {},
        problem,
    )
    task.write()
    return task


def _optimizer(net: Net, graph: Graph) -> dict[str, Any]:
    """The update as peers read it; `refused` names settings that make another step than theirs."""
    recipe = make_recipe(net.settings, graph)
    kind = net.settings.optimizer
    assert recipe.optimizer is not None
    assert kind is not None
    others = {
        "clip": recipe.clip is not None,
        "maxnorm": recipe.max_norm is not None,
        "class_weights": bool(recipe.class_weights),
        "accumulate": recipe.accumulate > 1,
        "decay l1": bool(recipe.optimizer.l1),
    }
    fields = {name: value for name, value in asdict(recipe.optimizer).items() if name not in ("lr_scale", "l1")}
    roles = sorted({p.role for p in graph.parameters.values()}) if recipe.decay_bias else DECAYED_ROLES
    refused = [name for name, given in others.items() if given]
    return {"kind": kind.kind, "decayed_roles": list(roles), "refused": refused, **fields}
