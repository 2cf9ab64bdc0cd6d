"""What happens to all parameters alike: updates, mean gradients, gradients unscaled; one sweep over memory each."""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.kernel import RATE, ROWS, SEEN, STEP, KernelBuilder, context_word
from convc.codegen.llvm.vocabulary import Function, Index, V, double_literal
from convc.ir.graph import Node, Value
from convc.ir.ops.loss_scaling import Unscale
from convc.ir.ops.sweep import Accumulate, Sweep
from convc.ir.ops.update import AdagradUpdate, AdamUpdate, AdamWUpdate, RmspropUpdate, SgdUpdate, Update
from convc.passes.fusion import is_immediate, resolve
from convc.passes.machine import split_lanes

# From vectors of all tensors of a sweep to the new ones, by position.
Rule = Callable[[list[V]], dict[int, V]]
# An optimiser's formula: parameter, gradient, states -> new parameter, new states. All of one length.
Formula = Callable[[V, V, list[V]], list[V]]


def _lower_sweep(k: KernelBuilder, make_rule: Callable[[Function], Rule], guard: Value | None = None) -> None:
    """All parameters with equal settings in one loop over memory, all tensors of the sweep lying in the same order.

    Nothing happens where `guard` is 0.
    """
    op = k.op(Sweep)
    nodes = (k.kernel.anchor, *k.kernel.riders)
    slots = k.plan.memory.slots
    lengths: set[int] = set()
    for position in range(op.tensors):
        first, last = (slots[resolve(node.operands[position])] for node in (nodes[0], nodes[-1]))
        lengths.add(last.offset + last.bytes - first.offset)
    assert len(lengths) == 1, "the memory plan keeps the tensors of a sweep in the same order"
    size = lengths.pop() // 4

    def body(f: Function) -> None:
        with maybe(f, None if guard is None else f.compare("une", k.scalar(f, guard), f.constant(0.0))):
            sweep(f)

    def sweep(f: Function) -> None:
        pointers = [k.pointer(resolve(value)) for value in k.kernel.anchor.operands[: op.tensors]]
        lanes = k.machine.lanes
        rule = make_rule(f)
        groups = size // lanes
        start, stop = f.share(groups)
        if groups:
            with f.loop(start, stop) as group:
                _sweep_vector(f, pointers, f.multiply(group.index, lanes), lanes, rule)
        first = groups * lanes
        with f.when(f.equal(f.rank, 0)):
            for piece in split_lanes(size - first, lanes // 2 if lanes > 4 else 1):
                _sweep_vector(f, pointers, first, piece, rule)
                first += piece

    k.phase(op.name, body)


def _sweep_vector(f: Function, pointers: list[V], index: Index, lanes: int, rule: Rule) -> None:
    places = [f.address(pointer, index) for pointer in pointers]
    for position, value in rule([f.load(place, lanes) for place in places]).items():
        f.store(value, places[position])


# Mean gradients


def lower_accumulate(k: KernelBuilder) -> None:
    """(seen·mean + rows·gradient) / (seen + rows); what was there does not count where nothing has been seen."""
    k.op(Accumulate)

    def make_rule(f: Function) -> Rule:
        rows, seen = context_word(f, ROWS), context_word(f, SEEN)
        whole, part, before = (
            f.emit("float", f"sitofp i64 {count.ref} to float") for count in (f.binary("add", rows, seen), rows, seen)
        )
        weight, kept = f.binary("fdiv", part, whole), f.binary("fdiv", before, whole)
        nothing = f.equal(seen, 0)

        def rule(values: list[V]) -> dict[int, V]:
            mean, gradient = values
            mean = f.select(nothing, f.constant(0.0, mean.lanes), mean)
            scaled = f.binary("fmul", f.splat(kept, mean.lanes), mean)
            return {0: f.fma(f.splat(weight, mean.lanes), gradient, scaled)}

        return rule

    _lower_sweep(k, make_rule)


# Gradients of a scaled loss


def lower_unscale(k: KernelBuilder) -> None:
    """Each gradient divided by the scale of the loss, where it lies."""
    k.op(Unscale)

    def make_rule(f: Function) -> Rule:
        scale = k.scalar(f, k.kernel.anchor.operands[1])

        def rule(values: list[V]) -> dict[int, V]:
            return {0: f.binary("fdiv", values[0], f.splat(scale, values[0].lanes))}

        return rule

    _lower_sweep(k, make_rule)


# Updates


def lower_update(k: KernelBuilder) -> None:
    op = k.op(Update)

    def make_rule(f: Function) -> Rule:
        formula = update_formula(k, f, k.kernel.anchor)

        def rule(values: list[V]) -> dict[int, V]:
            parameter, gradient, *states = values
            moved, *kept = formula(parameter, gradient, states)
            return {0: moved, **dict(enumerate(kept, 2))}

        return rule

    _lower_sweep(k, make_rule, op.guard(k.kernel.anchor.operands))


def updated_tensors(node: Node) -> list[Value]:
    """What an update moves: the parameter and the states."""
    assert isinstance(node.op, Update)
    return [node.operands[0], *node.operands[2 : node.op.tensors]]


def update_formula(k: KernelBuilder, f: Function, node: Node) -> Formula:
    """What an update does to vectors. Whatever it needs once per run is computed here."""
    op = node.op
    assert isinstance(op, Update)
    formula = _FORMULAS[type(op)](f, op)
    scale = node.operands[op.tensors + 2 : op.tensors + 3]
    # Where it says whether to update a factor is given in any case.
    if not scale or (is_immediate(scale[0]) and k.scalar(f, scale[0]) == f.constant(1.0)):
        return formula
    factor = k.scalar(f, scale[0])

    def scaled(parameter: V, gradient: V, states: list[V]) -> list[V]:
        return formula(parameter, f.binary("fmul", gradient, f.splat(factor, gradient.lanes)), states)

    return scaled


def _penalty(f: Function, op: Update, parameter: V, start: V) -> V:
    """start + 2·l2·θ + l1·sign(θ)."""
    lanes = parameter.lanes
    if op.l2:
        start = f.fma(f.constant(2 * op.l2, lanes), parameter, start)
    if op.l1:
        zero, weight = f.constant(0.0, lanes), f.constant(op.l1, lanes)
        pull = f.select(f.compare("olt", parameter, zero), f.negate(weight), zero)
        start = f.binary("fadd", start, f.select(f.compare("ogt", parameter, zero), weight, pull))
    return start


def _rate(f: Function, op: Update) -> V:
    return f.binary("fmul", context_word(f, RATE, "float"), f.constant(op.lr_scale))


def _sgd(f: Function, op: SgdUpdate) -> Formula:
    rate = f.negate(_rate(f, op))

    def formula(parameter: V, gradient: V, states: list[V]) -> list[V]:
        lanes = parameter.lanes
        gradient = _penalty(f, op, parameter, gradient)
        step, kept = gradient, []
        if states:
            momentum = f.constant(op.momentum, lanes)
            velocity = f.fma(momentum, states[0], gradient)
            step, kept = (f.fma(momentum, velocity, gradient) if op.nesterov else velocity), [velocity]
        return [f.fma(f.splat(rate, lanes), step, parameter), *kept]

    return formula


def _deviation(f: Function, square: V, eps: float) -> V:
    """√square + ε."""
    return f.binary("fadd", f.unary("sqrt", square), f.constant(eps, square.lanes))


def _adagrad(f: Function, op: AdagradUpdate) -> Formula:
    rate = f.negate(_rate(f, op))

    def formula(parameter: V, gradient: V, states: list[V]) -> list[V]:
        gradient = _penalty(f, op, parameter, gradient)
        total = f.fma(gradient, gradient, states[0])
        step = f.binary("fmul", f.splat(rate, parameter.lanes), gradient)
        change = f.binary("fdiv", step, _deviation(f, total, op.eps))
        return [f.binary("fadd", parameter, change), total]

    return formula


def _rmsprop(f: Function, op: RmspropUpdate) -> Formula:
    rate = f.negate(_rate(f, op))

    def formula(parameter: V, gradient: V, states: list[V]) -> list[V]:
        lanes = parameter.lanes
        gradient = _penalty(f, op, parameter, gradient)
        weighted = f.binary("fmul", f.constant(1 - op.alpha, lanes), f.binary("fmul", gradient, gradient))
        square = f.fma(f.constant(op.alpha, lanes), states[0], weighted)
        step, kept = f.binary("fdiv", gradient, _deviation(f, square, op.eps)), [square]
        if op.momentum:
            step = f.fma(f.constant(op.momentum, lanes), states[1], step)
            kept.append(step)
        return [f.fma(f.splat(rate, lanes), step, parameter), *kept]

    return formula


def _adam(f: Function, op: AdamUpdate) -> Formula:
    # The corrections of the bias, once per thread and step, in double precision.
    step = context_word(f, STEP)
    first, second = (_one_minus_power(f, beta, step) for beta in (op.beta1, op.beta2))
    plain = f.negate(_rate(f, op))
    rate = f.convert("fptrunc", f.binary("fdiv", f.convert("fpext", plain, "double"), first), "float")
    root = f.intrinsic("llvm.sqrt.f64", "double", second)
    correction = f.convert("fptrunc", f.binary("fdiv", V("1.0", "double"), root), "float")
    decoupled = isinstance(op, AdamWUpdate)

    def formula(parameter: V, gradient: V, states: list[V]) -> list[V]:
        lanes = parameter.lanes
        if not decoupled:
            gradient = _penalty(f, op, parameter, gradient)
        elif op.l1 or op.l2:
            pull = _penalty(f, op, parameter, f.constant(0.0, lanes))
            parameter = f.fma(f.splat(plain, lanes), pull, parameter)
        mean, square = states
        mean = f.fma(f.constant(op.beta1, lanes), mean, f.binary("fmul", f.constant(1 - op.beta1, lanes), gradient))
        weighted = f.binary("fmul", f.constant(1 - op.beta2, lanes), f.binary("fmul", gradient, gradient))
        square = f.fma(f.constant(op.beta2, lanes), square, weighted)
        deviation = f.fma(f.unary("sqrt", square), f.splat(correction, lanes), f.constant(op.eps, lanes))
        change = f.binary("fdiv", f.binary("fmul", f.splat(rate, lanes), mean), deviation)
        return [f.binary("fadd", parameter, change), mean, square]

    return formula


def _one_minus_power(f: Function, base: float, exponent: V) -> V:
    """1 − baseⁿ in double precision, by repeated squaring (no library call, the same bits everywhere)."""
    one = V("1.0", "double")
    start = [exponent, V(double_literal(base), "double"), one]
    with f.loop(0, 64, carried=start) as bit:
        remaining, power, result = bit.carried
        odd = f.emit("i1", f"trunc i64 {remaining.ref} to i1")
        result = f.select(odd, f.binary("fmul", result, power), result)
        bit.carried = [f.binary("lshr", remaining, V("1", "i64")), f.binary("fmul", power, power), result]
    return f.binary("fsub", one, bit.carried[2])


# How each optimiser moves a vector; what it needs once per step is computed when the formula is made.
_FORMULAS: dict[type[Update], Callable[..., Formula]] = {
    SgdUpdate: _sgd,
    AdagradUpdate: _adagrad,
    RmspropUpdate: _rmsprop,
    AdamUpdate: _adam,
    AdamWUpdate: _adam,
}
