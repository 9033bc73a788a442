import logging
import struct
import warnings

import pytest

from maskery.data.decode.unreadable import Unreadable, reading, reason
from maskery.text import one_line


@pytest.mark.parametrize("error", [OSError("a\nb"), SyntaxError("x"), struct.error("x"), KeyError(3), MemoryError()])
def test_what_parsers_raise_becomes_unreadable(error):
    with pytest.raises(Unreadable, match=r"^damaged PNG: .+$") as caught, reading("PNG"):
        raise error
    assert caught.value.__cause__ is error


def test_a_file_that_ends_early_is_truncated():
    with pytest.raises(Unreadable, match="truncated JPEG"), reading("JPEG"):
        raise OSError("image file is truncated (3 bytes not processed)")
    with pytest.raises(Unreadable, match="truncated GIF: EOFError"), reading("GIF"):
        raise EOFError


def test_other_errors_and_interrupts_pass():
    with pytest.raises(KeyboardInterrupt), reading("PNG"):
        raise KeyboardInterrupt
    with pytest.raises(Unreadable, match=r"^as it is$"), reading("PNG"):
        raise Unreadable("as it is")


def test_silence_ends_with_the_reading():
    log = logging.getLogger("tifffile")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with reading("TIFF"):
            warnings.warn("inside", stacklevel=1)
            with reading("TIFF"):
                assert log.disabled
            warnings.warn("still inside", stacklevel=1)
        warnings.warn("outside", stacklevel=1)
    assert not log.disabled
    assert [str(w.message) for w in caught] == ["outside"]


def test_long_messages_are_cut():
    assert len(one_line(ValueError("x" * 1000))) == 200


def test_reasons_are_never_empty():
    assert reason(OSError()) == "OSError"
    assert reason(FileNotFoundError(2, "No such file or directory", "/a/b")) == "No such file or directory"
