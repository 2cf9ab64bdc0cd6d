"""What happens to parameters on a GPU: sweeps over several, norms, rounding, masks, and units of packed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from convc.codegen.cuda.kernel import Launch
from convc.codegen.cuda.nvrtc import RESOURCES, compile
from convc.codegen.cuda.program import make_step
from convc.codegen.cuda.resources import parse_resources
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.op import Op
from convc.ir.ops import Conv2d, Flatten, Linear, MaxPool, Relu
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.dropconnect import DropConnect, DropConnectTraining
from convc.ir.ops.elementwise import Elementwise
from convc.ir.ops.loss_scaling import AllFinite, MoveScale, Unscale
from convc.ir.ops.round_to import HalfName, Rounding, RoundTo
from convc.ir.ops.sweep import Accumulate, GradientNorm, MaxNorm, Sweep
from convc.ir.ops.units import ScaleWeights, SumWeights
from convc.ir.ops.update import AdagradUpdate, AdamUpdate, AdamWUpdate, RmspropUpdate, SgdUpdate, Update
from convc.ir.types import DType, TensorType, f32
from convc.passes.fusion import resolve
from convc.passes.layout import WeightLayout
from convc.passes.planning import PLANNING
from convc.passes.sections import EVERYTHING
from convc.runtime.cuda import CudaExecutor
from tests.codegen.guarded import SpreadMemory
from tests.codegen.native_graph import case_arrays, single_op_graph
from tests.cuda.emulated import EmulatedDevice, run_emulated
from tests.cuda_emulator.schedule import SCHEDULES, Schedule
from tests.cuda_emulator.snippets import needs_compiler, needs_nvrtc
from tests.halves import awkward_floats
from tests.op_case import OpCase
from tests.update_cases import UPDATE_CASES

pytestmark = [needs_compiler, needs_nvrtc]

Arrays = dict[str, np.ndarray]

X, Y = np.zeros((2, 5, 6, 6), np.float32), np.zeros((2, 33), np.float32)
# In the order of a sweep: filters with padding, a lone number with a gap behind it, a matrix, a bias, and a number that
# fills no vector.
SHAPES = {"w": (19, 5, 3, 3), "one": (1,), "m": (6, 33), "b": (7,), "last": (1,)}


# Graphs


class Net:
    """A graph around parameters: filters `w` and a matrix `m` lie as a convolution and a fully connected layer want."""

    def __init__(self) -> None:
        self.graph = Graph("g")
        self.b = Builder(self.graph)
        self.x, self.y = self.graph.add_input("x", f32(*X.shape)), self.graph.add_input("y", f32(*Y.shape))
        self.parameters = {name: self.graph.add_parameter(name, f32(*shape)) for name, shape in SHAPES.items()}
        self.graph.outputs["logits"] = self.b.add(Conv2d(), self.x, self.parameters["w"])
        self.graph.outputs["fc"] = self.b.add(Linear(), self.y, self.parameters["m"])

    def context(self, name: str) -> Value:
        if name not in self.graph.inputs:
            self.graph.add_input(name, TensorType(DType.F32 if name == "lr" else DType.I64, ()))
        return self.graph.inputs[name]

    def parameter(self, name: str, *shape: int) -> Value:
        return self.graph.add_parameter(name, f32(*shape))


def sweep_net(op: Sweep, context: Sequence[str], numbers: Sequence[str] = ()) -> Graph:
    """All parameters swept over by an op; the tensors beside a parameter are called `w.1`, `w.2`, …, and what follows
    the run's scalars are parameters without dimensions."""
    net = Net()
    scalars = [*map(net.context, context), *map(net.parameter, numbers)]
    for name, value in net.parameters.items():
        others = [net.parameter(f"{name}.{number}", *value.shape) for number in range(1, op.tensors)]
        node = net.b.add_node(op, value, *others, *scalars)
        for written, result in zip((value, *others[1:]), node.results, strict=True):
            assert written.name
            net.graph.updates[written.name] = result
    return net.graph


@contextmanager
def opened(
    graph: Graph, arrays: Mapping[str, np.ndarray], *, spread: bool = True, schedule: Schedule | None = None
) -> Iterator[tuple[CudaExecutor, EmulatedDevice]]:
    """A program on the emulator, and its device. With `spread` every tensor has a window of memory of its own."""
    device = EmulatedDevice(schedule=schedule) if schedule else EmulatedDevice()
    passes = (*PLANNING[:-1], SpreadMemory()) if spread else PLANNING
    executor = CudaExecutor(graph, device.capability, lambda *_: device, batch=len(X), passes=passes)
    for name, array in arrays.items():
        executor.write(name, array)
    if "y" in graph.inputs:
        executor.write_input("y", Y)
    yield executor, device
    executor.close()


def stored(executor: CudaExecutor, device: EmulatedDevice, value: Value) -> np.ndarray:
    """The numbers of a value as they lie in memory, padding included."""
    slot = executor.plan.memory.slots[resolve(value)]
    return device.memories[slot.region].read(slot.offset, slot.bytes).view("<f4")


def assert_padding_is_zero(executor: CudaExecutor, device: EmulatedDevice, value: Value) -> None:
    padding = executor.plan.layout(resolve(value)).index_map() < 0
    assert (stored(executor, device, value).view(np.uint32)[padding] == 0).all()


def poison(executor: CudaExecutor, device: EmulatedDevice, value: Value) -> None:
    """What lies there is NaN: weights made of weights that no run changes outlive it, where memory begins as zeros."""
    slot = executor.plan.memory.slots[resolve(value)]
    device.memories[slot.region].write(slot.offset, np.full(slot.bytes, 0xFF, np.uint8))


def launches_of(executor: CudaExecutor, op: type[Op]) -> list[Launch]:
    return [launch for launch in executor.step.launches if isinstance(launch.kernel.anchor.op, op)]


def close(actual: np.ndarray, expected: np.ndarray) -> bool:
    scale = max(float(np.abs(expected).max()), 0.1)
    return bool(np.abs(actual - expected).max() <= 1e-5 * scale)


def random_arrays(graph: Graph) -> Arrays:
    random = np.random.default_rng(3)
    return {name: random.standard_normal(p.value.shape).astype(np.float32) for name, p in graph.parameters.items()}


# Updates

OPTIMIZERS: dict[str, Update] = {
    "sgd": SgdUpdate(l2=0.125),
    "momentum": SgdUpdate(momentum=0.9, l1=0.01),
    "nesterov": SgdUpdate(momentum=0.9, nesterov=True, lr_scale=0.5),
    "adagrad": AdagradUpdate(l1=0.01, l2=0.02),
    "rmsprop": RmspropUpdate(l2=0.05),
    "rmsprop_momentum": RmspropUpdate(momentum=0.8, alpha=0.9, eps=1e-4),
    "adam": AdamUpdate(l2=0.01),
    "adam_betas": AdamUpdate(beta1=0.0, beta2=0.9999),
    "adamw": AdamWUpdate(l2=0.05, l1=0.01),
}
NUMBERS = ("factor", "guard")


def update_arrays(graph: Graph, op: Update, guard: float = 1.0) -> Arrays:
    arrays = random_arrays(graph)
    second = [number for number, state in enumerate(op.states, 2) if state in ("sum", "square")]
    arrays |= {name: np.abs(a) for name, a in arrays.items() if any(name.endswith(f".{n}") for n in second)}
    return arrays | {"factor": np.asarray(0.75, np.float32), "guard": np.asarray(guard, np.float32)}


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_reference(name: str, spread: bool) -> None:
    """One launch for all parameters, step by step from where the device stands; padding and gaps stay zero."""
    op = OPTIMIZERS[name]
    graph = sweep_net(op, ("lr", "step"), NUMBERS)
    arrays = update_arrays(graph, op)
    with opened(graph, arrays, spread=spread) as (executor, device):
        (launch,) = launches_of(executor, Update)
        for step in (1, 2, 3, 4):
            before = {name: executor.read(name).astype(np.float64) for name in graph.parameters}
            executor.run(EVERYTHING, X, None, lr=0.05, step=step)
            for parameter in SHAPES:
                names = [parameter, *(f"{parameter}.{number}" for number in range(1, op.tensors))]
                operands = [before[name] for name in (*names,)]
                scalars = [np.asarray(0.05), np.asarray(step), np.asarray(0.75), np.asarray(1.0)]
                expected = op.reference(*operands, *scalars)
                assert not np.array_equal(expected[0], operands[0])
                for changed, result in zip((names[0], *names[2:]), expected, strict=True):
                    assert close(executor.read(changed), result), f"{changed} in step {step}"
                np.testing.assert_array_equal(executor.read(names[1]), arrays[names[1]])
        for parameter in graph.parameters.values():
            assert_padding_is_zero(executor, device, parameter.value)
        slots = executor.plan.memory.slots
        first, last = (slots[graph.parameters[name].value] for name in ("w", "last"))
        size = last.offset + last.bytes - first.offset
        assert launch.work.bytes == size * (op.tensors + op.result_count)
        assert size > sum(slots[graph.parameters[name].value].bytes for name in SHAPES)
        # Tensors, factor and guard: not those of every parameter.
        assert len(launch.arguments) == op.tensors + 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_changes_where_the_guard_is_0(name: str) -> None:
    """Whatever the numbers are, bit for bit."""
    op = OPTIMIZERS[name]
    graph = sweep_net(op, ("lr", "step"), NUMBERS)
    arrays = update_arrays(graph, op, guard=0.0)
    for key, array in arrays.items():
        if array.ndim:
            broken = key.endswith(".1")
            array.reshape(-1)[::3] = np.nan if broken else np.float32(-0.0)
            array.reshape(-1)[1::3] = np.inf if broken else np.float32(1e-41)
    arrays["factor"] = np.asarray(np.nan, np.float32)
    with opened(graph, arrays, spread=False) as (executor, device):

        def memory() -> bytes:
            return device.memories["persistent"].read(0, executor.plan.memory.persistent_bytes).tobytes()

        before = memory()
        executor.run(EVERYTHING, X, None, lr=0.5, step=3)
        assert memory() == before
        executor.write("guard", np.asarray(np.nan, np.float32))
        executor.run(EVERYTHING, X, None, lr=0.5, step=3)
        assert np.isnan(executor.read("w")).all()


def test_what_is_left_of_1_keeps_its_digits() -> None:
    """1 - beta^t from its first digits to where nothing is missing, and for a count that float32 does not hold."""
    op = AdamUpdate(beta1=0.99999, beta2=0.999999, eps=1e-12)
    graph = sweep_net(op, ("lr", "step"))
    with opened(graph, random_arrays(graph)) as (executor, _):
        for step in (1, 2, 1000, 123_457, 20_000_003, 5_000_000_000):
            tensors = [np.full((7,), value, np.float32) for value in (0.0, 1.5, 0.25, 0.75)]
            for name, array in zip(("b", "b.1", "b.2", "b.3"), tensors, strict=True):
                executor.write(name, array)
            executor.run(EVERYTHING, X, None, lr=1e-3, step=step)
            exact = [tensor.astype(np.float64) for tensor in tensors]
            expected = op.reference(*exact, np.asarray(1e-3), np.asarray(step))
            np.testing.assert_allclose(executor.read("b"), expected[0], rtol=1e-6)


def test_sweeps_over_more_than_an_int_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPTIMIZERS["nesterov"]
    graph = sweep_net(op, ("lr", "step"))
    results: list[np.ndarray] = []
    for most in (4096, 1 << 21):
        monkeypatch.setattr("convc.codegen.cuda.updates.MOST_BLOCKS", most)
        with opened(graph.copy(), random_arrays(graph)) as (executor, _):
            (launch,) = launches_of(executor, Update)
            assert (f"typedef {'int' if most == 4096 else 'i64'} Place;") in launch.source
            executor.run(EVERYTHING, X, None, lr=0.5, step=1)
            results.append(executor.read("w"))
    np.testing.assert_array_equal(results[0], results[1])


def test_means_of_several_steps() -> None:
    graph = sweep_net(Accumulate(), ("rows", "seen"))
    arrays = random_arrays(graph) | {name: np.full(shape, np.nan, np.float32) for name, shape in SHAPES.items()}
    random, seen = np.random.default_rng(5), 0
    total = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    with opened(graph, arrays) as (executor, device):
        for rows in (2, 1, 2):
            for name, shape in SHAPES.items():
                gradient = random.standard_normal(shape).astype(np.float32)
                executor.write(f"{name}.1", gradient)
                total[name] += rows * gradient.astype(np.float64)
            executor.run(EVERYTHING, X[:rows], None, seen=seen)
            seen += rows
            for name in SHAPES:
                assert close(executor.read(name), total[name] / seen)
        for name in SHAPES:
            assert_padding_is_zero(executor, device, graph.parameters[name].value)


def test_gradients_of_a_scaled_loss() -> None:
    graph = sweep_net(Unscale(), (), ("scale",))
    arrays = random_arrays(graph) | {"scale": np.asarray(3.0, np.float32)}
    with opened(graph, arrays) as (executor, device):
        (launch,) = launches_of(executor, Unscale)
        assert len(launch.arguments) == 2
        executor.run(EVERYTHING, X, None)
        for name in SHAPES:
            np.testing.assert_array_equal(executor.read(name), arrays[name] / np.float32(3))
            assert_padding_is_zero(executor, device, graph.parameters[name].value)


def test_the_scale_of_a_loss_over_many_updates() -> None:
    op, graph = MoveScale(interval=3), Graph("g")
    b = Builder(graph)
    graph.outputs["logits"] = b.add(Relu(), graph.add_input("x", f32(2, 4)))
    names = ("scale", "good", "skipped", "ok")
    node = b.add_node(op, *(graph.add_parameter(name, f32()) for name in names))
    graph.updates = dict(zip(names, node.results, strict=False))
    state = tuple(np.asarray(value, np.float32) for value in (2.0**23, 1.0, 0.0))
    arrays: Arrays = {}
    arrays.update(zip(names, state, strict=False))
    with opened(graph, arrays) as (executor, _):
        for fine in (1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1):
            executor.write("ok", np.asarray(fine, np.float32))
            executor.run(EVERYTHING, np.zeros((2, 4), np.float32), None)
            scale, good, skipped = state
            state = op.reference(scale, good, skipped, np.asarray(fine))
            assert [float(executor.read(name)) for name in names[:3]] == [float(value) for value in state]


# Norms


def norm_net(op: GradientNorm | AllFinite) -> Graph:
    """A norm of gradients that an update sweeps over: they lie in one block, with gaps."""
    graph = sweep_net(SgdUpdate(), ("lr", "step"))
    gradients = [graph.parameters[f"{name}.1"].value for name in SHAPES]
    graph.outputs["norm"] = Builder(graph).add(op, *gradients)
    return graph


@pytest.mark.parametrize("chunk", [64, 8192])
def test_neighbours_are_one_range(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convc.codegen.cuda.norms._CHUNK", chunk)
    monkeypatch.setattr("convc.codegen.cuda.norms._MOST_CHUNKS", 9)
    graph = norm_net(GradientNorm())
    arrays = random_arrays(graph)
    with opened(graph, arrays) as (executor, _):
        parts, _ = launches_of(executor, GradientNorm)
        assert len(parts.arguments) == 2  # the range and the sums
        assert parts.grid(2) == ((9, 1, 1) if chunk == 64 else (1, 1, 1))
        executor.run(EVERYTHING, X, None)
        squares = sum(float((arrays[f"{name}.1"].astype(np.float64) ** 2).sum()) for name in SHAPES)
        assert executor.output("norm", 2) == pytest.approx(np.sqrt(squares), rel=1e-6)


@pytest.mark.parametrize("size", [1e-36, 3e-20, 1e-10, 1.0, 1e18, 3e36])
def test_norms_of_any_size(size: float) -> None:
    graph = norm_net(GradientNorm())
    arrays = random_arrays(graph)
    arrays = {name: (array * size).astype(np.float32) for name, array in arrays.items()}
    arrays["m.1"][3] = 0.0
    with opened(graph, arrays) as (executor, _):
        executor.run(EVERYTHING, X, None)
        squares = sum(float((arrays[f"{name}.1"].astype(np.float64) ** 2).sum()) for name in SHAPES)
        exact = np.sqrt(squares)
        np.testing.assert_allclose(executor.output("norm", 2), exact, rtol=1e-6, atol=1.5e-45)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [("w", 0), ("w", 854), ("one", 0), ("m", 197), ("last", 0)])
def test_what_is_no_number_is_seen_anywhere(place: tuple[str, int], value: float) -> None:
    name, index = place
    for op in (AllFinite(), GradientNorm()):
        graph = norm_net(op)
        arrays = random_arrays(graph)
        with opened(graph, arrays) as (executor, _):
            executor.run(EVERYTHING, X, None)
            assert np.isfinite(executor.output("norm", 2))
            assert isinstance(op, GradientNorm) or executor.output("norm", 2) == 1
            arrays[f"{name}.1"].reshape(-1)[index] = value
            executor.write(f"{name}.1", arrays[f"{name}.1"])
            executor.run(EVERYTHING, X, None)
            found = float(executor.output("norm", 2))
            if isinstance(op, AllFinite):
                assert found == 0
            else:
                assert np.isnan(found) if np.isnan(value) else found == np.inf


def test_a_tensor_counts_as_often_as_it_is_named() -> None:
    graph = Graph("norm")
    b = Builder(graph)
    x = graph.add_input("x", f32(2, 3))
    w, v = graph.add_parameter("w", f32(5, 7)), graph.add_parameter("v", f32(3, 2))
    graph.outputs = {"logits": b.add(Relu(), x), "norm": b.add(GradientNorm(), w, v, w)}
    arrays = random_arrays(graph)
    for spread in (True, False):
        found = run_emulated(graph.copy(), arrays | {"x": np.zeros((2, 3), np.float32)}, spread=spread)["norm"]
        expected = np.sqrt(2 * (arrays["w"] ** 2).sum() + (arrays["v"] ** 2).sum())
        assert found == pytest.approx(expected, rel=1e-6)


# One by one


def results_of(make: Callable[[Net, Value, int], Value], arrays: Arrays, step: int = 9, seed: int = 5) -> Arrays:
    """What an op makes of each parameter, under the parameter's name; padding is zero."""
    net = Net()
    made = {name: make(net, value, number) for number, (name, value) in enumerate(net.parameters.items())}
    net.graph.outputs |= {f"made.{name}": value for name, value in made.items()}
    with opened(net.graph, arrays) as (executor, device):
        for value in made.values():
            poison(executor, device, value)
        executor.run(EVERYTHING, X, None, step=step, seed=seed)
        for value in made.values():
            assert_padding_is_zero(executor, device, value)
        layout = executor.plan.layout(net.parameters["w"])
        assert isinstance(layout, WeightLayout)
        assert layout.size > layout.outputs * layout.rows.channels * layout.rows.pixels
        return {name: executor.output(f"made.{name}", 2) for name in made}


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_rounding_has_the_bits_of_the_reference(rounding: Rounding, kind: HalfName) -> None:
    random = np.random.default_rng(2)
    floats = awkward_floats(DType(kind))
    arrays = {name: random.choice(floats, shape) for name, shape in SHAPES.items()}
    arrays["w"].reshape(-1)[:3] = np.nan, np.inf, -np.inf
    seed, step = -3, (1 << 32) + 9

    def rounded(net: Net, value: Value, number: int) -> Value:
        return net.b.add(RoundTo(kind, rounding, 11 + number), value, net.context("seed"), net.context("step"))

    results = results_of(rounded, arrays, step, seed)
    for number, (name, array) in enumerate(arrays.items()):
        op = RoundTo(kind, rounding, 11 + number)
        with np.errstate(over="ignore"):
            expected = op.reference(array, np.asarray(seed), np.asarray(step))
        np.testing.assert_array_equal(results[name], expected)
        assert name != "w" or not np.array_equal(expected, array, equal_nan=True)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_are_those_of_the_reference(rate: float) -> None:
    arrays = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}

    def masked(net: Net, value: Value, number: int) -> Value:
        op = DropConnectTraining(rate, 2**32 - 1 - number)
        return net.b.add(op, value, net.context("seed"), net.context("step"))

    results = results_of(masked, arrays)
    for number, (name, array) in enumerate(arrays.items()):
        op = DropConnectTraining(rate, 2**32 - 1 - number)
        expected = op.reference(array, np.asarray(5), np.asarray(9))
        np.testing.assert_array_equal(results[name], expected)
    assert 0.5 * rate < float((results["w"] == 0).mean()) < 1.5 * rate


def test_an_updated_parameter_is_bounded_and_rounded_where_it_lies() -> None:
    net = Net()
    sgd, bound, half = SgdUpdate(), MaxNorm(0.5), RoundTo("bf16", "stochastic", 3)
    scalars = (net.context("lr"), net.context("step"))
    expected: Arrays = {}
    for name in ("w", "m"):
        value = net.parameters[name]
        moved = net.b.add(sgd, value, net.parameter(f"{name}.1", *value.shape), *scalars)
        bounded = net.b.add(bound, moved)
        net.graph.updates[name] = net.b.add(half, bounded, net.context("seed"), net.context("step"))
    arrays = random_arrays(net.graph)
    with opened(net.graph, arrays) as (executor, device):
        slots = executor.plan.memory.slots
        executor.run(EVERYTHING, X, None, lr=0.25, step=2, seed=5)
        for name in ("w", "m"):
            value = net.parameters[name]
            assert slots[net.graph.updates[name]] == slots[value]
            moved = arrays[name] - np.float32(0.25) * arrays[f"{name}.1"]
            expected[name] = bound.reference(moved.astype(np.float64))
            # The number of bf16 above or below.
            assert (np.abs(executor.read(name) - expected[name]) <= 2.0**-7 * np.abs(expected[name])).all()
            assert (executor.read(name).view(np.uint32) & 0xFFFF == 0).all()
            assert_padding_is_zero(executor, device, value)


# Unit by unit


# Filters with padding and without, of groups and of one input each; matrices that read vectors and flattened images.
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "padded": ((19, 5, 3, 3), (2, 5, 6, 6), 1),
    "one_output": ((1, 3, 2, 2), (2, 3, 6, 6), 1),
    "one_input": ((6, 1, 5, 5), (2, 1, 6, 6), 1),
    "many_inputs": ((6, 70, 1, 2), (2, 70, 2, 2), 1),
    "groups": ((6, 3, 2, 3), (2, 9, 6, 6), 3),
    "depthwise": ((7, 1, 3, 3), (2, 7, 6, 6), 7),
    "matrix": ((9, 33), (2, 33), 1),
    "wide_matrix": ((3, 600), (2, 600), 1),
    "image": ((5, 150), (2, 6, 5, 5), 1),
}
UNITS: dict[str, Callable[[int, int], Op]] = {
    "max_norm": lambda axis, groups: MaxNorm(1.5, axis, groups),
    "sum_weights": SumWeights,
    "scale_weights": ScaleWeights,
    "binarize": lambda axis, groups: Binarize(),  # last, and along axis 0 only
}


@pytest.mark.parametrize(("name", "axis"), [(name, axis) for name in UNITS for axis in (0, 1)][:-1])
@pytest.mark.parametrize("layer", LAYERS)
def test_units_of_packed_weights(name: str, layer: str, axis: int) -> None:
    shape, images, groups = LAYERS[layer]
    own = groups if axis else 1
    op = UNITS[name](axis, own)
    graph = Graph("g")
    b = Builder(graph)
    x, w = graph.add_input("x", f32(*images)), graph.add_parameter("w", f32(*shape))
    if len(shape) == 4:
        graph.outputs["logits"] = b.add(Conv2d(groups=groups), x, w)
    else:
        # What a pool makes lies pixel by pixel.
        flat = b.add(Flatten(), b.add_node(MaxPool(kernel=(1, 1)), x).results[0]) if len(images) == 4 else x
        graph.outputs["logits"] = b.add(Linear(), flat, w)
    arrays = {"w": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    operands = [w]
    if isinstance(op, ScaleWeights):
        arrays["s"] = np.random.default_rng(2).standard_normal(own * shape[axis]).astype(np.float32)
        operands.append(graph.add_parameter("s", f32(*arrays["s"].shape)))
    graph.outputs["made"] = b.add(op, *operands)
    with opened(graph, arrays) as (executor, device):
        layout = executor.plan.layout(w)
        assert isinstance(layout, WeightLayout)
        assert layout.rows.pixels == (25 if layer == "image" else np.prod(shape[2:]))
        poison(executor, device, graph.outputs["made"])
        executor.run(EVERYTHING, np.zeros(images, np.float32), None)
        expected = op.reference(*(array.astype(np.float64) for array in arrays.values()))
        assert close(executor.output("made", 2), np.asarray(expected))
        assert_padding_is_zero(executor, device, graph.outputs["made"])


# Determinism and resources

OURS = (
    Sweep,
    GradientNorm,
    AllFinite,
    MoveScale,
    MaxNorm,
    RoundTo,
    DropConnectTraining,
    ScaleWeights,
    SumWeights,
    Binarize,
)


def largest_cases() -> dict[type[Op], OpCase]:
    """Of each op the case with the most numbers; of equally large ones the last, which has the most settings."""
    found: dict[type[Op], OpCase] = {}
    for case in UPDATE_CASES:
        if not isinstance(case.op, OURS):
            continue
        other = found.get(type(case.op))
        if other is None or _numbers(case) >= _numbers(other):
            found[type(case.op)] = case
    return found


def _numbers(case: OpCase) -> int:
    return sum(array.size for array in case_arrays(case))


LARGEST = largest_cases()


@pytest.mark.parametrize("kind", LARGEST, ids=lambda kind: kind.name)
def test_the_same_bits_under_every_schedule(kind: type[Op]) -> None:
    case = LARGEST[kind]
    found: list[Arrays] = []
    for schedule in SCHEDULES:
        graph, named = single_op_graph(case, case_arrays(case))
        found.append(run_emulated(graph, named, EmulatedDevice(schedule=schedule)))
    for other in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_array_equal(other[name].view(np.uint32), array.view(np.uint32))


def test_the_cases_cover_every_op() -> None:
    others = (Elementwise, DropConnect)
    assert {type(case.op) for case in UPDATE_CASES if not isinstance(case.op, others)} == LARGEST.keys()


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_nothing_is_spilled(capability: int) -> None:
    sources: dict[str, str] = {}

    def add(graph: Graph) -> None:
        for launch in make_step(graph, capability).launches:
            if isinstance(launch.kernel.anchor.op, OURS):
                sources[launch.source] = launch.name

    for case in LARGEST.values():
        add(single_op_graph(case, case_arrays(case))[0])
    for op in OPTIMIZERS.values():
        add(sweep_net(op, ("lr", "step"), NUMBERS))
    assert len(sources) >= len(LARGEST) + len(OPTIMIZERS) - 5
    for source, name in sources.items():
        found = parse_resources(compile(source, f"sm_{capability}", [RESOURCES]).log)[name]
        assert (found.spill_stores, found.spill_loads, found.stack) == (0, 0, 0), name
        assert found.registers <= 64, name
