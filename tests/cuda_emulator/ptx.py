"""PTX text to instructions: syntax only; what they mean is in `lanewise` and `lowering`.

    @!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd4+8];

becomes `Instruction(opcode="ld.global.v2.f32", operands=(Vector(...), Address("%rd4", 8)), guard="%p1", negated=True)`.
Scopes, `{ .reg .b32 t; ... }` of inline assembly, are resolved: names that they declare are made unique.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.cuda_emulator.faults import EmulationError


@dataclass(frozen=True)
class Register:
    name: str


@dataclass(frozen=True)
class Literal:
    """A number as it is written; its type is that of the instruction."""

    text: str


@dataclass(frozen=True)
class Symbol:
    """A variable or a label."""

    name: str


@dataclass(frozen=True)
class Address:
    """`[base + offset]`; the base is the name of a register or a variable, or empty for an absolute address."""

    base: Register | Symbol | None
    offset: int


@dataclass(frozen=True)
class Vector:
    """`{a, b}`, and `a|b` of shuffles and comparisons."""

    parts: tuple[Operand, ...]


@dataclass(frozen=True)
class Negated:
    """`!%p`."""

    register: Register


Operand = Register | Literal | Symbol | Address | Vector | Negated


@dataclass(frozen=True)
class Place:
    """Where an instruction stands: line of the PTX, its text, and the line of the source where `.loc` tells."""

    line: int
    text: str
    source: str = ""

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" + (f"    # {self.source}" if self.source else "")


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple[Operand, ...]
    place: Place
    guard: str | None = None
    negated: bool = False

    @property
    def parts(self) -> list[str]:
        return self.opcode.split(".")


@dataclass(frozen=True)
class Variable:
    """A variable in a state space. `bytes` is None where the launch decides (`extern __shared__`)."""

    name: str
    space: str
    alignment: int
    bytes: int | None
    initial: bytes = b""


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    alignment: int
    bytes: int
    offset: int


@dataclass
class Kernel:
    name: str
    parameters: list[Parameter] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    target_lists: dict[str, list[str]] = field(default_factory=dict)
    max_threads: int | None = None

    @property
    def parameter_bytes(self) -> int:
        return max((p.offset + p.bytes for p in self.parameters), default=0)


@dataclass
class Text:
    """A module: what stands in one PTX text."""

    target: str
    kernels: dict[str, Kernel]
    variables: list[Variable]


BYTES = {"8": 1, "16": 2, "32": 4, "64": 8, "128": 16}


def size_of(type_name: str) -> int:
    """Bytes of a type such as `f32` or `b16x2`."""
    found = re.fullmatch(r"[a-z]+?(\d+)(x2)?", type_name)
    if not found:
        raise EmulationError(f"no size of type .{type_name}")
    return BYTES[found[1]] * (2 if found[2] else 1)


def split(text: str, separator: str = ",") -> list[str]:
    """Parts between separators that stand in no bracket."""
    parts: list[str] = []
    depth = start = 0
    for position, character in enumerate(text):
        if character in "[{(":
            depth += 1
        elif character in ")}]":
            depth -= 1
        elif character == separator and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


@dataclass(frozen=True)
class _Statement:
    """Up to a `;`, a `:` behind a label, or a brace that opens or closes a scope."""

    text: str
    line: int
    source: str = ""
    has_body: bool = False


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LINE_DIRECTIVE = re.compile(r"\s*\.(loc|file)\s+(\d+)\s+(.*)")
_LABEL = re.compile(r"\s*([\w$%]+)\s*:(?!:)")
_NUMBER = re.compile(
    r"-?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?|0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|-?\d*\.\d+(e[-+]?\d+)?"
)


def _statements(text: str) -> Iterator[_Statement]:
    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text)
    files: dict[str, str] = dict(re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text))
    source = ""
    current, first, depth = "", 0, 0
    for number, line in enumerate(text.split("\n"), 1):
        directive = _LINE_DIRECTIVE.match(line)
        if directive:
            if directive[1] == "loc":
                source = f"{files.get(directive[2], '?').rsplit('/', 1)[-1]}:{directive[3].split()[0]}"
            continue
        position = 0
        while position < len(line):
            character = line[position]
            label = _LABEL.match(line, position) if not current.strip() else None
            if label:
                yield _Statement(label[1] + ":", number, source)
                position = label.end()
                continue
            position += 1
            if not current.strip():
                first = number
            if character == "{" and depth == 0 and (not current.strip() or _opens_body(current)):
                if current.strip():
                    yield _Statement(" ".join(current.split()), first, source, has_body=True)
                yield _Statement("{", number, source)
                current = ""
            elif character == "}" and depth == 0:
                yield _Statement("}", number, source)
                current = ""
            elif character == ";" and depth == 0:
                if current.strip():
                    yield _Statement(" ".join(current.split()), first, source)
                current = ""
            else:
                depth += (character in "({[") - (character in ")}]")
                current += character
        current += " "
        header = current.strip()
        if depth == 0 and re.fullmatch(r"\.(version|target|address_size)\s.*", header):
            yield _Statement(header, first, source)
            current = ""
    if current.strip():
        raise EmulationError(f"line {first}: cannot read {current.strip()[:80]!r}")


def _opens_body(before: str) -> bool:
    return bool(re.match(r"\s*(\.(visible|weak)\s+)?\.(entry|func|section)\b", before))


def parse(text: str) -> Text:
    """Error: `EmulationError` for text that is no PTX."""
    found = Text("", {}, [])
    statements = _statements(text)
    for statement in statements:
        words = statement.text
        if words.startswith(".target"):
            found.target = words.split()[1].rstrip(",")
        elif match := re.match(r"(?:\.visible |\.weak )*\.entry (\w+)\s*(?:\((.*?)\))?(.*)", words):
            found.kernels[match[1]] = _kernel(match[1], match[2] or "", match[3], statements)
        elif re.match(r"\.section\b|(?:\.visible |\.weak |\.extern )*\.func\b", words):
            if statement.has_body:  # what is called is not emulated, and a call raises
                _skip_body(statements)
        elif variable := _variable(words):
            found.variables.append(variable)
        elif not re.match(r"\.(version|address_size|pragma)\b|[{}]", words):
            raise EmulationError(f"line {statement.line}: cannot read {words!r}")
    return found


def _skip_body(statements: Iterator[_Statement]) -> None:
    depth = 0
    for statement in statements:
        depth += (statement.text == "{") - (statement.text == "}")
        if depth == 0:
            return


def _parameters(text: str) -> list[Parameter]:
    found: list[Parameter] = []
    offset = 0
    for declaration in split(text):
        match = re.fullmatch(
            r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr(?:\s*\.\w+)*?(?:\s*\.align\s+\d+)?\s+)?([\w$]+)(?:\[(\d+)\])?",
            declaration,
        )
        if not match:
            raise EmulationError(f"cannot read the parameter {declaration!r}")
        size = size_of(match[2])
        alignment = max(int(match[1] or 1), size)
        offset = -(-offset // alignment) * alignment
        found.append(Parameter(match[3], match[2], alignment, size * int(match[4] or 1), offset))
        offset += found[-1].bytes
    return found


def _variable(words: str) -> Variable | None:
    match = re.match(
        r"(?:\.(?:visible|weak|extern|common) )*\.(shared|local|global|const)(?: \.align (\d+))? \.(\w+) ([\w$]+)"
        r"((?:\[\d*\])*)(?: = (.*))?$",
        words,
    )
    if not match:
        return None
    space, alignment, type_name, name, dimensions, initial = match.groups()
    size = size_of(type_name)
    counts = re.findall(r"\[(\d*)\]", dimensions)
    total: int | None = size
    for count in counts:
        total = total * int(count) if total is not None and count else None
    data = b""
    if initial:
        for number in split(initial.strip().strip("{}").replace("{", "").replace("}", "")):
            data += _constant_bytes(number, size)
    return Variable(name, space, int(alignment or size), total, data)


def _constant_bytes(text: str, size: int) -> bytes:
    if not _NUMBER.fullmatch(text):
        raise EmulationError(f"an initial value that is no number: {text}")
    if text[:2] in ("0f", "0F", "0d", "0D"):
        return int(text[2:], 16).to_bytes(size, "little")
    return (int(text.rstrip("U"), 0) & (1 << 8 * size) - 1).to_bytes(size, "little")


class _Scopes:
    """Names of registers and labels; an inner declaration hides an outer one."""

    def __init__(self) -> None:
        self._stack: list[dict[str, str]] = []
        self._made = 0

    def enter(self) -> None:
        self._stack.append({})

    def leave(self) -> int:
        self._stack.pop()
        return len(self._stack)

    def declare(self, name: str) -> str:
        unique = name
        if len(self._stack) > 1:
            self._made += 1
            unique = f"{name}@{self._made}"
        self._stack[-1][name] = unique
        return unique

    def resolve(self, name: str) -> str | None:
        return next((scope[name] for scope in reversed(self._stack) if name in scope), None)


def _kernel(name: str, parameters: str, directives: str, statements: Iterator[_Statement]) -> Kernel:
    kernel = Kernel(name, _parameters(parameters))
    if match := re.search(r"\.(?:maxntid|reqntid) ([\d, ]+)", directives):
        kernel.max_threads = 1
        for extent in match[1].split(","):
            kernel.max_threads *= int(extent)
    scopes = _Scopes()
    for statement in statements:
        words = statement.text
        place = Place(statement.line, words, statement.source)
        if words == "{":
            scopes.enter()
        elif words == "}":
            if scopes.leave() == 0:
                return kernel
        elif match := re.match(r"\.reg ?\.(\w+) (.*)", words):
            for declared in split(match[2]):
                for register in _declared(declared):
                    kernel.registers[scopes.declare(register)] = match[1]
        elif match := re.fullmatch(r"([\w$]+): ?\.branchtargets (.*)", words):
            kernel.target_lists[match[1]] = split(match[2])
        elif words.startswith(".branchtargets"):
            kernel.target_lists[next(reversed(kernel.labels))] = split(words.split(None, 1)[1])
        elif words.endswith(":"):
            if words[:-1] in kernel.labels:
                raise EmulationError(f"{place}: a second label of this name; labels in scopes are not told apart")
            kernel.labels[words[:-1]] = len(kernel.instructions)
        elif words.startswith("."):
            if variable := _variable(words):
                kernel.variables.append(variable)
            elif not re.match(r"\.(pragma|loc|param)\b", words):  # .param: of a call, which no table knows
                raise EmulationError(f"{place}: cannot read this")
        else:
            kernel.instructions.append(_instruction(words, place, scopes))
    raise EmulationError(f"the body of {name} does not end")


def _declared(text: str) -> list[str]:
    match = re.fullmatch(r"([\w$%]+)<(\d+)>", text)
    return [f"{match[1]}{k}" for k in range(int(match[2]))] if match else [text]


def _instruction(words: str, place: Place, scopes: _Scopes) -> Instruction:
    match = re.fullmatch(r"(?:@(!?)([\w%$]+) )?([\w.:]+)(?: (.*))?", words)
    if not match:
        raise EmulationError(f"{place}: cannot read this")
    negated, guard, opcode, rest = match.groups()
    return Instruction(
        opcode.replace("::", "_"),
        tuple(_operand(part, place, scopes) for part in split(rest or "")),
        place,
        None if guard is None else scopes.resolve(guard) or guard,
        bool(negated),
    )


def _operand(text: str, place: Place, scopes: _Scopes) -> Operand:
    if text[0] + text[-1] in ("{}", "()"):
        return Vector(tuple(_operand(part, place, scopes) for part in split(text[1:-1])))
    if text.startswith("[") and text.endswith("]"):
        return _address(text[1:-1].strip(), place, scopes)
    if text.startswith("!"):
        return Negated(Register(scopes.resolve(text[1:].strip()) or text[1:].strip()))
    if "|" in text:
        return Vector(tuple(_operand(part, place, scopes) for part in split(text, "|")))
    resolved = scopes.resolve(text)
    if resolved:
        return Register(resolved)
    if _NUMBER.fullmatch(text):
        return Literal(text)
    if text.startswith("%") or text in ("_", "WARP_SZ"):
        return Register(text)
    if re.fullmatch(r"[\w$]+", text):
        return Symbol(text)
    raise EmulationError(f"{place}: cannot read the operand {text!r}")


def _address(text: str, place: Place, scopes: _Scopes) -> Address:
    match = re.fullmatch(r"([\w$%]+)\s*(?:([+-])\s*(-?(?:0x)?[0-9a-fA-F]+))?", text)
    if not match:
        raise EmulationError(f"{place}: cannot read the address {text!r}")
    offset = int(match[3] or "0", 0) * (-1 if match[2] == "-" else 1)
    base = _operand(match[1], place, scopes)
    if isinstance(base, Literal):
        return Address(None, int(base.text, 0) + offset)
    if not isinstance(base, Register | Symbol):
        raise EmulationError(f"{place}: cannot read the address {text!r}")
    return Address(base, offset)
