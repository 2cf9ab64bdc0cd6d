"""Standalone libraries that train with a scaled loss: the bits of convc's own steps, skipped ones among them."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.ir.diagnostic import CompileError
from convc.passes.training import PATIENCE
from convc.runtime.checkpoint import write_checkpoint
from convc.runtime.program import Program
from convc.runtime.standalone import write_standalone
from tests.codegen.test_ops import available_tiers
from tests.codegen.test_standalone import declared, exported, load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]

BATCH, RATE = 5, 0.01
BODY = """net scaled(classes = 7) {
  input 3x9x7
  conv 6 k=3 pad=1 -> relu -> pool max 2
  flatten -> dropout 0.3 -> fc 11 -> relu -> fc classes
  loss softmax weight=1000
}
"""
LIGHT = BODY.replace(" weight=1000", "")
NORMED = BODY.replace("conv 6 k=3 pad=1", "conv 6 k=3 pad=1 bias=no -> bn")
Batch = tuple[np.ndarray, np.ndarray]


def settings(precision: str, more: str = "optim adamw lr=0.01", accumulate: int = 1) -> str:
    head = f"batch {BATCH} accumulate={accumulate}" if accumulate > 1 else f"batch {BATCH}"
    return f"train {{\n  {head}\n  precision {precision}\n  {more}\n  seed 11\n}}\n"


class Library:
    """A library in a folder of its own, with the functions that the tests call."""

    def __init__(self, folder: Path, text: str, tiers: Sequence[str]) -> None:
        self.folder = folder
        self.net = load(folder, text)
        paths = folder / "libnet.so", folder / "net.h"
        made = write_standalone(self.net, *paths, mode="train", prefix="net", batch=BATCH, threads=1, cpu=tiers)
        self.shapes = {name: parameter.value.shape for name, parameter in made.interface.parameters.items()}
        self.c = ctypes.CDLL(str(paths[0]))
        self.c.net_create.restype = ctypes.c_void_p
        self.c.net_create.argtypes = (ctypes.c_int, ctypes.c_char_p)
        self.c.net_error.restype = ctypes.c_char_p
        self.c.net_loss_scale.restype = ctypes.c_float
        self.c.net_steps.restype = self.c.net_skipped_steps.restype = ctypes.c_int64

    @contextmanager
    def model(self, threads: int = 1, weights: Path | None = None) -> Iterator[Model]:
        pointer = self.c.net_create(threads, None if weights is None else str(weights).encode())
        assert pointer is not None, self.error
        try:
            yield Model(self, ctypes.c_void_p(pointer))
        finally:
            self.c.net_destroy(ctypes.c_void_p(pointer))

    @property
    def error(self) -> str:
        return self.c.net_error().decode()


class Model:
    def __init__(self, library: Library, pointer: ctypes.c_void_p) -> None:
        self.library, self.pointer = library, pointer
        self.loss = ctypes.c_float(-1)

    def step(self, batch: Batch) -> int:
        x, labels = (array.ctypes.data_as(ctypes.c_void_p) for array in batch)
        rest = ctypes.c_float(RATE), ctypes.byref(self.loss), None
        return self.library.c.net_step(self.pointer, x, labels, len(batch[0]), *rest)

    @property
    def counts(self) -> tuple[int, int, float]:
        """Steps, skipped steps, and the scale."""
        c = self.library.c
        return c.net_steps(self.pointer), c.net_skipped_steps(self.pointer), c.net_loss_scale(self.pointer)

    @property
    def state(self) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for number, (name, shape) in enumerate(self.library.shapes.items()):
            found[name] = np.empty(shape, np.float32)
            values = found[name].ctypes.data_as(ctypes.c_void_p)
            assert self.library.c.net_get_parameter(self.pointer, number, values) == 0
        return found

    def take(self, state: dict[str, np.ndarray], steps: int) -> None:
        """Go on where another training has been."""
        for number, name in enumerate(self.library.shapes):
            values = np.ascontiguousarray(state[name]).ctypes.data_as(ctypes.c_void_p)
            assert self.library.c.net_set_parameter(self.pointer, number, values) == 0
        assert self.library.c.net_set_steps(self.pointer, ctypes.c_int64(steps)) == 0


def batches(count: int, spoilt: Sequence[int] = (), pixel: float = 1e30) -> list[Batch]:
    """Random images and labels; the spoilt ones have an image that no scale makes finite."""
    random = np.random.default_rng(1)
    found: list[Batch] = []
    for number in range(count):
        n = BATCH if number % 3 else 3
        x = random.random((n, 3, 9, 7), np.float32)
        if number in spoilt:
            x[0] = pixel
        found.append((x, random.integers(0, 7, n).astype(np.int32)))
    return found


def bits(state: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in state.items()}


def own_step(program: Program, batch: Batch) -> float:
    return program.step(*batch, lr=float(np.float32(RATE)))


def same(model: Model, program: Program, loss: float) -> None:
    assert np.float32(model.loss.value).tobytes() == np.float32(loss).tobytes()
    assert model.counts == (program.steps, program.skipped_steps, program.loss_scale)
    assert bits(model.state) == bits(program.state_dict())


CASES = {
    "dynamic": (NORMED + settings("fp16"), ()),
    "accumulated": (NORMED + settings("fp16", "clip 0.5\n  optim adam lr=0.01", accumulate=2), ()),
    "static": (BODY + settings("fp16 loss_scale=3"), (0, 3, 4)),
    "rounded": (BODY + settings("fp16 rounding=stochastic loss_scale=2"), (0, 3)),
    "bf16": (LIGHT + settings("bf16 loss_scale=1024", "optim sgd lr=0.1 momentum=0.9"), (1, 5)),
    "one-layer": (BODY.replace("fc 11", "fc 11 precision=fp16") + settings("fp32"), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_training_has_the_bits_of_our_own(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every step: loss, counts, scale, and all parameters and states."""
    text, spoilt = CASES[case]
    tiers = available_tiers() if case == "dynamic" else available_tiers()[:1]
    library = Library(tmp_path, text, tiers)
    steps = batches(30, spoilt, pixel=3e38)
    for tier in tiers:
        monkeypatch.setenv("CONVC_CPU", tier)
        for threads in (1, 2):
            with (
                convc.compile(library.net, mode="train", batch=BATCH, threads=threads) as program,
                library.model(threads) as model,
            ):
                assert model.counts == (0, 0, program.loss_scale)
                for batch in steps:
                    before = model.counts[0], bits(model.state)
                    loss = own_step(program, batch)
                    assert model.step(batch) == 0, library.error
                    same(model, program, loss)
                    if model.counts[0] == before[0] and case == "static":
                        changed = {name for name, array in bits(model.state).items() if array != before[1][name]}
                        assert changed <= {"loss.good", "loss.skipped"}
                assert 0 < program.skipped_steps < program.skipped_steps + program.steps
                assert program.steps > 1
                if spoilt:
                    assert program.skipped_steps == len(spoilt)


def test_a_training_goes_on_from_states(tmp_path: Path) -> None:
    """From library to library, from convc to a library by function and by file, and back."""
    library = Library(tmp_path, BODY + settings("fp16"), available_tiers()[:1])
    steps = batches(30)
    middle = 6
    with (
        convc.compile(library.net, mode="train", batch=BATCH, threads=1) as program,
        convc.compile(library.net, mode="train", batch=BATCH, threads=1) as second,
        library.model() as first,
    ):
        for batch in steps[:middle]:
            assert first.step(batch) == 0
            own_step(program, batch)
        done, skipped, scale = first.counts
        assert skipped > 0
        assert scale < 65536
        path = tmp_path / "state.safetensors"
        write_checkpoint(path, program.state_dict(), {})
        with library.model(2) as other, library.model(weights=path) as read:
            other.take(first.state, done)
            read.take(read.state, done)
            second.load_state_dict(first.state)
            second.steps = done
            assert bits(read.state) == bits(first.state)
            for batch in steps[middle:]:
                loss = own_step(program, batch)
                assert own_step(second, batch) == loss
                for model in (first, other, read):
                    assert model.step(batch) == 0
                    same(model, program, loss)
            assert bits(second.state_dict()) == bits(program.state_dict())
        assert first.counts[0] > done
        assert first.counts[1] > skipped


def test_the_scale_grows_after_two_thousand_steps(tmp_path: Path) -> None:
    library = Library(tmp_path, LIGHT + settings("fp16"), available_tiers()[:1])
    with library.model() as model:
        begin = {"loss.scale": np.array(512, np.float32), "loss.good": np.array(1997, np.float32)}
        model.take(model.state | begin, 0)
        seen: list[float] = []
        for batch in batches(4):
            assert model.step(batch) == 0
            seen.append(model.counts[2])
    assert seen == [512.0, 512.0, 1024.0, 1024.0]


def test_a_batch_that_overflows_spoils_the_update_that_it_is_part_of(tmp_path: Path) -> None:
    """The mean gradient of an update that was skipped is zero, so that states are finite between updates."""
    text = BODY + settings("fp16 loss_scale=2", accumulate=3)
    library = Library(tmp_path, text, available_tiers()[:1])
    with library.model() as model:
        means = [name for name in library.shapes if name.endswith(".accumulated")]
        for number, batch in enumerate(batches(6, (1,))):
            assert model.step(batch) == 0
            finite = all(np.isfinite(array).all() for array in model.state.values())
            assert finite is (number != 1)
            if number == 2:
                assert model.counts == (0, 1, 2.0)
                assert not any(model.state[name].any() for name in means)
        assert model.counts == (1, 1, 2.0)
        assert any(model.state[name].any() for name in means)


@pytest.mark.parametrize(("precision", "falls", "scale"), [("fp16", 15, "1"), ("fp16 loss_scale=4", 0, "4")])
def test_steps_fail_where_no_scale_helps(tmp_path: Path, precision: str, falls: int, scale: str) -> None:
    """Where those of our own raise `train-overflow`; what was computed is there, and training may go on."""
    library = Library(tmp_path, BODY + settings(precision), available_tiers()[:1])
    spoilt, good = batches(2, (0,))
    with (
        convc.compile(library.net, mode="train", batch=BATCH, threads=1) as program,
        library.model() as model,
    ):
        begin = bits(model.state)
        loss = own_step(program, spoilt)
        assert model.step(spoilt) == 0
        for _ in range(falls + PATIENCE - 2):
            own_step(program, spoilt)
            assert model.step(spoilt) == 0
        same(model, program, loss)
        for more in range(2):
            with pytest.raises(CompileError, match="train-overflow") as caught:
                own_step(program, spoilt)
            model.loss.value = -1
            assert model.step(spoilt) == -1
            assert library.error == caught.value.diagnostics[0].message
            assert library.error.startswith(f"{PATIENCE + more} updates in a row were skipped: ")
            assert library.error.endswith(f"at loss scale {scale}")
            assert model.loss.value != -1
            same(model, program, loss)
        changed = {name for name, array in bits(model.state).items() if array != begin[name]}
        assert changed <= {"loss.scale", "loss.skipped"}
        # Who takes a state over begins to count anew.
        model.take(model.state, 0)
        for _ in range(PATIENCE - 1):
            assert model.step(spoilt) == 0
        assert model.step(spoilt) == -1
        own = own_step(program, good)
        state = program.state_dict() | {"loss.skipped": model.state["loss.skipped"]}
        assert model.step(good) == 0
        assert np.float32(own).tobytes() == np.float32(model.loss.value).tobytes()
        assert bits(model.state) == bits(state)
        assert model.counts[0] == 1


def test_the_header_says_how_the_loss_is_scaled(tmp_path: Path) -> None:
    said = {
        "fp16": "The scale: dynamic, from 65536.",
        "bf16 loss_scale=8": "The scale: 8.",
        "fp16 loss_scale=none": "the loss of this model is not scaled",
    }
    for number, (precision, text) in enumerate(said.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        library = Library(folder, BODY + settings(precision), available_tiers()[:1])
        assert text in (folder / "net.h").read_text()
        assert exported(folder) == declared(folder) >= {"net_loss_scale", "net_skipped_steps"}
        c = library.c
        assert (c.net_loss_scale(None), library.error) == (-1, "no model was given")
        assert c.net_skipped_steps(None) == -1
        if precision.endswith("none"):
            with library.model() as model:
                assert model.step(batches(1)[0]) == 0
                assert model.counts == (1, 0, 1)
