"""The blocks of the classic networks in `examples/`, at small sizes, natively against the interpreter.

The blocks come out of the files themselves, by `use`; where a file has parameters to shrink it, the whole net is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.frontend import loads
from convc.frontend.net import Net
from convc.ir.ops.update import SgdUpdate
from tests.codegen.test_nets import assert_right
from tests.codegen.whole_net import lowered

BATCH = 3

# File, and what a small net does with its blocks.
BLOCKS: dict[str, tuple[str, str]] = {
    "alexnet": ("alexnet", "input 3x9x9 -> conv 12 k=3 groups=3 -> relu -> norm -> hidden(9) -> fc 4"),
    "all_cnn": ("all_cnn", "input 3x9x9 -> dropout 0.2 -> triple(5) -> conv 4 k=1 -> relu -> pool avg global"),
    "densenet": (
        "densenet",
        """input 3x8x8 -> conv 6 k=3 pad=1 -> repeat 3 { layer(3) }
        bn -> relu -> conv in // 3 k=1 -> pool avg 2 -> fc 4""",
    ),
    "googlenet": (
        "googlenet",
        """input 3x11x11 -> conv 6 k=3 s=2 -> relu -> lrn 5 -> inception(5, 4, 6, 3, 4, 7)
        aux { head(4) -> loss softmax weight=0.3 }
        inception(2, 3, 4, 3, 2, 1) -> pool avg global -> fc 4""",
    ),
    "inception_v3": (
        "inception_v3",
        "input 3x7x7 -> unit(9, k=1) -> module_a(5) -> unit(6, k=3, s=2) -> fork(5) -> pool avg global -> fc 4",
    ),
    "mobilenet_v1": ("mobilenet_v1", "input 3x9x9 -> conv 6 k=3 -> relu -> unit(11) -> unit(18, s=2) -> fc 4"),
    "mobilenet_v2": (
        "mobilenet_v2",
        "input 3x9x9 -> conv 7 k=3 -> inverted(1, 5, 1) -> inverted(6, 6, 2) -> residual { inverted(6, 6, 1) } -> fc 4",
    ),
    "nin": (
        "nin",
        "input 3x9x9 -> mlpconv(6, 5, 7, k=5) -> pool max 3 s=2 round=ceil -> mlpconv(7, 6, 4, k=3) -> fc 4",
    ),
    "maxout": (
        "maxout",
        "input 1x12x12 -> dropout 0.2 -> unit(5, 2, k=5, pad=1, pooled=4) -> unit(6, 4, k=3, pad=1, pooled=2) -> fc 4",
    ),
    "preact_resnet": (
        "preact_resnet",
        "input 3x8x8 -> conv 4 k=3 pad=1 bias=no -> widening(3, 1) -> unit(3) -> widening(4, 2) -> bn -> relu -> fc 4",
    ),
    "resnet_basic": (
        "resnet",
        """input 3x14x14 -> conv 6 k=7 s=2 pad=3 bias=no -> bn -> relu -> basic(6, 1) -> basic(9, 2)
        pool avg global -> fc 4""",
    ),
    "resnet_bottleneck": (
        "resnet",
        """input 3x9x9 -> conv 6 k=3 pad=1 bias=no -> bn -> relu -> bottleneck(3, 1) -> bottleneck(5, 2)
        pool avg global -> fc 4""",
    ),
    "squeezenet": (
        "squeezenet",
        "input 3x9x9 -> fire(3, 5) -> pool max 3 s=2 round=ceil -> fire(4, 6) -> conv 4 k=1 -> relu -> pool avg global",
    ),
}

TRAIN = "train { optim sgd momentum=0.9 }"

# Whole nets, made small.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {"width": 3, "size": 32, "train.optim.momentum": 0.9}),
    "cifar_resnet": ("cifar_resnet", {"depth": 8}),
    "lenet5": ("lenet5", {}),
    "original_lenet5": ("lenet5", {"original": True}),
}


def net_of(repository: Path, name: str) -> Net:
    if name in SMALL:
        file, given = SMALL[name]
        return convc.load(repository / "examples" / f"{file}.cnn", set=given)
    file, body = BLOCKS[name]
    text = f'use "{file}.cnn"\nnet small_{name} {{\n  {body}\n  loss softmax\n}}\n{TRAIN}'
    return loads(text, file=str(repository / "examples" / "small.cnn"), net=f"small_{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BLOCKS, *SMALL])
def test_training_step_and_inference(repository: Path, name: str) -> None:
    net = net_of(repository, name)
    assert_right(lowered(net.graph(BATCH), "train", SgdUpdate(momentum=0.9, l2=0.01)), BATCH)
    assert_right(lowered(net.graph(BATCH), "infer"), BATCH - 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_bottleneck", "googlenet", "mobilenet_v2", "densenet", "unet"])
def test_training_lowers_the_loss(repository: Path, name: str) -> None:
    """Steps on one batch, whose labels each of these nets can learn."""
    net = net_of(repository, name)
    generator = np.random.default_rng(0)
    x = generator.random((4, *net.input_shape), dtype=np.float32)
    with convc.compile(net, mode="train", batch=4, threads=1, seed=1) as program:
        per_pixel = len(net.graph(4).inputs["labels"].shape) == 3
        labels = x[:, 0] > 0.5 if per_pixel else generator.integers(net.classes, size=4)
        losses = [program.step(x, labels.astype(np.int32), lr=0.02) for _ in range(60)]
    assert np.isfinite(losses).all()
    assert min(losses[-5:]) < 0.8 * losses[0]
