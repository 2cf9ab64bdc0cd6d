"""Tasks that leave Python's lock to others for most of their time, on several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

Task = Callable[[], object]


def run_all(tasks: Sequence[Task], threads: int) -> None:
    """Call all tasks, begun in their order, on at most so many threads of which the caller is one.

    After an error, of which the first is raised again, no further task is begun. Where the system grants no threads,
    fewer do the work.
    """
    waiting, errors = iter(tasks), list[BaseException]()
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                task = None if errors else next(waiting, None)
            if task is None:
                return
            try:
                task()
            except BaseException as error:
                errors.append(error)
                return

    helpers: list[threading.Thread] = []
    try:
        for _ in range(min(threads, len(tasks)) - 1):
            helper = threading.Thread(target=work, name="convc-tasks", daemon=True)
            helper.start()
            helpers.append(helper)
    except RuntimeError:
        pass
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
