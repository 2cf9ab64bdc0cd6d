"""One image file to the pixels that a net reads: any mode that Pillow knows, as uint8 grey or RGB of a given size.

The rules, in their order: EXIF orientation is applied; 16-bit and float pixels become bytes (65535 and 1.0 are white);
what is transparent is laid on white; colours are converted to grey (ITU-R 601 luma) or RGB; the image is scaled until
it just covers the size, and its centre is cut out. Of an animation the first frame counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convc.ir.diagnostic import fail

if TYPE_CHECKING:
    from PIL.Image import Image

# Opening an EPS file runs Ghostscript on it: no business of a data set.
_REFUSED_FORMATS = frozenset({"EPS"})


def require_pillow() -> None:
    """Refuse (`data-missing`) to go on without Pillow; also makes it know all its formats."""
    try:
        import PIL.Image
    except ImportError:
        fail("data-missing", "reading images needs Pillow", hint="pip install pillow")
    PIL.Image.init()


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Within it, Pillow refuses images that claim too many pixels, and its other remarks are not printed.

    Filters of warnings belong to the process: enter it once, around all threads that decode.
    """
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        yield


def decode(path: Path, channels: int, size: tuple[int, int]) -> np.ndarray:
    """The image as uint8 (channels, height, width); `channels` is 1 or 3.

    Raises whatever Pillow raises for a file that it cannot read; `reason` puts it into words.
    """
    import PIL.Image
    import PIL.ImageOps

    if not path.is_file():
        raise ValueError("not a regular file")
    with PIL.Image.open(path, formats=[name for name in PIL.Image.ID if name not in _REFUSED_FORMATS]) as opened:
        opened.load()
        image = _to_mode(PIL.ImageOps.exif_transpose(opened), "L" if channels == 1 else "RGB")
    pixels = np.asarray(_cover(image, size), dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def reason(error: Exception) -> str:
    """Why an image could not be read, in a few words."""
    import PIL

    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _to_mode(image: Image, mode: str) -> Image:
    import PIL.Image

    if image.mode == "F" or image.mode.startswith("I"):
        image = PIL.Image.fromarray(_to_bytes(image))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = PIL.Image.new("RGBA", layered.size, (255, 255, 255, 255))
        image = PIL.Image.alpha_composite(white, layered).convert("RGB")
    if image.mode == mode:
        return image
    # Colour spaces such as CMYK and LAB have no direct way to grey.
    return image.convert("RGB").convert(mode) if image.mode not in ("1", "L", "P", "RGB") else image.convert(mode)


def _to_bytes(image: Image) -> np.ndarray:
    """Grey of more than 8 bits as uint8. Mode I is how some versions of Pillow hold 16-bit files, too."""
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("floating-point pixels outside 0 to 1")
        return np.rint(pixels * 255).astype(np.uint8)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit pixels outside 0 to 65535")
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _cover(image: Image, size: tuple[int, int]) -> Image:
    """The centre of the image, scaled so that it just covers (height, width)."""
    import PIL.Image

    height, width = size
    scale = max(height / image.height, width / image.width)
    if scale == 1:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
    # Cutting before scaling: a strip of 1x100000 pixels must not grow to its full length first.
    cut_width, cut_height = width / scale, height / scale
    left, top = (image.width - cut_width) / 2, (image.height - cut_height) / 2
    box = (max(0.0, left), max(0.0, top), min(image.width, left + cut_width), min(image.height, top + cut_height))
    return image.resize((width, height), PIL.Image.Resampling.BILINEAR, box=box)
