"""Loss curves in fp32, fp16 and bf16: does training in 16 bits go another way than seeds do anyway?

*Pure* precisions (bf16-nearest, bf16-stochastic, fp16-nearest, fp16-stochastic) keep no parameters in float32: every
update rounds them to 16 bits, to the nearest number or at random (`rounding=stochastic`). In *fp32-bits* all
convolutions but the first, and but those that `skip auto` inserts, have weights of one bit (`bits=1`); in
*fp32-bits-fc* all fully connected layers but the last as well.

    python -m benchmarks.precision --data 'mnist "FOLDER"'      LeNet, deep_convnet, a small ResNet; three seeds
    python -m benchmarks.precision --nets lenet --epochs 2 --seeds 5 --plot out.png --json out.json
    python -m benchmarks.precision --precisions fp32 bf16 bf16-nearest bf16-stochastic
    python -m benchmarks.precision --precisions fp32 fp32-bits fp32-bits-fc --epochs 5

Every net is trained with the settings of its file but for epochs, in every precision from the same seeds: these draw
the first weights, the order of the images, and masks. A point of a curve is the mean loss of 100 steps. *Apart* is the
mean distance of two curves, relative to their height: of the same seed in fp32 and in 16 bits, beside that of two seeds
in fp32, which is the noise. A precision is *within noise* where its curves are not farther apart than those of seeds.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

import convc
from benchmarks.report import markdown, write_json
from benchmarks.run import FOLDER
from convc.frontend import loads, parse_data
from convc.frontend.net import Net
from convc.passes.training import ParameterRounding
from convc.runtime.build import build
from convc.runtime.configuration import half_precision, make_rate, make_recipe
from convc.runtime.data import BatchLoader, DataSet, load_dataset
from convc.runtime.evaluate import evaluate

EXAMPLES = FOLDER.parent / "examples"
RESNET = """block basic(c, s=1) {
  residual { conv c k=3 s=s pad=1 bias=no -> bn -> relu -> conv c k=3 pad=1 bias=no -> bn } skip auto
  relu
}
net small_resnet {
  input 1x28x28 mean=0.1307 std=0.3081
  conv 16 k=3 pad=1 bias=no -> bn -> relu
  basic(16) -> basic(32, s=2) -> basic(64, s=2)
  pool avg global -> fc 10
  loss softmax
}
train {
  batch 64
  epochs 1
  optim sgd lr=0.05 momentum=0.9
  schedule cosine
  decay l2=1e-4
}
"""
NETS = ("lenet", "deep_convnet", "small_resnet")
PRECISIONS = ("fp32", "bf16", "fp16")
# Parameters, too, are numbers of 16 bits, rounded so after every update: to the nearest, or at random.
PURE = ("bf16-nearest", "bf16-stochastic", "fp16-nearest", "fp16-stochastic")
# Weights of one bit.
ONE_BIT = ("fp32-bits", "fp32-bits-fc")
ALL = (*PRECISIONS, *PURE, *ONE_BIT)
_STEPS = 100  # of a point


@dataclass(frozen=True)
class Curve:
    """One training: the mean losses of every 100 steps, and the accuracy on the test images."""

    net: str
    precision: str
    seed: int
    losses: tuple[float, ...]
    accuracy: float
    seconds: float


def open_net(name: str, seed: int, epochs: int, precision: str = "fp32") -> Net:
    """A net of the examples, or the small ResNet, with that seed and so many epochs; its weights have one bit where the
    precision says so."""
    text = RESNET if name == "small_resnet" else (EXAMPLES / f"{name}.cnn").read_text(encoding="utf-8")
    if precision in ONE_BIT:
        text = with_one_bit(text, also_fc=precision == "fp32-bits-fc")
    return loads(text, set={"train.seed": seed, "train.epochs": epochs})


def with_one_bit(text: str, also_fc: bool) -> str:
    """`bits=1` in all convolutions but the first behind `input`; with `also_fc` in all `fc` but the last."""
    blocks, word, body = text.partition("  input ")
    start, layer, rest = re.split(r"(\bconv \w+ k=\d+)", body, maxsplit=1)
    blocks, rest = (re.sub(r"\bconv \w+ k=\d+", r"\g<0> bits=1", part) for part in (blocks, rest))
    if also_fc:
        rest = re.sub(r"\bfc \w+(?=.*\bfc )", r"\g<0> bits=1", rest, flags=re.DOTALL)
    return blocks + word + start + layer + rest


def read_data(item: str, net: Net) -> DataSet:
    """The images of a data item, as a net takes them."""
    setting = parse_data(item)
    return load_dataset(setting.kind, setting.path, setting.options, base=Path(), input_shape=net.input_shape, seed=0)


def training_program(net: Net, kind: str, rounding: str) -> convc.Program:
    """A training step; `rounding` is that of parameters, "" where they are float32."""
    if not rounding:
        return convc.compile(net, mode="train", precision=kind)
    half = half_precision("fp16" if kind == "fp16" else "bf16", net.layers)
    forward = net.graph(net.settings.batch)
    of_parameters = ParameterRounding(
        "f16" if kind == "fp16" else "bf16", "nearest" if rounding == "nearest" else "stochastic"
    )
    recipe = replace(make_recipe(net.settings, forward, half), rounding=of_parameters)
    return build(
        forward,
        mode="train",
        batch=net.settings.batch,
        target="cpu",
        seed=net.settings.seed,
        recipe=recipe,
        rate=make_rate(net.settings.schedule, 1, net.settings.epochs),
        types=half,
    )


def train(net: Net, name: str, data: DataSet, precision: str, seed: int) -> Curve:
    """Train as `convc train` does, and look at every step."""
    batch, epochs = net.settings.batch, net.settings.epochs
    batches = -(-len(data.train) // batch)
    rate = make_rate(net.settings.schedule, batches, epochs)
    losses: list[float] = []
    started = time.perf_counter()
    kind, _, rounding = precision.partition("-") if precision not in ONE_BIT else ("fp32", "", "")
    with training_program(net, kind, rounding) as program:
        for epoch in range(epochs):
            with BatchLoader(data.train, batch, seed=seed, epoch=epoch) as loader:
                for number, (images, labels) in enumerate(loader):
                    now = rate(epoch + number / batches, epoch * batches + number)
                    losses.append(program.step(images, labels, lr=now))
        seconds = time.perf_counter() - started
        weights = {key: program.params[key] for key in program.params}
    assert data.test is not None
    with convc.compile(net, precision=kind) as program:
        program.set_params(weights)
        accuracy = evaluate(program, data.test)["accuracy"]
    whole = len(losses) // _STEPS * _STEPS
    means = np.asarray(losses[:whole]).reshape(-1, _STEPS).mean(1)
    return Curve(name, precision, seed, tuple(map(float, means)), float(accuracy), seconds)


def distance(one: Curve, other: Curve) -> float:
    """The mean distance of two curves, relative to their height."""
    first, second = np.asarray(one.losses), np.asarray(other.losses)
    return float((np.abs(first - second) / (0.5 * (first + second))).mean())


def verdicts(curves: Sequence[Curve]) -> list[tuple[str, ...]]:
    """A row for each net and precision."""
    rows: list[tuple[str, ...]] = []
    for net in dict.fromkeys(curve.net for curve in curves):
        exact = {curve.seed: curve for curve in curves if curve.net == net and curve.precision == "fp32"}
        noise = [distance(one, other) for one, other in combinations(exact.values(), 2)]
        for precision in dict.fromkeys(curve.precision for curve in curves):
            own = [curve for curve in curves if curve.net == net and curve.precision == precision]
            accuracies = ", ".join(f"{curve.accuracy:.2%}" for curve in own)
            final = statistics.mean(curve.losses[-1] for curve in own)
            seconds = f"{statistics.median(curve.seconds for curve in own):.1f} s"
            apart, told = "-", "-"
            if precision != "fp32" and exact and noise:
                found = statistics.mean(distance(curve, exact[curve.seed]) for curve in own)
                apart = f"{found:.1%} (seeds {statistics.mean(noise):.1%})"
                told = "yes" if found <= statistics.mean(noise) else "**no**"
            rows.append((net, precision, accuracies, f"{final:.4f}", apart, told, seconds))
    return rows


def plot(curves: Sequence[Curve], path: Path) -> None:
    """All curves of a net in one picture, a colour for each precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    nets = list(dict.fromkeys(curve.net for curve in curves))
    figure, axes = pyplot.subplots(1, len(nets), figsize=(5 * len(nets), 3.6), squeeze=False)
    kinds = list(dict.fromkeys(curve.precision for curve in curves))
    colours = dict(
        zip(kinds, ("black", "tab:blue", "tab:orange", "tab:red", "tab:green", "tab:purple", "tab:brown"), strict=False)
    )
    for axis, net in zip(axes[0], nets, strict=True):
        named: set[str] = set()
        for curve in (curve for curve in curves if curve.net == net):
            steps = _STEPS * np.arange(1, len(curve.losses) + 1)
            label = None if curve.precision in named else curve.precision
            named.add(curve.precision)
            axis.plot(steps, curve.losses, color=colours.get(curve.precision), linewidth=0.8, alpha=0.8, label=label)
        axis.set(title=net, xlabel="step", ylabel="training loss", yscale="log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="the data item: mnist, 'mnist \"FOLDER\"' (default: mnist)")
    parser.add_argument("--nets", nargs="*", default=NETS, help=f"examples by name, or small_resnet ({' '.join(NETS)})")
    parser.add_argument(
        "--precisions",
        nargs="*",
        default=PRECISIONS,
        choices=ALL,
        metavar="P",
        help=f"of {', '.join(ALL)}",
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="a picture of the curves (.svg, .png)")
    parser.add_argument("--json", type=Path, help="all points")
    arguments = parser.parse_args()
    curves: list[Curve] = []
    for name in arguments.nets:
        for precision in arguments.precisions:
            open_net(name, 1, arguments.epochs, precision)  # mistakes in the last net show before the first is trained
    try:
        for name in arguments.nets:
            data = read_data(arguments.data, open_net(name, 0, 1))
            for seed in range(1, arguments.seeds + 1):
                for precision in arguments.precisions:
                    net = open_net(name, seed, arguments.epochs, precision)
                    curves.append(train(net, name, data, precision, seed))
                    print(f"{name} {precision} seed {seed}: {curves[-1].accuracy:.2%}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted: these are the trainings until then", file=sys.stderr)
    header = ("net", "precision", "test accuracy, by seed", "last loss", "apart from fp32", "within noise", "training")
    print(markdown(header, verdicts(curves)))
    if arguments.plot:
        plot(curves, arguments.plot)
    if arguments.json:
        write_json(arguments.json, {"schema": 1, "curves": [asdict(curve) for curve in curves]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
