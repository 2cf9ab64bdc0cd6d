from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from convc.runtime.interrupt import Interrupted, Interrupts


def wait_for(condition: object, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)


def test_the_first_signal_is_acknowledged_and_noted() -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts(heard.append) as interrupts:
        interrupts.check()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: heard)
        assert heard == ["SIGTERM"]
        assert interrupts.requested
        with pytest.raises(Interrupted):
            interrupts.check()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_second_signal_raises() -> None:
    heard: list[str] = []

    def interrupt_twice() -> None:
        with Interrupts(heard.append):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    with pytest.raises(Interrupted):
        interrupt_twice()
    assert heard == ["SIGINT"]


def test_an_echo_is_not_a_second_signal() -> None:
    with Interrupts(lambda name: None) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.requested


def test_it_is_acknowledged_during_native_code() -> None:
    """Python's handlers cannot run while the main thread is in a foreign function; the second signal ends it."""
    program = """
import ctypes
from convc.runtime.interrupt import Interrupts
libc = ctypes.CDLL(None)
with Interrupts(lambda name: print(name, flush=True)):
    print("ready", flush=True)
    mutex = (ctypes.c_ubyte * 64)()
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # waits for ever, whatever signals come
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "SIGINT\n"
        assert process.poll() is None
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_other_threads_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with Interrupts(lambda name: None) as interrupts:
            seen.append(signal.getsignal(signal.SIGINT))
            seen.append(interrupts.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]
