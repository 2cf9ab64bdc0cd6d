"""Group nodes into kernels: a kernel is an anchor and the element-wise nodes that ride along in its epilogue.

    %1 = conv2d(%x, %w, %b)          kernel conv2d + relu + add:  the sum of products never leaves the registers
    %2 = relu(%1)              →     before the chain has been applied; %1 is not stored unless somebody else reads it
    %3 = add(%2, %skip)

An element-wise node joins when everything else that it reads exists before the anchor runs. Booleans are never stored:
the node that makes one is repeated in every kernel that reads it. A bias gradient joins the weight gradient that reads
the same cotangent, `batch_moments` the convolution whose result it reads; all optimiser updates with equal settings
form one sweep, and so do the means of their gradients, and gradients of a scaled loss as they are divided by the scale.
The gradient of a fully connected layer is used up by its update where it is computed, unless that update waits for all
gradients to be known. The parameters of fully connected layers are cast to 16 bits by the kernels that read them, if
few rows are multiplied with them: no copy is stored. Kernels that prepare (see `sections.py`) come first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.ops import (
    AvgPool,
    AvgPoolBackward,
    BatchMoments,
    BatchNorm,
    BatchNormBackward,
    BatchNormTraining,
    ChannelSum,
    Concat,
    Constant,
    Conv2d,
    Conv2dBackwardData,
    Conv2dBackwardWeights,
    Flatten,
    Linear,
    LinearBackwardData,
    LinearBackwardWeights,
    LocalResponseNorm,
    LocalResponseNormBackward,
    MaxPool,
    MaxPoolBackward,
    Pad,
    Relayout,
    ScaleMaps,
    SliceChannels,
    SpatialSum,
    SpreadMaps,
    Unflatten,
    Upsample,
    UpsampleBackward,
)
from convc.ir.ops.elementwise import Elementwise
from convc.ir.ops.loss_scaling import Unscale
from convc.ir.ops.random import Draw
from convc.ir.ops.round_to import RoundTo
from convc.ir.ops.sweep import Accumulate, MaxNorm, Sweep
from convc.ir.ops.update import Update
from convc.ir.span import Location, union
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.base import PassLog, PlanPass
from convc.passes.prologues import casts_of_weights
from convc.passes.sections import Section, assign_sections, backward_start
from convc.passes.separate_moments import computes_moments
from convc.passes.tiling import most_rows

if TYPE_CHECKING:
    from convc.passes.plan import Plan

# Kernels that can apply a chain to result 0 before they store it.
EPILOGUE_ANCHORS: tuple[type[Op], ...] = (
    Conv2d,
    Conv2dBackwardData,
    Linear,
    LinearBackwardData,
    MaxPool,
    MaxPoolBackward,
    AvgPool,
    AvgPoolBackward,
    BatchNorm,
    BatchNormTraining,
    BatchNormBackward,
    LocalResponseNorm,
    LocalResponseNormBackward,
    Concat,
    Pad,
    Relayout,
    SliceChannels,
    ScaleMaps,
    SpatialSum,
    SpreadMaps,
    Upsample,
    UpsampleBackward,
)
_WEIGHT_GRADIENTS = (Conv2dBackwardWeights, LinearBackwardWeights)
_VIEWS = (Flatten, Unflatten)
# A chain as long as this hides what a pass over memory costs; longer code only takes LLVM longer. Equal pieces of a
# long chain are equal kernels, and these are made once.
LONGEST_CHAIN = 32
_TILE_VECTORS = 2  # of a fully connected layer


def is_elementwise(node: Node) -> bool:
    return isinstance(node.op, (Elementwise, Draw))


def is_boolean(node: Node) -> bool:
    return node.results[0].type.dtype is DType.BOOL


@dataclass(frozen=True, eq=False)
class Kernel:
    """One unit of execution. `chain` are the element-wise nodes after the anchor (after its first result), `riders`
    other nodes that the same kernel computes. For an element-wise kernel the anchor is the first of the chain.

    `prologue` are casts of what the anchor reads. Like booleans they are repeated in every kernel that reads them.
    """

    anchor: Node
    chain: tuple[Node, ...]
    riders: tuple[Node, ...]
    section: Section
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    prologue: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        anchor = () if self.anchor in self.chain else (self.anchor,)
        return (*self.prologue, *anchor, *self.chain, *self.riders)

    @property
    def bias_gradient(self) -> Value | None:
        """The gradient of the bias that a weight gradient's kernel computes as well."""
        return next((node.result for node in self.riders if isinstance(node.op, ChannelSum)), None)

    @property
    def update(self) -> Node | None:
        """The update that uses up the gradient that the anchor computes, in runs that update at all."""
        alone = isinstance(self.anchor.op, Update)
        return next((node for node in self.riders if isinstance(node.op, Update) and not alone), None)

    @property
    def images(self) -> tuple[Value, ...]:
        """What anchor and chain store: all but the results of riders."""
        ridden = {value for node in self.riders for value in node.results}
        return tuple(value for value in self.writes if value not in ridden)

    def writes_in(self, sections: Section) -> tuple[Value, ...]:
        """What a run of these sections stores: a gradient, or what its update makes of it."""
        if self.update is None:
            return self.writes
        spared = self.anchor.results if sections & Section.UPDATE else self.update.results
        return tuple(value for value in self.writes if value not in spared)

    @property
    def name(self) -> str:
        counts = Counter(node.op.name for node in self.nodes if not is_boolean(node))
        return "+".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())

    @property
    def label(self) -> str:
        return self.anchor.label

    @property
    def location(self) -> Location:
        return union(*(node.location for node in self.nodes))


def resolve(value: Value) -> Value:
    """The value whose storage a view shares."""
    while value.producer is not None and isinstance(value.producer.op, _VIEWS):
        value = value.producer.operands[0]
    return value


def is_immediate(value: Value) -> bool:
    """A scalar constant, which kernels carry in their code."""
    return value.producer is not None and isinstance(value.producer.op, Constant) and value.type.rank == 0


@dataclass(frozen=True)
class Fuse(PlanPass):
    """Groups nodes into kernels. At most `depth` element-wise operations ride in one."""

    name: ClassVar[str] = "fuse"
    metrics: ClassVar[Mapping[str, str]] = {
        "kernels_before": "kernels if every operation were one",
        "kernels": "kernels that there are",
        "bytes_not_stored": "what would have been written to memory, and read again",
    }
    depth: int = LONGEST_CHAIN

    def __post_init__(self) -> None:
        if self.depth < 0:
            fail("value-pass-option", f"the option `depth` of `fuse` is at least 0, not {self.depth}")

    def run(self, plan: Plan, log: PassLog) -> None:
        on_cpu = not plan.machine.cuda
        # Every tile casts the weights that it is multiplied with for itself.
        rows = most_rows(plan.machine, _TILE_VECTORS) if on_cpu else 0
        plan.kernels = fuse(plan.graph, log, self.depth, riders=on_cpu, rows_of_tile=rows)
        # What is repeated counts once.
        inside = dict.fromkeys(node for kernel in plan.kernels for node in kernel.nodes if not is_boolean(node))
        stored = {value for kernel in plan.kernels for value in kernel.writes}
        kept = [value for node in inside for value in node.results if value not in stored]
        log.metrics |= {
            "kernels_before": len(inside),
            "kernels": len(plan.kernels),
            "bytes_not_stored": sum(plan.bytes_of(value) for value in kept),
        }

    def show(self, plan: Plan) -> str:
        from convc.passes.plan import kernel_text

        return kernel_text(plan)


def fuse(
    graph: Graph, log: PassLog, depth: int = LONGEST_CHAIN, *, riders: bool = True, rows_of_tile: int = 0
) -> list[Kernel]:
    """Partition the graph's nodes into kernels, in the order in which they run.

    Without `riders` kernels compute nothing beside their anchor and its chain, but for sweeps. Fully connected layers
    cast their weights as they read them where they have no more than `rows_of_tile` rows.
    """
    return _Fuser(graph, log, depth, riders, rows_of_tile).kernels()


def _after_last_readers(kernels: list[Kernel]) -> list[Kernel]:
    """The kernels with those that update parameters behind the last ones that read these."""
    last = {value: index for index, kernel in enumerate(kernels) for value in kernel.reads}

    def place(entry: tuple[int, Kernel]) -> tuple[int, int]:
        index, kernel = entry
        if kernel.update is None:
            return index, 0
        return max(index, last[resolve(kernel.update.operands[0])]), 1

    return [kernel for _, kernel in sorted(enumerate(kernels), key=place)]


def _alike(node: Node) -> object:
    """Equal for nodes that one sweep can do: of one op, with the same scalars."""
    assert isinstance(node.op, Sweep)
    return node.op, node.operands[node.op.tensors :]


class _Fuser:
    def __init__(self, graph: Graph, log: PassLog, depth: int, riders: bool, rows_of_tile: int) -> None:
        self.graph = graph
        self.riders = riders
        self.log = log
        self.depth = depth
        self.sections = assign_sections(graph)
        self.position = {node: index for index, node in enumerate(graph.nodes)}
        self.backward = backward_start(graph)
        self.taken: set[Node] = set()
        self.kept = {resolve(v) for v in (*graph.outputs.values(), *graph.updates.values())}
        self.casts = (
            casts_of_weights(graph, self.sections, self.kept, rows_of_tile, log) if rows_of_tile else frozenset[Node]()
        )
        self.obstacles: dict[Node, str] = {}  # why a node did not join a kernel that it might have joined

    def kernels(self) -> list[Kernel]:
        found = self._grown()
        # What is not in the first kernel that it reads from may be in a later one.
        alone = {kernel.anchor for kernel in found if kernel.anchor in kernel.chain}
        for node, why in self.obstacles.items():
            if node in alone:
                self.log.missed("epilogue", node, why)
        return found

    def _grown(self) -> list[Kernel]:
        found: list[Kernel] = []
        sweeps: dict[object, list[Node]] = {}
        ahead, bounds = self._ahead_of_updates(), list[Kernel]()
        for node in self.graph.nodes:
            if node in self.taken or node in self.casts or node not in self.sections:
                continue
            if isinstance(node.op, Update):
                sweeps.setdefault(_alike(node), []).append(node)
            elif isinstance(node.op, (Accumulate, Unscale)):
                # Where the last of them stands: norms read them all.
                if nodes := ahead.get(node):
                    found.append(self._kernel(nodes[0], (), tuple(nodes[1:])))
            elif isinstance(node.op, MaxNorm) or self._rounds_update(node):
                bounds.append(self._kernel(node, (), ()))
            elif not isinstance(node.op, (Constant, *_VIEWS)) and not is_boolean(node):
                found.append(self._grow(node))
        updates = [self._kernel(nodes[0], (), tuple(nodes[1:])) for nodes in sweeps.values()]
        # What is prepared is there before anything else runs, so all else can read it in an epilogue.
        found.sort(key=lambda kernel: kernel.section is not Section.PREPARE)
        return _after_last_readers(found) + updates + bounds

    def _rounds_update(self, node: Node) -> bool:
        return isinstance(node.op, RoundTo) and self.sections[node] is Section.UPDATE

    def _ahead_of_updates(self) -> dict[Node, list[Node]]:
        """What one sweep makes for one sweep of updates, under the last of them: mean gradients, or gradients that are
        divided by the scale of the loss."""
        groups: dict[object, list[Node]] = {}
        for node in self.graph.nodes_of(Accumulate, Unscale):
            if node in self.sections:
                groups.setdefault((_alike(node), self._update_behind(node)), []).append(node)
        return {nodes[-1]: nodes for nodes in groups.values()}

    def _update_behind(self, node: Node) -> object:
        """The sweep that a gradient is for, directly or by its mean."""
        for user, _ in node.result.users:
            if isinstance(user.op, Update):
                return _alike(user)
            if isinstance(user.op, Accumulate) and (behind := self._update_behind(user)) is not None:
                return behind
        return None

    def _grow(self, anchor: Node) -> Kernel:
        self.taken.add(anchor)
        if isinstance(anchor.op, _WEIGHT_GRADIENTS):
            riders = (*self._bias_gradient(anchor), *self._update(anchor)) if self.riders else ()
            return self._kernel(anchor, (), riders)
        chain: list[Node] = [anchor] if is_elementwise(anchor) else []
        if chain or isinstance(anchor.op, EPILOGUE_ANCHORS):
            chain = self._chain(anchor, chain)
        return self._kernel(anchor, tuple(chain), self._moments(anchor) if self.riders else ())

    def _moments(self, anchor: Node) -> tuple[Node, ...]:
        """The statistics of the result that the kernel takes while it has the result in a cache."""
        if not computes_moments(anchor):
            return ()
        for user, _ in anchor.result.users:
            alike = self.sections.get(user) is self.sections[anchor]
            if isinstance(user.op, BatchMoments) and alike and user not in self.taken:
                self.taken.add(user)
                self.log.changed("moments", (anchor, user), (anchor,), "its operand is still in a cache")
                return (user,)
        return ()

    def _bias_gradient(self, anchor: Node) -> tuple[Node, ...]:
        dy = anchor.operands[1]
        algorithm = getattr(anchor.op, "algorithm", "auto")
        if algorithm not in ("auto", "direct"):
            # Only the direct kernel passes over the cotangents as they are, once.
            return ()
        for user, _ in dy.users:
            free = user not in self.taken and user in self.sections
            if free and isinstance(user.op, ChannelSum) and user.label == anchor.label:
                self.taken.add(user)
                self.log.changed("bias-gradient", (anchor, user), (anchor,), "both read the same cotangent")
                return (user,)
        return ()

    def _update(self, anchor: Node) -> tuple[Node, ...]:
        """The update that nothing but the gradient of a fully connected layer waits for.

        Those gradients are as large as the parameters, and each element is stored once; what convolutions add up in
        memory, image by image, is small.
        """
        if not isinstance(anchor.op, LinearBackwardWeights):
            return ()
        readers = {user for user, _ in anchor.result.users if user in self.sections}
        updates = [user for user in readers if isinstance(user.op, Update)]
        others = sorted({user.op.name for user in readers if not isinstance(user.op, Update)})
        if others and updates:
            self.log.missed("update", updates[0], f"{', '.join(others)} reads the gradient, too")
        for user in readers:
            if isinstance(user.op, Unscale):
                why = "it is divided by the scale of the loss; whether it is used depends on all gradients"
                self.log.missed("update", user, why)
        if others or len(updates) != 1 or anchor.result in self.graph.updates.values():
            return ()
        assert isinstance(updates[0].op, Update)
        if updates[0].op.guard(updates[0].operands) is not None:
            self.log.missed("update", updates[0], "it waits until all gradients are known to be finite")
            return ()
        self.taken.add(updates[0])
        why = "nothing else reads the gradient: it is stored in runs that do not update only"
        self.log.changed("update", (anchor, updates[0]), (anchor,), why)
        return (updates[0],)

    def _chain(self, anchor: Node, chain: list[Node]) -> list[Node]:
        inside: set[Value] = {anchor.results[0]}
        shape = anchor.results[0].shape
        pending = [anchor.results[0]]
        while pending:
            value = pending.pop(0)
            for user in sorted({user for user, _ in value.users}, key=self.position.__getitem__):
                if user in self.taken or not is_elementwise(user) or is_boolean(user) or user not in self.sections:
                    continue
                if len(chain) >= self.depth:
                    self.obstacles[user] = f"the kernel has {len(chain)} operations already"
                    continue
                extra = self._can_join(user, anchor, shape, inside)
                if extra is None:
                    continue
                for node in [node for node in extra if node not in chain]:
                    chain.append(node)
                    if not is_boolean(node):
                        self.taken.add(node)
                        self.log.changed("epilogue", (anchor, node), (anchor,), "only the kernel reads it")
                chain.append(user)
                self.taken.add(user)
                inside.add(user.result)
                pending.append(user.result)
                self.log.changed("epilogue", (anchor, user), (anchor,), "its operand is still in registers")
        return chain

    def _can_join(self, user: Node, anchor: Node, shape: tuple[int, ...], inside: set[Value]) -> list[Node] | None:
        """What `user` needs before it: booleans to be repeated, and nodes that nothing else reads. None if it cannot
        join: why is among the obstacles then."""
        if user.result.shape != shape:
            return None
        if self.sections[user] != self.sections[anchor]:
            self.obstacles[user] = f"it runs in another part of the step than {anchor.label or anchor.op.name}"
            return None
        if self.position[anchor] < self.backward <= self.position[user]:
            self.log.missed("epilogue", user, "it is there for the backward pass, and would be kept until then")
            return None
        extra: list[Node] = []
        for operand in user.operands:
            if operand in inside or self._exists_before(operand, anchor):
                continue
            producer = operand.producer
            assert producer is not None
            ready = all(o in inside or self._exists_before(o, anchor) for o in producer.operands)
            if ready and (is_boolean(producer) or self._only_read_by(user, producer, anchor, shape)):
                extra.append(producer)
                continue
            self.obstacles[user] = f"it also reads {producer.op.name}, which runs later"
            return None
        # Booleans made before the anchor are repeated inside as well, because they are never stored.
        masks = [mask for node in (*extra, user) for mask in self._with_booleans(node)]
        return list(dict.fromkeys((*masks, *extra)))

    def _only_read_by(self, user: Node, producer: Node, anchor: Node, shape: tuple[int, ...]) -> bool:
        """Whether an element-wise node can be computed on the way, because nothing but `user` needs it."""
        if not is_elementwise(producer) or producer in self.taken or producer.result.shape != shape:
            return False
        others = any(reader is not user for reader, _ in producer.result.users) or producer.result in self.kept
        return not others and self.sections[producer] == self.sections[anchor]

    def _exists_before(self, value: Value, anchor: Node) -> bool:
        producer = resolve(value).producer
        if producer is None or isinstance(producer.op, Constant):
            return True
        if is_boolean(producer):
            return all(self._exists_before(operand, anchor) for operand in producer.operands)
        if self.sections[producer] is Section.PREPARE and self.sections[anchor] is not Section.PREPARE:
            return True
        return self.position[producer] < self.position[anchor]

    def _kernel(self, anchor: Node, chain: tuple[Node, ...], riders: tuple[Node, ...]) -> Kernel:
        if anchor in chain:
            chain = (*self._with_booleans(anchor), *chain)
        chain = tuple(dict.fromkeys(chain))
        prologue = tuple(o.producer for o in anchor.operands if o.producer in self.casts)
        nodes = (*prologue, *(() if anchor in chain else (anchor,)), *chain, *riders)
        made = {result for node in nodes for result in node.results}
        reads = [resolve(operand) for node in nodes for operand in node.operands if operand not in made]
        reads = [value for value in dict.fromkeys(reads) if not is_immediate(value)]
        writes = [
            result
            for node in nodes
            if not is_boolean(node) and node not in prologue
            for result in node.results
            if self._stored(result, nodes)
        ]
        return Kernel(anchor, chain, riders, self.sections[anchor], tuple(reads), tuple(writes), prologue)

    @staticmethod
    def _with_booleans(node: Node) -> list[Node]:
        return [o.producer for o in node.operands if o.producer is not None and is_boolean(o.producer)]

    def _stored(self, value: Value, nodes: tuple[Node, ...]) -> bool:
        """Whether somebody outside the kernel reads the value (through views, and through repeated booleans)."""
        if value in self.kept:
            return True
        op = value.producer.op if value.producer is not None else None
        if isinstance(op, BatchMoments) or (isinstance(op, (BatchNormTraining, BatchNormBackward)) and value.index > 0):
            return True  # kernels store all of their statistics
        for user, _ in value.users:
            if user not in self.sections:
                continue
            if isinstance(user.op, _VIEWS):
                if user.result in {*self.graph.outputs.values()} or self._stored(user.result, nodes):
                    return True
            elif is_boolean(user):
                if any(reader not in nodes for reader, _ in user.result.users if reader in self.sections):
                    return True
            elif user not in nodes:
                return True
        return False
