"""The pages in a real browser: no errors, figures there, usable by keyboard and on a narrow screen."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import maskery
from maskery.html_report.run_page import run_page
from maskery.html_report.server import Server
from maskery.runs.directory import RunDirectory, open_tolerantly
from tests.html_report.browser import Browser, browser
from tests.html_report.test_compare_page import facts as _facts  # noqa: F401
from tests.test_train import TINY


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def run(tab: Browser, scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report. After the browser: where there is none, nothing is trained either."""
    out = tmp_path_factory.mktemp("browser") / "run"
    maskery.pretrain(data=scene_folder, out=out, steps=24, method="rc-mae", **TINY)
    maskery.report(run=out)  # pyright: ignore
    return out


@pytest.fixture
def page(tab: Browser, run: Path) -> Browser:
    tab.errors.clear()
    tab.requests.clear()
    tab.open((run / "report.html").as_uri())
    return tab


def test_no_errors_and_no_network(page: Browser, run: Path) -> None:
    page.run("scrollTo(0, document.body.scrollHeight)")
    assert page.errors == []
    assert page.requests == [(run / "report.html").as_uri()]


def test_figures_are_drawn(page: Browser) -> None:
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    charts, drawn = page.run("""(() => { const plots = [...document.querySelectorAll('.plot')];
        return [plots.length, plots.filter(p => p.getBoundingClientRect().height > 100
          && [...p.querySelectorAll('path[style]')].some(l => l.getTotalLength() > 50)).length] })()""")
    assert charts == drawn >= 8
    images, loaded = page.run("""(() => { const all = [...document.images];
        return [all.length, all.filter(i => i.complete && i.naturalWidth > 10).length] })()""")
    assert images == loaded > 5
    assert page.run("document.querySelectorAll('.dot').length") == 20
    background = "getComputedStyle(document.querySelector('.map.pictures .dot')).backgroundImage.slice(0, 20)"
    assert page.run(background) == 'url("data:image/jpeg'


def test_pointing_shows_the_image_and_its_name(page: Browser) -> None:
    assert not page.run("document.querySelector('.card').classList.contains('on')")
    page.point(".dot:nth-child(3)")
    page.until("document.querySelector('.card').classList.contains('on')")
    shown = page.run("document.querySelector('.card b').textContent")
    assert shown == page.run("document.querySelector('.dot.on').dataset.name")
    assert shown.endswith(".png")
    card, dot = (
        f"getComputedStyle(document.querySelector('{s}')).getPropertyValue('--i')" for s in (".card .tiny", ".dot.on")
    )
    assert page.run(card) == page.run(dot)
    page.point("h1")
    page.until("!document.querySelector('.card').classList.contains('on')")


def test_pointing_at_a_curve_shows_its_values(page: Browser) -> None:
    page.point(".chart .plot")
    page.until("document.querySelector('.plot').classList.contains('on')")
    assert "training" in page.run("document.querySelector('.tip').textContent")


def test_by_keyboard_alone(page: Browser) -> None:
    reached = []
    for _ in range(60):
        page.press("Tab")
        reached.append(
            page.run("document.activeElement.id || document.activeElement.className || document.activeElement.hash")
        )
        if reached[-1] == "map":
            break
    assert reached[0] == "skip"
    assert "#health" in reached
    assert "plot on" in reached  # a curve, with the values under its cursor
    assert reached.index("when") < reached.index("map")  # the slider, then the map, as on the page
    page.until("document.querySelector('.card').classList.contains('on')")
    place = "(() => { const d = document.querySelector('.dot.on'); return [d.offsetLeft, d.offsetTop] })()"
    for key, axis, sign in (("ArrowRight", 0, 1), ("ArrowLeft", 0, -1), ("ArrowDown", 1, 1), ("ArrowUp", 1, -1)):
        start = page.run(place)[axis]
        for _ in range(30):
            before = page.run(place)[axis]
            page.press(key)
            assert (page.run(place)[axis] - before) * sign >= 0
        furthest = page.run("[...document.querySelectorAll('.dot')].map(d => [d.offsetLeft, d.offsetTop])")
        ends = sorted((p[axis] for p in furthest), reverse=sign > 0)
        assert page.run(place)[axis] == ends[0] != start or start == ends[0]
    shown = page.run("document.querySelector('.card b').textContent")
    assert shown == page.run("document.querySelector('.dot.on').dataset.name")
    page.press("Escape")
    assert not page.run("document.querySelector('.card').classList.contains('on')")


def test_through_time(page: Browser) -> None:
    shown = "[...document.querySelectorAll('.strip img')].filter(i => i.offsetHeight > 0).map(i => i.dataset.when)"
    assert len(page.run(shown)) == 1
    assert page.run(shown)[0].startswith("step 24")
    page.run("document.getElementById('when').focus()")
    for _ in range(5):
        page.press("ArrowLeft")
    assert page.run(shown)[0].startswith("step 0")
    assert page.run("document.querySelector('.slide output').textContent").startswith("step 0")


def test_before_and_after_on_the_map(page: Browser) -> None:
    place = "document.querySelector('.dot').getBoundingClientRect().x"
    page.run("document.querySelectorAll('.dot').forEach(d => { d.style.transition = 'none' })")
    now = page.run(place)
    page.run("document.getElementById('map-before').click()")
    assert page.run("document.getElementById('map').className") == "map pictures before"
    assert page.run(place) != now
    page.run("document.getElementById('as-pictures').click()")
    assert page.run("document.querySelector('.dot').offsetWidth") == 12


@pytest.mark.parametrize("width", [320, 360, 768, 1400])
def test_nothing_is_wider_than_the_screen(tab: Browser, run: Path, width: int) -> None:
    tab.open((run / "report.html").as_uri(), width=width)
    tab.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("parseFloat(getComputedStyle(document.querySelector('.y')).fontSize)") >= 11  # not shrunk


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(tab: Browser, run: Path, dark: bool) -> None:
    """Contrast of 4.5 and more, by WCAG's formula, on the paper it stands on."""
    tab.open((run / "report.html").as_uri(), dark=dark)
    worst = tab.run("""(() => {
        const rgb = c => c.match(/[\\d.]+/g).map(Number), lum = c => { const [r, g, b] = c.map(v => { v /= 255;
          return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
        const paper = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
          if (c.length < 4 || c[3] === 1) return c.slice(0, 3) } return [255, 255, 255] };
        let least = [99, ''];
        const words = 'p, h1, h2, h3, dt, dd, small, b, .level, .y, .x, td, th, figcaption, summary, .legend li';
        for (const e of document.querySelectorAll(words)) {
          if (!e.offsetParent || !e.textContent.trim()) continue;
          const a = lum(rgb(getComputedStyle(e).color).slice(0, 3)), b = lum(paper(e));
          const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
          if (ratio < least[0]) least = [ratio, e.className + ': ' + e.textContent.slice(0, 40)] }
        return least })()""")
    assert worst[0] >= 4.5, worst


def test_everything_has_a_name_for_who_cannot_see_it(page: Browser) -> None:
    assert page.run("[...document.images].every(i => i.alt)")
    assert page.run(
        "[...document.querySelectorAll('[role=img], [role=application], [role=group]')].every(e => e.ariaLabel)"
    )
    assert page.run("[...document.querySelectorAll('input')].every(i => i.labels.length)")
    assert page.run("document.documentElement.lang") == "en"


def test_live_pages_follow_the_run(tab: Browser, part: Path) -> None:
    tab.errors.clear()
    with Server(
        lambda version: run_page(open_tolerantly(part), None, (), version), lambda: RunDirectory(part).version(), 0
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        tab.open(f"http://127.0.0.1:{server.server_port}/")
        tab.run("document.querySelector('#what details').open = true; scrollTo({top: 700, behavior: 'instant'})")
        lines = (part / "metrics.jsonl").read_text().splitlines()
        last = next(line for line in lines[::-1] if '"loss"' in line)
        with (part / "metrics.jsonl").open("a") as f:
            f.write(last.replace('"step": 24', '"step": 25').replace('"t": 1.0', '"t": 0.5') + "\n")
        tab.until("document.getElementById('status').textContent.includes('step 25 of 50')")
        assert tab.run("scrollY") == 700
        assert tab.run("document.querySelector('#what details').open")
        server.shutdown()
        thread.join()
    assert tab.errors == []


def test_names_run_nothing(tab: Browser, part: Path) -> None:
    """A name that is a script, where the page shows names: the class of the policy, too, runs none but ours."""
    (part / "skipped.jsonl").write_text(
        '{"name": "<script>document.title = 1</script><img src=x onerror=\\"document.title = 2\\">", "reason": "<b>"}\n'
    )
    maskery.report(run=part, pictures=False)  # pyright: ignore
    tab.errors.clear()
    tab.open((part / "report.html").as_uri())
    assert tab.run("document.title") == "run: a run of rc-mae"
    assert "<script>" in tab.run("document.getElementById('what').textContent")
    assert tab.errors == []
    tab.run(
        "{ const s = document.createElement('script'); s.textContent = 'document.title = 3'; document.body.append(s) }"
    )
    assert tab.run("document.title") == "run: a run of rc-mae"


def test_the_page_of_a_comparison(tab: Browser, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from maskery.html_report.compare_page import page

    out = tmp_path / "compare.html"
    out.write_text(page(request.getfixturevalue("_facts"), tmp_path), encoding="utf-8")
    tab.errors.clear()
    tab.open(out.as_uri(), width=360)
    assert tab.errors == []
    assert tab.run("document.documentElement.scrollWidth") <= 360
    assert (
        tab.run("[...document.querySelectorAll('.plot path[style]')].filter(l => l.getTotalLength() > 50).length") >= 4
    )
