"""Send this process a signal at a moment that its files show."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def signal_when(file: Path, text: str, times: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Send `number` while the block runs, as soon as the file has the text so many times; after a minute anyway."""

    def watch() -> None:
        limit = time.monotonic() + 60
        while time.monotonic() < limit and not (file.exists() and file.read_text().count(text) >= times):
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    watcher.join()
