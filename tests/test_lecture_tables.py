"""`convc summary` against the tables of the lectures: numbers per image and weights per layer of AlexNet and VGG-16.

The tables count weights without biases, and every number that a forward pass leaves behind: ReLUs work in place.
VGG-16's are 15.2 million (61 MB); the often printed sum of 24 million is an addition error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convc.cli import main

EXAMPLES = Path(__file__).parent.parent / "examples"

# Stored numbers and weights, layer by layer.
VGG16 = [
    ("input", 224 * 224 * 3, 0),
    ("conv", 224 * 224 * 64, 3 * 3 * 3 * 64), ("conv", 224 * 224 * 64, 3 * 3 * 64 * 64), ("pool", 112 * 112 * 64, 0),
    ("conv", 112 * 112 * 128, 3 * 3 * 64 * 128), ("conv", 112 * 112 * 128, 3 * 3 * 128 * 128),
    ("pool", 56 * 56 * 128, 0),
    ("conv", 56 * 56 * 256, 3 * 3 * 128 * 256), ("conv", 56 * 56 * 256, 3 * 3 * 256 * 256),
    ("conv", 56 * 56 * 256, 3 * 3 * 256 * 256), ("pool", 28 * 28 * 256, 0),
    ("conv", 28 * 28 * 512, 3 * 3 * 256 * 512), ("conv", 28 * 28 * 512, 3 * 3 * 512 * 512),
    ("conv", 28 * 28 * 512, 3 * 3 * 512 * 512), ("pool", 14 * 14 * 512, 0),
    ("conv", 14 * 14 * 512, 3 * 3 * 512 * 512), ("conv", 14 * 14 * 512, 3 * 3 * 512 * 512),
    ("conv", 14 * 14 * 512, 3 * 3 * 512 * 512), ("pool", 7 * 7 * 512, 0),
    ("fc", 4096, 7 * 7 * 512 * 4096), ("fc", 4096, 4096 * 4096), ("fc", 1000, 4096 * 1000),
]  # fmt: skip
# With its two halves: conv2, conv4 and conv5 see 48, 192 and 192 maps.
ALEXNET = [
    ("input", 227 * 227 * 3, 0),
    ("conv", 55 * 55 * 96, 11 * 11 * 3 * 96), ("lrn", 55 * 55 * 96, 0), ("pool", 27 * 27 * 96, 0),
    ("conv", 27 * 27 * 256, 5 * 5 * 48 * 256), ("lrn", 27 * 27 * 256, 0), ("pool", 13 * 13 * 256, 0),
    ("conv", 13 * 13 * 384, 3 * 3 * 256 * 384), ("conv", 13 * 13 * 384, 3 * 3 * 192 * 384),
    ("conv", 13 * 13 * 256, 3 * 3 * 192 * 256), ("pool", 6 * 6 * 256, 0),
    ("fc", 4096, 6 * 6 * 256 * 4096), ("fc", 4096, 4096 * 4096), ("fc", 1000, 4096 * 1000),
]  # fmt: skip


def summary(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["summary", *words, "--batch", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def table(content: Any) -> list[tuple[str, int, int]]:
    """Kind, stored numbers and weights of the layers that store something, without the loss."""
    return [
        (
            layer["kind"],
            layer["activation_bytes"] // 4,
            layer["params"] - (layer["output"][0] if layer["params"] else 0),
        )
        for layer in content["layers"]
        if layer["activation_bytes"] and layer["kind"] != "loss"
    ]


def test_vgg16(capsys: pytest.CaptureFixture[str]) -> None:
    content = summary(capsys, str(EXAMPLES / "vgg.cnn"), "--set", "depth=16")
    assert table(content) == VGG16
    stored = sum(numbers for _, numbers, _ in VGG16)
    assert round(stored / 1e6, 1) == 15.2
    # The loss is one number more.
    assert content["total"]["activation_bytes"] == 4 * (stored + 1)
    assert round(content["total"]["activation_bytes"] / 1e6) == 61
    assert content["total"]["params"] == 138_357_544


def test_alexnet(capsys: pytest.CaptureFixture[str]) -> None:
    content = summary(capsys, str(EXAMPLES / "alexnet.cnn"))
    assert table(content) == ALEXNET
    assert sum(weights for _, _, weights in ALEXNET) == 60_954_656
    assert content["total"]["params"] == 60_965_224
