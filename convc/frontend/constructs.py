"""Statements, items and functions of the language: what the manual, `convc docs` and completion say of them.

Layers and settings have tables of their own, `layers` and `setting_kinds`; examples of these stand here, too. Every
example is compiled by a test.
"""

from __future__ import annotations

from convc.lazy import dataclass


@dataclass(frozen=True)
class Construct:
    """`form` is how it is written, `example` text of the body of a net, or of a whole file if `whole`."""

    word: str
    form: str
    doc: str
    example: str
    notes: tuple[str, ...] = ()
    whole: bool = False


ITEMS: tuple[Construct, ...] = (
    Construct(
        "net",
        "net NAME(PARAMETER = VALUE, …) { … }",
        "a network, from `input` to `loss`",
        "net small(classes = 10) {\n  input 1x28x28\n  conv 8 k=5 -> relu -> pool max 2\n  fc classes\n"
        "  loss softmax\n}",
        ("`--set classes=100` gives another value to a parameter, `--net NAME` chooses among several nets.",),
        whole=True,
    ),
    Construct(
        "block",
        "block NAME(PARAMETER = VALUE, …) { … }",
        "a part that is applied like a layer",
        "block unit(c, s = 1) {\n  conv c k=3 s=s pad=1 bias=no -> bn -> relu\n}\n\n"
        "net n {\n  input 3x32x32\n  unit(16) -> unit 32 s=2\n}",
        (
            "A bracket that touches the name makes a call; `unit(16, s=2)` and `unit 16 s=2` are the same.",
            "Blocks may call each other and themselves; they do not see the names of their caller.",
        ),
        whole=True,
    ),
    Construct(
        "use",
        'use "FILE"',
        "brings in the blocks and nets of another file",
        'use "blocks.cnn"\n\nnet n {\n  input 3x32x32\n  unit(16)\n}',
        ("The path is relative to the file that says it.",),
        whole=True,
    ),
    Construct(
        "train",
        "train { … }",
        "how the nets of a file are trained: one setting per line",
        "net n { input 1x28x28 -> fc 10 -> loss softmax }\n\n"
        "train {\n  data mnist\n  batch 64\n  epochs 5\n  optim adam lr=0.001\n}",
        ("`--set train.optim.lr=0.01` changes a setting for one run.",),
        whole=True,
    ),
    Construct(
        "search",
        "search grid { AXIS … }, search random N { … }, search bayes N { … } refine R",
        "which settings to try: an axis is the path of a setting, `in`, and its values",
        "net n { input 1x28x28 -> fc 10 -> loss softmax }\n\n"
        "train {\n  data mnist\n}\n\n"
        "search random 30 {\n  optim.lr in log(1e-4, 1e-1)\n  batch in [32, 64, 128]\n} refine 2",
        whole=True,
    ),
)

STATEMENTS: tuple[Construct, ...] = (
    Construct("let", "let NAME = VALUE", "a constant, known to the end of its body", "let c = 16\nconv 2*c k=3"),
    Construct(
        "assert",
        'assert CONDITION "MESSAGE"',
        "an error unless the condition holds",
        'assert in % 3 == 0 "{in} channels cannot be divided by 3"\nrelu',
        ("`{…}` in the message stands for a value.",),
    ),
    Construct("repeat", "repeat COUNT { … }", "runs a body several times", "repeat 3 { conv 16 k=3 pad=1 -> relu }"),
    Construct(
        "for",
        "for NAME in LIST { … }, for NAME, NAME in LIST { … }, for NAME in START..END { … }",
        "runs a body for each of several values",
        "for c, n in [(16, 1), (32, 2)] {\n  repeat n { conv c k=3 pad=1 -> relu }\n  pool max 2\n}\n"
        "for i in 0..2 { conv 8*(i + 1) k=1 }",
        ("A range ends before its second number.",),
    ),
    Construct(
        "if",
        "if CONDITION { … } else if CONDITION { … } else { … }",
        "runs one of several bodies",
        "if in < 16 { conv 16 k=1 } else { relu }",
        ("Within expressions: `a if c else b`.",),
    ),
    Construct(
        "else",
        "if CONDITION { … } else { … }",
        "the body that runs where no condition of an `if` holds",
        "if in == 3 { conv 16 k=1 } else { relu }",
    ),
    Construct(
        "as",
        "as NAME, as NAME[INDEX]",
        "names the current value",
        "conv 3 k=3 pad=1 as early -> relu -> conv 3 k=3 pad=1 -> add early",
        ("A name holds to the end of the net, block or branch, also out of `repeat`, `for` and `if`.",),
    ),
    Construct(
        "from",
        "from NAME, from NAME[INDEX]",
        "makes a named value the current one again",
        "as x -> pool max 2 as small\nfrom x -> pool avg 2 -> concat small",
    ),
    Construct(
        "add",
        "add NAME, …",
        "sum of the current value and named ones of the same shape",
        "as x -> conv 3 k=3 pad=1 -> add x -> relu",
    ),
    Construct(
        "mul",
        "mul NAME, …",
        "product by element; maps of one pixel (Cx1x1) weigh whole maps",
        "as x -> pool avg global -> conv in k=1 -> sigmoid as gate\nfrom x -> mul gate",
    ),
    Construct(
        "concat",
        "concat NAME, … or concat { branch { … } branch { … } }",
        "joins maps of equal height and width on channels: named values after the current one, or what branches give",
        "concat {\n  branch { conv 8 k=1 }\n  branch { conv 8 k=3 pad=1 }\n}\nas x -> relu -> concat x",
    ),
    Construct(
        "branch",
        "concat { branch { … } branch { … } }",
        "one of the bodies of a `concat`; each runs on the current value",
        "concat { branch { conv 8 k=1 } branch { pool max 3 s=1 pad=1 } }",
    ),
    Construct(
        "residual",
        "residual { … } skip identity|auto|{ … }",
        "runs two bodies on the current value and adds what they give",
        "residual {\n  conv 16 k=3 s=2 pad=1 bias=no -> bn -> relu\n  conv 16 k=3 pad=1 bias=no -> bn\n} skip auto\n"
        "relu",
        (
            "Without `skip` it is the identity, and shapes must agree.",
            "`skip auto` is the identity where shapes agree, and else a convolution 1x1 with bn.",
        ),
    ),
    Construct("skip", "residual { … } skip identity|auto|{ … }", "the other path of a `residual`",
        "residual { conv 8 k=3 pad=1 } skip { conv 8 k=1 }"),
    Construct(
        "aux",
        "aux { … loss softmax weight=W }",
        "a side branch with a loss of its own, in training only; the current value stays as it was",
        "conv 8 k=3 -> relu\naux { pool avg global -> fc 10 -> loss softmax weight=0.3 }\nfc 10 -> loss softmax",
    ),
    Construct(
        "shared",
        "shared NAME { … }",
        "defines a part and runs it; `reuse NAME` runs it again with the same parameters",
        "shared step { conv 3 k=3 pad=1 -> relu }\nreuse step",
        ("In a loop the first round defines it, later ones reuse it.",),
    ),
    Construct(
        "reuse",
        "reuse NAME",
        "runs a shared part again, with the same parameters",
        "shared step { conv 3 k=3 pad=1 -> relu }\nrepeat 2 { reuse step }",
    ),
)  # fmt: skip

FUNCTIONS: tuple[Construct, ...] = (
    Construct("min", "min(a, b, …)", "the smallest of numbers, or of the items of a list", "let c = min(in, 16)"),
    Construct("max", "max(a, b, …)", "the largest of numbers, or of the items of a list", "let c = max(in, 16)"),
    Construct("ceil", "ceil(x)", "the nearest whole number above", "let c = ceil(in / 2)"),
    Construct("floor", "floor(x)", "the nearest whole number below", "let c = floor(in / 2)"),
    Construct("round", "round(x)", "the nearest whole number, of two the even one", "let c = round(in * 0.75)"),
    Construct("log", "log(x)", "the natural logarithm", "let c = ceil(log(in + 1))"),
    Construct("sqrt", "sqrt(x)", "the square root", "let c = floor(sqrt(in))"),
    Construct(
        "len", "len(xs)", "the number of items of a list", "let widths = [8, 16]\nfor i in 0..len(widths) { relu }"
    ),
    Construct("in", "in", "the number of channels of the current value", "conv 2*in k=1 groups=in"),
)

# By the titles of the tables `layers` and `setting_kinds`.
LAYER_EXAMPLES: dict[str, str] = {
    "input": "input 3x32x32 mean=[0.49, 0.48, 0.45] std=0.25",
    "conv": "conv 32 k=3 pad=1 bias=no -> bn -> relu",
    "deconv": "deconv 16 k=2 s=2",
    "pool max": "pool max 2",
    "pool avg": "pool avg global",
    "fc": "flatten -> fc 100 init=xavier",
    "bn": "conv 8 k=3 bias=no -> bn momentum=0.05",
    "lrn": "conv 16 k=3 -> relu -> lrn 5 alpha=1e-4",
    "relu": "conv 8 k=3 -> relu",
    "leaky": "conv 8 k=3 -> leaky 0.1",
    "prelu": "conv 8 k=3 -> prelu",
    "elu": "conv 8 k=3 -> elu",
    "sigmoid": "fc 8 -> sigmoid",
    "tanh": "fc 8 -> tanh",
    "linear": "fc 8 -> linear",
    "step": "fc 8 -> step",
    "relu6": "conv 8 k=3 -> relu6",
    "maxout": "conv 8 k=3 -> maxout 2",
    "softmax": "fc 10 -> softmax",
    "dropout": "fc 64 -> relu -> dropout 0.5",
    "noise": "noise 0.1 -> conv 8 k=3",
    "flatten": "pool max 2 -> flatten -> fc 10",
    "upsample": "upsample 2 mode=bilinear",
    "loss softmax": "fc 10 -> loss softmax smooth=0.1",
    "loss hinge": "fc 10 -> loss hinge margin=1",
    "loss mse": "fc 10 -> loss mse",
}
LAYER_NOTES: dict[str, tuple[str, ...]] = {
    "conv": (
        "Output size: floor((H + padding above and below - dil*(k-1) - 1)/s) + 1.",
        "`pad=same` keeps H/s, rounded up. `groups=in` is depthwise.",
        "`algo` is a family or one algorithm, for all directions; where it is impossible the choice is free.",
        "`bits=1` takes the signs of a filter's weights times their mean size. Experimental: it is not faster yet.",
    ),
    "deconv": ("Output size: (H-1)*s - pads + dil*(k-1) + 1 + out_pad; `pad=same` gives H*s.",),
    "pool max": ("`round=ceil` adds a last window that begins inside the image but ends outside.",),
    "pool avg": ("`round=ceil` adds a last window that begins inside the image but ends outside.",),
    "bn": ("A bias before it would be undone: write `bias=no`. Running statistics follow PyTorch's conventions.",),
    "dropout": ("Does nothing at inference.",),
    "noise": ("Does nothing at inference.",),
    "fc": ("Flattens what has rows and columns.", "`bits=1` is that of `conv`."),
    "softmax": ("`loss softmax` contains the soft-max: none is needed before it.",),
    "loss softmax": ("Losses are means over the batch. A loss ends the net: there is no current value behind it.",),
}
SETTING_EXAMPLES: dict[str, str] = {
    "data mnist": "data mnist val=5000",
    "data fashion_mnist": 'data fashion_mnist "fashion/"',
    "data cifar10": 'data cifar10 "cifar-10/" val=5000',
    "data digits": "data digits test=300",
    "data folder": 'data folder "photos/" split=0.9',
    "data idx": 'data idx "images/"',
    "data npz": 'data npz "data.npz" test=1000',
    "data shards": 'data shards "shards/"',
    "batch": "batch 128 accumulate=2",
    "epochs": "epochs 20",
    "seed": "seed 7",
    "optim sgd": "optim sgd lr=0.1 momentum=0.9 nesterov=yes",
    "optim adagrad": "optim adagrad lr=0.01",
    "optim rmsprop": "optim rmsprop lr=0.001 alpha=0.9",
    "optim adam": "optim adam lr=0.001",
    "optim adamw": "optim adamw lr=0.001",
    "optim cg": "optim cg iterations=20",
    "optim lbfgs": "optim lbfgs history=10",
    "optim newton_cg": "optim newton_cg iterations=20",
    "schedule constant": "schedule constant warmup=1e",
    "schedule cosine": "schedule cosine warmup=5e",
    "schedule step": "schedule step every=30e gamma=0.1",
    "schedule poly": "schedule poly power=2",
    "schedule onecycle": "schedule onecycle max=0.1",
    "schedule plateau": "schedule plateau factor=0.1 patience=5",
    "decay": "decay l2=5e-4",
    "clip": "clip 1.0",
    "maxnorm": "maxnorm 3.0",
    "class_weights": "class_weights balanced",
    "precision": "precision fp16 loss_scale=dynamic",
    "early_stop": "early_stop val_loss patience=10",
    "init": 'init "pretrained.safetensors" freeze="fc*"',
    "ensemble": "ensemble 5 mode=bagging",
    "checkpoint": "checkpoint every=1e keep=3",
    "augment": "augment { pad 4 -> crop 32 -> flip h }",
    "test": "test { resize [224, 256] -> ten_crop 224 -> average }",
    "schedule": "schedule 0.1 for 80e, 0.01 for 40e, 0.001",
}
STEP_EXAMPLES: dict[tuple[str, str], str] = {
    ("augment", "pad"): "pad 4 -> crop 32",
    ("augment", "crop"): "crop 28",
    ("augment", "flip"): "flip h",
    ("augment", "jitter"): "jitter 0.4",
    ("augment", "pca"): "pca 0.1",
    ("augment", "rotate"): "rotate 10",
    ("augment", "shift"): "shift (2, 3)",
    ("augment", "scale"): "scale (0.8, 1.2)",
    ("augment", "shear"): "shear 5",
    ("augment", "elastic"): "elastic 8",
    ("augment", "noise"): "noise 0.05",
    ("augment", "cutout"): "cutout 8",
    ("test", "resize"): "resize [224, 256, 384] -> average",
    ("test", "crop"): "crop 224",
    ("test", "ten_crop"): "ten_crop 224 -> average",
    ("test", "flip"): "flip h -> average",
    ("test", "average"): "ten_crop 224 -> average",
}
