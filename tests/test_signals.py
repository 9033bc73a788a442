"""Signals where the loop does not run."""

import os
import signal
import time
import weakref

import pytest

from maskery.signals import interruptible


class Thing:
    pass


def kill_myself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)  # a handler runs where Python looks


def kill_myself_where_it_is_swallowed(number: int) -> None:
    thing = Thing()
    watched = weakref.ref(thing, lambda _: (os.kill(os.getpid(), number), time.sleep(0.01)))
    del thing  # the callback runs here, and Python drops what it raises
    assert watched() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts(number: int) -> None:
    before = signal.getsignal(number)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        kill_myself(number)
    assert signal.getsignal(number) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_swallowed_is_not_lost(number: int) -> None:
    with interruptible() as raise_if_signalled:
        raise_if_signalled()
        kill_myself_where_it_is_swallowed(number)
        with pytest.raises(KeyboardInterrupt):
            raise_if_signalled()
