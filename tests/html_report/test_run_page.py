import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import maskery
import maskery.text
from maskery.cli import main
from maskery.evals.results import END, RANDOM, Result
from maskery.html_report.run_page import before_and_after_table, compare_table, tables
from tests.test_train import TINY

NASTY = (
    "<img src=x onerror=alert(1)>\"'\n\udcff\u202e&.png"  # HTML, quotes, a new line, no UTF-8, a turn of the writing
)


def page(run: Path, *options: str) -> str:
    assert main(["report", str(run), *options]) == 0
    return (run / "report.html").read_text(encoding="utf-8")


def test_a_whole_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "knn", str(run), "--data", str(run.parents[1]), "--beside", "random"]) == 1  # no images there
    html = page(run)
    assert str(run / "report.html") in capsys.readouterr().out
    titles = ("Is it healthy?", "Did it learn?", "Are the reconstructions right?", "What does it see", "Did it help?")
    assert [title for title in titles if title not in html] == []
    assert "Not in this report" not in html
    assert html.count('class="dot"') == 20  # all held-out images
    assert len(re.findall(r'data-when="step', html)) == 3
    assert "First and last evaluation" in html
    assert not re.search(r'(src|href|action)="(?!data:|#)', html)
    assert "connect-src &#39;none&#39;" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html


def test_in_python_whatever_was_imported_first(run: Path, tmp_path: Path) -> None:
    assert "maskery.text" in sys.modules  # the package of that name
    out = maskery.report(run=run, out=tmp_path / "new" / "page.html", pictures=False)  # pyright: ignore
    assert out == tmp_path / "new" / "page.html"
    assert "not asked for" in out.read_text()


def test_images_that_are_gone(part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (part / "config.yaml").read_text()
    (part / "config.yaml").write_text(re.sub(r"^data: .*$", f"data: {tmp_path}/gone", config, flags=re.MULTILINE))
    html = page(part)
    assert 'id="map"' not in html
    assert "the images cannot be read" in html
    assert "--data says where they are now" in html
    data = re.search(r"^data: (.*)$", config, re.MULTILINE)
    assert data
    assert 'id="map"' in page(part, "--data", data[1])


@pytest.mark.parametrize(
    ("take", "words"),
    [
        ("metrics.jsonl", "No numbers yet"),
        ("checkpoints", "There is no checkpoint yet"),
        ("samples", "no pictures in samples/"),
        ("config.yaml", "taking"),
        ("baselines.json", "What guesses would lose was not measured"),
        ("environment.json", ""),
    ],
)
def test_something_is_missing(part: Path, take: str, words: str) -> None:
    gone = part / take
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert words in page(part)


def test_half_written_and_damaged(part: Path) -> None:
    with (part / "metrics.jsonl").open("ab") as f:
        f.write(b'not json\n{"step": 9, "lo')
    (part / "baselines.json").write_text('{"images": 1')
    (part / "evals" / "knn-1.json").write_text("{}")
    (part / "evals" / "knn-2.json").write_bytes(b"\xff")
    next((part / "samples").iterdir()).write_bytes(b"no picture")
    last = part / "checkpoints" / (part / "checkpoints" / "last").read_text().strip()
    (last / "model.safetensors").write_bytes(b"cut off")
    html = page(part)
    assert "1 lines of metrics.jsonl are damaged" in html
    assert html.count("An evaluation cannot be read") == 2
    assert "the checkpoint cannot be used" in html
    assert len(re.findall(r'data-when="step', html)) == 2


def test_a_run_that_has_only_begun(tmp_path: Path, run: Path) -> None:
    (tmp_path / "new").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "new")
    html = page(tmp_path / "new")
    assert "Nothing has been logged yet" in html
    assert "There are no curves yet" in html


@pytest.mark.parametrize(
    ("what", "words"), [("nothing", "there is no such run"), ("", "is no run"), ("file", "no such run")]
)
def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, words: str) -> None:
    (tmp_path / "file").touch()
    assert main(["report", str(tmp_path / what)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_wrong_usage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--imges", "3"]) == 2
    assert "--images" in capsys.readouterr().err
    assert main(["report", str(run), "--images", "1"]) == 1
    assert main(["report"]) == 2


def test_names_of_files_are_text(tmp_path: Path) -> None:
    """Names with HTML, quotes, new lines and bytes that are no UTF-8, of good files and bad ones."""
    photos = tmp_path / "photos"
    for side in ("train", "val"):
        for label in ("a<b>", 'x"y'):
            (photos / side / label).mkdir(parents=True)
            for i in range(10):
                Image.effect_noise((32, 32), 90).convert("RGB").save(
                    photos / side / label / f"{i}{NASTY}", format="PNG"
                )
    (photos / "train" / "a<b>" / f"bad{NASTY}").write_bytes(b"no image")
    out = tmp_path / "run<script>alert(2)</script>"
    maskery.pretrain(data=photos, out=out, steps=4, images={"unreadable": 0.2}, **TINY)
    html = page(out)
    assert html.count("<script") == 1
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;&#34;&#39;\\n\\xff\\u202e&amp;.png" in html
    assert 'data-label="a&lt;b&gt;"' in html
    assert "1 of them" in html
    assert "\u202e" not in html


def test_a_hundred_thousand_steps(part: Path) -> None:
    row = json.loads((part / "metrics.jsonl").read_text().splitlines()[1])
    with (part / "metrics.jsonl").open("w") as f:
        f.writelines(json.dumps(row | {"step": i, "t": i / 1e5, "loss": 1 / i}) + "\n" for i in range(1, 100_001))
    html = page(part, "--no-pictures")
    assert len(html) < 1e6
    assert "Finished: step 100,000 of 100,000" in html


def result(of: str, top1: float, seed: int = 0, **more: str) -> Result:
    facts = {"evaluation": "probe", "protocol": "p", "data": "d", "fingerprint": "f", "weights": of} | more
    return Result(numbers={"top1": top1}, of=of, seed=seed, **facts)  # pyright: ignore


def test_candidates_are_columns() -> None:
    results = [result(RANDOM, 0.2 + s / 100, s) for s in range(3)] + [result(END, 0.5 + s / 100, s) for s in range(3)]
    (table,) = tables(results)
    assert table.title == "Linear probe"
    assert table.heads == ("", RANDOM, END, f"above {RANDOM}")
    assert table.rows == (("top1", "21.0 ± 1.0", "51.0 ± 1.0", "+30.0 ± 0.0"),)
    assert table.reading[0].startswith("Pretraining paid off")


def test_other_data_is_another_table_and_the_newest_counts() -> None:
    one, two = tables([result(END, 0.1), result(END, 0.3), result(END, 0.7, fingerprint="g")])
    assert one.rows[0][1] == "30.0 %"
    assert two.rows[0][1] == "70.0 %"


def test_verdicts_come_first() -> None:
    made = tables([result(END, 0.1, evaluation="knn"), result(RANDOM, 0.1), result(END, 0.3)])
    assert [table.title for table in made] == ["Linear probe", "Nearest neighbours"]


def test_the_runs_own_evaluations_and_what_compare_measured() -> None:
    facts = {"step": 9, "loss": {"before": 2.0, "after": 1.0}, "command": ["x"]}
    table = before_and_after_table(facts)
    assert table
    assert table.rows == (("loss", "2", "1"),)
    assert before_and_after_table({}) is None
    table = compare_table({"knn_mean_patch": 0.25, "steps": 3})
    assert table
    assert table.rows == (("knn mean patch", "25.0 %"),)
    assert compare_table({"steps": 3}) is None
