"""What the keyboard and schedulers send: a run finishes its step and saves."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator


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
