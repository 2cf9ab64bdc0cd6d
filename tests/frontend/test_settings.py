"""The `train` and `search` items as `TrainSettings`, and overrides of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convc.frontend import (
    DataSetting,
    Decay,
    Net,
    Quantity,
    TrainSettings,
    check,
    loads,
    parse_assignments,
    parse_data,
    unsupported,
)
from convc.frontend.schedule import Segment
from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.span import Span

NET = "net n(classes=10) { input 1x28x28 -> conv 2 k=1 -> fc classes -> loss softmax }\n"


def train(text: str, **given: Any) -> TrainSettings:
    return loads(NET + "train {\n" + text + "\n}", file="n.cnn", set=given.get("given")).settings


REFERENCE = """
  data folder "photos/" split=0.9
  batch 128 accumulate=1
  epochs 160
  seed 7
  optim sgd momentum=0.9 nesterov=yes
  schedule 0.1 for 80e, 0.01 for 40e, 0.001
  decay l2=5e-4 l1=0
  clip 1.0
  class_weights balanced
  augment { pad 4 -> crop 32 -> flip h -> jitter 0.4 -> pca 0.1 -> rotate 10 -> shift 2 -> scale (0.8,1.2) -> shear 5
    elastic 8 -> noise 0.05 -> cutout 8 }
  test { resize [224,256,384,480,640] -> ten_crop 224 -> average }
  precision fp16 loss_scale=dynamic
  early_stop val_loss patience=10
  init "pretrained.safetensors" freeze="conv*"
  ensemble 5 mode=bagging
  checkpoint every=1e keep=3
}
search random 30 { optim.lr in log(1e-4, 1e-1)   decay.l2 in log(1e-6, 1e-2)   batch in [32, 64, 128] } refine 2
let unused = 0
block b() { relu
"""


def test_the_train_item_of_the_reference() -> None:
    settings = train(REFERENCE)
    assert settings.data is not None
    assert (settings.data.kind, settings.data.path, settings.data.options) == ("folder", "photos/", {"split": 0.9})
    assert (settings.batch, settings.accumulate, settings.epochs, settings.seed) == (128, 1, 160, 7)
    assert settings.optimizer is not None
    assert (settings.optimizer.kind, settings.optimizer.momentum, settings.optimizer.nesterov) == ("sgd", 0.9, True)
    assert settings.schedule.segments == (
        Segment(0.1, Quantity(80, "e")),
        Segment(0.01, Quantity(40, "e")),
        Segment(0.001, None),
    )
    assert (settings.decay.l2, settings.decay.l1, settings.decay.bias) == (5e-4, 0.0, False)
    assert (settings.clip, settings.class_weights) == (1.0, "balanced")
    assert [step.word for step in settings.augment][:3] == ["pad", "crop", "flip"]
    assert len(settings.augment) == 12
    assert dict(settings.augment[7].arguments) == {"range": (0.8, 1.2)}
    assert dict(settings.test[0].arguments) == {"sizes": (224, 256, 384, 480, 640)}
    assert (settings.precision.kind, settings.precision.loss_scale) == ("fp16", "dynamic")
    assert settings.early_stop is not None
    assert (settings.early_stop.metric, settings.early_stop.patience) == ("val_loss", 10)
    assert settings.init is not None
    assert (settings.init.path, settings.init.freeze) == ("pretrained.safetensors", ("conv*",))
    assert settings.ensemble is not None
    assert (settings.ensemble.count, settings.ensemble.mode) == (5, "bagging")
    assert (settings.checkpoint.every, settings.checkpoint.keep) == (Quantity(1, "e"), 3)
    assert settings.search is not None
    assert [(axis.path, axis.scale, axis.values) for axis in settings.search.axes] == [
        ("optim.lr", "log", (1e-4, 1e-1)),
        ("decay.l2", "log", (1e-6, 1e-2)),
        ("batch", "list", (32, 64, 128)),
    ]
    assert (settings.search.method, settings.search.count, settings.search.refine) == ("random", 30, 2)
    refused = [diagnostic.message.split("`")[1] for diagnostic in unsupported(settings)]
    assert refused == [
        "augment jitter",
        "augment pca",
        "augment shear",
        "augment elastic",
        "test",
        "ensemble",
        "search",
    ]
    assert all(diagnostic.span is not None for diagnostic in unsupported(settings))


def test_defaults() -> None:
    settings = loads(NET).settings
    assert settings == TrainSettings()
    assert (settings.batch, settings.epochs, settings.seed, settings.data, settings.optimizer) == (
        64,
        10,
        0,
        None,
        None,
    )
    assert settings.decay == Decay()
    assert unsupported(settings) == []
    assert not settings.explicit("batch")


@pytest.mark.parametrize(
    ("optim", "lr", "eps"),
    [
        ("sgd", 0.01, 1e-8),
        ("adam", 1e-3, 1e-8),
        ("adamw", 1e-3, 1e-8),
        ("adagrad", 0.01, 1e-10),
        ("rmsprop", 0.01, 1e-8),
    ],
)
def test_defaults_of_optimisers(optim: str, lr: float, eps: float) -> None:
    optimizer = train(f"optim {optim}").optimizer
    assert optimizer is not None
    assert (optimizer.lr, optimizer.eps, optimizer.momentum) == (lr, eps, 0.0)


def test_what_is_executed_now() -> None:
    for data in ("mnist", "fashion_mnist", "cifar10", "digits", 'idx "d"', 'npz "f"', 'folder "d"'):
        assert unsupported(train(f"data {data}")) == []
    for schedule in ("constant", "cosine warmup=2e", "step every=3e", "0.1 for 2e, 0.01", "poly", "onecycle max=0.1"):
        assert unsupported(train(f"optim adam\nschedule {schedule}")) == []
    assert unsupported(train("decay l2=1e-4 l1=1e-5\nbatch 3\nepochs 2\nseed 1\nprecision fp32")) == []
    for optim in ("sgd", "adagrad", "rmsprop", "adam", "adamw"):
        assert unsupported(train(f"optim {optim}\nschedule plateau\nbatch 8 accumulate=4")) == []
    assert (
        unsupported(train("clip 1\nmaxnorm 3\nclass_weights balanced\nearly_stop val_loss\ncheckpoint every=2e")) == []
    )
    steps = "pad 4 -> crop 28 -> flip h -> rotate 10 -> shift 2 -> scale (0.8,1.2) -> noise 0.05 -> cutout 8"
    assert unsupported(train(f"augment {{ {steps} }}")) == []
    assert unsupported(train('init "w.safetensors" freeze="fc*"')) == []
    for precision in ("fp16", "fp16 loss_scale=none", "fp16 loss_scale=128", "bf16 loss_scale=0.5"):
        assert unsupported(train(f"precision {precision}")) == []


@pytest.mark.parametrize(
    "setting",
    [
        'data shards "x"',
        "optim cg",
        "optim lbfgs",
        "optim newton_cg",
        "augment { jitter 0.4 }",
        "augment { flip h -> pca 0.1 }",
        "augment { shear 5 -> flip h }",
        "augment { elastic 8 }",
        "test { ten_crop 24 -> average }",
        "ensemble 5",
    ],
)
def test_what_is_refused_by_name(setting: str) -> None:
    (found,) = unsupported(train(setting))
    word = re.findall("jitter|pca|shear|elastic|shards|cg|lbfgs|newton_cg|test|ensemble", setting)[0]
    assert word in found.message.split("`")[1]
    assert (found.code, found.severity) == ("unavailable-setting", "error")
    assert found.span is not None


def test_check_warns_of_what_train_refuses(tmp_path: Path) -> None:
    path = tmp_path / "n.cnn"
    path.write_text(NET + "train {\n  optim lbfgs\n  batch 8\n}\nsearch grid { batch in [1, 2] }")
    found = check([path])
    assert [(item.code, item.severity, item.span and item.span.line) for item in found] == [
        ("train-refuses", "warning", 3),
        ("train-refuses", "warning", 6),
    ]
    assert found[0].message == "`optim lbfgs` is not available in this version: `convc train` refuses it"
    assert [item.severity for item in check([path], strict=True)] == ["error", "error"]


def test_spans_tell_what_is_explicit() -> None:
    settings = train("batch 32\noptim adam lr=0.01")
    assert settings.explicit("batch")
    assert settings.explicit("optim.lr")
    assert not settings.explicit("optim.beta1")
    assert settings.span("optim.lr") == Span("n.cnn", 4, 12, 4, 19)
    assert settings.schedule.base == 0.01


def test_settings_may_use_top_level_constants() -> None:
    assert loads("let size = 32\n" + NET + "train { batch size*2 }").settings.batch == 64


# Overrides


def test_overrides() -> None:
    given = {
        "classes": 7,
        "train.batch": 32,
        "train.optim.lr": "0.5",
        "train.epochs": 3,
        "train.schedule": "cosine warmup=2e",
        "train.data": 'idx "d" train=100',
        "train.decay.l2": 1e-4,
    }
    net = loads(NET + "train { batch 128 accumulate=2\n optim sgd lr=0.1 momentum=0.9 }", file="there/n.cnn", set=given)
    settings = net.settings
    assert net.classes == 7
    assert net.parameters == {"classes": 7}
    assert (settings.batch, settings.accumulate, settings.epochs, settings.decay.l2) == (32, 2, 3, 1e-4)
    assert settings.optimizer is not None
    assert (settings.optimizer.lr, settings.optimizer.momentum) == (0.5, 0.9)
    assert (settings.schedule.kind, settings.schedule.base) == ("cosine", 0.5)
    assert settings.data is not None
    assert (settings.data.path, settings.data.base, settings.data.options) == ("d", "", {"train": 100})
    assert settings.explicit("epochs")


def test_a_whole_setting_replaces_the_one_of_the_file() -> None:
    given = {"train.optim.lr": 0.3, "train.optim": "adam"}
    optimizer = train("optim sgd lr=0.1 momentum=0.9", given=given).optimizer
    assert optimizer is not None
    assert (optimizer.kind, optimizer.lr, optimizer.momentum) == ("adam", 0.3, 0.0)


def test_paths_are_relative_to_the_file_that_says_them() -> None:
    net = loads(NET + 'train { data idx "d" }', file="some/where/n.cnn")
    assert net.settings.data is not None
    assert net.settings.data.base == "some/where"


def test_values_of_python() -> None:
    body = "input 1x8x8 -> for c in cs { conv c k=1 } -> if flag { pool word 2 }"
    text = f'net n(cs=[1], flag=no, word="max", f=1.5) {{ {body} }}'
    net = loads(text, set={"cs": [2, 3], "flag": True, "word": "avg", "f": 0.25})
    assert net.parameters == {"cs": (2, 3), "flag": True, "word": "avg", "f": 0.25}
    assert net.layers[-1].kind == "pool avg"


@pytest.mark.parametrize(
    ("given", "code", "hint"),
    [
        ({"clases": 3}, "name-parameter", "did you mean `classes`?"),
        ({"batch": 3}, "name-parameter", "settings are addressed as train.batch"),
        ({"train.bach": 3}, "name-setting", "did you mean `batch`?"),
        ({"train.optim.momentun": 3}, "name-setting", "did you mean `momentum`?"),
        ({"train.batch": "x"}, "name-constant", None),
        ({"train.batch": "3 -> epochs 4"}, "syntax-unexpected", None),
        ({"classes": "3 4"}, "syntax-unexpected", None),
        ({"classes": "1/0"}, "value-division", None),
        ({"classes": object()}, "value-assignment", "numbers, strings, lists and tuples can"),
        ({"train": "3"}, "name-setting", None),
    ],
)
def test_faulty_overrides(
    problems: Callable[..., list[Diagnostic]], given: dict[str, object], code: str, hint: str | None
) -> None:
    found = problems(NET + "train { batch 3 }", set=given)
    assert found[0].code == code
    if hint:
        assert found[0].hint == hint


def test_assignments() -> None:
    assert parse_assignments(["depth=50", 'train.data=idx "a=b"', " a = 1 "]) == {
        "depth": "50",
        "train.data": 'idx "a=b"',
        "a": "1",
    }
    for bad in ("depth", "=3", "depth="):
        with pytest.raises(CompileError, match="KEY=VALUE"):
            parse_assignments([bad])


def test_data_of_the_command_line() -> None:
    assert parse_data("mnist").kind == "mnist"
    data = parse_data('folder "a b/" split=0.5 bad=skip size=(3, 4) train=10')
    assert isinstance(data, DataSetting)
    assert (data.kind, data.path, data.base) == ("folder", "a b/", "")
    assert data.options == {"split": 0.5, "bad": "skip", "size": (3, 4), "train": 10}
    assert parse_data(str(data)).options == data.options
    for bad in ("", "idx", "mnits", "mnist train=0", "mnist batch 3", "mnist\nbatch 3", '"'):
        with pytest.raises(CompileError):
            parse_data(bad)


def test_a_net_without_train_item_takes_overrides(net: Callable[..., Net]) -> None:
    assert net("relu", set={"train.batch": 5}).settings.batch == 5
