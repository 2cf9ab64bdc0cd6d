"""From a plan to one LLVM module: the table of lowerings, and the step that calls their phases in order.

    void step(ptr context, i64 rank, i64 parties)

runs on all threads. Each phase is guarded by the sections and the range of phases that the caller asks for; a barrier
stands before a phase only if it touches memory that an earlier one, since the last barrier, has written (or read, if
it writes). Phases of kernels with the same signature are generated once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convc.codegen.llvm.classification import (
    lower_count_correct,
    lower_maxout,
    lower_maxout_backward,
    lower_softmax,
    lower_softmax_backward,
    lower_softmax_cross_entropy,
    lower_softmax_cross_entropy_backward,
    scratch_per_pixel,
)
from convc.codegen.llvm.direct import lower_conv2d, lower_conv2d_backward_data, scratch_backward_data
from convc.codegen.llvm.kernel import CONTROL, FIRST, LAST, REGION_WORDS, SECTIONS, KernelBuilder, context_word
from convc.codegen.llvm.linear import (
    lower_linear,
    lower_linear_backward_data,
    lower_linear_backward_weights,
    scratch_linear_backward_data,
)
from convc.codegen.llvm.normalization import (
    lower_batch_norm_backward,
    lower_batch_norm_training,
    scratch_batch_norm,
)
from convc.codegen.llvm.pooling import lower_pool, lower_pool_backward, scratch_pool_backward
from convc.codegen.llvm.sweeps import (
    lower_channel_sum,
    lower_elementwise,
    lower_relayout,
    lower_sum,
    lower_update,
    scratch_channel_sum,
)
from convc.codegen.llvm.vocabulary import Function, V
from convc.codegen.llvm.weight_gradient import lower_conv2d_backward_weights, scratch_backward_weights
from convc.ir import ops
from convc.ir.op import Op
from convc.passes.fusion import Kernel, is_elementwise
from convc.passes.memory import MemoryPlan, Slot
from convc.passes.plan import Plan


@dataclass(frozen=True)
class Lowering:
    """How an op becomes phases, and how many bytes of scratch space they share."""

    emit: Callable[[KernelBuilder], None]
    scratch: Callable[[KernelBuilder], int] = lambda k: 0


LOWERINGS: dict[type[Op], Lowering] = {
    ops.Conv2d: Lowering(lower_conv2d),
    ops.Conv2dBackwardData: Lowering(lower_conv2d_backward_data, scratch_backward_data),
    ops.Conv2dBackwardWeights: Lowering(lower_conv2d_backward_weights, scratch_backward_weights),
    ops.Linear: Lowering(lower_linear),
    ops.LinearBackwardData: Lowering(lower_linear_backward_data, scratch_linear_backward_data),
    ops.LinearBackwardWeights: Lowering(lower_linear_backward_weights),
    ops.MaxPool: Lowering(lower_pool),
    ops.AvgPool: Lowering(lower_pool),
    ops.MaxPoolBackward: Lowering(lower_pool_backward, scratch_pool_backward),
    ops.AvgPoolBackward: Lowering(lower_pool_backward, scratch_pool_backward),
    ops.BatchNormTraining: Lowering(lower_batch_norm_training, scratch_batch_norm),
    ops.BatchNormBackward: Lowering(lower_batch_norm_backward, scratch_batch_norm),
    ops.Softmax: Lowering(lower_softmax),
    ops.SoftmaxBackward: Lowering(lower_softmax_backward),
    ops.Maxout: Lowering(lower_maxout),
    ops.MaxoutBackward: Lowering(lower_maxout_backward),
    ops.SoftmaxCrossEntropy: Lowering(lower_softmax_cross_entropy, scratch_per_pixel),
    ops.SoftmaxCrossEntropyBackward: Lowering(lower_softmax_cross_entropy_backward),
    ops.CountCorrect: Lowering(lower_count_correct, scratch_per_pixel),
    ops.ChannelSum: Lowering(lower_channel_sum, scratch_channel_sum),
    ops.Sum: Lowering(lower_sum),
    ops.Relayout: Lowering(lower_relayout),
    ops.SgdUpdate: Lowering(lower_update),
    ops.AdamUpdate: Lowering(lower_update),
}

# Not kernels: views, constants, and what `specialize` has replaced by the time code is generated.
DECOMPOSED: frozenset[type[Op]] = frozenset({ops.Constant, ops.Flatten, ops.Unflatten, ops.BatchNorm, ops.Dropout})


def lowering_of(kernel: Kernel) -> Lowering:
    if kernel.anchor in kernel.chain or is_elementwise(kernel.anchor):
        return Lowering(lower_elementwise)
    return LOWERINGS[type(kernel.anchor.op)]


def scratch_bytes(kernel: Kernel, plan: Plan) -> int:
    """Scratch space of a kernel, asked while memory is being planned."""
    return lowering_of(kernel).scratch(KernelBuilder(plan, kernel, "fma"))


@dataclass(frozen=True)
class PhaseCall:
    """One call in the step: which function for which kernel."""

    kernel: Kernel
    function: str
    comment: str


@dataclass(frozen=True)
class ModuleText:
    """LLVM IR of a program, and its phases in order."""

    text: str
    phases: tuple[PhaseCall, ...]


def generate(plan: Plan, fma: str) -> ModuleText:
    """The module of a plan; `fma` names the intrinsic that multiplies and adds (fma, or fmuladd without hardware)."""
    functions: dict[str, list[Function]] = {}
    calls: list[tuple[Kernel, Function, list[Slot]]] = []
    for kernel in plan.kernels:
        builder = KernelBuilder(plan, kernel, fma)
        signature = f"{lowering_of(kernel).emit.__name__}\n{builder.signature()}"
        if signature not in functions:
            lowering_of(kernel).emit(builder)
            for number, function in enumerate(builder.phases):
                function.name = f"k{len(functions)}_{number}_{function.name}"
                function.may_alias = builder.aliased
            functions[signature] = builder.phases
        slots = [_slot(plan.memory, value) for value in builder.values]
        if builder.scratch:
            slots.append(builder.scratch)
        calls += [(kernel, function, slots) for function in functions[signature]]
    phases = [phase for group in functions.values() for phase in group]
    step = _step(plan, calls)
    declarations = {"convc_barrier": "declare void @convc_barrier(ptr)"}
    for function in (*phases, step):
        declarations |= function.declarations
    text = "\n".join([*sorted(declarations.values()), *(phase.text() for phase in phases), step.text(exported=True)])
    return ModuleText(text, tuple(PhaseCall(k, f.name, f.comment) for k, f, _ in calls))


def _slot(memory: MemoryPlan, value) -> Slot:  # noqa: ANN001
    return memory.slots[value] if value in memory.slots else Slot("persistent", 0, 0)


class _Hazards:
    """Which memory has been touched since the last barrier."""

    def __init__(self) -> None:
        self.read: list[Slot] = []
        self.written: list[Slot] = []

    def conflict(self, reads: list[Slot], writes: list[Slot]) -> bool:
        return _overlap(reads, self.written) or _overlap(writes, self.written) or _overlap(writes, self.read)

    def add(self, reads: list[Slot], writes: list[Slot]) -> None:
        self.read += reads
        self.written += writes


def _overlap(left: list[Slot], right: list[Slot]) -> bool:
    return any(
        a.region == b.region and a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
        for a in left
        for b in right
    )


def _step(plan: Plan, calls: list[tuple[Kernel, Function, list[Slot]]]) -> Function:
    f = Function("step", 0, f"@{plan.graph.name}, {len(calls)} phases")
    control, sections = context_word(f, CONTROL, "ptr"), context_word(f, SECTIONS)
    first, last = context_word(f, FIRST), context_word(f, LAST)
    bases = {region: context_word(f, word, "ptr") for region, word in REGION_WORDS.items()}
    hazards, previous = _Hazards(), None
    for number, (kernel, function, slots) in enumerate(calls):
        scratch = [plan.memory.scratch[kernel]] if kernel in plan.memory.scratch else []
        reads = [_slot(plan.memory, value) for value in kernel.reads]
        writes = [_slot(plan.memory, value) for value in kernel.writes] + scratch
        # Phases of one kernel talk through scratch space and results, in ways only the kernel knows.
        if kernel is previous or hazards.conflict(reads, writes):
            f.do(f"call void @convc_barrier(ptr {control.ref})")
            hazards = _Hazards()
        hazards.add(reads, writes)
        previous = kernel
        wanted = f.emit("i64", f"and i64 {sections.ref}, {int(kernel.section)}")
        enabled = f.binary("and", f.less(0, wanted), f.less(first, number + 1))
        enabled = f.binary("and", enabled, f.less(number, last))
        with f.when(enabled):
            arguments = [f.address(bases[slot.region], slot.offset, "i8") for slot in slots]
            text = "".join(f", ptr {argument.ref}" for argument in arguments)
            f.do(f"call void @{function.name}(ptr %context, i64 %rank, i64 %parties{text})")
    return f
