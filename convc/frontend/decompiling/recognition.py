"""A graph to steps: every node is part of a layer, a join, or the two ends of a net; all that are not are reported."""

from __future__ import annotations

from dataclasses import field

import numpy as np

from convc.frontend.decompiling.readers import NoSyntax, check_start, read, trained_weights
from convc.frontend.decompiling.steps import JOINS, Step, texts
from convc.frontend.emission import Modifiers
from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.graph import Graph, Node, Parameter, Value
from convc.ir.op import Op
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.distance import Hinge, MeanSquaredError
from convc.ir.ops.dropconnect import DropConnect
from convc.ir.ops.elementwise import Add, Divide, Multiply, Subtract
from convc.ir.ops.join import Concat
from convc.ir.ops.linear import Linear
from convc.ir.ops.loss import CountCorrect, SoftmaxCrossEntropy
from convc.ir.ops.maps import ScaleMaps
from convc.ir.ops.random import Dropout, Noise
from convc.ir.ops.shape import Flatten
from convc.ir.philox import stream_key
from convc.ir.types import DType
from convc.lazy import dataclass

_LOSSES = (SoftmaxCrossEntropy, Hinge, MeanSquaredError)
_JOINS: dict[type[Op], str] = {Add: "add", Multiply: "mul", ScaleMaps: "mul", Concat: "concat"}
_BUFFERS = ("mean", "var")
# What makes weights of weights, and the layers (and what else) that say so by an argument.
_WEIGHT_MAKERS: dict[type[Op], tuple[type[Op], ...]] = {DropConnect: (Linear,), Binarize: (Conv2d, Linear, DropConnect)}


@dataclass
class Recognition:
    """The steps of a graph in its order; `logits` is what the net delivers, where no loss says so."""

    steps: list[Step]
    logits: Value | None


def recognise(graph: Graph) -> Recognition:
    """The layers of a forward graph. Raises one `CompileError` that lists every node without surface syntax."""
    return _Recogniser(graph).run()


@dataclass(eq=False)
class _Recogniser:
    graph: Graph
    steps: list[Step] = field(default_factory=list[Step])
    problems: list[Diagnostic] = field(default_factory=list[Diagnostic])
    done: set[Node] = field(default_factory=set[Node])  # part of a step, or of the end of the net
    known: set[Value] = field(default_factory=set[Value])  # what can be the current value
    weights: dict[Node, float] = field(default_factory=dict[Node, float])  # of losses in the total

    def __post_init__(self) -> None:
        self.parameters = {p.value: p for p in self.graph.parameters.values()}
        self.implicit: dict[Value, Value] = {}  # result of a flatten that its user brings along -> what it reads

    def run(self) -> Recognition:
        self._refuse_updates()
        if self.problems:
            raise CompileError(self.problems)
        x = self._image()
        outputs = self._outputs()
        # Where only side losses are, the net delivers its last value.
        logits = None if "correct" in outputs else outputs.get("logits")
        if x is not None:
            self._input(x)
            self._losses()
            for node in self.graph.nodes:
                if node not in self.done:
                    self._node(node)
            self._leftovers(logits)
        if self.problems:
            raise CompileError(self.problems)
        return Recognition(self.steps, logits)

    # The two ends

    def _problem(self, message: str, node: Node | None = None, parameter: Parameter | None = None) -> None:
        span = node.span if node else parameter.span if parameter else None
        what = f"{node.op.name} {node.label}".strip() + " has no surface syntax: " if node else ""
        self.problems.append(Diagnostic("missing-syntax", what + message, span))

    def _refuse_updates(self) -> None:
        if self.graph.updates:
            names = list(self.graph.updates)
            self._problem(
                f"graph @{self.graph.name} is a training step: it updates {names[0]} and {len(names) - 1} more"
            )

    def _image(self) -> Value | None:
        """The images that the net reads."""
        images = [value for value in self.graph.inputs.values() if value.type.dtype.is_float]
        others = [name for name, value in self.graph.inputs.items() if value.type.dtype is not DType.I32]
        if len(images) == 1 and len(self.graph.inputs) <= 2 and len(others) == 1:
            x = images[0]
            if x.type.rank == 4 and x.type.dtype is DType.F32:
                return x
        shown = ", ".join(f"{name}: {value.type}" for name, value in self.graph.inputs.items()) or "none"
        self._problem(f"a net reads f32 images (N, C, H, W), and labels for its losses; the inputs are {shown}")
        return None

    def _outputs(self) -> dict[str, Value]:
        """The outputs by the names that they have in a net."""
        outputs = self.graph.outputs
        if len(outputs) == 1 and not set(outputs) & {"loss", "correct"}:
            return {"logits": next(iter(outputs.values()))}
        unknown = set(outputs) - {"logits", "loss", "correct"}
        if unknown or not outputs:
            shown = ", ".join(list(outputs)[:8]) or "none"
            self._problem(f"a net delivers logits, loss and correct; the outputs of this graph are {shown}")
        return dict(outputs)

    def _input(self, x: Value) -> None:
        given: dict[str, object] = {"shape": x.shape[1:]}
        node, first = x, None
        for key, op in (("mean", Subtract), ("std", Divide)):
            user = self._only_user(node)
            numbers = self._numbers(user, op, x.shape[1])
            if user is not None and numbers is not None:
                given[key] = numbers
                self.done |= {user, user.operands[1].producer}  # type: ignore[arg-type]
                node, first = user.result, first or user
        place = first or Node(Constant(), (), (), "input1")
        step = Step("input", place, (), node, texts("input", given), path=self._label_path(place))
        self.steps.append(step)
        self.known.add(node)

    def _only_user(self, value: Value) -> Node | None:
        read = self.graph.is_result(value)
        return value.users[0][0] if len(value.users) == 1 and not read else None

    def _numbers(self, node: Node | None, op: type, channels: int) -> tuple[float, ...] | None:
        """The constants that a node of this op takes from or divides the images by."""
        if node is None or type(node.op) is not op or node.operands[1].producer is None:
            return None
        constant = node.operands[1].producer.op
        if not isinstance(constant, Constant) or constant.dtype != "f32" or len(node.operands[1].users) > 1:
            return None
        values = tuple(shortest(value) for value in constant.values)
        if not np.isfinite(values).all() or (op is Divide and min(values) <= 0):
            return None
        if constant.shape == ():
            return values
        return values * (channels // len(values)) if constant.shape == (channels,) and channels > 1 else None

    def _losses(self) -> None:
        """The weights of the losses, and the nodes that add them up and count what is right."""
        for node in self.graph.nodes_of(CountCorrect):
            if node.result is self.graph.outputs.get("correct"):
                self.done.add(node)
        pending = [self.graph.outputs["loss"]] if "loss" in self.graph.outputs else []
        while pending:
            value = pending.pop()
            node = value.producer
            if node is None:
                self._problem("the output loss is no loss")
            elif isinstance(node.op, _LOSSES):
                self.weights[node] = 1.0
            elif isinstance(node.op, Add):
                self.done.add(node)
                pending += node.operands
            elif isinstance(node.op, Multiply) and self._weighted(node):
                self.done |= {node, node.operands[1].producer}  # type: ignore[arg-type]

    def _weighted(self, node: Node) -> bool:
        loss, factor = (operand.producer for operand in node.operands)
        if loss is None or factor is None or not isinstance(loss.op, _LOSSES) or not isinstance(factor.op, Constant):
            return False
        weight = shortest(factor.op.values[0])
        if len(factor.op.values) > 1 or not 0 < weight < float("inf"):
            return False
        self.weights[loss] = weight
        return True

    # Nodes

    def _node(self, node: Node) -> None:
        if isinstance(node.op, Constant) and node.result.users:
            return  # whoever reads it is reported
        sayers = _WEIGHT_MAKERS.get(type(node.op))
        if sayers is not None and all(isinstance(user.op, sayers) for user, _ in node.result.users):
            self.done.add(node)
            return
        flattens = isinstance(node.op, Flatten) and self._belongs_to_its_user(node)
        if flattens:
            self.implicit[node.result] = node.operands[0]
            self.done.add(node)
            return
        try:
            step = self._join(node) if type(node.op) in _JOINS else self._layer(node)
        except NoSyntax as error:
            self._problem(str(error), node)
            self.known.update(node.results)  # what reads it is no problem of its own
            return
        self.done.add(node)
        self.steps.append(step)
        if step.result is not None:
            self.known.add(step.result)

    def _belongs_to_its_user(self, node: Node) -> bool:
        """Whether a flatten is what `fc` or a loss does by itself."""
        users = [user for user, _ in node.result.users]
        layers = [user for user in users if isinstance(user.op, (Linear, *_LOSSES))]
        if len(layers) != 1 or layers[0].label != node.label or node.operands[0].type.rank != 4:
            return False
        if isinstance(layers[0].op, Linear):
            return len(users) == 1 and all(value is not node.result for value in self.graph.outputs.values())
        return node.operands[0].shape[2:] == (1, 1) and all(user in self.done or user in layers for user in users)

    def _reads(self, values: tuple[Value, ...]) -> tuple[Value, ...]:
        for value in values:
            if value in self.parameters:
                raise NoSyntax(f"it reads the parameter {self.parameters[value].name} as a value")
            if value.producer is not None and isinstance(value.producer.op, Constant):
                raise NoSyntax("it reads a constant")
            if value not in self.known:
                raise NoSyntax("it reads a value that no layer delivers")
        return values

    def _join(self, node: Node) -> Step:
        word, operands = _JOINS[type(node.op)], self._reads(node.operands)
        left, right = operands[0], operands[-1]
        equal = left.shape == right.shape
        if word != "concat" and equal == isinstance(node.op, ScaleMaps):
            raise NoSyntax(f"`{word}` of {left.type} and {right.type} is another op")
        return Step(word, node, operands, node.result, path=self._label_path(node) or (JOINS[word],))

    def _layer(self, node: Node) -> Step:
        x = node.operands[0] if node.operands else None
        if x is None:
            raise NoSyntax("no layer of the language computes it")
        title, arguments = read(node, self.parameters)
        x = self.implicit.get(x, x)
        self._reads((x,))
        result: Value | None = node.result
        owned = [self.parameters[value] for value in map(trained_weights, node.operands) if value in self.parameters]
        if isinstance(node.op, _LOSSES):
            if node not in self.weights:
                raise NoSyntax("it is no part of the output loss")
            if node.operands[1] not in self.graph.inputs.values():
                raise NoSyntax("its labels are no input")
            arguments["weight"] = self.weights[node]
            result = None
        elif isinstance(node.op, Conv2dBackwardData):
            bias = self._bias_behind(node)
            if bias is not None:
                check_start(bias[1], "zeros")
                arguments["bias"] = True
                self.done.add(bias[0])
                result = bias[0].result
                owned.append(bias[1])
        modifiers = self._modifiers(owned)
        path = self._path(node, owned)
        # Streams come from the path: where they do, the name of the layer matters.
        stream = getattr(node.op, "stream", 0) if isinstance(node.op, (Dropout, Noise)) else None
        keep = bool(owned) or (stream is not None and stream == stream_key(node.label, title))
        names = tuple(parameter.name for parameter in owned)
        return Step(title, node, (x,), result, texts(title, arguments), names, modifiers, path, keep)

    def _bias_behind(self, node: Node) -> tuple[Node, Parameter] | None:
        user = self._only_user(node.result)
        if user is None or not isinstance(user.op, Add) or user.operands[0] is not node.result:
            return None
        bias = self.parameters.get(user.operands[1])
        fits = bias is not None and bias.role == "bias" and bias.value.shape == (node.result.shape[1],)
        return (user, bias) if bias is not None and fits else None

    def _modifiers(self, owned: list[Parameter]) -> Modifiers:
        found = {(p.frozen, p.lr, p.decay) for p in owned}
        if len(found) > 1:
            raise NoSyntax("its parameters differ in freeze, lr or decay")
        for parameter in owned:
            if parameter.trainable == (parameter.role in _BUFFERS):
                raise NoSyntax(f"{parameter.name} {'is' if parameter.trainable else 'is not'} trainable")
        return Modifiers(*found.pop()) if found else Modifiers()

    # Names

    def _path(self, node: Node, owned: list[Parameter]) -> tuple[str, ...]:
        """The name of a layer: what its parameters agree on, else its label."""
        stems = {p.name.removesuffix(f".{p.role}") for p in owned}
        if len(stems) == 1 and all(p.name.endswith(f".{p.role}") for p in owned):
            return tuple(stems.pop().split("."))
        return self._label_path(node)

    def _label_path(self, node: Node) -> tuple[str, ...]:
        return tuple(node.label.split(".")) if node.label else ()

    # What is left

    def _leftovers(self, logits: Value | None) -> None:
        for node in self.graph.nodes:
            if isinstance(node.op, Constant) and not node.result.users:
                self._problem("nothing reads it", node)
        if self.problems:
            return
        used = {name for step in self.steps for name in step.parameters}
        for name, parameter in self.graph.parameters.items():
            if name not in used:
                self._problem(f"no layer has the parameter {name}", parameter=parameter)
        if logits is not None and logits not in self.known:
            self._problem("the output is no result of a layer")
        self._shared()

    def _shared(self) -> None:
        """Layers share all of their parameters, and everything else, too, or nothing."""
        owners: dict[str, Step] = {}
        for step in self.steps:
            for name in step.parameters:
                first = owners.setdefault(name, step)
                same = (first.title, first.parameters, first.arguments) == (step.title, step.parameters, step.arguments)
                if not same:
                    self._problem(f"it shares {name} with {first.node.label}, but is another layer", step.node)
                    break


def shortest(value: float) -> float:
    """The decimal with the fewest digits that is the same number in float32: 0.3, not 0.30000001192092896."""
    return float(str(np.float32(value)))
