"""A net with its weights, for evaluation and prediction: a run folder, or a `.cnn` file and a file of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convc.ir.diagnostic import fail, with_sources
from convc.lazy import dataclass
from convc.runtime.build import build_net
from convc.runtime.checkpoint import Checkpoint, match, read_checkpoint, require_match, text_list
from convc.runtime.data import DataSet, Split, load_dataset
from convc.runtime.data.augment_steps import MAKERS
from convc.runtime.data.augmentation import Augmentation
from convc.runtime.data.dataset import require_labels
from convc.runtime.data.image_size import centred, folder_size
from convc.runtime.plain_files import read_plain
from convc.runtime.program import Program
from convc.runtime.run_folder import SETTINGS

if TYPE_CHECKING:
    from convc.frontend.limits import Limits
    from convc.frontend.net import Net
    from convc.ir.span import Span
    from convc.passes.quantization import Ranges

MODEL = "model.cnn"
# In the order of preference.
WEIGHTS = ("best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class Trained:
    """`classes` are the names that the checkpoint gives to the outputs; empty where it gives none. `fp32` are patterns
    of the layers that a run kept in float32."""

    net: Net
    checkpoint: Checkpoint
    classes: tuple[str, ...]
    fp32: tuple[str, ...] = ()

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) to which images were brought in the training, of which the centre is what the net reads."""
        return folder_size(self.net.settings.data, self.net.settings.augment, self.net.input_shape[1:])

    def program(
        self,
        *,
        batch: int | None = None,
        target: str = "cpu",
        threads: int | None = None,
        precision: str | None = None,
        fp32: Sequence[str] = (),
        ranges: Ranges | None = None,
    ) -> Program:
        """An inference program with the weights: in the precision of the run or file unless `precision` says another,
        with the run's layers in float32 unless `fp32` names others. int8 needs `ranges`, measured with the weights.

        Errors: `checkpoint-mismatch`, `unavailable-precision`, `missing-ranges`, `name-layer`.
        """
        program = build_net(
            self.net,
            batch=batch,
            mode="infer",
            target=target,
            precision=precision,
            fp32=fp32 or self.fp32,
            ranges=ranges,
            threads=threads,
        )
        try:
            weights = self.checkpoint.weights
            found = match({name: array.shape for name, array in weights.items()}, program.params.shapes)
            require_match(found, self.checkpoint.path, self.net.name)
            program.set_params(weights, str(self.checkpoint.path))
        except BaseException:
            program.close()
            raise
        return program


def open_trained(
    source: str | Path,
    weights: str | Path | None = None,
    *,
    net: str | None = None,
    set: Mapping[str, object] | None = None,
    limits: Limits | None = None,
) -> Trained:
    """The net of a run folder or `.cnn` file with its weights; those of a run are the best ones unless `weights` says.

    Errors: those of `convc.load`, `file-run` for a folder without a run, `checkpoint-…`.
    """
    from convc.frontend import Limits, load

    path, fp32 = Path(source), ()
    if path.is_dir():
        if weights is None:
            weights = weights_file(path)
        fp32 = _kept_in_float32(path)
        path = _run_model(path)
    loaded = load(path, net=net, set=set, limits=limits or Limits())
    if weights is None:
        fail("checkpoint-missing", f"{path} is a net without weights", hint="--weights W, or a run folder in its place")
    checkpoint = read_checkpoint(weights)
    return Trained(loaded, checkpoint, text_list(checkpoint.metadata.get("classes")), fp32)


def weights_file(source: Path) -> Path:
    """The file itself, or the best weights of a run folder. Errors: `file-run`, `checkpoint-missing`."""
    if not source.is_dir():
        return source
    _run_model(source)
    found = next((source / name for name in WEIGHTS if (source / name).is_file()), None)
    if found is None:
        fail("checkpoint-missing", f"the run {source} has not saved any weights yet", hint="they come after an epoch")
    return found


def _run_model(folder: Path) -> Path:
    """The net of a run folder."""
    if not (folder / MODEL).is_file():
        fail("file-run", f"{folder} holds no run: there is no {MODEL} in it", hint="runs are in folders runs/NAME-N")
    return folder / MODEL


def _kept_in_float32(folder: Path) -> tuple[str, ...]:
    """The patterns of `--fp32` that a run was started with; () where its settings are missing or from elsewhere."""
    try:
        kept = json.loads(read_plain(folder / SETTINGS))["fp32"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ()
    return tuple(kept.split(", ")) if isinstance(kept, str) and kept != "none" else ()


def evaluation_data(net: Net, data: str | None = None) -> tuple[DataSet, str, Split]:
    """The data set that `data` (a data item; default: the file's) names, and the part to evaluate on: test, else
    validation, else train. Errors: `data-…`."""
    from convc.frontend import DataSetting, parse_data

    setting = net.settings.data if data is None else parse_data(data)
    if setting is None:
        if net.input_shape != (1, 28, 28):
            fail("data-missing", f"nothing says what {net.name} is to be evaluated on", hint="--data names the images")
        setting = DataSetting("mnist")
    with with_sources({**net.sources, **({} if data is None else {"--data": f"data {data}"})}):
        dataset = load_dataset(
            setting.kind,
            setting.path,
            setting.options,
            base=Path(setting.base),
            input_shape=net.input_shape,
            seed=net.settings.seed,
            span=setting.span,
            augment=net.settings.augment,
        )
        dataset.require_outputs(net.classes, setting.span)
        _require_images(net, dataset, setting.span)
        part, split = list(dataset.parts())[-1]
        shown = centred(split, net.input_shape[1:])
        require_labels(dataset.name, shown.label_shape, net.graph(1).outputs["logits"].shape[1:], setting.span)
    return dataset, part, shown


def _require_images(net: Net, dataset: DataSet, span: Span | None) -> None:
    """Refuse images from which `augment` would not make what the net reads; their centres would mean nothing to it."""
    # Steps that this version does not carry out leave the size alone.
    steps = [step for step in net.settings.augment if step.word in MAKERS]
    augment = Augmentation(steps, net.settings.seed)
    augment.require(dataset.name, dataset.shape, net.input_shape, net.settings.span("augment"), span)
    augment.require_labels(dataset.name, dataset.shape, dataset.train.label_shape, net.settings.span("augment"))
