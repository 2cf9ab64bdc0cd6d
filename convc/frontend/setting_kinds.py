"""The settings of `train` and their arguments: the one table that checker, manual and completion read."""

from __future__ import annotations

from convc.frontend.arguments import Parameter
from convc.frontend.expressions import Constant, Quantity
from convc.frontend.kinds import BOOLEAN, RANGE, TEXT, Kind, choice, duration, number_or, numbers, pair, real, whole
from convc.lazy import dataclass

_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class SettingKind:
    """A word of `train` (with its variant: `optim adam`) and its arguments."""

    word: str
    parameters: tuple[Parameter, ...]
    doc: str
    variant: str | None = None

    @property
    def title(self) -> str:
        return f"{self.word} {self.variant}" if self.variant else self.word


def _first(key: str, kind: Kind, doc: str) -> Parameter:
    return Parameter(key, kind, doc=doc, positional=True, keyword=False)


def _patterns(value: Constant) -> tuple[str, ...]:
    items = value if isinstance(value, tuple) else (value,)
    texts = tuple(item for item in items if isinstance(item, str) and item)
    if not texts or len(texts) != len(items):
        raise ValueError
    return texts


def _list(value: Constant) -> tuple[int, ...]:
    sizes = value if isinstance(value, tuple) else (value,)
    found = tuple(size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and size >= 1)
    if not found or len(found) != len(sizes):
        raise ValueError
    return found


_COUNTS = (
    Parameter("train", whole(), None, "how many images to train on"),
    Parameter("val", whole(), None, "how many training images to set aside for validation"),
    Parameter("test", whole(), None, "how many images to test on"),
    Parameter("split", real(0.0, 1.0, above=True, below=True), None, "the fraction of the images to train on"),
    Parameter("seed", whole(0, _SEED), None, "seed of the division, by default that of the training"),
)
_PATH = _first("path", TEXT, "the file or folder in double quotes")
_DOWNLOADED = Parameter("path", TEXT, None, "the folder that its files were put into", positional=True, keyword=False)
_FOLDER = (
    Parameter("bad", choice("refuse", "skip"), None, "what happens to images that cannot be read"),
    Parameter("size", pair(), None, "(height, width) to which images are brought"),
)
_WARMUP = Parameter("warmup", duration(0), Quantity(0, "e"), "linear rise of the rate at the beginning")
_FLOOR = Parameter("min", real(0.0), 0.0, "the rate at the end")


def _lr(default: float) -> Parameter:
    return Parameter("lr", real(0.0), default, "the learning rate")


def _betas() -> tuple[Parameter, ...]:
    return (
        _lr(1e-3),
        Parameter("beta1", real(0.0, 1.0, below=True), 0.9, "decay of the mean gradient"),
        Parameter("beta2", real(0.0, 1.0, below=True), 0.999, "decay of the mean squared gradient"),
        Parameter("eps", real(0.0, above=True), 1e-8, "added to the denominator"),
    )


_MOMENTUM = Parameter("momentum", real(0.0, 1.0, below=True), 0.0, "factor of the velocity")

SETTINGS: tuple[SettingKind, ...] = (
    SettingKind("data", (_DOWNLOADED, *_COUNTS), "handwritten digits, 60,000 and 10,000 grey images of 28x28", "mnist"),
    SettingKind("data", (_DOWNLOADED, *_COUNTS), "clothing, in the format of MNIST", "fashion_mnist"),
    SettingKind("data", (_DOWNLOADED, *_COUNTS), "60,000 colour images of 32x32 in ten classes", "cifar10"),
    SettingKind("data", _COUNTS, "1,797 handwritten digits of 8x8", "digits"),
    SettingKind("data", (_PATH, *_COUNTS, *_FOLDER), "one sub-folder of images per class", "folder"),
    SettingKind("data", (_PATH, *_COUNTS), "a folder of IDX files, as MNIST's", "idx"),
    SettingKind("data", (_PATH, *_COUNTS), "a file of arrays", "npz"),
    SettingKind("data", (_PATH, *_COUNTS), "a folder of shards", "shards"),
    SettingKind(
        "batch",
        (
            _first("size", whole(), "the number of images per step"),
            Parameter("accumulate", whole(), 1, "batches per update"),
        ),
        "images per step, 64 by default",
    ),
    SettingKind("epochs", (_first("count", whole(), "the number of passes over the data"),), "10 by default"),
    SettingKind("seed", (_first("value", whole(0, _SEED), "a whole number"),), "0 by default"),
    SettingKind(
        "optim",
        (_lr(0.01), _MOMENTUM, Parameter("nesterov", BOOLEAN, False, "Nesterov's momentum")),
        "stochastic gradient descent",
        "sgd",
    ),
    SettingKind(
        "optim", (_lr(0.01), Parameter("eps", real(0.0), 1e-10, "added to the denominator")), "AdaGrad", "adagrad"
    ),
    SettingKind(
        "optim",
        (
            _lr(0.01),
            Parameter("alpha", real(0.0, 1.0, below=True), 0.99, "decay of the mean squared gradient"),
            Parameter("eps", real(0.0, above=True), 1e-8, "added to the denominator"),
            _MOMENTUM,
        ),
        "RMSprop",
        "rmsprop",
    ),
    SettingKind("optim", _betas(), "Adam", "adam"),
    SettingKind("optim", _betas(), "Adam with decoupled weight decay", "adamw"),
    SettingKind("optim", (_lr(1.0), Parameter("iterations", whole(), 20, "per step")), "conjugate gradients", "cg"),
    SettingKind(
        "optim",
        (_lr(1.0), Parameter("iterations", whole(), 20, "per step"), Parameter("history", whole(), 10, "pairs kept")),
        "limited-memory BFGS",
        "lbfgs",
    ),
    SettingKind("optim", (_lr(1.0), Parameter("iterations", whole(), 20, "per step")), "Newton's method", "newton_cg"),
    SettingKind("schedule", (_WARMUP,), "the optimiser's rate throughout", "constant"),
    SettingKind("schedule", (_WARMUP, _FLOOR), "half a cosine from the optimiser's rate down", "cosine"),
    SettingKind(
        "schedule",
        (
            Parameter("every", duration(), doc="how long until the next step"),
            Parameter("gamma", real(0.0, above=True), 0.1, "factor at each step"),
            _WARMUP,
        ),
        "the rate falls by a factor at regular intervals",
        "step",
    ),
    SettingKind(
        "schedule",
        (Parameter("power", real(0.0), 1.0, "exponent of the remaining fraction"), _WARMUP, _FLOOR),
        "the rate falls with a power of the remaining time",
        "poly",
    ),
    SettingKind(
        "schedule", (Parameter("max", real(0.0, above=True), doc="the highest rate"),), "one rise, one fall", "onecycle"
    ),
    SettingKind(
        "schedule",
        (
            Parameter("factor", real(0.0, 1.0, above=True, below=True), 0.1, "factor where progress stalls"),
            Parameter("patience", whole(0), 5, "epochs without progress"),
        ),
        "the rate falls when the validation loss stalls",
        "plateau",
    ),
    SettingKind(
        "decay",
        (
            Parameter("l2", real(0.0), 0.0, "factor of the squared weights"),
            Parameter("l1", real(0.0), 0.0, "factor of the absolute weights"),
            Parameter("bias", BOOLEAN, False, "whether biases and bn parameters decay, too"),
        ),
        "penalties on the size of weights",
    ),
    SettingKind(
        "clip", (_first("norm", real(0.0, above=True), "the largest norm"),), "bounds the norm of the gradient"
    ),
    SettingKind("maxnorm", (_first("norm", real(0.0, above=True), "the largest norm"),), "bounds each unit's weights"),
    SettingKind(
        "class_weights",
        (_first("weights", number_or(numbers(0.0), "balanced"), "balanced, or one weight per class"),),
        "weights of the classes in the loss",
    ),
    SettingKind(
        "precision",
        (
            _first("kind", choice("fp32", "fp16", "bf16"), "fp32, fp16 or bf16"),
            Parameter(
                "loss_scale",
                number_or(real(0.0, above=True), "dynamic", "none"),
                "dynamic",
                "factor on the loss in training; dynamic: found out, in fp16 only",
            ),
            Parameter("rounding", choice("nearest", "stochastic"), "nearest", "of weights"),
        ),
        "element type of the arithmetic, fp32 by default",
    ),
    SettingKind(
        "early_stop",
        (
            _first("metric", choice("val_loss", "val_accuracy"), "val_loss or val_accuracy"),
            Parameter("patience", whole(), 10, "epochs without progress"),
            Parameter("delta", real(0.0), 0.0, "what counts as progress"),
        ),
        "ends the training when validation stalls",
    ),
    SettingKind(
        "init",
        (
            _first("path", TEXT, "a file of weights in double quotes"),
            Parameter(
                "freeze", Kind('a pattern such as "conv*", or a list of them', _patterns), (), "parameters to keep"
            ),
        ),
        "starts from trained weights",
    ),
    SettingKind(
        "ensemble",
        (
            _first("count", whole(), "the number of nets"),
            Parameter("mode", choice("bagging", "restarts", "snapshot", "boosting"), "restarts", "how the nets differ"),
        ),
        "trains several nets",
    ),
    SettingKind(
        "checkpoint",
        (
            Parameter("every", duration(), Quantity(1, "e"), "how often"),
            Parameter("keep", whole(), 1, "how many of them, the newest"),
        ),
        "keeps states of the training as numbered files",
    ),
)

# Settings that are pipelines, and what may stand in them.
_STRENGTH = real(0.0)
AUGMENT_STEPS: tuple[SettingKind, ...] = (
    SettingKind("pad", (_first("pixels", whole(0), "the number of pixels"),), "zeros around the image"),
    SettingKind("crop", (_first("size", pair(), "the size"),), "a random part of this size"),
    SettingKind("flip", (_first("axis", choice("h", "v"), "h or v"),), "mirrors every other image"),
    SettingKind("jitter", (_first("strength", _STRENGTH, "the strength"),), "random contrast and brightness"),
    SettingKind("pca", (_first("std", _STRENGTH, "the standard deviation"),), "offsets along the principal colours"),
    SettingKind("rotate", (_first("degrees", real(0.0, 180.0), "the largest angle"),), "turns by a random angle"),
    SettingKind("shift", (_first("pixels", pair(0), "the largest shift"),), "moves by whole pixels"),
    SettingKind("scale", (_first("range", RANGE, "the range of factors"),), "enlarges or shrinks"),
    SettingKind("shear", (_first("degrees", real(0.0, 90.0, below=True), "the largest angle"),), "shears"),
    SettingKind("elastic", (_first("pixels", _STRENGTH, "the largest displacement"),), "distorts as a lens"),
    SettingKind("noise", (_first("std", _STRENGTH, "the standard deviation"),), "adds Gaussian noise"),
    SettingKind("cutout", (_first("size", pair(), "the size of the square"),), "blanks a random square"),
)
TEST_STEPS: tuple[SettingKind, ...] = (
    SettingKind(
        "resize",
        (_first("sizes", Kind("a size or a list of sizes", _list), "the sizes"),),
        "the short side, to each size",
    ),
    SettingKind("crop", (_first("size", pair(), "the size"),), "the centre"),
    SettingKind("ten_crop", (_first("size", pair(), "the size"),), "corners and centre, mirrored too"),
    SettingKind("flip", (_first("axis", choice("h", "v"), "h or v"),), "the image and its mirror image"),
    SettingKind("average", (), "the mean of the predictions"),
)
PIPELINES: dict[str, tuple[SettingKind, ...]] = {"augment": AUGMENT_STEPS, "test": TEST_STEPS}

BY_WORD: dict[str, dict[str | None, SettingKind]] = {}
for _kind in SETTINGS:
    BY_WORD.setdefault(_kind.word, {})[_kind.variant] = _kind
