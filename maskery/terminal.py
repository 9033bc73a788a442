"""Messages and progress bars for people, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tick = Callable[[int, int], None]  # (done, total); total 0: nobody knows


def no_progress(done: int, total: int) -> None:
    """The `Tick` of work without a bar."""


class Reporter(Protocol):
    """What a long piece of work reports to: sentences, and a bar for what takes long."""

    def say(self, message: str) -> None: ...

    def bar(self, what: str) -> AbstractContextManager[Tick]: ...


class Terminal:
    """Sentences and bars for people, on stderr; a bar only on a terminal. Without `messages`, bars alone."""

    def __init__(self, messages: bool = True) -> None:
        self.messages = messages
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)
        if self.messages:
            self.console.print(message, markup=False)

    @contextmanager
    def bar(self, what: str) -> Iterator[Tick]:
        """A bar while something is done that takes more than a few seconds."""
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
        live = self.console.is_terminal
        with Progress(*columns, console=self.console, disable=not live, transient=True) as progress:
            handle = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(handle, completed=done, total=total or None)


class Quiet:
    """Says nothing: for the processes beside the main one."""

    def say(self, message: str) -> None:
        return

    @contextmanager
    def bar(self, what: str) -> Iterator[Tick]:
        yield no_progress
