import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskery.evals.leaderboard import table
from maskery.html_report.compare_page import COLOURS, AccuracyCurves, charts, page, write_picture

START = "random initialisation"


def run(label: str, seed: int, looks: list[tuple[int, float, float]]) -> dict[str, Any]:
    """looks: (step, seconds, accuracy); 4 steps are an epoch."""
    return {
        "label": label,
        "seed": seed,
        "steps": 8,
        "looks": [{"step": s, "epoch": s / 4, "seconds": t, "knn_mean_patch": a} for s, t, a in looks],
    }


@pytest.fixture
def facts() -> dict[str, Any]:
    numbers = {"knn_mean_patch": 0.5, "epochs": 2.0, "training_seconds": 60.0, "images_per_second": 9.5}
    results = {
        START: {0: {"knn_mean_patch": 0.1}},
        "mae": {0: numbers},
        "naive": {0: numbers | {"knn_mean_patch": 0.6}},
    }
    return {
        "command": ["maskery", "compare", "--data", "<script>alert(1)</script>"],
        "made": "today",
        "finished": True,
        "data": "/data/<script>alert(1)</script>&co",
        "images": 1234,
        "held_out": 56,
        "budget": "time:90s",
        "seeds": [0, 1],
        "methods": [
            {"label": "mae", "method": "mae", "settings": {"mask_ratio": 0.75}},
            {"label": "naive", "method": "mixed-ae", "settings": {"teacher": '"><img src=x>'}},
        ],
        "run": {"optim.base_lr": 0.001},
        "start": START,
        "protocol": "the protocol",
        "device": "CPU",
        "runs": [
            run("mae", 0, [(0, 0.0, 0.1), (4, 10.0, 0.3), (8, 20.0, 0.5)]),
            run("mae", 1, [(0, 0.0, 0.2), (4, 14.0, 0.5), (8, 30.0, 0.5)]),
            run("naive", 0, [(0, 0.0, 0.1), (8, 100.0, 0.6)]),
        ],
        "table": table(START, results),
        "reading": ["naive comes first & that is all"],
        "picture": "the caption",
    }


def test_curves_are_means_over_seeds(facts: dict[str, Any]) -> None:
    curves = AccuracyCurves.of(facts)
    assert curves
    curve = curves.by_label["mae"]
    assert curve["epoch"].tolist() == [0, 1, 2]
    assert curve["seconds"].tolist() == [0, 12, 25]
    assert curve["mean"] == pytest.approx([0.15, 0.4, 0.5])
    assert curve["std"] == pytest.approx([0.05 * 2**0.5, 0.1 * 2**0.5, 0])
    assert curves.by_label["naive"]["std"].tolist() == [0, 0]


def test_the_picture_has_a_line_of_each_method(facts: dict[str, Any], tmp_path: Path) -> None:
    assert write_picture(facts, tmp_path / "compare.png") is None
    assert [p.name for p in tmp_path.iterdir()] == ["compare.png"]
    pixels = np.asarray(Image.open(tmp_path / "compare.png").convert("RGB")).reshape(-1, 3)
    first, second, third = ((pixels == list(bytes.fromhex(colour[1:]))).all(1).sum() for colour in COLOURS[:3])
    assert min(first, second) > 200
    assert third == 0


def test_the_curves_of_the_page_are_of_every_method(facts: dict[str, Any]) -> None:
    by_epoch, by_time = charts(facts)
    assert [line.label for line in by_epoch.lines] == [line.label for line in by_time.lines] == ["mae", "naive"]
    assert [words for words, _ in by_epoch.guides] == [START]
    assert "mae from 15 % to 50 %" in by_epoch.alt
    assert by_time.unit == "minutes of training"  # 100 s are the longest run
    assert charts(facts | {"runs": []}) == []


def test_without_looks_or_matplotlib_there_is_a_reason_instead(
    facts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = facts | {"runs": [one | {"looks": []} for one in facts["runs"]]}
    assert "no kNN was made" in (write_picture(nothing, tmp_path / "a.png") or "")
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as Python marks what cannot be imported
    assert "pip install '.[report]'" in (write_picture(facts, tmp_path / "a.png") or "")
    assert not list(tmp_path.iterdir())


def test_the_page_stands_alone_and_escapes(facts: dict[str, Any], tmp_path: Path) -> None:
    samples = tmp_path / "mae-seed0" / "samples"
    samples.mkdir(parents=True)
    for step, colour in ((0, "red"), (8, "blue")):
        Image.new("RGB", (4, 4), colour).save(samples / f"step-{step:08d}.png")
    write_picture(facts, tmp_path / "compare.png")
    html = page(facts, tmp_path)
    assert html.count("<script") == 1  # ours, which no text of a user can be
    assert "<script>alert" not in html
    assert "<img src=x>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;co" in html
    assert "naive comes first &amp; that is all" in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    (shown,) = re.findall(r'<img[^>]*src="data:image/webp;base64,([^"]+)"', html)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown))))
    assert pixels[..., 2].mean() > 200 > 50 > pixels[..., 0].mean()  # the last strip, the blue one, not the first
    assert "1,234 training images, 56 held out" in html
    assert "So far" not in html
    assert "So far: 3 of 4 runs" in page(facts | {"finished": False}, tmp_path)


def test_the_table_has_the_numbers_and_the_tags_are_closed(facts: dict[str, Any], tmp_path: Path) -> None:
    class Cells(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.rows: list[list[str]] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img", "link", "path"):
                self.open.append(tag)
            if tag == "tr":
                self.rows.append([])

        def handle_endtag(self, tag: str) -> None:
            if tag == "path":
                return
            assert self.open.pop() == tag

        def handle_data(self, data: str) -> None:
            if "td" in self.open:
                self.rows[-1].append(data)

    cells = Cells()
    cells.feed(page(facts, tmp_path))
    assert not cells.open
    assert ["mae", "2.0", "60 s", "9.5", "50.0 %"] in cells.rows
    assert ["naive", "2.0", "60 s", "9.5", "60.0 %"] in cells.rows
    assert ["naive", "+10.0"] in cells.rows
    assert [START, "-", "-", "-", "10.0 %"] in cells.rows
    assert ["mask_ratio", "0.75"] in cells.rows
