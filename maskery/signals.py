"""SIGINT and SIGTERM: a run finishes its step and saves a checkpoint."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event. A second SIGINT interrupts at once, unless it comes within two seconds.

    The two seconds: a launcher forwards to its processes a signal they already have from the terminal or scheduler.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    first = math.inf

    def handle(number: int, frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if number == signal.SIGINT and now - first > 2:
            raise KeyboardInterrupt
        first = min(first, now)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM, outside the training loop.

    The function yielded raises it again after a signal: Python drops exceptions raised in the callback of a weak
    reference or in a finalizer, and long work begun after one would miss the signal.
    """
    stop = threading.Event()

    def check_interrupted() -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check_interrupted
        return

    def interrupt(number: int, frame: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check_interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
