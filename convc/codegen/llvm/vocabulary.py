"""The words in which kernels are written: loops, vectors, fused multiply-adds, addresses.

This is the one place where the text of LLVM IR is made. Building text directly is several times faster than building
llvmlite's objects, and compile time is a feature. A `Function` appends instructions; loops and conditions are context
managers; indices are Python integers as long as they are known, and become instructions only when they are not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from convc.codegen.llvm.narrow import Kind, memory_type, rounded, widened
from convc.lazy import dataclass


@dataclass(frozen=True, slots=True)
class V:
    """A value in registers: LLVM's name for it, and its type. A pointer knows what it points to: `pointee` is `float`,
    or a narrower number (`half`, `bfloat`, one of a `Grid`) that is widened when it is loaded and rounded when it is
    stored."""

    ref: str
    type: str
    pointee: Kind = "float"

    @property
    def lanes(self) -> int:
        """Elements of a vector, 1 for a scalar."""
        return int(self.type[1 : self.type.index(" ")]) if self.type[0] == "<" else 1

    @property
    def element(self) -> str:
        return self.type[self.type.index("x ") + 2 : -1] if self.type[0] == "<" else self.type


Index = int | V


def vector(element: str, lanes: int) -> str:
    """The type of `lanes` elements; one lane is a scalar."""
    return element if lanes == 1 else f"<{lanes} x {element}>"


def float_literal(value: float) -> str:
    """LLVM's exact spelling of a float32 constant: the bits of the equal double."""
    return double_literal(float(np.float32(value)))


def double_literal(value: float) -> str:
    """LLVM's exact spelling of a double constant."""
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


# Instructions that a program may have where nobody says another number: many times what the largest nets take.
MOST_INSTRUCTIONS = 4_000_000


class CodeTooLarge(Exception):
    """A function has more instructions than it may have."""


class Loop:
    """A loop under construction. Assign to `carried` at the end of the body what the next round shall start with;
    after the loop it holds the final values."""

    def __init__(self, index: Index, carried: list[V]) -> None:
        self.index = index
        self.carried = carried


class Function:
    """A function `void name(ptr context, i64 rank, i64 parties, ptr…)` under construction."""

    fma_name = "fma"
    # Whether the processor has instructions between half and float.
    converts_half = False
    # Whether it adds up four products of i8 at a time, and how many i32 lanes of sums of two products of i16 at most.
    dot_int8 = False
    dot_i16 = 0
    attributes = "nounwind noinline"
    exported = False
    # Set when another thread works on the memory behind a pointer.
    may_alias = False

    def __init__(self, name: str, pointers: int, comment: str = "") -> None:
        self.name = name
        self.comment = comment
        self.lines: list[str] = []
        self.locals: dict[str, int] = {}
        self.declarations: dict[str, str] = {}
        self.most = MOST_INSTRUCTIONS
        self._count = 0
        self._block = "entry"
        self.context = V("%context", "ptr")
        self.rank = V("%rank", "i64")
        self.parties = V("%parties", "i64")
        self.pointers = [V(f"%p{number}", "ptr") for number in range(pointers)]

    @property
    def size(self) -> int:
        """How many values and labels it has named so far: the greater part of its instructions."""
        return self._count

    # Text

    def _name(self) -> str:
        self._count += 1
        if self._count > self.most:
            raise CodeTooLarge
        return f"%v{self._count}"

    def emit(self, type: str, text: str) -> V:
        """Append an instruction that gives a value."""
        name = self._name()
        self.lines.append(f"  {name} = {text}")
        return V(name, type)

    def do(self, text: str) -> None:
        """Append an instruction without a value."""
        self.lines.append(f"  {text}")

    def _label(self) -> str:
        self._count += 1
        return f"b{self._count}"

    def _start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self._block = label

    def prototype(self) -> str:
        """The declaration, for a caller in another object file of the same program."""
        return f"declare hidden void @{self.name}({', '.join(['ptr', 'i64', 'i64', *('ptr' for _ in self.pointers)])})"

    def text(self, linkage: str = "") -> str:
        """The whole definition. `linkage` is "internal" (seen in its module), "hidden" (seen in all object files of
        the program) or nothing (exported)."""
        kind = "ptr" if self.may_alias else "ptr noalias"
        arguments = ", ".join(
            ["ptr %context", "i64 %rank", "i64 %parties", *(f"{kind} {p.ref}" for p in self.pointers)]
        )
        head = f"; {self.comment}\ndefine {linkage} void @{self.name}({arguments}) {self.attributes} {{\nentry:"
        places = [f"  %{name} = alloca [{floats} x float], align 64" for name, floats in self.locals.items()]
        return "\n".join([head, *places, *self.lines, "  ret void", "}"])

    # Indices: 64-bit integers, folded while they are constants

    def _integer(self, operation: str, left: Index, right: Index) -> V:
        return self.emit("i64", f"{operation} i64 {ref(left)}, {ref(right)}")

    def add(self, left: Index, right: Index) -> Index:
        if isinstance(left, int) and isinstance(right, int):
            return left + right
        if left == 0:
            return right
        if right == 0:
            return left
        return self._integer("add nsw", left, right)

    def subtract(self, left: Index, right: Index) -> Index:
        if isinstance(left, int) and isinstance(right, int):
            return left - right
        return left if right == 0 else self._integer("sub nsw", left, right)

    def multiply(self, left: Index, right: Index) -> Index:
        if isinstance(left, int) and isinstance(right, int):
            return left * right
        for one, other in ((left, right), (right, left)):
            if one == 0:
                return 0
            if one == 1:
                return other
        return self._integer("mul nsw", left, right)

    def divide(self, left: Index, right: Index) -> Index:
        """Quotient of non-negative integers."""
        if isinstance(left, int) and isinstance(right, int):
            return left // right
        return left if right == 1 else self._integer("udiv", left, right)

    def remainder(self, left: Index, right: Index) -> Index:
        if isinstance(left, int) and isinstance(right, int):
            return left % right
        return 0 if right == 1 else self._integer("urem", left, right)

    def minimum(self, left: Index, right: Index) -> Index:
        if isinstance(left, int) and isinstance(right, int):
            return min(left, right)
        return self.intrinsic("llvm.smin.i64", "i64", V(ref(left), "i64"), V(ref(right), "i64"))

    def maximum(self, left: Index, right: Index) -> Index:
        if isinstance(left, int) and isinstance(right, int):
            return max(left, right)
        return self.intrinsic("llvm.smax.i64", "i64", V(ref(left), "i64"), V(ref(right), "i64"))

    def sum(self, *terms: Index) -> Index:
        total: Index = 0
        for term in sorted(terms, key=lambda term: isinstance(term, V)):
            total = self.add(total, term)
        return total

    def less(self, left: Index, right: Index) -> V:
        return self.emit("i1", f"icmp slt i64 {ref(left)}, {ref(right)}")

    def equal(self, left: Index, right: Index) -> V:
        return self.emit("i1", f"icmp eq i64 {ref(left)}, {ref(right)}")

    # Control

    @contextmanager
    def loop(self, start: Index, stop: Index, step: Index = 1, carried: Sequence[V] = ()) -> Iterator[Loop]:
        """`for index in range(start, stop, step)`, with values carried from round to round in registers."""
        # A range that is known to be empty takes the general form, which tests before the first round.
        static = isinstance(start, int) and isinstance(stop, int) and isinstance(step, int) and start < stop
        if static and stop - start <= step:  # type: ignore[operator]
            once = Loop(start, list(carried))
            yield once
            return
        before, body, leave = self._block, self._label(), self._label()
        head = body if static else self._label()
        self.do(f"br label %{head}")
        self._start(head)
        index = V(self._name(), "i64")
        phis = [V(self._name(), value.type, value.pointee) for value in carried]
        patch = len(self.lines)
        self.lines += [""] * (1 + len(phis))
        if not static:
            self.do(f"br i1 {self.less(index, stop).ref}, label %{body}, label %{leave}")
            self._start(body)
        loop = Loop(index, list(phis))
        yield loop
        following = self.emit("i64", f"add nsw i64 {index.ref}, {ref(step)}")
        latch = self._block
        if static:
            again = self.less(following, stop)
            self.do(f"br i1 {again.ref}, label %{body}, label %{leave}")
        else:
            self.do(f"br label %{head}")
        self.lines[patch] = f"  {index.ref} = phi i64 [{ref(start)}, %{before}], [{following.ref}, %{latch}]"
        for number, (phi, first, last) in enumerate(zip(phis, carried, loop.carried, strict=True)):
            self.lines[patch + 1 + number] = (
                f"  {phi.ref} = phi {phi.type} [{first.ref}, %{before}], [{last.ref}, %{latch}]"
            )
        self._start(leave)
        if not static:
            loop.carried = phis

    @contextmanager
    def when(self, condition: V) -> Iterator[None]:
        """Run the body only if the condition (i1) holds."""
        then, leave = self._label(), self._label()
        self.do(f"br i1 {condition.ref}, label %{then}, label %{leave}")
        self._start(then)
        yield
        self.do(f"br label %{leave}")
        self._start(leave)

    def share(self, total: Index, workers: Index | None = None) -> tuple[Index, Index]:
        """This thread's contiguous part of `total` units of work.

        With `workers` only so many of the threads, the first ones, get a part.
        """
        first, last = self.portion(total, self.rank, self.parties if workers is None else workers)
        return first, last if workers is None else self.minimum(last, total)

    def portion(self, total: Index, number: Index, parts: Index) -> tuple[Index, Index]:
        """The contiguous range of `total` units that belongs to one of `parts` parts, all nearly equal."""
        first, last = (self.divide(self.multiply(total, self.add(number, end)), parts) for end in (0, 1))
        return first, last

    # Memory

    def address(self, pointer: V, index: Index, element: str | None = None) -> V:
        """The address of the element at `index`, as the pointer counts them unless an element type is named."""
        if index == 0:
            return pointer
        kind = memory_type(pointer.pointee) if element is None else element
        place = self.emit("ptr", f"getelementptr {kind}, ptr {pointer.ref}, i64 {ref(index)}")
        return place if pointer.pointee == "float" else V(place.ref, place.type, pointer.pointee)

    def local(self, name: str, floats: int) -> V:
        """Memory of this thread alone, which holds nothing from one use of it to the next; the same for equal names."""
        self.locals[name] = max(floats, self.locals.get(name, 0))
        return V(f"%{name}", "ptr")

    def load(self, pointer: V, lanes: int = 1, element: str | None = None) -> V:
        """What lies at an address: of what it points to, as float, or of the element type that is named."""
        kind = memory_type(pointer.pointee) if element is None else element
        type = vector(kind, lanes)
        value = self.emit(type, f"load {type}, ptr {pointer.ref}, align {ALIGN[kind]}")
        return widened(self, value, pointer.pointee) if element is None else value

    def store(self, value: V, pointer: V) -> None:
        """A float is rounded to what the address points to; everything else is stored as it is."""
        if value.element == "float":
            value = rounded(self, value, pointer.pointee)
        self.do(f"store {value.type} {value.ref}, ptr {pointer.ref}, align {ALIGN[value.element]}")

    def prefetch(self, pointer: V, level: int = 2) -> None:
        """Have the cache line that holds an address brought to the cache of this level (1 to 3), while work goes on.

        Any address will do: one that nobody may read is not fetched.
        """
        self.declarations["llvm.prefetch.p0"] = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
        self.do(f"call void @llvm.prefetch.p0(ptr {pointer.ref}, i32 0, i32 {4 - level}, i32 1)")

    # Arithmetic on scalars and vectors

    def constant(self, value: float, lanes: int = 1) -> V:
        literal = float_literal(value)
        return V(literal, "float") if lanes == 1 else V(f"splat (float {literal})", vector("float", lanes))

    def integers(self, values: Sequence[int], element: str = "i32") -> V:
        """A constant vector of integers; a single one is a scalar."""
        if len(values) == 1:
            return V(str(int(values[0])), element)
        return V("<" + ", ".join(f"{element} {int(value)}" for value in values) + ">", vector(element, len(values)))

    def splat(self, value: V, lanes: int) -> V:
        """The scalar in every lane."""
        if lanes == 1 or value.lanes == lanes:
            return value
        type = vector(value.type, lanes)
        single = self.emit(type, f"insertelement {type} poison, {value.type} {value.ref}, i32 0")
        return self.emit(type, f"shufflevector {type} {single.ref}, {type} poison, <{lanes} x i32> zeroinitializer")

    def binary(self, operation: str, left: V, right: V) -> V:
        return self.emit(left.type, f"{operation} {left.type} {left.ref}, {right.ref}")

    def compare(self, predicate: str, left: V, right: V) -> V:
        kind = "fcmp" if left.element == "float" else "icmp"
        return self.emit(vector("i1", left.lanes), f"{kind} {predicate} {left.type} {left.ref}, {right.ref}")

    def select(self, condition: V, yes: V, no: V) -> V:
        chosen = f"select {condition.type} {condition.ref}, {yes.type} {yes.ref}, {no.type} {no.ref}"
        return V(self.emit(yes.type, chosen).ref, yes.type, yes.pointee)

    def invert(self, condition: V) -> V:
        """Not."""
        return self.emit(condition.type, f"xor {condition.type} {condition.ref}, true")

    def convert(self, operation: str, value: V, element: str) -> V:
        """A cast instruction such as sitofp, bitcast, zext."""
        type = vector(element, value.lanes)
        return self.emit(type, f"{operation} {value.type} {value.ref} to {type}")

    def bits(self, value: V, element: str) -> V:
        """The same bits as elements of another type."""
        bits = {"i8": 8, "i16": 16, "bfloat": 16, "half": 16, "i32": 32, "float": 32}
        type = vector(element, value.lanes * bits[value.element] // bits[element])
        return self.emit(type, f"bitcast {value.type} {value.ref} to {type}")

    def negate(self, value: V) -> V:
        return self.emit(value.type, f"fneg {value.type} {value.ref}")

    def call(self, name: str, *operands: V) -> None:
        """Call a function for its effects."""
        self.declarations[name] = f"declare void @{name}({', '.join(value.type for value in operands)})"
        self.do(f"call void @{name}({', '.join(f'{value.type} {value.ref}' for value in operands)})")

    def intrinsic(self, name: str, type: str, *operands: V) -> V:
        """Call a function without side effects, such as `llvm.sqrt.v16f32`."""
        self.declarations[name] = f"declare {type} @{name}({', '.join(value.type for value in operands)})"
        return self.emit(type, f"call {type} @{name}({', '.join(f'{value.type} {value.ref}' for value in operands)})")

    def unary(self, name: str, value: V) -> V:
        """An LLVM intrinsic of one float operand: sqrt, fabs, floor, …"""
        return self.intrinsic(f"llvm.{name}.{suffix(value)}", value.type, value)

    def fma(self, left: V, right: V, addend: V) -> V:
        """left·right + addend, rounded once where the machine can; elsewhere `fma_name` says how."""
        name = f"llvm.{self.fma_name}.{suffix(addend)}"
        return self.intrinsic(name, addend.type, left, right, addend)

    def dot_pairs(self, left: V, right: V, addend: V) -> V:
        """addend + the two products of each pair of neighbours, of twice as many bfloat numbers as there are sums. For
        processors that have an instruction for it, and 4, 8 or 16 sums."""
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * addend.lanes}"
        return self.intrinsic(name, addend.type, addend, left, right)

    def dot_quads(self, left: V, right: V, addend: V) -> V:
        """addend + the four products of each unsigned i8 of `left` with the signed one of `right`, of i32 lanes that
        hold four of either. The sums are exact, whatever instructions a processor has for them."""
        lanes = addend.lanes
        if self.dot_int8 and lanes >= 4:
            name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
            return self.intrinsic(name, addend.type, addend, self.bits(left, "i8"), self.bits(right, "i8"))
        total = addend
        for start in (0, 8):
            # Every second of the four, as two numbers of 16 bits.
            mask = self.integers([0xFF00FF] * lanes)
            unsigned = self.binary("and", self.binary("lshr", left, self.integers([start] * lanes)), mask)
            halves = self.bits(right, "i16")
            if not start:
                halves = self.binary("shl", halves, self.integers([8] * halves.lanes, "i16"))
            signed = self.binary("ashr", halves, self.integers([8] * halves.lanes, "i16"))
            total = self.binary("add", total, self._dot_i16(self.bits(unsigned, "i16"), signed))
        return total

    def _dot_i16(self, left: V, right: V) -> V:
        """The two products of each pair of neighbours, added up, as i32."""
        lanes = left.lanes // 2
        name = _DOT_I16.get(lanes) if self.dot_i16 >= lanes else None
        if name is not None:
            return self.intrinsic(name, vector("i32", lanes), left, right)
        products = self.binary("mul", self.convert("sext", left, "i32"), self.convert("sext", right, "i32"))
        if lanes == 1:
            return self.binary("add", self.extract(products, 0), self.extract(products, 1))
        evens, odds = (self.shuffle(products, products, range(first, 2 * lanes, 2)) for first in (0, 1))
        return self.binary("add", evens, odds)

    def shuffle(self, left: V, right: V, mask: Sequence[int]) -> V:
        type = vector(left.element, len(mask))
        lanes = ", ".join(f"i32 {lane}" for lane in mask)
        return self.emit(
            type, f"shufflevector {left.type} {left.ref}, {left.type} {right.ref}, <{len(mask)} x i32> <{lanes}>"
        )

    def interleave(self, first: V, second: V) -> V:
        """The lanes of two vectors by turns."""
        return self.shuffle(first, second, [n + which for n in range(first.lanes) for which in (0, first.lanes)])

    def extract(self, value: V, lane: int) -> V:
        if value.lanes == 1:
            return value
        return self.emit(value.element, f"extractelement {value.type} {value.ref}, i32 {lane}")

    def total(self, value: V) -> V:
        """The sum of the lanes, as a tree: the same bits at every call."""
        while value.lanes > 2:
            half = value.lanes // 2
            low, high = (self.shuffle(value, value, range(part, part + half)) for part in (0, half))
            value = self.binary("fadd", low, high)
        return value if value.lanes == 1 else self.binary("fadd", self.extract(value, 0), self.extract(value, 1))


def module_text(functions: Sequence[Function], linkage: str) -> str:
    """LLVM IR of a module: functions, and declarations of what they call and the module does not define.

    `linkage` is that of all functions but exported ones.
    """
    declarations: dict[str, str] = {}
    for function in functions:
        declarations |= function.declarations
    for function in functions:
        declarations.pop(function.name, None)
    texts = [function.text("" if function.exported else linkage) for function in functions]
    return "\n".join([*sorted(declarations.values()), *texts])


# Instructions of x86 by the number of their sums.
_DOT_I16 = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
LINE_BYTES = 64  # of a cache
ALIGN = {"float": 4, "i32": 4, "i64": 8, "ptr": 8, "double": 8, "i8": 1, "half": 2, "bfloat": 2, "i16": 2}


def ref(value: Index) -> str:
    return str(value) if isinstance(value, int) else value.ref


def suffix(value: V) -> str:
    """How intrinsics name the type of a value: v16f32, f32, f64, v8i32."""
    kind = {"float": "f32", "double": "f64", "i32": "i32", "i64": "i64"}[value.element]
    return kind if value.lanes == 1 else f"v{value.lanes}{kind}"
