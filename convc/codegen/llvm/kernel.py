"""What the lowering of one kernel works with: its operands in memory, and the chain that rides in its epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from convc.codegen.llvm.elementwise import ELEMENTWISE
from convc.codegen.llvm.mathematics import gaussian, philox_words
from convc.codegen.llvm.vocabulary import LINE_BYTES, MOST_INSTRUCTIONS, Function, Index, V
from convc.ir.graph import Node, Value
from convc.ir.op import Op
from convc.ir.ops.constant import Constant
from convc.ir.ops.loss_scaling import AllFinite
from convc.ir.ops.random import Draw, DropoutTraining, NoiseTraining
from convc.ir.ops.sweep import GradientNorm, Sweep
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.fusion import Kernel, is_boolean, is_immediate, resolve
from convc.passes.layout import ImageLayout, Layout
from convc.passes.memory import Slot
from convc.passes.plan import Plan

# The argument block of a step: one 64-bit word each.
CONTROL, SECTIONS, ROWS, ARENA, PERSISTENT, INPUT, LABELS, SEED, STEP, RATE, FIRST, LAST, SEEN, WORDS = range(14)
BARRIER = "convc_barrier"
_POINTEES = {DType.F16: "half", DType.BF16: "bfloat", DType.QW8: "i8"}
REGION_WORDS = {"arena": ARENA, "persistent": PERSISTENT, "input": INPUT, "labels": LABELS}


def context_word(f: Function, word: int, type: str = "i64") -> V:
    """Read a word of the argument block (a float lies in its lower half)."""
    return f.load(f.address(f.context, word, "i64"), 1, type)


@dataclass(frozen=True)
class Spot:
    """Where a vector of channels of a batched value is: image `row`, `pixel`, first `channel`.

    `base + extra` is the element offset: a part computed once per tile and a constant, which becomes an address mode.
    `real` lanes exist; the others are padding and must be stored as zero.
    """

    row: Index
    pixel: Index
    channel: Index
    base: Index
    extra: int
    lanes: int
    real: int


def _number(value: Value) -> float:
    """The value of a scalar constant."""
    assert value.producer is not None
    assert isinstance(value.producer.op, Constant)
    return value.producer.op.values[0]


OpType = TypeVar("OpType", bound=Op)


@dataclass(frozen=True)
class Lowering:
    """How an op becomes phases, and how many bytes of scratch space they share."""

    emit: Callable[[KernelBuilder], None]
    scratch: Callable[[KernelBuilder], int] = lambda k: 0


class KernelBuilder:
    """Turns one planned kernel into phases: functions that all threads run, with a barrier after each.

    A phase's text depends on the kernel's shape only, so kernels of equal `signature` share functions.
    """

    def __init__(self, plan: Plan, kernel: Kernel, fma: str, most: int = MOST_INSTRUCTIONS) -> None:
        self.plan = plan
        self.kernel = kernel
        self.machine = plan.machine
        self.values = tuple(dict.fromkeys((*kernel.reads, *kernel.writes)))
        self.scratch = plan.memory.scratch.get(kernel)
        # What is written in the place of an operand has the operand's pointer, so that no two pointers meet.
        places = [plan.memory.slots.get(value, value) for value in self.values]
        numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
        self._numbers = {value: numbers[place] for value, place in zip(self.values, places, strict=True)}
        # Scalars of the context have no place: phases read them from the context.
        slots = [place if isinstance(place, Slot) else Slot("persistent", 0, 0) for place in numbers]
        self.arguments: tuple[Slot, ...] = (*slots, self.scratch) if self.scratch else tuple(slots)
        self.phases: list[Function] = []
        self._fma = fma
        self._most = most
        self._f: Function | None = None

    def op(self, *kinds: type[OpType]) -> OpType:
        """The anchor's op, which the lowering knows to be of one of these kinds."""
        op = self.kernel.anchor.op
        assert isinstance(op, kinds)
        return op

    def layout(self, value: Value) -> Layout:
        return self.plan.layouts[value]

    def image(self, value: Value) -> ImageLayout:
        layout = self.layout(value)
        assert isinstance(layout, ImageLayout), f"{value!r} is {layout}"
        return layout

    def is_batched(self, value: Value) -> bool:
        return value in self.plan.batched

    def phase(self, name: str, body: Callable[[Function], None]) -> None:
        """Append a function; `body` writes it."""
        f = Function(name, len(self.arguments), comment=f"{self.kernel.name} {self.kernel.label}")
        f.fma_name = self._fma
        f.converts_half = self.machine.converts_half
        f.dot_int8 = self.machine.dot_int8
        f.dot_i16 = self.machine.dot_i16
        f.most = self._most - self.size
        self._f = f
        body(f)
        self.phases.append(f)

    @property
    def size(self) -> int:
        """Instructions of the phases written so far."""
        return sum(f.size for f in self.phases)

    def pointer(self, value: Value) -> V:
        """The address of a value's first element."""
        assert self._f is not None
        stored = resolve(value)
        pointer = self._f.pointers[self._numbers[stored]]
        pointee = stored.type.grid or _POINTEES.get(self.plan.element(stored))
        return V(pointer.ref, pointer.type, pointee) if pointee else pointer

    def weights(self, value: Value) -> tuple[V, str | None]:
        """Where an operand of the anchor lies, and the element type that a cast in the prologue makes of it."""
        for node in self.kernel.prologue:
            if node.result is value:
                return self.pointer(node.operands[0]), _POINTEES[value.type.dtype]
        return self.pointer(value), None

    def scratch_pointer(self) -> V:
        assert self._f is not None
        assert self.scratch is not None
        return self._f.pointers[-1]

    def barrier(self, f: Function) -> None:
        """Wait until all threads have come as far. How often that happens may depend on the rows of a run only."""
        f.may_alias = True  # behind a barrier lies what other threads have written
        f.call(BARRIER, context_word(f, CONTROL, "ptr"))

    def rows(self, f: Function) -> Index:
        """How many images this run has."""
        return context_word(f, ROWS)

    def scalar(self, f: Function, value: Value) -> V:
        """A rank-0 value: a constant in the code, or a number in memory."""
        if is_immediate(value):
            return f.constant(_number(value))
        return f.load(self.pointer(value))

    def signature(self) -> str:
        """Text that determines the phases: ops, shapes, layouts and structure, but no places or names."""
        numbers = {value: f"r{index}" for index, value in enumerate(self.values)}
        lines: list[str] = []
        for node in self.kernel.nodes:
            operands = [self._describe(resolve(value), numbers) for value in node.operands]
            for result in node.results:
                numbers.setdefault(result, f"v{len(numbers)}")
            results = [self._describe(value, numbers) for value in node.results]
            lines.append(f"{', '.join(results)} = {node.op}({', '.join(operands)})")
        stored = " ".join(numbers[value] for value in self.kernel.writes)
        if isinstance(self.kernel.anchor.op, (Sweep, GradientNorm, AllFinite)):
            # These run over neighbours in memory as if they were one tensor.
            slots = self.plan.memory.slots
            lines.append(" ".join(str(slots[value].offset) for value in self.values if value in slots))
        pointers = " ".join(str(self._numbers[value]) for value in self.values)
        return "\n".join(
            [*lines, f"stored {stored}", f"chain {len(self.kernel.chain)}", f"pointers {pointers}", str(self.machine)]
        )

    def _describe(self, value: Value, numbers: dict[Value, str]) -> str:
        if is_immediate(value):
            assert value.producer is not None
            return str(value.producer.op)
        if value.producer is None and value not in numbers:
            return f"context.{value.name}"
        return f"{numbers.get(value, '?')}:{value.type}:{self.plan.layouts.get(value)}:{self.is_batched(value)}"

    # The chain

    @property
    def has_chain(self) -> bool:
        return bool(self.kernel.chain)

    @property
    def needs_position(self) -> bool:
        """Whether the chain asks which element it works on."""
        return any(isinstance(node.op, Draw) for node in self.kernel.chain)

    def finish(self, f: Function, spot: Spot, start: V | None) -> None:
        """Apply the chain to the anchor's result `start` at a spot, and store what the kernel writes.

        Each spot is finished once, and nothing else writes results: they may lie where operands of the chain do.
        """
        if not spot.real:
            for value in self.kernel.images:
                f.store(f.constant(0.0, spot.lanes), self._address(f, value, spot))
            return
        known: dict[Value, V] = {}
        if start is not None:
            known[self.kernel.anchor.results[0]] = start
        for node in self.kernel.chain:
            known[node.results[0]] = self._apply(f, node, spot, known)
        for value, vector in known.items():
            if value in self.kernel.writes:
                if self.has_chain and spot.real < spot.lanes:
                    mask = f.integers([lane < spot.real for lane in range(spot.lanes)], "i1")
                    vector = f.select(mask, vector, f.constant(0.0, spot.lanes))
                f.store(vector, self._address(f, value, spot))

    def approach(self, f: Function, spots: Sequence[Spot]) -> None:
        """Ask for the cache lines that `finish` will read at the spots of a tile, before the tile is computed.

        Images that the chain meets come from memory: a tile would wait for them at its end.
        """
        made = {self.kernel.anchor.results[0], *(node.results[0] for node in self.kernel.chain)}
        read = dict.fromkeys(value for node in self.kernel.chain for value in node.operands)
        for value in read:
            if value in made or value.type.rank < 2 or is_immediate(value) or not self.is_batched(value):
                continue
            of_line = LINE_BYTES // self.plan.element(resolve(value)).bytes
            for spot in {spot.extra // of_line: spot for spot in reversed(spots)}.values():
                f.prefetch(self._address(f, value, spot))

    def _apply(self, f: Function, node: Node, spot: Spot, known: dict[Value, V]) -> V:
        if isinstance(node.op, (DropoutTraining, NoiseTraining)):
            x = known.get(node.operands[0]) or self._fetch(f, node.operands[0], spot)
            words = self._random_words(f, node, node.op.stream, spot)
            if isinstance(node.op, DropoutTraining):
                return _dropout(f, node.op, x, words[0])
            return _noise(f, node.op, x, *words)
        operands = [known[value] if value in known else self._fetch(f, value, spot) for value in node.operands]
        return ELEMENTWISE[type(node.op)](f, node.op, *operands)

    def _fetch(self, f: Function, value: Value, spot: Spot) -> V:
        if is_immediate(value):
            return f.constant(_number(value), spot.lanes)
        assert not (value.producer and is_boolean(value.producer)), "booleans are computed where they are used"
        if value.type.rank == 0:
            return f.splat(f.load(self.pointer(value)), spot.lanes)
        return f.load(self._address(f, value, spot), spot.lanes)

    def _address(self, f: Function, value: Value, spot: Spot) -> V:
        pointer = self.pointer(value)
        if not self.is_batched(value) and value.type.rank == 1 and self.is_batched(self.kernel.anchor.results[0]):
            return f.address(pointer, spot.channel)
        return f.address(f.address(pointer, spot.base), spot.extra)

    def _random_words(self, f: Function, node: Node, stream: int, spot: Spot) -> tuple[V, V]:
        """Random bits of the elements at a spot, numbered in NCHW order: ((row·C + channel)·pixels + pixel).

        A fourth operand says that rows of the same update came before.
        """
        layout = self.image(resolve(node.operands[0]))
        row = spot.row if len(node.operands) == 3 else f.add(context_word(f, SEEN), spot.row)
        channel = f.add(f.multiply(row, layout.channels), spot.channel)
        first = f.add(f.multiply(channel, layout.pixels), spot.pixel)
        offsets = f.integers([lane * layout.pixels for lane in range(spot.lanes)], "i64") if spot.lanes > 1 else None
        base = f.splat(V(str(first), "i64") if isinstance(first, int) else first, spot.lanes)
        element = base if offsets is None else f.binary("add", base, offsets)
        return philox_words(f, element, context_word(f, SEED), context_word(f, STEP), stream)


def _dropout(f: Function, op: DropoutTraining, x: V, bits: V) -> V:
    threshold = f.splat(V(str(op.threshold), "i64"), x.lanes)
    scaled = f.binary("fmul", x, f.constant(1 / (1 - op.rate), x.lanes))
    return f.select(f.compare("uge", bits, threshold), scaled, f.constant(0.0, x.lanes))


def _noise(f: Function, op: NoiseTraining, x: V, first: V, second: V) -> V:
    return f.fma(gaussian(f, first, second), f.constant(op.std, x.lanes), x)
