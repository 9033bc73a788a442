"""Bytes that are no picture: one exception for all that parsers raise, and their warnings kept off the terminal."""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

from ...text import one_line


class Unreadable(ValueError):
    """An image cannot be decoded. The message is the reason alone, one line, without the file's name."""


def reason(error: Exception) -> str:
    """Why an image could not be read, for people: one line, without the file's name."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


class _Silence:
    """Keeps Pillow's warnings, and tifffile's and imagecodecs' logs, off the terminal while any thread is inside.

    `warnings.catch_warnings` by itself is not safe here: it swaps the interpreter's filters, and threads that leave in
    another order than they came would put each other's filters back, for good. The first one in saves, the last one out
    restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._saved.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            for log in map(logging.getLogger, ("tifffile", "imagecodecs")):
                self._saved.callback(setattr, log, "disabled", log.disabled)
                log.disabled = True

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._saved.close()


_silence = _Silence()


@contextlib.contextmanager
def reading(kind: str | None) -> Iterator[None]:
    """Turn whatever a damaged file of `kind` ("JPEG", ..., None = unknown) raises in here into `Unreadable`."""
    with _silence:
        try:
            yield
        except Unreadable:
            raise
        except Exception as error:  # on damaged bytes parsers raise errors of every kind
            text = one_line(error)
            cut = isinstance(error, EOFError) or "truncated" in text.lower()
            raise Unreadable(f"{'truncated' if cut else 'damaged'} {kind or 'image'}: {text}") from error
