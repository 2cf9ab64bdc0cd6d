"""The layers and their arguments: the one table that the checker, the elaborator, the manual and completion read."""

from __future__ import annotations

from collections.abc import Callable

from convc.frontend import emitters, kinds
from convc.frontend.arguments import Parameter
from convc.frontend.emission import Site
from convc.frontend.kinds import (
    BOOLEAN,
    IDENTIFIER,
    INITIAL,
    PADDING,
    SHAPE,
    InitialValue,
    choice,
    number_or,
    one_of,
    pair,
    real,
    whole,
)
from convc.ir.graph import Value
from convc.ir.ops.conv import ALGORITHM_WORDS
from convc.lazy import dataclass


@dataclass(frozen=True)
class LayerKind:
    """A word of the language (with its variant: `pool max`), its arguments, and how it becomes ops.

    `emit` gives the new current value, or None where there is none afterwards.
    """

    word: str
    parameters: tuple[Parameter, ...]
    doc: str
    emit: Callable[[Site], Value | None]
    variant: str | None = None

    @property
    def title(self) -> str:
        """`conv`, `pool max`."""
        return f"{self.word} {self.variant}" if self.variant else self.word

    @property
    def signature(self) -> tuple[Parameter, ...]:
        """Its own arguments, then those that every layer takes."""
        return self.parameters + COMMON


# What every layer takes.
COMMON = (
    Parameter("name", IDENTIFIER, None, "replaces the numbered name in the names of parameters"),
    Parameter("freeze", BOOLEAN, False, "parameters (and statistics of bn) are kept as they are"),
    Parameter("lr", real(0.0), 1.0, "factor on the learning rate"),
    Parameter("decay", real(0.0), 1.0, "factor on the weight decay"),
    Parameter("precision", choice("fp32", "fp16", "bf16"), None, "overrides that of `train`"),
)


def _first(key: str, kind: kinds.Kind, doc: str, default: object = ...) -> Parameter:
    """A positional argument that has no spelling with a key."""
    if default is ...:
        return Parameter(key, kind, doc=doc, positional=True, keyword=False)
    return Parameter(key, kind, default, doc, positional=True)


_HE = InitialValue("he")
_BIAS = Parameter("bias", BOOLEAN, True, "whether a bias is added")
_INIT = Parameter("init", INITIAL, _HE, "initialiser of the weights")
_BITS = Parameter("bits", one_of(1, 32), 32, "1: weights are signs times one number per output (experimental)")
_SLIDING = (
    Parameter("k", pair(), doc="the kernel size", long="kernel"),
    Parameter("s", pair(), (1, 1), "stride", long="stride"),
    Parameter("pad", PADDING, (0, 0, 0, 0), "zeros around the image", long="padding"),
    Parameter("dil", pair(), (1, 1), "distance of the kernel's taps", long="dilation"),
    Parameter("groups", whole(), 1, "channels are split into this many groups; groups=in is depthwise"),
    _BIAS,
    _INIT,
    Parameter("algo", choice(*ALGORITHM_WORDS), "auto", "how the convolution is computed"),
)
_POOLING = (
    Parameter("k", number_or(pair(), "global"), doc="the window size, or global", positional=True, long="kernel"),
    Parameter("s", pair(), None, "stride, by default the window size", long="stride"),
    Parameter("pad", PADDING, (0, 0, 0, 0), "padding, smaller than the window", long="padding"),
    Parameter("round", choice("floor", "ceil"), "floor", "rounding of the output size"),
)
_COUNT_PAD = Parameter("count_pad", BOOLEAN, True, "whether padding counts in the average")
_LOSS = (
    Parameter("weight", real(0.0, above=True), 1.0, "factor in the total"),
    Parameter("smooth", real(0.0, 1.0, below=True), 0.0, "label smoothing: (1-smooth)·onehot + smooth/K"),
)

LAYERS: tuple[LayerKind, ...] = (
    LayerKind(
        "input",
        (
            _first("shape", SHAPE, "the shape CxHxW of an image"),
            Parameter("mean", kinds.numbers(), None, "subtracted from the pixels, one number or one per channel"),
            Parameter("std", kinds.numbers(0.0, above=True), None, "divides the pixels, one number or one per channel"),
        ),
        "images; pixels arrive as value/255",
        emitters.input_layer,
    ),
    LayerKind(
        "conv", (_first("filters", whole(), "the number of filters"), *_SLIDING, _BITS), "convolution", emitters.conv
    ),
    LayerKind(
        "deconv",
        (
            _first("filters", whole(), "the number of filters"),
            *_SLIDING,
            Parameter("out_pad", pair(0), (0, 0), "rows and columns added at the bottom and right"),
        ),
        "transposed convolution",
        emitters.deconv,
    ),
    LayerKind("pool", _POOLING, "the largest value under each window", emitters.pool, variant="max"),
    LayerKind("pool", (*_POOLING, _COUNT_PAD), "the mean under each window", emitters.pool, variant="avg"),
    LayerKind(
        "fc",
        (
            _first("outputs", whole(), "the number of outputs"),
            _BIAS,
            _INIT,
            Parameter(
                "dropconnect", real(0.0, 1.0, below=True), 0.0, "probability that a weight is left out in training"
            ),
            _BITS,
        ),
        "fully connected; flattens images first",
        emitters.fc,
    ),
    LayerKind(
        "bn",
        (
            Parameter("eps", real(0.0, above=True), 1e-5, "added to the variance"),
            Parameter("momentum", real(0.0, 1.0), 0.1, "weight of the new batch in the running statistics"),
            Parameter("affine", BOOLEAN, True, "whether gamma and beta are learned"),
        ),
        "batch normalisation, per feature map or per node",
        emitters.bn,
    ),
    LayerKind(
        "lrn",
        (
            _first("size", whole(), "the number of neighbouring channels"),
            Parameter("alpha", real(0.0), 1e-4, "factor of the mean square"),
            Parameter("beta", real(), 0.75, "exponent"),
            Parameter("k", real(0.0, above=True), 1.0, "constant"),
        ),
        "local response normalisation across channels",
        emitters.lrn,
    ),
    LayerKind("relu", (), "max(x, 0)", emitters.relu),
    LayerKind(
        "leaky", (_first("a", real(), "slope of the negative part", 0.01),), "x, or a·x where negative", emitters.leaky
    ),
    LayerKind("prelu", (), "leaky with one learned slope per channel", emitters.prelu),
    LayerKind("elu", (_first("a", real(0.0), "scale of the negative part", 1.0),), "x, or a·(exp(x)-1)", emitters.elu),
    LayerKind("sigmoid", (), "1/(1+exp(-x))", emitters.sigmoid),
    LayerKind("tanh", (), "hyperbolic tangent", emitters.tanh),
    LayerKind("linear", (), "the identity", emitters.linear),
    LayerKind("step", (), "1 where x > 0, else 0; straight-through gradient", emitters.step),
    LayerKind("relu6", (), "min(max(x, 0), 6)", emitters.relu6),
    LayerKind(
        "maxout",
        (_first("group", whole(), "the size of the groups"),),
        "maximum over groups of channels",
        emitters.maxout,
    ),
    LayerKind("softmax", (), "soft-max over channels", emitters.softmax),
    LayerKind(
        "dropout",
        (_first("rate", real(0.0, 1.0, below=True), "the probability that a value is dropped"),),
        "drops values in training, scales the others by 1/(1-rate)",
        emitters.dropout,
    ),
    LayerKind(
        "noise",
        (_first("std", real(0.0), "the standard deviation"),),
        "adds Gaussian noise in training",
        emitters.noise,
    ),
    LayerKind("flatten", (), "CxHxW to C·H·W features, in this order", emitters.flatten),
    LayerKind(
        "upsample",
        (
            _first("factor", whole(), "the factor"),
            Parameter("mode", choice("nearest", "bilinear"), "nearest", "interpolation, half-pixel centres"),
        ),
        "enlarges images by a whole factor",
        emitters.upsample,
    ),
    LayerKind("loss", _LOSS, "cross-entropy of the soft-max", emitters.loss_softmax, variant="softmax"),
    LayerKind(
        "loss",
        (Parameter("margin", real(0.0), 1.0, "the margin"), _LOSS[0]),
        "multi-class hinge: sum over j != y of max(0, margin + s_j - s_y)",
        emitters.loss_hinge,
        variant="hinge",
    ),
    LayerKind(
        "loss", (_LOSS[0],), "mean squared error; class numbers are taken as one-hot", emitters.loss_mse, variant="mse"
    ),
)

# By word, then by variant (None where there is only one).
BY_WORD: dict[str, dict[str | None, LayerKind]] = {}
for _kind in LAYERS:
    BY_WORD.setdefault(_kind.word, {})[_kind.variant] = _kind
