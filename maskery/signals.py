"""What the keyboard and schedulers send: a run finishes its step and saves."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event. A second SIGINT interrupts at once, unless it comes within two seconds.

    A launcher forwards to its processes what the terminal or the scheduler has sent them already.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    first = math.inf

    def note(number: int, frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if number == signal.SIGINT and now - first > 2:
            raise KeyboardInterrupt
        first = min(first, now)
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM are a KeyboardInterrupt, wherever the loop does not take care of them itself.

    The function raises it once more when a signal has come: Python drops an exception that rises in the callback of a
    weak reference or in a finalizer, and long work begun after such a moment would never hear of the signal.
    """
    stop = threading.Event()

    def again() -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield again
        return

    def interrupt(number: int, frame: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield again
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
