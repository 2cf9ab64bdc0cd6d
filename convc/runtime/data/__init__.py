"""Data sets: reading, checking, dividing and delivering labelled images.

`load_dataset` turns a `data` item of the language into a `DataSet`; `BatchLoader` walks over one part of it. Everything
a user can get wrong (a missing, truncated or foreign file, labels without images, more images asked than there are)
ends in a `convc.ir.diagnostic.CompileError` that names the file and the numbers.
"""

from __future__ import annotations

from convc.runtime.data.dataset import DataSet, Split
from convc.runtime.data.load import KINDS, load_dataset
from convc.runtime.data.loader import BatchLoader, Source
from convc.runtime.data.ordering import epoch_order

__all__ = ["KINDS", "BatchLoader", "DataSet", "Source", "Split", "epoch_order", "load_dataset"]
