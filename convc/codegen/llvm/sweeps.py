"""Kernels that pass over memory once: element-wise chains, sums over channels, optimiser updates, changes of layout."""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.channels import channel_vectors, each_pixel, spot_at
from convc.codegen.llvm.kernel import RATE, STEP, KernelBuilder, Spot, context_word
from convc.codegen.llvm.vocabulary import Function, Index, V, double_literal
from convc.ir.graph import Node, Value
from convc.ir.ops.update import AdamUpdate, SgdUpdate, Update
from convc.passes.fusion import resolve
from convc.passes.layout import ImageLayout, PlanarLayout, VectorLayout
from convc.passes.machine import split_lanes

_PARTS = 16

# An optimiser's formula: parameter, gradient, states -> new parameter, new states.
Rule = Callable[[V, V, list[V]], list[V]]


def lower_elementwise(k: KernelBuilder) -> None:
    """A chain on its own. Dense tensors without positions are one long array; others go pixel by pixel."""
    result = k.kernel.anchor.results[0]
    layout = k.layout(result)
    batched = k.is_batched(result)
    operands = [value for node in k.kernel.chain for value in node.operands]
    spreads = any(value.type.rank == 1 for value in operands) and result.type.rank > 1
    padded = isinstance(layout, (ImageLayout, VectorLayout)) and layout.size != result.type.size // (
        result.shape[0] if batched else 1
    )
    by_pixel = batched and (spreads or k.needs_position or padded)

    def pixels(f: Function) -> None:
        image = k.image(result)

        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            k.finish(f, spot_at(f, image, row, pixel, channel, lanes, real), None)

        each_pixel(k, f, image, visit)

    def flat(f: Function) -> None:
        size = f.multiply(k.rows(f), layout.size) if batched else layout.size
        lanes = k.machine.lanes
        whole = f.divide(size, lanes)
        start, stop = f.share(whole)

        def spot(base: Index, width: int) -> Spot:
            return Spot(0, 0, base, base, 0, width, width)

        if not (isinstance(whole, int) and whole == 0):
            with f.loop(start, stop) as group:
                k.finish(f, spot(f.multiply(group.index, lanes), lanes), None)
        # What does not fill a vector is done by the last thread, one element at a time.
        last = f.equal(f.rank, f.subtract(f.parties, 1))
        if not (isinstance(size, int) and size % lanes == 0):
            with f.when(last):
                first = f.multiply(whole, lanes)
                with f.loop(first, size) as element:
                    k.finish(f, spot(element.index, 1), None)

    k.phase("elementwise", pixels if by_pixel else flat)


def lower_channel_sum(k: KernelBuilder) -> None:
    """Images are added up in a fixed number of parts, so that the order does not depend on the threads."""
    (x,) = k.kernel.anchor.operands
    layout = k.image(resolve(x))
    parts = min(_PARTS, k.plan.batch)

    def partial(f: Function) -> None:
        rows = k.rows(f)
        in_part = f.divide(f.add(rows, parts - 1), parts)
        start, stop = f.share(parts)
        with f.loop(start, stop) as part:
            first = f.minimum(f.multiply(part.index, in_part), rows)
            last = f.minimum(f.add(first, in_part), rows)
            into = f.address(k.scratch_pointer(), f.multiply(part.index, layout.stored))
            for channel, lanes, _ in channel_vectors(f, layout, k.machine.lanes):
                zero = f.constant(0.0, lanes)
                low, high = f.multiply(first, layout.pixels), f.multiply(last, layout.pixels)
                with f.loop(low, high, carried=[zero]) as pixel:
                    place = f.add(f.multiply(pixel.index, layout.stored), channel)
                    pixel.carried = [f.binary("fadd", pixel.carried[0], f.load(f.address(k.pointer(x), place), lanes))]
                f.store(pixel.carried[0], f.address(into, channel))

    def combine(f: Function) -> None:
        with f.when(f.equal(f.rank, 0)), f.loop(0, layout.stored) as channel:
            source = f.address(k.scratch_pointer(), channel.index)
            total = f.load(source)
            for part in range(1, parts):
                total = f.binary("fadd", total, f.load(f.address(source, part * layout.stored)))
            f.store(total, f.address(k.pointer(k.kernel.anchor.result), channel.index))

    k.phase("channel_sum_parts", partial)
    k.phase("channel_sum", combine)


def scratch_channel_sum(k: KernelBuilder) -> int:
    layout = k.image(resolve(k.kernel.anchor.operands[0]))
    return 4 * min(_PARTS, k.plan.batch) * layout.stored


def lower_sum(k: KernelBuilder) -> None:
    """The sum of all elements by one thread: used for scalars' gradients only, which are rare."""
    (x,) = k.kernel.anchor.operands
    layout = k.layout(resolve(x))

    def body(f: Function) -> None:
        with f.when(f.equal(f.rank, 0)):
            size = f.multiply(k.rows(f), layout.size) if k.is_batched(x) else layout.size
            with f.loop(0, size, carried=[V("0.0", "double")]) as element:
                value = f.convert("fpext", f.load(f.address(k.pointer(x), element.index)), "double")
                element.carried = [f.binary("fadd", element.carried[0], value)]
            f.store(f.convert("fptrunc", element.carried[0], "float"), k.pointer(k.kernel.anchor.result))

    k.phase("sum", body)


def lower_relayout(k: KernelBuilder) -> None:
    """Any layout of a batched value to the natural one."""
    (x,) = k.kernel.anchor.operands
    source, target = k.layout(resolve(x)), k.image(k.kernel.anchor.result)

    def body(f: Function) -> None:
        start, stop = f.share(f.multiply(k.rows(f), target.pixels))
        with f.loop(start, stop) as unit:
            row, pixel = f.divide(unit.index, target.pixels), f.remainder(unit.index, target.pixels)
            base = f.address(k.pointer(x), f.multiply(row, source.size))
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, target.stored))

            def move(channel: Index) -> None:
                f.store(f.load(f.address(base, _place(f, source, target, channel, pixel))), f.address(into, channel))

            if target.channels <= 4:
                for channel in range(target.channels):
                    move(channel)
            else:
                with f.loop(0, target.channels) as channel:
                    move(channel.index)
            for lane in range(target.channels, target.stored):
                f.store(f.constant(0.0), f.address(into, lane))

    k.phase("relayout", body)


def _place(f: Function, source: object, target: ImageLayout, channel: Index, pixel: Index) -> Index:
    """Where the source keeps (channel, pixel) of the target."""
    feature = f.add(f.multiply(channel, target.pixels), pixel)  # the logical index, the same on both sides
    if isinstance(source, PlanarLayout):
        return feature
    assert isinstance(source, ImageLayout)
    inner, own = f.remainder(feature, source.pixels), f.divide(feature, source.pixels)
    return f.add(f.multiply(inner, source.stored), own)


def lower_update(k: KernelBuilder) -> None:
    """All parameters with equal settings in one loop over memory, gradients and states lying in the same order."""
    op = k.op(SgdUpdate, AdamUpdate)
    updates = (k.kernel.anchor, *k.kernel.riders)
    slots = k.plan.memory.slots
    spans = [
        (slots[resolve(nodes[0])].offset, slots[resolve(nodes[-1])].offset + slots[resolve(nodes[-1])].bytes)
        for nodes in zip(*(_tensors(update) for update in updates), strict=True)
    ]
    lengths = {stop - start for start, stop in spans}
    assert len(lengths) == 1, "the memory plan keeps the tensors of a sweep in the same order"
    size = lengths.pop() // 4

    def body(f: Function) -> None:
        pointers = [k.pointer(resolve(value)) for value in _tensors(k.kernel.anchor)]
        lanes = k.machine.lanes
        rule = _adam(f, op) if isinstance(op, AdamUpdate) else _sgd(f, op)
        groups = size // lanes
        start, stop = f.share(groups)
        if groups:
            with f.loop(start, stop) as group:
                _update_vector(f, pointers, f.multiply(group.index, lanes), lanes, rule)
        first = groups * lanes
        with f.when(f.equal(f.rank, 0)):
            for piece in split_lanes(size - first, lanes // 2 if lanes > 4 else 1):
                _update_vector(f, pointers, first, piece, rule)
                first += piece

    k.phase(op.name, body)


def _tensors(update: Node) -> tuple[Value, ...]:
    return update.operands[:-2]


def _update_vector(f: Function, pointers: list[V], index: Index, lanes: int, rule: Rule) -> None:
    places = [f.address(pointer, index) for pointer in pointers]
    parameter, gradient, *states = (f.load(place, lanes) for place in places)
    for place, value in zip((places[0], *places[2:]), rule(parameter, gradient, states), strict=True):
        f.store(value, place)


def _regularised(f: Function, op: Update, parameter: V, gradient: V) -> V:
    lanes = parameter.lanes
    if op.l2:
        gradient = f.fma(f.constant(2 * op.l2, lanes), parameter, gradient)
    if op.l1:
        zero, weight = f.constant(0.0, lanes), f.constant(op.l1, lanes)
        pull = f.select(f.compare("olt", parameter, zero), f.negate(weight), zero)
        gradient = f.binary("fadd", gradient, f.select(f.compare("ogt", parameter, zero), weight, pull))
    return gradient


def _rate(f: Function, op: Update) -> V:
    return f.binary("fmul", context_word(f, RATE, "float"), f.constant(op.lr_scale))


def _sgd(f: Function, op: SgdUpdate) -> Rule:
    rate = f.negate(_rate(f, op))

    def rule(parameter: V, gradient: V, states: list[V]) -> list[V]:
        lanes = parameter.lanes
        gradient = _regularised(f, op, parameter, gradient)
        step, kept = gradient, []
        if states:
            momentum = f.constant(op.momentum, lanes)
            velocity = f.fma(momentum, states[0], gradient)
            step, kept = (f.fma(momentum, velocity, gradient) if op.nesterov else velocity), [velocity]
        return [f.fma(f.splat(rate, lanes), step, parameter), *kept]

    return rule


def _adam(f: Function, op: AdamUpdate) -> Rule:
    # The corrections of the bias, once per thread and step, in double precision.
    step = context_word(f, STEP)
    first, second = (_one_minus_power(f, beta, step) for beta in (op.beta1, op.beta2))
    wide = f.convert("fpext", _rate(f, op), "double")
    rate = f.negate(f.convert("fptrunc", f.binary("fdiv", wide, first), "float"))
    root = f.intrinsic("llvm.sqrt.f64", "double", second)
    correction = f.convert("fptrunc", f.binary("fdiv", V("1.0", "double"), root), "float")

    def rule(parameter: V, gradient: V, states: list[V]) -> list[V]:
        lanes = parameter.lanes
        gradient = _regularised(f, op, parameter, gradient)
        mean, square = states
        mean = f.fma(f.constant(op.beta1, lanes), mean, f.binary("fmul", f.constant(1 - op.beta1, lanes), gradient))
        weighted = f.binary("fmul", f.constant(1 - op.beta2, lanes), f.binary("fmul", gradient, gradient))
        square = f.fma(f.constant(op.beta2, lanes), square, weighted)
        deviation = f.fma(f.unary("sqrt", square), f.splat(correction, lanes), f.constant(op.eps, lanes))
        change = f.binary("fdiv", f.binary("fmul", f.splat(rate, lanes), mean), deviation)
        return [f.binary("fadd", parameter, change), mean, square]

    return rule


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
