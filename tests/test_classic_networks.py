"""The classic networks of `examples/` against what is published about them: weights, work, sizes, depth, names.

All counts are literal numbers from elsewhere; none is computed by what is under test. Sources:

* torchvision: `num_params` and `_ops` (multiply-adds of convolutions and fully connected layers, in units of 10^9) of
  the weights' metadata.
* pytorchcv (github.com/osmr/imgclsmob): its tables of models on ImageNet-1K and CIFAR-10.
* pytorch-cifar-models (github.com/chenyaofo/pytorch-cifar-models): its table, with millions of multiply-adds.
* Caffe: the models of its zoo, `bvlc_alexnet` and `bvlc_googlenet`.
* By hand: the sum is written out beside the number.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest

import convc
from convc.frontend import check
from convc.frontend.emission import Layer
from convc.frontend.formatter import format_text
from convc.frontend.net import Net
from convc.ir.graph import Graph
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.ir.verify import problems
from convc.passes.summary import layer_rows

Given = tuple[tuple[str, object], ...]

EXAMPLES = Path(__file__).parent.parent / "examples"


def depth(number: int) -> Given:
    return (("depth", number),)


ORIGINAL: Given = (("original", True),)
NO_HEADS: Given = (("heads", False),)
NO_HEAD: Given = (("head", False),)
HALF: Given = (("width", 0.5),)
QUARTER: Given = (("width", 0.25),)

# Trainable parameters.
PARAMETERS: list[tuple[str, Given, int, str]] = [
    ("lenet5", (), 61_706, "by hand: 156 + 2,416 + 48,120 + 10,164 + 850"),
    ("lenet5", ORIGINAL, 60_850, "the paper: 60,000 up to F6; by hand: 84·10 + 10 of the output"),
    ("alexnet", (), 60_965_224, "Caffe"),
    ("zfnet", (), 62_357_608, "pytorchcv"),
    ("vgg", depth(13), 133_047_848, "torchvision"),
    ("vgg", (), 138_357_544, "torchvision"),
    ("vgg", depth(19), 143_667_240, "torchvision"),
    ("nin", (), 966_986, "pytorchcv"),
    ("googlenet", NO_HEADS, 6_998_552, "Caffe"),
    ("googlenet", (), 13_378_280, "Caffe, both heads included"),
    ("inception_v3", NO_HEAD, 23_834_568, "pytorchcv"),
    ("inception_v3", (), 27_161_264, "torchvision, head included"),
    ("resnet", depth(18), 11_689_512, "torchvision"),
    ("resnet", depth(34), 21_797_672, "torchvision"),
    ("resnet", (), 25_557_032, "torchvision"),
    ("resnet", depth(101), 44_549_160, "torchvision"),
    ("resnet", depth(152), 60_192_808, "torchvision"),
    ("cifar_resnet", (), 272_474, "pytorchcv"),
    ("cifar_resnet", depth(56), 855_770, "pytorchcv"),
    ("cifar_resnet", depth(110), 1_730_714, "pytorchcv"),
    ("cifar_resnet", depth(1202), 19_424_026, "pytorchcv"),
    ("preact_resnet", (), 1_703_258, "pytorchcv, PreResNet-164(BN)"),
    ("preact_resnet", depth(1001), 10_327_706, "pytorchcv"),
    ("squeezenet", (), 1_235_496, "torchvision"),
    ("mobilenet_v1", (), 4_231_976, "pytorchcv"),
    ("mobilenet_v1", QUARTER, 470_072, "pytorchcv"),
    ("mobilenet_v2", (), 3_504_872, "torchvision"),
    ("densenet", (), 7_978_856, "torchvision"),
    ("densenet", depth(169), 14_149_480, "torchvision"),
    ("densenet", depth(201), 20_013_928, "torchvision"),
    # Down 37,568 + 221,440 + 885,248 + 3,539,968; bottom 14,157,824; deconvolutions 2,097,664 + 524,544 + 131,200 +
    # 32,832; up 7,078,912 + 1,769,984 + 442,624 + 110,720; last 130.
    ("unet", (), 31_030_658, "by hand, see above"),
    # 2,688 + 83,040 + 83,040 + 166,080 + 331,968 + 331,968 + 331,968 + 37,056 + 1,930
    ("all_cnn", (), 1_369_738, "by hand, see above"),
    ("maxout", (), 418_714, "by hand: 96·65 + 96·3,073 + 96·1,201 + 10·217"),
]

# Millions of them, where a paper gives a rounded number.
ROUNDED: list[tuple[str, Given, str, str]] = [
    ("nin", (), "1", "Springenberg et al. 2015, table 3"),
    ("cifar_resnet", (), "0.27", "He et al. 2016, table 6"),
    ("cifar_resnet", depth(110), "1.7", "He et al. 2016, table 6"),
    ("cifar_resnet", depth(1202), "19.4", "He et al. 2016, table 6"),
    ("preact_resnet", (), "1.7", "He et al. 2016b, table 4"),
    ("mobilenet_v1", (), "4.2", "Howard et al. 2017, table 4"),
    ("mobilenet_v1", HALF, "1.3", "Howard et al. 2017, table 6"),
    ("mobilenet_v1", QUARTER, "0.5", "Howard et al. 2017, table 6"),
]

# Multiply-adds per image, in units of 10 to the given power.
WORK: list[tuple[str, Given, str, int, str]] = [
    ("alexnet", (), "724", 6, "Sze et al. 2017, table II"),
    ("vgg", depth(13), "11.308", 9, "torchvision"),
    ("vgg", (), "15.470", 9, "torchvision"),
    ("vgg", depth(19), "19.632", 9, "torchvision"),
    ("inception_v3", NO_HEAD, "5.713", 9, "torchvision"),
    ("resnet", depth(18), "1.814", 9, "torchvision"),
    ("resnet", depth(34), "3.664", 9, "torchvision"),
    ("resnet", (), "4.089", 9, "torchvision"),
    ("resnet", depth(101), "7.801", 9, "torchvision"),
    ("resnet", depth(152), "11.514", 9, "torchvision"),
    ("cifar_resnet", (), "40.81", 6, "pytorch-cifar-models"),
    ("cifar_resnet", depth(32), "69.12", 6, "pytorch-cifar-models"),
    ("cifar_resnet", depth(44), "97.44", 6, "pytorch-cifar-models"),
    ("cifar_resnet", depth(56), "125.75", 6, "pytorch-cifar-models"),
    ("squeezenet", (("size", 224),), "0.349", 9, "torchvision"),
    ("mobilenet_v1", (), "569", 6, "Howard et al. 2017, table 4"),
    ("mobilenet_v1", HALF, "149", 6, "Howard et al. 2017, table 6"),
    ("mobilenet_v1", QUARTER, "41", 6, "Howard et al. 2017, table 6"),
    ("mobilenet_v2", (), "0.301", 9, "torchvision"),
    ("densenet", (), "2.834", 9, "torchvision"),
    ("densenet", depth(169), "3.360", 9, "torchvision"),
    ("densenet", depth(201), "4.291", 9, "torchvision"),
    # 6·28²·25 + 16·6·10²·25 + 120·400 + 84·120 + 84·10
    ("lenet5", (), "416520", 0, "by hand, see above"),
]

# Outputs along the net, by the names of layers.
SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    # LeCun et al. 1998, figure 2
    "lenet5": {
        "conv1": (6, 28, 28), "pool1": (6, 14, 14), "conv2": (16, 10, 10), "pool2": (16, 5, 5), "conv3": (120, 1, 1),
    },
    # Krizhevsky et al. 2012, figure 2: both towers together
    "alexnet": {
        "conv1": (96, 55, 55), "conv2": (256, 27, 27), "conv3": (384, 13, 13), "conv5": (256, 13, 13),
        "pool3": (256, 6, 6),
    },
    # Zeiler, Fergus 2013, figure 3
    "zfnet": {
        "conv1": (96, 110, 110), "pool1": (96, 55, 55), "conv2": (256, 26, 26), "pool2": (256, 13, 13),
        "conv5": (256, 13, 13), "pool3": (256, 6, 6),
    },
    "vgg": {"pool1": (64, 112, 112), "pool3": (256, 28, 28), "conv13": (512, 14, 14), "pool5": (512, 7, 7)},
    # Szegedy et al. 2015, table 1
    "googlenet": {
        "conv1": (64, 112, 112), "pool1": (64, 56, 56), "conv3": (192, 56, 56), "pool2": (192, 28, 28),
        "inception1.concat1": (256, 28, 28), "inception2.concat1": (480, 28, 28), "pool3": (480, 14, 14),
        "inception3.concat1": (512, 14, 14), "inception6.concat1": (528, 14, 14), "inception7.concat1": (832, 14, 14),
        "pool4": (832, 7, 7), "inception9.concat1": (1024, 7, 7), "pool5": (1024, 1, 1),
        "aux1.head1.pool1": (512, 4, 4), "aux2.head1.pool1": (528, 4, 4),
    },
    # Szegedy et al. 2016, table 1, and torchvision's comments
    "inception_v3": {
        "unit1.conv1": (32, 149, 149), "unit2.conv1": (32, 147, 147), "unit3.conv1": (64, 147, 147),
        "pool1": (64, 73, 73), "unit4.conv1": (80, 73, 73), "unit5.conv1": (192, 71, 71), "pool2": (192, 35, 35),
        "module_a1.concat1": (256, 35, 35), "module_a3.concat1": (288, 35, 35), "reduce_a1.concat1": (768, 17, 17),
        "module_b4.concat1": (768, 17, 17), "aux1.pool1": (768, 5, 5), "reduce_b1.concat1": (1280, 8, 8),
        "module_c2.concat1": (2048, 8, 8),
    },
    # He et al. 2016, table 1
    "resnet": {
        "conv1": (64, 112, 112), "pool1": (64, 56, 56), "bottleneck3.relu1": (256, 56, 56),
        "bottleneck7.relu1": (512, 28, 28), "bottleneck13.relu1": (1024, 14, 14), "bottleneck16.relu1": (2048, 7, 7),
    },
    # He et al. 2016, section 4.2
    "cifar_resnet": {"basic3.relu1": (16, 32, 32), "basic6.relu1": (32, 16, 16), "basic9.relu1": (64, 8, 8)},
    "preact_resnet": {
        "unit17.res1.add": (64, 32, 32), "unit34.res1.add": (128, 16, 16), "unit51.res1.add": (256, 8, 8),
    },
    "squeezenet": {"pool1": (64, 56, 56), "pool2": (128, 28, 28), "pool3": (256, 14, 14), "conv2": (1000, 14, 14)},
    # Howard et al. 2017, table 1
    "mobilenet_v1": {
        "conv1": (32, 112, 112), "unit1.conv2": (64, 112, 112), "unit3.conv2": (128, 56, 56),
        "unit5.conv2": (256, 28, 28), "unit11.conv2": (512, 14, 14), "unit13.conv2": (1024, 7, 7),
    },
    # Sandler et al. 2018, table 2
    "mobilenet_v2": {
        "conv1": (32, 112, 112), "inverted1.bn2": (16, 112, 112), "inverted2.bn3": (24, 56, 56),
        "inverted3.bn3": (32, 28, 28), "inverted4.bn3": (64, 14, 14), "inverted5.bn3": (96, 14, 14),
        "inverted6.bn3": (160, 7, 7), "inverted7.bn3": (320, 7, 7), "conv2": (1280, 7, 7),
    },
    # Huang et al. 2017, table 1
    "densenet": {
        "pool1": (64, 56, 56), "layer6.concat": (256, 56, 56), "pool2": (128, 28, 28), "layer18.concat": (512, 28, 28),
        "pool3": (256, 14, 14), "layer42.concat": (1024, 14, 14), "pool4": (512, 7, 7), "layer58.concat": (1024, 7, 7),
    },
    # Ronneberger et al. 2015, figure 1: channels; the sizes are those of 512 pixels with padding
    "unet": {
        "double1.relu2": (64, 512, 512), "double4.relu2": (512, 64, 64), "double5.relu2": (1024, 32, 32),
        "deconv1": (512, 64, 64), "double6.relu2": (512, 64, 64), "deconv4": (64, 512, 512), "conv1": (2, 512, 512),
    },
    "nin": {"pool1": (96, 16, 16), "pool2": (192, 8, 8), "pool3": (10, 1, 1)},
    # Springenberg et al. 2015, table 1: the last mean is over 6x6
    "all_cnn": {"triple1.conv3": (96, 16, 16), "triple2.conv3": (192, 8, 8), "conv3": (10, 6, 6)},
    "maxout": {"unit1.pool1": (48, 10, 10), "unit2.pool1": (48, 4, 4), "unit3.pool1": (24, 3, 3)},
}  # fmt: skip

# Names and shapes of some parameters.
NAMES: dict[str, dict[str, tuple[int, ...]]] = {
    "alexnet": {"conv2.weight": (256, 48, 5, 5), "hidden1.fc1.weight": (4096, 9216), "fc1.bias": (1000,)},
    "vgg": {"conv13.weight": (512, 512, 3, 3), "fc1.weight": (4096, 25088)},
    "googlenet": {
        "inception1.concat1.branch2.conv2.weight": (128, 96, 3, 3),
        "inception9.concat1.branch4.conv1.bias": (128,),
        "aux2.head1.fc2.weight": (1000, 1024),
    },
    "inception_v3": {
        "module_b1.concat1.branch3.unit4.conv1.weight": (128, 128, 7, 1),
        "module_c2.concat1.branch3.fork1.concat1.branch1.unit1.conv1.weight": (384, 384, 1, 3),
        "aux1.unit2.bn1.gamma": (768,),
    },
    "resnet": {
        "conv1.weight": (64, 3, 7, 7),
        "bottleneck1.res1.conv2.weight": (64, 64, 3, 3),
        "bottleneck1.skip1.conv1.weight": (256, 64, 1, 1),
        "bottleneck14.skip1.bn1.var": (2048,),
        "fc1.weight": (1000, 2048),
    },
    "cifar_resnet": {"basic4.skip1.conv1.weight": (32, 16, 1, 1), "basic9.res1.bn2.beta": (64,)},
    "preact_resnet": {"widening2.skip1.conv1.weight": (128, 64, 1, 1), "unit51.res1.conv3.weight": (256, 64, 1, 1)},
    "squeezenet": {"fire8.concat1.branch2.conv1.weight": (256, 64, 3, 3), "conv2.bias": (1000,)},
    "mobilenet_v1": {"unit13.conv1.weight": (1024, 1, 3, 3), "unit13.conv2.weight": (1024, 1024, 1, 1)},
    "mobilenet_v2": {"inverted1.conv1.weight": (32, 1, 3, 3), "res10.inverted1.conv2.weight": (960, 1, 3, 3)},
    "densenet": {"layer58.conv1.weight": (128, 992, 1, 1), "layer58.conv2.weight": (32, 128, 3, 3)},
    "unet": {"deconv1.weight": (1024, 512, 2, 2), "double6.conv1.weight": (512, 1024, 3, 3)},
    "maxout": {"unit3.conv1.weight": (96, 48, 5, 5)},
}

# Layers with weights on the way from the image to the classes, without those of shortcuts: what the name promises.
DEPTHS: list[tuple[str, Given, int]] = [
    *(("vgg", depth(number), number) for number in (13, 16, 19)),
    *(("resnet", depth(number), number) for number in (18, 34, 50, 101, 152)),
    *(("cifar_resnet", depth(number), number) for number in (20, 32, 44, 56, 110, 1202)),
    *(("preact_resnet", depth(number), number) for number in (164, 1001)),
    *(("densenet", depth(number), number) for number in (121, 169, 201)),
]


def _id(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{key}={item}" for key, item in value) or "default"
    return str(value)


@cache
def load(name: str, given: Given = ()) -> Net:
    return convc.load(EXAMPLES / f"{name}.cnn", set=dict(given))


@cache
def graph(name: str, given: Given = ()) -> Graph:
    return load(name, given).graph(1)


def trainable(name: str, given: Given) -> int:
    parameters = graph(name, given).parameters.values()
    return sum(math.prod(parameter.value.shape) for parameter in parameters if parameter.trainable)


def multiply_adds(name: str, given: Given) -> int:
    return sum(layer.macs for layer in layer_rows(graph(name, given)))


def rounded(number: float, printed: str) -> str:
    """The number with as many digits behind the point as the printed one has."""
    return f"{number:.{len(printed.partition('.')[2])}f}"


@pytest.mark.parametrize(("name", "given", "count", "source"), PARAMETERS, ids=_id)
def test_parameters(name: str, given: Given, count: int, source: str) -> None:
    assert trainable(name, given) == count, source


@pytest.mark.parametrize(("name", "given", "printed", "source"), ROUNDED, ids=_id)
def test_parameters_as_papers_round_them(name: str, given: Given, printed: str, source: str) -> None:
    assert rounded(trainable(name, given) / 1e6, printed) == printed, source


@pytest.mark.parametrize(("name", "given", "printed", "unit", "source"), WORK, ids=_id)
def test_multiply_adds(name: str, given: Given, printed: str, unit: int, source: str) -> None:
    assert rounded(multiply_adds(name, given) / 10**unit, printed) == printed, source


def test_googlenet_keeps_to_its_budget() -> None:
    """Szegedy et al. 2015: "1.5 billion multiply-adds at inference time"."""
    assert 1.5e9 < multiply_adds("googlenet", NO_HEADS) < 1.6e9


def test_parts_of_the_original_lenet5() -> None:
    """LeCun et al. 1998, section II.B: trainable parameters of C1, S2, C3, S4, C5 and F6."""
    rows = layer_rows(graph("lenet5", ORIGINAL))
    counts = [layer.params for layer in rows if layer.params]
    first = counts[:12]
    assert (sum(first[::2]), sum(first[1::2])) == (156, 12)  # C1 and S2 alternate
    assert sum(counts[12:28]) == 1_516
    assert counts[28:] == [32, 48_120, 10_164, 850]


def test_table_of_the_original_lenet5() -> None:
    """LeCun et al. 1998, table I: the maps of S2 that the first fifteen of C3 read, as far as a shape can tell."""
    parameters = graph("lenet5", ORIGINAL).parameters.values()
    fans = [p.value.shape[1] for p in parameters if p.role == "weight" and len(p.value.shape) == 4]
    assert sorted(fans[12:28]) == [3] * 6 + [4] * 9 + [6]


@pytest.mark.parametrize("name", SIZES)
def test_sizes_along_the_net(name: str) -> None:
    layers: dict[str, Layer] = {layer.name: layer for layer in load(name).layers}
    assert {label: layers[label].output for label in SIZES[name]} == SIZES[name]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_parameters(name: str) -> None:
    parameters = graph(name).parameters
    assert {label: parameters[label].value.shape for label in NAMES[name]} == NAMES[name]


@pytest.mark.parametrize(("name", "given", "number"), DEPTHS, ids=_id)
def test_depth(name: str, given: Given, number: int) -> None:
    nodes = graph(name, given).nodes_of(Conv2d, Linear)
    assert sum(".skip" not in node.label for node in nodes) == number


@pytest.mark.parametrize(
    ("name", "number"), [("vgg", 17), ("resnet", 20), ("cifar_resnet", 21), ("preact_resnet", 21), ("densenet", 100)]
)
def test_other_depths_are_refused(name: str, number: int) -> None:
    with pytest.raises(convc.CompileError) as caught:
        load(name, depth(number))
    assert {error.code for error in caught.value.diagnostics} == {"assert-failed"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.cnn")), ids=lambda path: path.stem)
def test_every_example_is_sound(path: Path) -> None:
    assert check([path], strict=True) == []
    text = path.read_text(encoding="utf-8")
    assert format_text(text) == text
    net = convc.load(path)
    assert problems(net.graph(3)) == []
    assert net.has_loss
    assert net.settings.optimizer is not None
    assert net.settings.data is not None
