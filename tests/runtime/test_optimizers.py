"""Optimisers, decay, clipping and bounds of a compiled step against a transcription of PyTorch's formulas."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import convc

Compile = Callable[..., "convc.Program"]
Arrays = dict[str, np.ndarray]

NET = """\
net small {{
  input 1x5x5
  conv 3 k=3 lr=0.5 -> tanh
  fc 7 decay=2 -> bn -> prelu
  fc 5 freeze=yes -> tanh
  fc 4
  loss softmax
}}
train {{ batch 6 -> {} }}
"""
STEPS = 5
# Of each layer: the factor on the learning rate, that on the decay.
MULTIPLIERS = {"conv1": (0.5, 1.0), "fc1": (1.0, 2.0), "bn1": (1.0, 1.0), "prelu1": (1.0, 1.0), "fc3": (1.0, 1.0)}
# Without `bias=yes`; the slopes of `prelu` are neither biases nor parameters of `bn`.
DECAYED = ("weight", "slope")

CASES = {
    "sgd": ("optim sgd lr=0.1", ""),
    "sgd_everything": ("optim sgd lr=0.1 momentum=0.9 nesterov=yes", "l2=0.01 l1=0.02"),
    "adagrad": ("optim adagrad", ""),
    "adagrad_decay": ("optim adagrad lr=0.1 eps=1e-3", "l2=0.01 l1=0.02 bias=yes"),
    "rmsprop": ("optim rmsprop", ""),
    "rmsprop_momentum": ("optim rmsprop lr=0.02 alpha=0.9 momentum=0.8 eps=1e-4", "l2=0.05"),
    "adam": ("optim adam", ""),
    "adam_decay": ("optim adam lr=0.02 beta1=0.8 beta2=0.9", "l2=0.01 l1=0.02"),
    "adamw": ("optim adamw", ""),
    "adamw_decay": ("optim adamw lr=0.02 beta1=0.8 beta2=0.9", "l2=0.05 l1=0.02 bias=yes"),
}
DEFAULTS = {
    "sgd": {"lr": 0.01, "momentum": 0.0},
    "adagrad": {"lr": 0.01, "eps": 1e-10},
    "rmsprop": {"lr": 0.01, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0},
    "adam": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "adamw": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
}


def batches(count: int = STEPS, rows: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(5)
    return [(random.random((rows, 1, 5, 5), np.float32), random.integers(0, 4, rows)) for _ in range(count)]


def options(text: str) -> tuple[str, dict[str, float]]:
    kind, *words = text.split()[1:]
    given = {key: float(value) for key, value in (word.split("=") for word in words) if value != "yes"}
    return kind, DEFAULTS[kind] | given | {"nesterov": float("nesterov=yes" in text)}


def decays(text: str) -> tuple[float, float, bool]:
    given = dict(word.split("=") for word in text.split())
    return float(given.get("l2", 0)), float(given.get("l1", 0)), given.get("bias") == "yes"


class Numpy:
    """One parameter's course in float64, written down from PyTorch's documentation."""

    def __init__(self, theta: np.ndarray, kind: str, o: dict[str, float], l2: float, l1: float, rate: float) -> None:
        self.theta = theta.astype(np.float64)
        self.kind, self.o, self.l2, self.l1, self.rate = kind, o, l2, l1, o["lr"] * rate
        self.a = np.zeros_like(self.theta)
        self.b = np.zeros_like(self.theta)
        self.t = 0

    def step(self, gradient: np.ndarray) -> None:
        o, kind = self.o, self.kind
        self.t += 1
        g = gradient.astype(np.float64)
        pull = 2 * self.l2 * self.theta + self.l1 * np.sign(self.theta)
        if kind == "adamw":
            self.theta = self.theta - self.rate * pull
        else:
            g = g + pull
        if kind == "sgd":
            self.a = o["momentum"] * self.a + g
            direction = g + o["momentum"] * self.a if o["nesterov"] else self.a
        elif kind == "adagrad":
            self.a = self.a + g**2
            direction = g / (np.sqrt(self.a) + o["eps"])
        elif kind == "rmsprop":
            self.a = o["alpha"] * self.a + (1 - o["alpha"]) * g**2
            self.b = o["momentum"] * self.b + g / (np.sqrt(self.a) + o["eps"])
            direction = self.b
        else:
            self.a = o["beta1"] * self.a + (1 - o["beta1"]) * g
            self.b = o["beta2"] * self.b + (1 - o["beta2"]) * g**2
            first, second = 1 - o["beta1"] ** self.t, 1 - o["beta2"] ** self.t
            direction = (self.a / first) / (np.sqrt(self.b / second) + o["eps"])
        self.theta = self.theta - self.rate * direction


def course(program: convc.Program, optimizer: str, decay: str, transform: Callable[[Arrays], Arrays]) -> None:
    """Steps of a program beside the transcription, which is given the program's own gradients."""
    kind, o = options(optimizer)
    l2, l1, bias = decays(decay)
    twins: dict[str, Numpy] = {}
    for name in program.value_and_grad(*batches(1)[0])[1]:
        rate, factor = MULTIPLIERS[name.split(".")[0]]
        factor = factor if bias or name.endswith(DECAYED) else 0.0
        twins[name] = Numpy(program.params[name], kind, o, l2 * factor, l1 * factor, rate)
    assert not any(name.startswith("fc2") for name in twins)
    before = program.params["fc2.weight"]
    for x, labels in batches():
        gradients = transform(program.value_and_grad(x, labels)[1])
        for name, twin in twins.items():
            # Step by step from where the program stands: rounding errors must not grow with their number.
            twin.theta = program.params[name].astype(np.float64)
            twin.step(gradients[name])
        program.step(x, labels)
        for name, twin in twins.items():
            error = float(np.abs(program.params[name] - twin.theta).max())
            assert error <= 2e-6 * max(1.0, float(np.abs(twin.theta).max())), f"{name}: {error:.1e}"
    np.testing.assert_array_equal(program.params["fc2.weight"], before)


@pytest.mark.parametrize("name", CASES)
def test_formulas_are_those_of_pytorch(compile_text: Compile, name: str) -> None:
    optimizer, decay = CASES[name]
    text = NET.format(f"{optimizer} -> decay {decay}" if decay else optimizer)
    course(compile_text(text), optimizer, decay, lambda gradients: gradients)


def clipped(gradients: Arrays, bound: float) -> Arrays:
    norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values()))
    factor = min(1.0, bound / (norm + 1e-6))
    return {name: gradient * factor for name, gradient in gradients.items()}


@pytest.mark.parametrize("bound", [0.125, 1000.0])
@pytest.mark.parametrize("name", ["sgd_everything", "adam_decay", "adamw_decay", "rmsprop_momentum", "adagrad_decay"])
def test_clipping_bounds_the_norm_of_all_gradients(compile_text: Compile, name: str, bound: float) -> None:
    """Before decay is added, as `clip_grad_norm_` does it; `value_and_grad` knows nothing of it."""
    optimizer, decay = CASES[name]
    program = compile_text(NET.format(f"{optimizer} -> decay {decay} -> clip {bound}"))
    course(program, optimizer, decay, lambda gradients: clipped(gradients, bound))


def test_a_clipped_step_has_the_length_of_the_bound(compile_text: Compile) -> None:
    program = compile_text(NET.format("optim sgd lr=1 -> clip 0.001").replace("lr=0.5", ""))
    before = dict(program.params)
    program.step(*batches(1)[0])
    change = sum(
        float(((program.params[name] - array) ** 2).sum())
        for name, array in before.items()
        if ".mean" not in name and ".var" not in name
    )
    assert np.sqrt(change) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("convolution", ["conv in k=3 pad=1 groups=in", "conv in*3 k=3 pad=1 groups=2"])
def test_what_pads_the_bias_of_a_grouped_convolution_does_not_count(compile_text: Compile, convolution: str) -> None:
    """Its gradient is made in several parts in memory that other kernels have used."""
    text = f"net n {{ input 2x6x6 -> {convolution} -> conv 2 k=1 -> loss softmax }}"
    program = compile_text(text + " train { batch 17 -> optim sgd -> clip 0.01 }")
    random = np.random.default_rng(5)
    for rows in (17, 8):
        before = dict(program.params)
        program.step(random.random((rows, 2, 6, 6), np.float32), random.integers(0, 2, (rows, 6, 6)), lr=1.0)
        change = sum(float(((program.params[name] - array) ** 2).sum()) for name, array in before.items())
        assert np.sqrt(change) == pytest.approx(0.01, rel=1e-3)


def test_gradients_that_are_not_finite_are_not_hidden(compile_text: Compile) -> None:
    program = compile_text(NET.format("optim sgd lr=0.1 -> clip 1.0"))
    x, labels = batches(1)[0]
    x[0, 0, 0, 0] = np.nan
    program.step(x, labels)
    assert np.isnan(program.params["conv1.weight"]).all()


WIDE = """\
net wide {
  input 4x5x5
  conv 6 k=3 pad=1 groups=2 -> relu -> deconv 10 k=2 s=2 groups=2 -> relu -> deconv 3 k=3 -> relu
  fc 37 dropconnect=0.25 -> relu -> fc 5
  loss softmax
}
train { batch 6 -> optim sgd lr=0.01 -> maxnorm 0.75 }
"""


def unit_norms(program: convc.Program) -> dict[str, np.ndarray]:
    """Norms of the incoming weights of each unit; of grouped transposed convolutions every group has its own."""
    norms: dict[str, np.ndarray] = {}
    for name, array in program.params.items():
        if not name.endswith("weight"):
            continue
        if name.startswith("deconv"):
            groups = 2 if name.startswith("deconv1") else 1
            array = array.reshape(groups, -1, *array.shape[1:]).swapaxes(1, 2).reshape(groups * array.shape[1], -1)
        norms[name] = np.sqrt((array.reshape(len(array), -1).astype(np.float64) ** 2).sum(1))
    return norms


def test_maxnorm_bounds_the_weights_of_each_unit(compile_text: Compile) -> None:
    program, free = compile_text(WIDE), compile_text(WIDE.replace(" -> maxnorm 0.75", ""))
    random = np.random.default_rng(2)
    x, labels = random.random((6, 4, 5, 5), np.float32), random.integers(0, 5, 6)
    # Some units far below the bound, some above it.
    for name, shape in program.params.shapes.items():
        scale = random.choice([0.02, 1.0], (shape[0], *(1,) * (len(shape) - 1)))
        free.params[name] = program.params[name] = random.standard_normal(shape) * scale
    for _ in range(3):
        free.step(x, labels)
        program.step(x, labels)
        before, after = unit_norms(free), unit_norms(program)
        for name, norms in after.items():
            assert norms == pytest.approx(np.minimum(before[name], 0.75), rel=1e-5), name
        assert sum((norms < 0.7).sum() for norms in after.values()) > 10
        biases = [name for name in program.params if name.endswith("bias")]
        assert all((program.params[name] == free.params[name]).all() for name in biases)
        for name in program.params:
            free.params[name] = program.params[name]


def test_everything_at_once_gives_the_same_bits_on_any_number_of_threads(compile_text: Compile) -> None:
    text = WIDE.replace("optim sgd lr=0.01", "optim rmsprop momentum=0.9 -> clip 0.5").replace(
        "batch 6", "batch 6 accumulate=2"
    )
    random = np.random.default_rng(2)
    rounds = [(random.random((6, 4, 5, 5), np.float32), random.integers(0, 5, 6)) for _ in range(4)]
    found: list[Arrays] = []
    for count in (1, 2, 3):
        program = compile_text(text, threads=count)
        losses = [program.step(x, labels) for x, labels in rounds]
        assert program.steps == 2
        found.append(program.state_dict() | {"losses": np.asarray(losses)})
    for name, array in found[0].items():
        for other in found[1:]:
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def torch_optimizer(torch: Any, kind: str, o: dict[str, float], groups: list[dict[str, Any]]) -> Any:
    names = {"lr": o["lr"]}
    if kind == "sgd":
        return torch.optim.SGD(groups, **names, momentum=o["momentum"], nesterov=bool(o["nesterov"]))
    if kind == "adagrad":
        return torch.optim.Adagrad(groups, **names, eps=o["eps"])
    if kind == "rmsprop":
        return torch.optim.RMSprop(groups, **names, alpha=o["alpha"], eps=o["eps"], momentum=o["momentum"])
    make = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    return make(groups, **names, betas=(o["beta1"], o["beta2"]), eps=o["eps"])


@pytest.mark.parametrize("bound", [None, 0.125])
@pytest.mark.parametrize("name", [name for name, (_, decay) in CASES.items() if "l1" not in decay])
def test_pytorch_does_the_same(compile_text: Compile, name: str, bound: float | None) -> None:
    pytest.importorskip("torch")
    torch: Any = import_module("torch")
    optimizer, decay = CASES[name]
    kind, o = options(optimizer)
    l2, _, _ = decays(decay)
    words = [optimizer, f"decay {decay}" if decay else "", f"clip {bound}" if bound else ""]
    program = compile_text(NET.format(" -> ".join(filter(None, words))))
    names = list(program.value_and_grad(*batches(1)[0])[1])
    tensors = {n: torch.from_numpy(program.params[n].copy()).requires_grad_(True) for n in names}
    groups: list[dict[str, Any]] = []
    for n, tensor in tensors.items():
        rate, factor = MULTIPLIERS[n.split(".")[0]]
        weight_decay = 2 * l2 * factor if n.endswith(DECAYED) else 0.0
        groups.append({"params": [tensor], "lr": o["lr"] * rate, "weight_decay": weight_decay})
    peer = torch_optimizer(torch, kind, o, groups)
    for x, labels in batches():
        for n, gradient in program.value_and_grad(x, labels)[1].items():
            tensors[n].grad = torch.from_numpy(gradient.copy())
        if bound:
            torch.nn.utils.clip_grad_norm_(tensors.values(), bound)
        peer.step()
        program.step(x, labels)
        for n, tensor in tensors.items():
            np.testing.assert_allclose(program.params[n], tensor.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=n)
            tensor.data = torch.from_numpy(program.params[n].copy())
