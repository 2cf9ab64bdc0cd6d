"""All ways to compute a convolution, in the order in which reports list them."""

from __future__ import annotations

from convc.passes.algorithms.algorithm import Algorithm
from convc.passes.algorithms.direct import Direct
from convc.passes.algorithms.fft import FFT
from convc.passes.algorithms.im2col import Im2col
from convc.passes.algorithms.strassen import Strassen
from convc.passes.algorithms.winograd import WINOGRAD

ALGORITHMS: tuple[Algorithm, ...] = (Direct(), Im2col(), *WINOGRAD, *FFT, Strassen())
BY_NAME: dict[str, Algorithm] = {algorithm.name: algorithm for algorithm in ALGORITHMS}
