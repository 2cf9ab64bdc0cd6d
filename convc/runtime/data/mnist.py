"""MNIST, which travels with the program, and Fashion-MNIST, which has its format but is read from a folder.

Sources: Y. LeCun, C. Cortes, C. Burges, "The MNIST database"; H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel
Image Dataset for Benchmarking Machine Learning Algorithms" (2017).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from convc.ir.diagnostic import fail
from convc.runtime.data.arrays import make_split
from convc.runtime.data.dataset import Shape, Split, label_place
from convc.runtime.data.idx import decode_idx, find_parts

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip

_FOLDER = Path(__file__).parent / "files" / "mnist"

# Hashes are taken of the packed files: a quarter of the bytes, and gzip's own checksum guards what is unpacked.
_SHA256 = {
    "train-images-idx3-ubyte.gz": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte.gz": "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
    "t10k-images-idx3-ubyte.gz": "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
    "t10k-labels-idx1-ubyte.gz": "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
}


def read_mnist(path: Path | None, input_shape: Shape | None) -> dict[str, Split]:
    """The embedded MNIST, or the one in the folder `path`.

    Errors: `data-missing`, `data-corrupt` for the embedded files; for a folder those of IDX sets.
    """
    if path is not None:
        parts = find_parts(path, input_shape)
        require_ten_classes(parts, "mnist")
        return parts
    return {"train": _embedded("train", input_shape), "test": _embedded("t10k", input_shape)}


def read_fashion_mnist(path: Path | None, input_shape: Shape | None) -> dict[str, Split]:
    """Fashion-MNIST from the folder `path`, which holds its four IDX files, gzipped or not."""
    if path is None:
        fail(
            "data-missing",
            "fashion_mnist does not come with convc: name the folder that holds its four IDX files",
            hint='data fashion_mnist "folder/", with the files of https://github.com/zalandoresearch/fashion-mnist',
        )
    parts = find_parts(path, input_shape)
    require_ten_classes(parts, "fashion_mnist")
    return parts


def require_ten_classes(parts: dict[str, Split], name: str) -> None:
    """Refuse (`data-label-range`) parts with a label beyond 9."""
    for part, split in parts.items():
        worst = int(split.labels.max())
        if worst > 9:
            place = label_place(split.labels, int(split.labels.argmax()))
            fail("data-label-range", f"{part} {place} of {name} has label {worst}; {name} has labels 0 to 9")


def _embedded(prefix: str, input_shape: Shape | None) -> Split:
    images, labels = (decode_idx(_verified(name), name) for name in _SHA256 if name.startswith(prefix))
    return make_split(images, labels, f"mnist ({prefix})", input_shape)


def _verified(name: str) -> bytes:
    """The content of an embedded file, compared with its SHA-256."""
    hint = "install convc again"
    try:
        content = (_FOLDER / name).read_bytes()
    except OSError as error:
        fail("data-missing", f"the embedded MNIST file {name} cannot be read: {error.strerror}", hint=hint)
    if hashlib.sha256(content).hexdigest() != _SHA256[name]:
        fail(
            "data-corrupt",
            f"the embedded MNIST file {name} is corrupt: its {len(content)} bytes have another SHA-256",
            hint=hint,
        )
    return content
