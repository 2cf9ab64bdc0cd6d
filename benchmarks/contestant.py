"""One contestant: a process that prepares one net and then, told to, works for a while and says how far it came.

    python -m benchmarks.contestant convc benchmarks/nets/lenet.cnn --mode train --batch 64 --threads 2

It writes one JSON object a line: `{"ready": seconds, "version": …}` after preparing, or `{"error": …}`. To `round 1.5`
on its standard input it answers `{"images": n, "seconds": t}`; the end of the input ends it. Between rounds it waits in
a read and uses no processor, so that contestants can take turns in one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np

# A step leaves nothing to wait for, so time is read after each one.
Step = Callable[[], object]

WARM_UP = 0.3  # seconds before each round: clocks, caches and worker threads are as in steady work
MOMENTUM = 0.9
LEARNING_RATE = 1e-4  # small enough that random labels never lead to infinities


def random_batch(shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) and labels (N,), the same for all contestants."""
    generator = np.random.default_rng(1)
    images = generator.random(shape, np.float32)
    return images, generator.integers(0, classes, shape[0]).astype(np.int32)


def prepare_convc(path: str, mode: str, batch: int, threads: int) -> tuple[Step, str]:
    import convc

    net = convc.load(path)
    graph = net.graph(batch)
    program = convc.compile(net, batch=batch, mode=mode, threads=threads)
    images, labels = random_batch(graph.inputs["x"].shape, graph.outputs["logits"].shape[1])
    if mode == "train":
        return lambda: program.step(images, labels, lr=LEARNING_RATE), convc.__version__
    return lambda: program(images), convc.__version__


def prepare_torch(
    path: str, mode: str, batch: int, threads: int, *, channels_last: bool, compiled: bool
) -> tuple[Step, str]:
    import torch

    import convc
    from benchmarks.torch_peer import TorchPeer

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    graph = convc.load(path).graph(batch)
    images, labels = random_batch(graph.inputs["x"].shape, graph.outputs["logits"].shape[1])
    module = TorchPeer(graph, "train" if mode == "train" else "infer").module
    x, y = torch.from_numpy(images), torch.from_numpy(labels).long()
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    call = torch.compile(module) if compiled else module
    if mode == "infer":

        def infer() -> object:
            with torch.inference_mode():
                return call(x)

        return infer, torch.__version__
    optimiser = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)

    def train() -> object:
        optimiser.zero_grad(set_to_none=True)
        loss = call(x, y)
        loss.backward()
        optimiser.step()
        return loss.item()

    return train, torch.__version__


CONTESTANTS: dict[str, Callable[[str, str, int, int], tuple[Step, str]]] = {
    "convc": prepare_convc,
    "torch": lambda *net: prepare_torch(*net, channels_last=False, compiled=False),
    "torch-channels-last": lambda *net: prepare_torch(*net, channels_last=True, compiled=False),
    "torch-compile": lambda *net: prepare_torch(*net, channels_last=False, compiled=True),
}


def work(step: Step, seconds: float) -> tuple[int, float]:
    """Steps done and seconds taken."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        step()
        count += 1
    return count, passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("net")
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    # Answers go where the other side listens; whatever a library prints must not get between them.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    start = time.perf_counter()
    try:
        step, version = CONTESTANTS[arguments.contestant](
            arguments.net, arguments.mode, arguments.batch, arguments.threads
        )
        step()
    except Exception as error:  # whatever it is, the others go on and the table shows it
        answer(error=f"{type(error).__name__}: {error}".splitlines()[0])
        return 1
    answer(ready=time.perf_counter() - start, version=version)
    for line in sys.stdin:
        _, seconds = line.split()
        work(step, WARM_UP)
        count, taken = work(step, float(seconds))
        answer(images=count * arguments.batch, seconds=taken)
    return 0


if __name__ == "__main__":
    sys.exit(main())
