# PyTorch is optional: where it is not installed, its names are unknown to the type checker.
# pyright: reportMissingImports=false, reportPrivateImportUsage=false
"""The contestants of PyTorch: eager, eager with channels last, and `torch.compile`."""

from __future__ import annotations

from typing import Any

import numpy as np

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph
from convc.ir.parser import parse_ir
from convc.runtime.benchmark.prepared import Prepared
from convc.runtime.benchmark.task import GRAPH, LEARNING_RATE, TRAIN, WEIGHTS, Task


def prepare(task: Task) -> Prepared:
    return _prepare(task)


def prepare_channels_last(task: Task) -> Prepared:
    return _prepare(task, channels_last=True)


def prepare_compiled(task: Task) -> Prepared:
    return _prepare(task, compiled=True)


def _prepare(task: Task, *, channels_last: bool = False, compiled: bool = False) -> Prepared:
    import torch
    from safetensors.numpy import load_file

    from convc.runtime.benchmark.torch_module import TorchPeer

    torch.set_num_threads(task.threads)
    torch.manual_seed(1)
    graph = parse_ir(task.path(GRAPH).read_text(encoding="utf-8"))
    training = task.mode == TRAIN
    peer = TorchPeer(graph, "train" if training else "infer")
    peer.load(load_file(task.path(WEIGHTS)))
    module: Any = peer.module
    x: Any = torch.from_numpy(task.images())
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    call = torch.compile(module) if compiled else module
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(task.precision)

    def casts() -> Any:
        """Autocast: weights stay float32, and are cast where they are used."""
        return torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None)

    if not training:

        def infer() -> Any:
            with torch.inference_mode(), casts():
                return call(x)

        return Prepared(torch.__version__, infer, lambda logits: logits.float().numpy())
    # Without scaled losses small gradients of float16 would vanish.
    scaler = torch.amp.GradScaler("cpu", enabled=half is torch.float16)
    targets = task.targets()
    y = torch.from_numpy(targets if targets.dtype.kind == "f" else targets.astype(np.int64))
    optimizer = make_optimizer(task.optimizer, peer, graph)

    def train() -> float:
        optimizer.zero_grad(set_to_none=True)
        with casts():
            loss = call(x, y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return Prepared(torch.__version__, train, np.float64)


def make_optimizer(settings: dict[str, Any], peer: Any, graph: Graph) -> Any:
    """The same update, fused where PyTorch can. Error: `unavailable-peer` for a step that is more than an update."""
    import torch

    fields = dict(settings)
    kind, l2, decayed_roles, refused = (fields.pop(name) for name in ("kind", "l2", "decayed_roles", "refused"))
    if refused:
        fail("unavailable-peer", f"PyTorch's step has no `{refused[0]}`, or takes code of one's own for it")
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, tensor in peer.trained():
        parameter = graph.parameters[name]
        # convc adds l2·‖θ‖², PyTorch half of it.
        decay = 2 * l2 * parameter.decay if parameter.role in decayed_roles else 0.0
        groups.setdefault((parameter.lr, decay), []).append(tensor)
    made = [
        {"params": tensors, "lr": LEARNING_RATE * lr, "weight_decay": decay} for (lr, decay), tensors in groups.items()
    ]
    if kind in ("adam", "adamw"):
        betas = (fields["beta1"], fields["beta2"])
        maker = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
        return maker(made, lr=LEARNING_RATE, betas=betas, eps=fields["eps"], fused=True)
    if kind == "sgd":
        return torch.optim.SGD(made, lr=LEARNING_RATE, fused=True, **fields)
    if kind == "adagrad":
        return torch.optim.Adagrad(made, lr=LEARNING_RATE, fused=True, **fields)
    return torch.optim.RMSprop(made, lr=LEARNING_RATE, foreach=True, **fields)
