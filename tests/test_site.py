"""The documentation as a site: it builds without a warning, has every page, and needs nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

DOCS = Path(__file__).parents[1] / "docs"
WANTED = {  # what people look for, and under which name it stands in the site's contents
    "From a folder to an encoder": "start",
    "Your data": "your-data",
    "Choosing a method": "choosing-a-method",
    "Recipes by data size": "recipes",
    "Reading the report": "reading-the-report",
    "Evaluations": "evaluations",
    "Many GPUs": "many-gpus",
    "Python use": "python",
    "Architecture": "architecture",
    "Adding a method": "adding-a-method",
    "Questions people ask": "questions",
}


class Links(HTMLParser):
    """Addresses of a page: what it loads, where it leads, and its own places."""

    def __init__(self, html: str):
        super().__init__()
        self.loads, self.leads, self.places = list[str](), list[str](), set[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places.add(given.get("id", ""))
        if tag in ("script", "img", "source", "iframe"):
            self.loads.append(given.get("src", ""))
        elif tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(given["href"])
        elif tag == "a":
            self.leads.append(given.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    out = tmp_path_factory.mktemp("site")
    how = ["--fail-on-warning", "--keep-going", "--quiet", "-E"]
    command = [sys.executable, "-m", "sphinx", *how, str(DOCS), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_there_and_can_be_reached(site: Path) -> None:
    index = Links((site / "index.html").read_text())
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).with_suffix(".html").as_posix()
        assert (site / name).exists()
        assert name == "index.html" or name in index.leads
    contents = (site / "index.html").read_text()
    for title, name in WANTED.items():
        assert re.search(rf'<a class="reference internal" href="{name}\.html">{title}</a>', contents)
    assert (site / "search.html").exists()


def test_pages_load_nothing_from_elsewhere_and_lead_somewhere(site: Path) -> None:
    pages = {page: Links(page.read_text()) for page in site.rglob("*.html")}
    assert len(pages) > 30
    for page, links in pages.items():
        for address in (*links.loads, *links.leads):
            parts = urlsplit(address)
            if parts.scheme in ("http", "https"):
                assert address in links.leads, f"{page.name} loads {address}"
                continue
            if parts.scheme == "data" or not address:
                continue
            target = page.parent.joinpath(unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page.name}: {address}"
            if parts.fragment and target in pages:
                assert parts.fragment in pages[target].places, f"{page.name}: {address}"


def test_the_reference_has_what_import_maskery_has(site: Path) -> None:
    import maskery

    places = Links((site / "reference.html").read_text()).places
    assert {f"maskery.{name}" for name in maskery.__all__} <= places
