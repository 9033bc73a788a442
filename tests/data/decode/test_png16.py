import io

import imagecodecs
import numpy as np
import pytest

from maskery.data.decode.image import decode
from maskery.data.decode.png16 import chunks, decode_png16
from maskery.data.decode.unreadable import Unreadable


@pytest.mark.parametrize(("channels", "rawmode"), [(2, "LA;16B"), (3, "RGB;16B"), (4, "RGBA;16B")])
def test_as_imagecodecs_reads_it(channels, rawmode):
    image = np.random.default_rng(1).integers(0, 65536, (19, 31, channels), np.uint16)
    file = io.BytesIO(imagecodecs.png_encode(image))
    np.testing.assert_array_equal(decode_png16(file, (31, 19), rawmode, interlaced=False), image)


def test_a_wrong_checksum_and_a_missing_end_are_found():
    image = np.random.default_rng(1).integers(0, 65536, (19, 31, 3), np.uint16)
    data = bytearray(imagecodecs.png_encode(image))
    cut = bytes(data[:-200])
    data[len(data) // 2] ^= 1
    with pytest.raises(Unreadable, match="checksum"):
        decode(bytes(data), channels=3)
    with pytest.raises(Unreadable, match="early"):
        decode(cut, channels=3)


def test_chunks_end_where_the_file_does():
    data = imagecodecs.png_encode(np.zeros((4, 4, 3), np.uint16))
    kinds = [kind for kind, _ in chunks(io.BytesIO(data))]
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    assert [kind for kind, _ in chunks(io.BytesIO(data[:36]))] == kinds[:1]
