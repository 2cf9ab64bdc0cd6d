"""What the lowering of one kernel works with: its tensors by name, the epilogue as text, and the launches it makes.

The text of a launch is a prelude and the `.cu` file that it specialises:

    typedef float Image; …                         element types
    enum : int { C = 3 }; …                        sizes
    #define KERNEL conv_simt                       the name of the entry point
    #define PARAMETERS const float* __restrict__ X, …, int rows
    #define ARGUMENTS X, …, rows
    template <int V> … void finish(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) { … }

Texts depend on shapes only and on which tensors are one in memory, so layers that are alike share a kernel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TypeVar

from convc.codegen.cuda.expressions import EXPRESSIONS, literal
from convc.ir.graph import Node, Value
from convc.ir.op import Op
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear, LinearBackwardData
from convc.ir.ops.random import Draw, DropoutTraining, NoiseTraining
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.fusion import Kernel, is_boolean, is_immediate, resolve
from convc.passes.layout import ImageLayout, Layout, VectorLayout
from convc.passes.memory import Slot
from convc.passes.plan import Plan

# Element types as the prelude calls them.
ELEMENTS = {DType.F32: "float", DType.F16: "f16", DType.BF16: "bf16", DType.I32: "int"}
# Rows (images) in this run, and its scalars: arguments of every kernel, the last ones.
_SCALARS = {"seed": "scalars->seed", "step": "scalars->step", "seen": "scalars->seen", "lr": "scalars->rate"}
_SHARED = ("numbers.cuh", "elementwise.cuh")
SCRATCH = "SCRATCH"
# Threads of a block where nothing speaks for another number, and blocks that fill any GPU several times over.
THREADS = 256
MOST_BLOCKS = 4096

Grid = Callable[[int], tuple[int, int, int]]
OpType = TypeVar("OpType", bound=Op)


@cache
def source_text(name: str) -> str:
    """One of the files in `kernels/`."""
    return (files("convc.codegen.cuda") / "kernels" / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Work:
    """What a launch does: floating-point operations and bytes moved with all rows, for reports and predictions."""

    flops: int = 0
    bytes: int = 0
    tensor_cores: bool = False


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch of a step: an entry point of a source, its extents, and what it is given.

    `grid` maps rows to blocks along x, y and z; `shared_bytes` is dynamic shared memory. `arguments` are places in
    memory, in the order of the parameters; rows and scalars come behind them.
    """

    kernel: Kernel
    name: str
    file: str
    source: str
    grid: Grid
    threads: int
    shared_bytes: int
    arguments: tuple[Slot, ...]
    work: Work


def extents(blocks: int) -> tuple[int, int, int]:
    """A grid of so many blocks in a row, at least one."""
    return max(1, blocks), 1, 1


class KernelBuilder:
    """Turns one planned kernel into launches. `capability` is the compute capability: 80 for sm_80."""

    def __init__(self, plan: Plan, kernel: Kernel) -> None:
        self.plan, self.kernel, self.capability = plan, kernel, plan.machine.capability
        self.launches: list[Launch] = []
        self._names: dict[Value, str] = {}
        places = plan.memory.slots
        # What is written in the place of an operand has the operand's pointer.
        # By place in memory.
        self._stored: dict[object, list[Value]] = {}
        for value in dict.fromkeys((*kernel.reads, *kernel.writes)):
            if self.scalar_name(value) is None:
                self._stored.setdefault(places.get(value, value), []).append(value)
        for number, values in enumerate(self._stored.values()):
            for value in values:
                self._names[value] = f"t{number}"

    # The kernel's parts

    @property
    def anchor(self) -> Node:
        return self.kernel.anchor

    def op(self, kind: type[OpType]) -> OpType:
        op = self.kernel.anchor.op
        assert isinstance(op, kind)
        return op

    def layout(self, value: Value) -> Layout:
        return self.plan.layout(resolve(value))

    def image(self, value: Value) -> ImageLayout:
        """The layout of a batched value, which kernels read pixel by pixel."""
        layout = self.layout(value)
        assert isinstance(layout, ImageLayout), f"{layout} is no image"
        return layout

    def batched(self, value: Value) -> bool:
        return resolve(value) in self.plan.batched

    def element(self, value: Value) -> str:
        """The element type of a stored value, as CUDA C++ calls it."""
        return ELEMENTS[self.plan.element(resolve(value))]

    def bytes_of(self, *values: Value) -> int:
        return sum(self.plan.bytes_of(resolve(value)) for value in values)

    @property
    def stored(self) -> tuple[Value, ...]:
        """What the kernel reads and writes in memory."""
        return tuple(value for values in self._stored.values() for value in values)

    @property
    def bytes(self) -> int:
        """All that the kernel reads and writes, once each."""
        return self.bytes_of(*self.stored)

    def scalar_name(self, value: Value) -> str | None:
        """The expression of a scalar that each run is given; None for what lies in memory."""
        for name, given in self.plan.graph.inputs.items():
            if given is value and not value.shape:
                return {**_SCALARS, "rows": "rows"}[name]
        return None

    def scalar(self, value: Value) -> str:
        """The expression of a scalar: a literal, a member of the run's scalars, or a number in memory."""
        if is_immediate(value):
            assert value.producer is not None
            assert isinstance(value.producer.op, Constant)
            return literal(value.producer.op.values[0])
        name = self.scalar_name(value)
        return name if name is not None else f"to_float(*{self.name(value)})"

    def name(self, value: Value) -> str:
        """The name of a stored value's pointer."""
        return self._names[resolve(value)]

    @property
    def finished(self) -> tuple[Value, ...]:
        """What the epilogue stores: of the anchor's first result and of the chain that which somebody reads."""
        made = {self.anchor.results[0], *(result for node in self.kernel.chain for result in node.results)}
        return tuple(value for value in self.kernel.writes if value in made)

    # Text

    def finish(self) -> str:
        """The epilogue as a function; for kernels whose anchor's first result is batched, or an element-wise kernel."""
        return _Epilogue(self).text()

    def launch(
        self,
        file: str | Sequence[str],
        grid: Grid,
        *,
        threads: int = THREADS,
        constants: Mapping[str, int | float | bool | str] | None = None,
        types: Mapping[str, str] | None = None,
        names: Mapping[str, Value] | None = None,
        text: str = "",
        finishes: bool = False,
        shared_bytes: int = 0,
        name: str | None = None,
        work: Work,
    ) -> None:
        """Add a launch of the last of the files, which the others come before.

        `constants` are known to the compiler (texts are taken as they are, as macros), `types`
        typedefs, `names` other names for the pointers of stored values; `text` goes before the files. `finishes`
        says that the kernel calls `finish`.
        """
        sources = [file] if isinstance(file, str) else list(file)
        constants = {"THREADS": threads, **(constants or {})}
        aliases = {self._names[resolve(value)]: alias for alias, value in reversed([*(names or {}).items()])}
        # No function of CUDA's has such a name.
        own = f"convc_{name or sources[-1].removesuffix('.cu')}"
        arguments, declared, passed = self._parameters()
        lines = [f"#define KERNEL {own}", f"typedef {self._index} Index;"]
        lines += [f"typedef {kind} {alias};" for alias, kind in (types or {}).items()]
        lines += [_constant(key, value) for key, value in constants.items()]
        lines += [f"#define PARAMETERS {', '.join(declared)}", f"#define ARGUMENTS {', '.join(passed)}"]
        if SCRATCH not in passed and f"#define {SCRATCH} " not in text:
            lines.append(f"#define {SCRATCH} static_cast<float*>(nullptr)")
        lines += [f"#define {alias} {pointer}" for pointer, alias in aliases.items()]
        # Of two names for one pointer each gets its own macro.
        for alias, value in (names or {}).items():
            if aliases[self._names[resolve(value)]] != alias:
                lines.append(f"#define {alias} {self._names[resolve(value)]}")
        parts = [*(source_text(shared) for shared in _SHARED)]
        if self._draws and finishes:
            parts.append(source_text("philox.cuh"))
        parts += ["\n".join(lines), text] if text else ["\n".join(lines)]
        if finishes:
            parts.append(self.finish())
        parts += [source_text(source) for source in sources]
        whole = "\n\n".join(part.strip("\n") for part in parts) + "\n"
        made = Launch(self.kernel, own, sources[-1], whole, grid, threads, shared_bytes, arguments, work)
        self.launches.append(made)

    @property
    def _index(self) -> str:
        """A type that counts the elements of any tensor here, and beyond by a stride of the largest grid."""
        stored = [self.bytes_of(value) // self.plan.element(value).bytes for value in self.stored]
        return "int" if max(stored, default=0) < (1 << 31) - MOST_BLOCKS * THREADS else "i64"

    @property
    def _draws(self) -> bool:
        return any(isinstance(node.op, Draw) for node in self.kernel.nodes)

    def _parameters(self) -> tuple[tuple[Slot, ...], list[str], list[str]]:
        """Slots, declarations and names of what every launch of the kernel is given."""
        slots: list[Slot] = []
        declared: list[str] = []
        passed: list[str] = []
        written = set(self.kernel.writes)
        for values in self._stored.values():
            value, name = values[0], self._names[values[0]]
            slots.append(self.plan.memory.slots[value])
            changes = bool(written.intersection(values))
            # Of two pointers to one place neither may promise to be the only one.
            restrict = "" if changes and len(values) > 1 else " __restrict__"
            declared.append(f"{'' if changes else 'const '}{self.element(value)}*{restrict} {name}")
            passed.append(name)
        scratch = self.plan.memory.scratch.get(self.kernel)
        if scratch is not None:
            slots.append(scratch)
            declared.append(f"float* __restrict__ {SCRATCH}")
            passed.append(SCRATCH)
        declared += ["const Scalars* __restrict__ scalars", "int rows"]
        return tuple(slots), declared, [*passed, "scalars", "rows"]


def _constant(name: str, value: int | float | bool | str) -> str:
    if isinstance(value, str):
        return f"#define {name} {value}"
    if isinstance(value, float):
        return f"#define {name} ({literal(value)})"
    # Enumerators, since `constexpr` variables that no kernel reads are warned of, and take memory.
    kind = "int" if -(1 << 31) <= value < 1 << 31 else "i64"
    return f"enum : {kind} {{ {name} = {int(value)} }};"


class _Epilogue:
    """Writes `finish`: what happens to V neighbouring channels of the anchor's result before they are stored."""

    def __init__(self, k: KernelBuilder) -> None:
        self.k = k
        kernel = k.kernel
        self.inside = {result: f"v{n}" for n, result in enumerate(r for node in kernel.nodes for r in node.results)}
        self.shape = kernel.anchor.results[0].shape
        # Fully connected layers know the features of a flattened image by one number, of which V may be of several
        # pixels.
        self.flat = isinstance(kernel.anchor.op, LinearBackwardData) and self.shape_layout().pixels > 1
        self.loads: list[str] = []  # before the loop over the channels
        self.body: list[str] = []  # in it
        self.loaded: dict[str, str] = {}

    def text(self) -> str:
        k, kernel = self.k, self.k.kernel
        anchor = kernel.anchor
        if anchor not in kernel.chain:
            start = "v[i]"
            if isinstance(anchor.op, (Conv2d, Linear)) and len(anchor.operands) == 3:
                start += f" + {self._operand(anchor.operands[2])}"
            self.body.append(f"const float {self.inside[anchor.results[0]]} = {start};")
        for node in kernel.chain:
            self._node(node)
        result = self.shape_layout()
        stores: list[str] = []
        for number, value in enumerate(k.finished):
            self.loads.append(f"float r{number}[V];")
            kept = self.inside[value] if result.channels == result.stored else f"real ? {self.inside[value]} : 0.0f"
            self.body.append(f"r{number}[i] = {kept};")
            stores.append(f"store<V>({k.name(value)} + at, r{number});")
        pixels, stored = result.pixels, result.stored
        # A multiple of V in so many words: else accesses are split into single numbers.
        place = f"(((Index)row * {pixels} + pixel) * ({stored} / V) + channel / V) * V"
        own = {"p": "pixel", "c": "channel + i"}
        if self.flat:
            place = f"((Index)row * ({pixels * stored} / V) + channel / V) * V"
            own = {"p": f"(channel + i) / {stored}", "c": f"(channel + i) % {stored}"}
        if result.channels < stored:
            self.body.insert(0, f"const bool real = c < {result.channels};")
        text = "\n".join(self.body)
        self.body[:0] = [
            f"const int {name} = {value};" for name, value in own.items() if re.search(rf"\b{name}\b", text)
        ]
        lines = [
            "template <int V>",
            "__device__ __forceinline__ void finish(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {",
            *([f"  const Index at = {place};"] if any(" at" in line for line in (*self.loads, *stores)) else []),
            *(f"  {line}" for line in self.loads),
            "#pragma unroll",
            "  for (int i = 0; i < V; ++i) {",
            *(f"    {line}" for line in self.body),
            "  }",
            *(f"  {line}" for line in stores),
            "}",
        ]
        return "\n".join(lines)

    def shape_layout(self) -> ImageLayout:
        """How the result lies: tensors without rows are one pixel of as many channels as there are numbers."""
        return map_layout(self.k, self.k.kernel.anchor.results[0])

    def _node(self, node: Node) -> None:
        kind = "bool" if is_boolean(node) else "float"
        name = self.inside[node.results[0]]
        self.body.append(f"const {kind} {name} = {self._expression(node)};")

    def _expression(self, node: Node) -> str:
        op = node.op
        if isinstance(op, Draw):
            return self._draw(node)
        return EXPRESSIONS[type(op)](op, *(self._operand(operand) for operand in node.operands))

    def _draw(self, node: Node) -> str:
        """Random numbers by the element's place in NCHW order, counted on from the rows before."""
        op, (x, seed, step, *seen) = node.op, node.operands
        layout = self.shape_layout()
        row = f"(u64)(row + {self.k.scalar(seen[0])})" if seen else "(u64)row"
        words = f"w{len(self.body)}"
        element = f"({row} * {layout.channels} + c) * {layout.pixels} + p"
        assert isinstance(op, (DropoutTraining, NoiseTraining))
        update = f"(u64){self.k.scalar(step)}"
        self.body.append(
            f"const Words {words} = philox({element}, {update}, (u32){self.k.scalar(seed)}, {op.stream}u);"
        )
        value = self._operand(x)
        if isinstance(op, DropoutTraining):
            return f"dropout({value}, {words}.first, {op.threshold}u, {literal(1 / (1 - op.rate))})"
        return f"{value} + {literal(op.std)} * gaussian({words})"

    def _operand(self, value: Value) -> str:
        if value in self.inside:
            return self.inside[value]
        if not value.shape:
            return self.k.scalar(value)
        name = self.k.name(value)
        layout = self.k.layout(value)
        # A vector of one number per channel, or a tensor that lies like the result.
        spread = value.type.rank == 1 and len(self.shape) > 1
        key = f"{'s' if spread else 'x'}{name}"
        if key not in self.loaded:
            self.loaded[key] = f"{key}[i]"
            result = self.shape_layout()
            fits = not spread or (layout.size == result.stored and not self.flat)
            assert fits, f"{layout} along the channels of a result that lies as {result}"
            self.loads += [f"float {key}[V];", f"load<V>({name} + {'channel' if spread else 'at'}, {key});"]
        return self.loaded[key]


def map_layout(k: KernelBuilder, value: Value) -> ImageLayout:
    """A stored value as rows of pixels of channels; what has no rows is one pixel, every number of it real."""
    layout = k.layout(value)
    if isinstance(layout, ImageLayout):
        return layout
    assert not k.batched(value), f"{layout} is no image"
    channels = layout.channels if isinstance(layout, VectorLayout) else layout.size
    return ImageLayout(channels, 1, 1, layout.size)
