"""Which gradients fp16 makes zero, and what that costs: a histogram of exponents, trainings with and without a scale.

    python -m benchmarks.underflow                                 examples/underflow.cnn on MNIST
    python -m benchmarks.underflow --data 'mnist train=6000' --plot underflow.png --json underflow.json
    python -m benchmarks.underflow --net examples/lenet.cnn

The net is trained in fp32. With the weights before and after it, the interpreter runs the first batch in float64, and
all gradients that fp16 would store (those of activations) are sorted by their exponents. Exact zeros, such as those
behind a ReLU, are left out. Numbers up to 2⁻²⁵ become zero in fp16, those below 2⁻¹⁴ lose digits. The table has the
share of each bin, and what becomes of it once the loss is scaled by 65,536. Then the net is trained in fp16, without a
scale and with a dynamic one, from the same seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import convc
from benchmarks.precision import read_data
from benchmarks.report import markdown, write_json
from benchmarks.run import FOLDER
from convc.frontend.net import Net
from convc.ir.graph import Graph, Value
from convc.passes.training import LOSS_SCALE
from convc.runtime.configuration import make_rate
from convc.runtime.data import BatchLoader, DataSet
from convc.runtime.diagnose import inputs_of
from convc.runtime.evaluate import evaluate

EXAMPLE = FOLDER.parent / "examples" / "underflow.cnn"
SCALE = 65536.0
# Bins are as wide as this, in exponents of 2; the ends hold all that lies beyond.
_WIDTH, _LOWEST, _HIGHEST = 4, -48, 16
ZERO, SUBNORMAL, LARGEST = 2.0**-25, 2.0**-24, 65504.0


@dataclass(frozen=True)
class Histogram:
    """Gradients: how many lie in [2ᵏ, 2ᵏ⁺⁴), by k, and the share that fp16 makes zero, that lies below
    its smallest number, that loses digits besides, and that overflows; without a scale, and with that of 65,536."""

    when: str
    numbers: int
    bins: dict[int, int]
    zero: tuple[float, float]
    below: tuple[float, float]
    subnormal: tuple[float, float]
    infinite: tuple[float, float]


@dataclass(frozen=True)
class Training:
    """One training from the first step to the test."""

    precision: str
    loss_scale: str
    accuracy: float
    first_loss: float
    last_loss: float
    skipped: int
    scale: float | None


def cotangents(graph: Graph, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The magnitudes of all gradients that have 16 bits, in float64, but for exact zeros. `graph` is a training step in
    fp16 at a loss scale of 1, where gradients begin; `arrays` are its inputs and parameters."""
    gradients = {graph.parameters[LOSS_SCALE].value}
    values: dict[Value, np.ndarray] = {}
    sources = {**graph.inputs, **{name: parameter.value for name, parameter in graph.parameters.items()}}
    for name, value in sources.items():
        array = np.asarray(arrays[name])
        values[value] = array.astype(np.float64) if array.dtype == np.float32 else array
    remaining = {value: len(value.users) for node in graph.nodes for value in (*node.operands, *node.results)}
    found: list[np.ndarray] = []
    for node in graph.nodes:
        if not gradients.isdisjoint(node.operands):
            gradients.update(node.results)
        results = node.op.reference(*(values[value] for value in node.operands))
        for value, array in zip(node.results, results if isinstance(results, tuple) else (results,), strict=True):
            values[value] = array.astype(np.float64) if array.dtype == np.float32 else array
            if value in gradients and value.type.dtype.is_half and value.type.rank > 1:
                found.append(np.abs(values[value][values[value] != 0]).ravel())
        for value in node.operands:
            remaining[value] -= 1
            if not remaining[value]:
                values.pop(value, None)
    return np.concatenate(found)


def histogram(when: str, magnitudes: np.ndarray) -> Histogram:
    """Sort numbers by their exponents."""
    exponents = np.clip(np.floor(np.log2(magnitudes) / _WIDTH).astype(int) * _WIDTH, _LOWEST, _HIGHEST)
    counts = {int(k): int(n) for k, n in zip(*np.unique(exponents, return_counts=True), strict=True)}

    def shares(low: float, high: float) -> tuple[float, float]:
        both = [(magnitudes * scale > low) & (magnitudes * scale <= high) for scale in (1.0, SCALE)]
        return float(both[0].mean()), float(both[1].mean())

    return Histogram(
        when, magnitudes.size, {k: counts.get(k, 0) for k in range(_LOWEST, _HIGHEST + 1, _WIDTH)},
        zero=shares(-1, ZERO), below=shares(-1, np.nextafter(SUBNORMAL, 0)), subnormal=shares(ZERO, 2.0**-14),
        infinite=shares(LARGEST, np.inf),
    )  # fmt: skip


def open_net(path: Path, seed: int, epochs: int | None, precision: str, scaling: str | None = None) -> Net:
    """The net, to be trained in a precision."""
    words = precision if scaling is None else f"{precision} loss_scale={scaling}"
    settings: dict[str, object] = {"train.seed": seed, "train.precision": words}
    return convc.load(path, set=settings if epochs is None else {**settings, "train.epochs": epochs})


def train(net: Net, data: DataSet) -> tuple[Training, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Train as `convc train` does; what came of it, and the weights before and after."""
    settings = net.settings
    batches = -(-len(data.train) // settings.batch)
    rate = make_rate(settings.schedule, batches, settings.epochs)
    losses: list[float] = []
    with convc.compile(net, mode="train") as program:
        before = {name: program.params[name] for name in program.params}
        for epoch in range(settings.epochs):
            with BatchLoader(data.train, settings.batch, seed=settings.seed, epoch=epoch) as loader:
                for number, (images, labels) in enumerate(loader):
                    now = rate(epoch + number / batches, epoch * batches + number)
                    losses.append(program.step(images, labels, lr=now))
        after = {name: program.params[name] for name in program.params}
        skipped, scale = program.skipped_steps, program.loss_scale
    assert data.test is not None
    with convc.compile(net) as program:
        program.set_params(after)
        accuracy = evaluate(program, data.test)["accuracy"]
    few = max(1, min(20, len(losses) // 4))
    ends = float(np.mean(losses[:few])), float(np.mean(losses[-few:]))
    scaling = "dynamic" if settings.precision.kind == "fp16" and settings.precision.loss_scale == "dynamic" else "none"
    return Training(settings.precision.kind, scaling, float(accuracy), *ends, skipped, scale), before, after


def gradients_at(net: Net, data: DataSet, weights: Sequence[tuple[str, dict[str, np.ndarray]]]) -> list[Histogram]:
    """A histogram for each set of weights, of the first batch. `net` is in fp16, at a scale of 1."""
    settings, found = net.settings, list[Histogram]()
    batch = min(settings.batch, len(data.train))
    with BatchLoader(data.train, batch, seed=settings.seed, epoch=0) as loader:
        images, labels = (array.copy() for array in next(loader))
    with convc.compile(net, mode="train", target="reference") as program:
        inputs = inputs_of(program, images, labels, 0.0, 1)
        for when, arrays in weights:
            program.set_params(arrays)
            found.append(histogram(when, cotangents(program.graph, {**program.state_dict(), **inputs})))
    return found


def bins_table(histograms: Sequence[Histogram]) -> str:
    """A row for each bin; below fp16's numbers they are marked."""
    rows: list[tuple[str, ...]] = []
    for k in range(_LOWEST, _HIGHEST + 1, _WIDTH):
        low = "0" if k == _LOWEST else f"2^{k}"
        high = "inf" if k == _HIGHEST else f"2^{k + _WIDTH}"
        shares = [f"{found.bins[k] / found.numbers:.1%}" for found in histograms]
        bounds = [_fate(2.0 ** (k + _WIDTH - 1) * scale) for scale in (1.0, SCALE)]
        rows.append((f"{low} … {high}", *shares, *bounds))
    return markdown(("magnitude", *(found.when for found in histograms), "in fp16", "scaled by 2^16"), rows)


def _fate(magnitude: float) -> str:
    """What fp16 makes of numbers about as large."""
    if magnitude < SUBNORMAL:
        return "zero"
    if magnitude < 2.0**-14:
        return "fewer digits"
    return "infinite" if magnitude > LARGEST else "kept"


def shares_table(histograms: Sequence[Histogram]) -> str:
    """What is lost, without a scale and with it."""
    header = ("weights", "loss", "numbers", "below 2^-24", "become zero", "lose digits", "overflow")
    rows = [
        (
            found.when, name, f"{found.numbers:,}",
            *(f"{pair[index]:.1%}" for pair in (found.below, found.zero, found.subnormal, found.infinite)),
        )
        for found in histograms
        for index, name in enumerate(("as it is", "times 2^16"))
    ]  # fmt: skip
    return markdown(header, rows, left=2)


def trainings_table(trainings: Sequence[Training]) -> str:
    """A row for each training."""
    rows = [
        (
            run.precision, run.loss_scale, f"{run.accuracy:.2%}", f"{run.first_loss:.4f}", f"{run.last_loss:.4f}",
            str(run.skipped), "-" if run.scale is None else f"{run.scale:,.0f}",
        )
        for run in trainings
    ]  # fmt: skip
    return markdown(("precision", "loss_scale", "test accuracy", "first losses", "last", "skipped", "scale"), rows, 2)


def plot(histograms: Sequence[Histogram], path: Path) -> None:
    """The histograms, with what fp16 can hold without a scale, and with one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 3.6))
    width = _WIDTH / (len(histograms) + 0.5)
    for number, found in enumerate(histograms):
        places = [k + width * (number + 0.5) for k in found.bins]
        axis.bar(places, [100 * n / found.numbers for n in found.bins.values()], width, label=found.when)
    axis.axvspan(_LOWEST, -25, color="tab:red", alpha=0.15, label="zero in fp16")
    axis.axvline(-25 - np.log2(SCALE), color="tab:red", linestyle="--", label="zero when scaled by 2^16")
    axis.set(xlabel="exponent of 2", ylabel="% of the gradients", xlim=(_LOWEST, _HIGHEST))
    axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", type=Path, default=EXAMPLE, help="a file (default: examples/underflow.cnn)")
    parser.add_argument("--data", default="mnist", help="the data item: mnist, 'mnist train=6000' (default: mnist)")
    parser.add_argument("--epochs", type=int, help="default: what the file says")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="a picture of the histograms (.svg, .png)")
    parser.add_argument("--json", type=Path, help="all numbers")
    arguments = parser.parse_args(words)
    ways = (("fp32", "none"), ("fp16", "none"), ("fp16", "dynamic"))
    nets = [open_net(arguments.net, arguments.seed, arguments.epochs, *way) for way in ways]
    data = read_data(arguments.data, nets[0])
    trainings: list[Training] = []
    histograms: list[Histogram] = []
    for net in nets:
        run, before, after = train(net, data)
        trainings.append(run)
        if not histograms:
            weights = (("before the training", before), ("after it", after))
            plain = open_net(arguments.net, arguments.seed, arguments.epochs, "fp16", "1")
            histograms = gradients_at(plain, data, weights)
            print(bins_table(histograms), shares_table(histograms), sep="\n\n", end="\n\n", flush=True)
    print(trainings_table(trainings))
    if arguments.plot:
        plot(histograms, arguments.plot)
    if arguments.json:
        content = {"histograms": [asdict(found) for found in histograms], "trainings": [asdict(t) for t in trainings]}
        write_json(arguments.json, {"schema": 1, **content})
    return 0


if __name__ == "__main__":
    sys.exit(main())
