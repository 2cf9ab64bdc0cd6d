"""The images of a training: which size they are kept at, whether `augment` fits them, and what the loop gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from convc.runtime.choices import Choice
from convc.runtime.cores import loader_threads
from convc.runtime.data.augmentation import Augmentation, AugmentedSplit
from convc.runtime.data.dataset import LabelShape, Shape
from convc.runtime.data.image_size import centred, folder_size

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.frontend.settings import TrainSettings
    from convc.runtime.data import DataSet, Source


def check_folder(net: Net, settings: TrainSettings) -> None:
    """What can be told about the sizes of a folder's images before the first of them is read.

    Errors: those of `prepare_images`.
    """
    data = settings.data
    if data is not None and data.kind == "folder":
        size = folder_size(data, settings.augment, net.input_shape[1:])
        _check(net, settings, data.path or "", (net.input_shape[0], *size))


def prepare_images(net: Net, settings: TrainSettings, dataset: DataSet) -> tuple[DataSet, Source]:
    """The data set with validation and test images of the net's size, and the training images as they are to be seen.

    Errors: `shape-augment`, `data-shape`, `data-memory`, `data-labels`.
    """
    _check(net, settings, dataset.name, dataset.shape, dataset.train.label_shape)
    if not settings.augment:
        return dataset, dataset.train
    size = net.input_shape[1:]
    validation, test = (part and centred(part, size) for part in (dataset.validation, dataset.test))
    train = AugmentedSplit(dataset.train, Augmentation(settings.augment, settings.seed), loader_threads().threads)
    return replace(dataset, validation=validation, test=test), train


def explain_images(net: Net, settings: TrainSettings) -> Iterator[Choice]:
    """The size of a folder's images, where nobody said it, and who changes them."""
    if not settings.augment:
        return
    data, size = settings.data, net.input_shape[1:]
    stored = folder_size(data, settings.augment, size)
    if stored != size and data is not None and "size" not in data.options:
        why = "`augment` cuts its parts out of images of this size; validation and test look at their centres"
        if stored[0] < size[0]:
            why = "`augment` pads images of this size to the net's; those of validation and test are padded alike"
        yield Choice("image size", f"{stored[0]}x{stored[1]}", why)
    choice = loader_threads()
    yield Choice("loader threads", str(choice.threads), choice.why)


def _check(net: Net, settings: TrainSettings, name: str, shape: Shape, labels: LabelShape = ()) -> None:
    data_span = settings.data.span if settings.data else None
    augment = Augmentation(settings.augment, settings.seed)
    augment.require(name, shape, net.input_shape, settings.span("augment"), data_span)
    augment.require_labels(name, shape, labels, settings.span("augment"))
