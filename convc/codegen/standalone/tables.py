"""The generated half of a standalone model in C: numbers, layouts and places, and the file of numbers that goes inside.

    static const struct tier tiers[] = {{"avx2", "avx2", 1, step_avx2, …}, {"baseline", "baseline", 0, …}};

Tiers plan for themselves: layouts, places and even algorithms differ. What they share are the parameters in their
logical order, which runtime.c packs for the tier that it has chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType

import numpy as np

from convc.codegen.llvm import kernel
from convc.codegen.llvm.spmd import CONTROL_BLOCK
from convc.codegen.standalone.interface import Duration, Interface, LearningRate, is_state
from convc.ir.graph import Parameter, Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.loss_scaling import LEAST_SCALE
from convc.ir.ops.quantize import stored_weights
from convc.ir.rounding import stored
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.fusion import is_immediate, resolve
from convc.passes.layout import ImageLayout, Layout, PlanarLayout, ScalarLayout, VectorLayout, WeightLayout, pack
from convc.passes.machine import Variant
from convc.passes.plan import Plan
from convc.passes.sections import ACCUMULATOR, BATCH, EVERYTHING, Section
from convc.passes.training import LOSS_SCALE, PATIENCE, SKIPPED_UPDATES

_WORDS = (
    "CONTROL", "SECTIONS", "ROWS", "ARENA", "PERSISTENT", "INPUT", "LABELS", "SEED", "STEP", "RATE", "FIRST", "LAST",
    "SEEN",
)  # fmt: skip
# The numbers of the tiers in `processor_runs`.
LEVELS: Mapping[Variant, int] = {"baseline": 0, "avx2": 1, "avx512": 2, "avx512vnni": 3, "avx512bf16": 4}
_REGIONS = {"persistent": "IN_PERSISTENT", "arena": "IN_ARENA", "input": "IN_INPUT"}

_TYPES = """typedef void step_function(void *context, int64_t rank, int64_t parties);

#include "layouts.c"
enum { TYPE_F32, TYPE_F16, TYPE_BF16, TYPE_QW8 };
enum region { IN_PERSISTENT, IN_ARENA, IN_INPUT };
struct place {
    enum region region;
    int64_t offset;
    struct layout layout;
};
struct number {
    int constant;
    float value;
    struct place place;
};
struct constant {
    int64_t offset, data, bytes;
};
struct parameter {
    const char *name;
    int rank, needed;
    const int64_t *shape;
    int64_t size, data;
    int type; /* of the numbers in the library */
    float first; /* what a state begins with */
    int accumulates;
};
struct tier {
    const char *name, *tier; /* a variant of a tier has a name of its own */
    int level;
    step_function *step;
    int64_t arena_bytes, persistent_bytes;
    int prepares;
    const struct place *parameters;
    const struct constant *constants;
    int64_t constant_count;
    struct place output;
    struct number loss, correct;
};"""


@dataclass
class _Data:
    """The file that the library carries: arrays one after the other, each at a multiple of 64 bytes."""

    parts: list[bytes] = field(default_factory=list[bytes])
    size: int = 0

    def add(self, array: np.ndarray, dtype: DType = DType.F32) -> int:
        """Append numbers of a type; returns where they begin."""
        content = stored_weights(array) if dtype is DType.QW8 else stored(array, dtype).tobytes()
        content += bytes(-len(content) % 64)
        self.parts.append(content)
        self.size += len(content)
        return self.size - len(content)


def model_source(
    interface: Interface,
    plans: Mapping[Variant, Plan],
    weights: Mapping[str, np.ndarray],
    header: str,
    halves: Mapping[str, DType] = MappingProxyType({}),
) -> tuple[str, bytes]:
    """The text of model.c, and the content of its data.bin. `header` is the name under which it includes its header,
    `halves` the types of the weights that the library holds in 16 or 8 bits."""
    data = _Data()
    inside = (
        {name: data.add(array, halves.get(name, DType.F32)) for name, array in weights.items()}
        if interface.inside
        else {}
    )
    lines = [
        *_definitions(interface),
        # Everything else is hidden.
        "#pragma GCC visibility push(default)",
        f'#include "{header}"',
        "#pragma GCC visibility pop",
        _TYPES,
        *(schedule_table(interface.rate) if interface.rate is not None else []),
        *(f"extern step_function {step_name(tier)};" for tier in plans),
        *_parameters(interface.parameters, inside, halves),
        *(line for tier, plan in plans.items() for line in _places(interface, tier, plan, data)),
        "static const struct tier tiers[] = {",
        *(f"    {_tier(tier, plan)}," for tier, plan in plans.items()),
        "};",
        _DATA,
        '#include "runtime.c"',
        "",
    ]
    return "\n".join(lines), b"".join(data.parts) or bytes(64)


# The assembler takes the numbers as they are; as an array in C they would take the compiler minutes.
_DATA = """__asm__(".section .rodata\\n.balign 64\\nconvc_data: .incbin \\"data.bin\\"\\n.previous\\n");
extern const unsigned char convc_data[] __attribute__((visibility("hidden")));"""


def step_name(tier: Variant) -> str:
    """The symbol of a tier's step."""
    return f"convc_step_{tier}"


def _definitions(interface: Interface) -> list[str]:
    words = {f"WORD_{name}": getattr(kernel, name) for name in _WORDS}
    control = {f"CONTROL_{name}": value for name, value in CONTROL_BLOCK.items()}
    numbers = {
        "CONTEXT_WORDS": kernel.WORDS,
        **words,
        **control,
        "SECTION_FORWARD": int(Section.FORWARD),
        "SECTION_PREPARE": int(Section.PREPARE),
        "SECTIONS_BATCH": int(BATCH),
        "SECTIONS_EVERYTHING": int(EVERYTHING),
        "BATCH": interface.batch,
        "OUTPUT_SIZE": math.prod(interface.output),
        "PARAMETERS": len(interface.parameters),
        "WEIGHTS_INSIDE": int(interface.inside),
        "TRAINS": int(interface.trains),
    }
    if interface.trains:
        assert interface.labels is not None
        numbers |= {
            "CLASSES": interface.output[0],
            "LABEL_SIZE": math.prod(interface.labels),
            "LABELS_ARE_CLASSES": int(not interface.targets),
            "ACCUMULATE": interface.accumulate,
            "SCALED": int(interface.scaling is not None),
        }
    if interface.scaling is not None:
        names = list(interface.parameters)
        numbers |= {
            "LOSS_SCALE": names.index(LOSS_SCALE),
            "SKIPPED_UPDATES": names.index(SKIPPED_UPDATES),
            "SCALE_IS_DYNAMIC": int(interface.scaling.dynamic),
            "LEAST_SCALE": c_float(LEAST_SCALE),
            "PATIENCE": PATIENCE,
        }
    return [
        "/* Generated: the tables of a standalone model. */",
        "#define _GNU_SOURCE",
        "#include <math.h>",
        "#include <stdint.h>",
        f"#define API(name) {interface.prefix}_##name",
        f"#define MODEL {interface.prefix}_model",
        f'#define TIER_NAMES "{", ".join(interface.tiers)}"',
        *(f"#define {name} {value}" for name, value in numbers.items()),
        *(
            [f"#define LABEL {label_type(interface)}", f"#define SEED INT64_C({interface.seed})"]
            if interface.trains
            else []
        ),
    ]


_SCHEDULE = """struct duration {
    double value;
    int in_epochs; /* or in steps */
};
struct segment {
    double rate;
    struct duration duration;
    int ends;
};
struct schedule {
    int kind;
    double base, gamma, power, floor, maximum, epochs;
    struct duration every, warmup;
    int segment_count;
    struct segment segments[SEGMENTS];
};"""
_KINDS = ("constant", "rates", "step", "cosine", "poly", "onecycle", "plateau")


def schedule_table(rate: LearningRate) -> list[str]:
    """The numbers that schedule.c reads, as lines of C."""
    segments = [
        f"{{{float(value)!r}, {_duration(length or Duration(0, True))}, {int(length is not None)}}}"
        for value, length in rate.segments
    ]
    fields = [
        f"KIND_{rate.kind.upper()}",
        *(repr(float(number)) for number in (rate.base, rate.gamma, rate.power, rate.floor, rate.maximum)),
        f"{max(1, rate.epochs)}",
        _duration(rate.every),
        _duration(rate.warmup),
        str(len(segments)),
        f"{{{', '.join(segments) or '{0}'}}}",
    ]
    return [
        f"enum {{ {', '.join(f'KIND_{kind.upper()}' for kind in _KINDS)} }};",
        f"#define SEGMENTS {max(1, len(segments))}",
        _SCHEDULE,
        f"static const struct schedule schedule = {{{', '.join(fields)}}};",
    ]


def _duration(duration: Duration) -> str:
    return f"{{{float(duration.value)!r}, {int(duration.epochs)}}}"


def label_type(interface: Interface) -> str:
    """The C type of a label."""
    return "float" if interface.targets else "int32_t"


def _parameters(
    parameters: Mapping[str, Parameter], inside: Mapping[str, int], halves: Mapping[str, DType]
) -> list[str]:
    lines: list[str] = []
    rows: list[str] = []
    for number, (name, parameter) in enumerate(parameters.items()):
        shape = parameter.value.shape
        # A scalar has no axes, and C no empty arrays.
        lines.append(f"static const int64_t shape_{number}[] = {{{', '.join(map(str, shape or (1,)))}}};")
        needed, place = int(not is_state(parameter)), inside.get(name, -1)
        kind = f"TYPE_{halves.get(name, DType.F32).name}"
        first = c_float(parameter.initial.value if is_state(parameter) else 0.0)
        fields = f"{c_text(name)}, {len(shape)}, {needed}, shape_{number}, {math.prod(shape)}, {place}, {kind}"
        rows.append(f"    {{{fields}, {first}, {int(parameter.role == ACCUMULATOR)}}},")
    # One more, so that a model without parameters has a table.
    return [*lines, "static const struct parameter parameters[] = {", *rows, "    {0}};"]


def _places(interface: Interface, tier: Variant, plan: Plan, data: _Data) -> list[str]:
    """The places of parameters and constants, and the values of these, in their layout."""
    places = [f"    {_place(plan, plan.graph.parameters[name].value)}," for name in interface.parameters]
    constants: list[str] = []
    for node in plan.graph.nodes_of(Constant):
        if is_immediate(node.result):
            continue
        slot, layout = plan.memory.slots[resolve(node.result)], plan.layouts[node.result]
        assert slot.region == "persistent", "constants outlive a run"
        array = np.asarray(node.op.reference())
        rows = [pack(layout, row) for row in array] if node.result in plan.batched else [pack(layout, array)]
        numbers = np.concatenate(rows)
        constants.append(f"    {{{slot.offset}, {data.add(numbers)}, {numbers.nbytes}}},")
    return [
        f"static const struct place places_{tier}[] = {{",
        *places,
        "    {0}};",
        f"static const struct constant constants_{tier}[] = {{",
        *constants,
        "    {0}};",
    ]


def _tier(tier: Variant, plan: Plan) -> str:
    memory, outputs = plan.memory, plan.graph.outputs
    prepares = any(kernel.section is Section.PREPARE for kernel in plan.kernels)
    constants = sum(not is_immediate(node.result) for node in plan.graph.nodes_of(Constant))
    fields = [
        c_text(tier),
        c_text(plan.machine.name),
        LEVELS[tier],
        step_name(tier),
        memory.arena_bytes,
        memory.persistent_bytes,
        int(prepares),
        f"places_{tier}",
        f"constants_{tier}",
        constants,
        _place(plan, outputs["logits"]),
        *(_number(plan, outputs.get(name)) for name in ("loss", "correct")),
    ]
    return f"{{{', '.join(map(str, fields))}}}"


def _number(plan: Plan, value: Value | None) -> str:
    if value is None:
        return "{1, NAN, {0}}"
    if is_immediate(value):
        assert value.producer is not None
        return f"{{1, {c_float(float(np.asarray(value.producer.op.reference())))}, {{0}}}}"
    return f"{{0, 0, {_place(plan, value)}}}"


def _place(plan: Plan, value: Value) -> str:
    slot = plan.memory.slots[resolve(value)]
    return f"{{{_REGIONS[slot.region]}, {slot.offset}, {layout_fields(plan.layouts[resolve(value)])}}}"


def layout_fields(layout: Layout) -> str:
    """A layout as the fields of `struct layout`."""
    if isinstance(layout, WeightLayout):
        rows = layout.rows
        weights = (layout.outputs, layout.groups, layout.columns, layout.block)
        return _fields(rows.channels, rows.pixels, rows.stored, *weights)
    if isinstance(layout, ImageLayout):
        return _fields(layout.channels, layout.pixels, layout.stored)
    if isinstance(layout, VectorLayout):
        return _fields(layout.channels, 1, layout.size)
    assert isinstance(layout, (PlanarLayout, ScalarLayout)), f"a layout that runtime.c does not know: {layout}"
    return _fields(layout.size, 1, layout.size)


def _fields(*numbers: int) -> str:
    return f"{{{', '.join(map(str, numbers))}}}"


def c_text(text: str) -> str:
    """A string literal of C: bytes of UTF-8, with everything but plain characters as octal escapes."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{plain}"'


def c_float(value: float) -> str:
    """A constant of type float with all digits."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{float(np.float32(value))!r}f"
