"""`maskery watch`: the page and nothing else, for this machine and nobody else."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import maskery
from maskery.cli import main
from maskery.html_report.server import Server


@pytest.fixture
def server() -> Iterator[tuple[Server, dict[str, str]]]:
    """A server of a page that says its state, and how often it was made."""
    facts = {"state": "one", "made": ""}

    def page(version: str) -> str:
        if facts["state"] == "gone":
            raise ValueError("gone")
        facts["made"] += "."
        return f"<main>{facts['state']} {version}</main>"

    with Server(page, lambda: facts["state"], 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made, facts
        made.shutdown()
        thread.join()


def get(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_is_made_when_something_is_new(server: tuple[Server, dict[str, str]]) -> None:
    made, facts = server
    version = get(made.server_port, "/version")[1]
    for _ in range(3):
        assert get(made.server_port, "/") == (200, f"<main>one {version}</main>")
    assert facts["made"] == "."
    facts["state"] = "two"
    assert get(made.server_port, "/version")[1] != version
    assert "two" in get(made.server_port, "/")[1]
    assert facts["made"] == ".."


@pytest.mark.parametrize("path", ["/etc/passwd", "/../etc/passwd", "/%2e%2e/config.yaml", "/?x", "/config.yaml"])
def test_there_is_nothing_but_the_page(server: tuple[Server, dict[str, str]], path: str) -> None:
    assert get(server[0].server_port, path) == (404, "there is only /\n")
    assert server[1]["made"] == ""


def test_nobody_else(server: tuple[Server, dict[str, str]]) -> None:
    made, _ = server
    assert made.server_address[0] == "127.0.0.1"
    assert get(made.server_port, "/", host="evil.example")[0] == 403  # a name that was turned to 127.0.0.1
    assert get(made.server_port, "/", host=f"localhost:{made.server_port}")[0] == 200
    assert get(made.server_port, "/", method="POST")[0] == 501


def test_ports(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["watch", str(run), "--port", str(taken.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert "cannot be used" in error
    assert error.count("\n") == 1
    assert main(["watch", str(run), "--port", "99999"]) == 1
    assert "from 0 to 65535" in capsys.readouterr().err
    assert main(["watch", str(run / "nothing")]) == 1
    assert "no such run" in capsys.readouterr().err


def test_a_run_that_vanishes_is_an_answer(server: tuple[Server, dict[str, str]]) -> None:
    server[1]["state"] = "gone"
    assert get(server[0].server_port, "/") == (500, "gone\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watching_from_the_command_line(part: Path, number: int) -> None:
    """New numbers are on the page, a signal ends it with 0, and nothing is left in the run.

    Ctrl-C, too, where whoever started us has SIGINT ignored, as a script's background jobs have.
    """
    before = sorted(p.relative_to(part) for p in part.rglob("*"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(maskery.__file__).parents[1])}
    command = [sys.executable, "-m", "maskery", "watch", str(part), "--port", "0", "--images", "20"]
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        started = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, ignored)
    with started as process:
        assert process.stderr
        port = int(process.stderr.readline().split("127.0.0.1:")[1].split()[0])
        status, html = get(port, "/")
        assert status == 200
        assert "Finished: step 8 of 8" in html
        assert 'id="map"' in html
        version = get(port, "/version")[1]
        assert f'data-version="{version}"' in html
        line = (part / "metrics.jsonl").read_text().splitlines()[1]
        with (part / "metrics.jsonl").open("a") as f:
            f.write(line.replace('"step": 4', '"step": 6').replace('"t": 0.5', '"t": 0.6') + "\n")
        assert get(port, "/version")[1] != version
        began = time.monotonic()
        assert "At step 6 of 10" in get(port, "/")[1]
        assert time.monotonic() - began < 20
        process.send_signal(number)
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert sorted(p.relative_to(part) for p in part.rglob("*")) == before
