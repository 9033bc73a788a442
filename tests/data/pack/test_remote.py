"""Packs at URLs, here in fsspec's memory:// and behind a small web server."""

import http.server
import multiprocessing
import os
import pickle
import re
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskery.data.crops import Crop
from maskery.data.images import Images
from maskery.data.order import positions
from maskery.data.pack.encode import Encoding
from maskery.data.pack.reader import PackedSource
from maskery.data.pack.remote import Blocks, Locations, fetch
from maskery.data.pack.writer import PackOptions, pack_source
from maskery.data.sources.open import open_source
from maskery.data.sources.source import Source
from maskery.data.train_dataset import RandomCrops, SamplingPlan, TrainDataset
from maskery.terminal import Quiet


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 raw pictures of 30 kB in four shards."""
    folder = tmp_path_factory.mktemp("remote")
    (folder / "in").mkdir()
    for i in range(120):
        noise = np.random.default_rng(i).integers(0, 256, (100, 100, 3), np.uint8)
        Image.fromarray(noise).save(folder / "in" / f"{i:03d}.png", compress_level=0)
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG")
    pack_source(
        open_source(folder / "in"), folder / "out", PackOptions(Encoding(0, "raw"), shard_mb=1, workers=0), Quiet()
    )
    return folder / "out"


@pytest.fixture
def url(local: Path) -> str:
    system = fsspec.filesystem("memory")
    for file in local.iterdir():
        system.pipe_file(f"/bucket/pack/{file.name}", file.read_bytes())
    return "memory://bucket/pack"


def crops_of(source: Source, seed: int = 0) -> TrainDataset:
    images = Images(source, channels=3, bits=8, pages="first", min_side=48)
    return TrainDataset(images, np.arange(5, 121), SamplingPlan((24, 24), seed, 8), RandomCrops([Crop()]))


# ------------------------------------------------------------------------------------------------------- blocks
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=20), min_size=1, max_size=4))
def test_blocks_are_consecutive_bytes_of_one_shard(shards):
    shard = np.repeat(np.arange(len(shards)), list(map(len, shards)))
    start = np.concatenate([100 + np.cumsum([0, *lengths[:-1]]) for lengths in shards])
    length = np.concatenate(shards).astype(np.uint32)
    block = Locations(shard, start, length).blocks(50)
    assert block[0] == 0
    assert set(np.diff(block)) <= {0, 1}
    for b in range(block[-1] + 1):
        mine = np.flatnonzero(block == b)
        assert len(set(shard[mine])) == 1
        assert start[mine[-1]] + length[mine[-1]] - start[mine[0]] <= 50 + 30
    assert block[-1] + 1 <= sum(sum(lengths) // 50 + 1 for lengths in shards)


# ------------------------------------------------------------------------------------------------------- reading
def test_it_is_the_same_data(local, url):
    here, there = open_source(local), open_source(url + "/")
    assert isinstance(there, PackedSource)
    assert there.where == url
    assert list(there.names) == list(here.names)
    assert [there.read(i) for i in range(121)] == [here.read(i) for i in range(121)]
    there.expect(np.arange(121))
    assert [there.read(i) for i in range(121)] == [here.read(i) for i in range(121)]
    assert [pickle.loads(pickle.dumps(there)).read(i) for i in (0, 7)] == [here.read(i) for i in (0, 7)]
    assert there.blocks is not None
    assert there.blocks.max() == 3


def test_the_order_is_exactly_resumable(url):
    whole = [crops_of(open_source(url))[k]["views"][0] for k in range(30)]  # two epochs
    again = crops_of(open_source(url))
    for k in (29, 3, 17):
        assert (again[k]["views"][0] == whole[k]).all()
    blocks = again.blocks
    assert blocks is not None
    drawn = positions(116, 0, 0, 116, blocks)
    assert sorted(drawn.tolist()) == list(range(116))
    assert positions(116, 0, 37, 9, blocks).tolist() == drawn[37:46].tolist()


def test_each_block_is_fetched_once_a_machine(url, local):
    first, second = open_source(url), open_source(url)
    assert isinstance(first, PackedSource)
    assert isinstance(second, PackedSource)
    shards = sum(file.stat().st_size for file in local.glob("shard-*"))
    for source in (first, second):
        plan = crops_of(source)
        for k in range(15):
            plan[k]
    assert first._remote is not None
    assert second._remote is not None
    assert 0.9 * shards < first._remote.fetched <= shards
    assert second._remote.fetched == 0


def bring(url: str, together, answers) -> None:
    source = open_source(url)
    assert isinstance(source, PackedSource)
    assert source._remote is not None
    together.wait()
    source.expect(np.arange(121))
    answers.put((source._remote.fetched, [source.read(i) for i in range(121)]))


def test_processes_that_want_the_same_block_wait_for_one(url, local):
    context = multiprocessing.get_context("fork")
    answers, together = context.Queue(), context.Barrier(4)
    workers = [context.Process(target=bring, args=(url, together, answers)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(fetched for fetched, _ in found) <= sum(file.stat().st_size for file in local.glob("shard-*"))
    here = open_source(local)
    assert all(read == [here.read(i) for i in range(121)] for _, read in found)


def test_the_disk_is_not_filled(url, local, scan_cache):
    source = open_source(local)
    assert isinstance(source, PackedSource)
    files = [shard.file for shard in source.manifest.shards]
    locations = Locations(source._shard_of(np.arange(121)), source._start, source._length)
    limit = 2e6 / 1e9
    with pytest.raises(ValueError, match=r"images\.cache is 0\.002 GB: .* needs 0\.0036 at least"):
        Blocks(url, files, locations, limit)
    blocks = Blocks(url, files, locations, limit, size=5000)
    assert blocks.block[-1] > 100
    want = [source.read(i) for i in range(120)]
    for i in range(120):
        blocks.expect(np.array([i]))
        assert blocks.read(i) == want[i]
        kept = list(next(iter(scan_cache.glob("remote-*"))).glob("block-*"))
        assert sum(file.stat().st_size for file in kept) <= 2e6
    assert blocks.read(0) == want[0], "what was forgotten is read again"


def test_a_damaged_block_is_noticed(url, scan_cache):
    source = open_source(url)
    source.expect(np.arange(20))
    for file in scan_cache.rglob("block-*"):
        data = bytearray(file.read_bytes())
        data[40_000] ^= 1
        file.write_bytes(data)

    def problem(i: int) -> str:
        try:
            source.read(i)
        except OSError as error:
            return str(error)
        return ""

    problems = [problem(i) for i in range(20)]
    assert [p for p in problems if p] == ["damaged: its checksum in shard-00000.arrow does not fit"]


# ------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("memory://nothing/here", r"memory://nothing/here/pack\.json: no such file"),
        ("nosuch://bucket/pack", "nosuch://bucket/pack/pack.json: Protocol not known"),
        ("oci://bucket/pack", r"pip install '.\[remote\]'"),
    ],
)
def test_what_cannot_be_opened(where, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_source(where)
    assert "\n" not in str(caught.value)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A web server that knows ranges, or, with `whole`, one that does not."""

    whole = False

    def do_GET(self) -> None:
        data = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and not self.whole:
            data = data[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206 if asked and not self.whole else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.mark.parametrize("whole", [False, True])
def test_a_web_server(local, whole):
    pytest.importorskip("aiohttp")
    handler = type("Handler", (Ranges,), {"whole": whole})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(local))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        if whole:
            with pytest.raises(RuntimeError, match="are parts of files served"):
                fetch(f"{at}/shard-00000.arrow", 5, 9, tries=1)
        else:
            source, here = open_source(at), open_source(local)
            source.expect(np.arange(5))
            assert [source.read(i) for i in range(121)] == [here.read(i) for i in range(121)]
        server.shutdown()


def test_a_storage_that_fails_stops_the_run_instead_of_losing_images(local):
    os.environ.pop("http_proxy", None)
    pytest.importorskip("aiohttp")
    with pytest.raises(RuntimeError, match="cannot be read, tried 2 times"):
        fetch("http://127.0.0.1:9/pack.json", tries=2)
