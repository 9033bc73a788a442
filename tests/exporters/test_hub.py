"""A push, to a small server that answers as the hub does; nothing is sent that was not asked for."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from maskery.cli import main
from maskery.exporters.hub import hub_code

WHERE = "random:vit_tiny_patch16_224"


class Hub(BaseHTTPRequestHandler):
    """Keeps repositories in memory. It takes every file as an ordinary one, never as a large one."""

    repositories: dict[str, dict[str, Any]]
    refuse = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = "/".join(self.path.split("/")[3:5])
        if self.refuse or self.headers["Authorization"] != "Bearer hf_secret":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}"
            self.repositories[name] = {
                "private": said.get("private", said.get("visibility") != "public"),
                "files": {},
                "ever": b"",
            }
            self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.repositories[name]["files"][line["value"]["path"]] = content
                    self.repositories[name]["ever"] += content
            self.answer({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/0", "commitOid": "0" * 40})
        else:
            self.answer({"yaml": "fine"})

    def do_GET(self) -> None:
        name = "/".join(self.path.split("/")[3:5])
        found = name in self.repositories
        self.answer({"id": name, "sha": "0" * 40, "siblings": [], "private": True}, 200 if found else 404)

    def answer(self, tree: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Fresh(Hub):
        repositories: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield Fresh
    server.shutdown()


@pytest.mark.parametrize("public", [False, True])
def test_a_push_has_everything_and_a_card_that_loads_it_from_there(
    hub: type[Hub], tmp_path: Path, public: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ["--public"] if public else []
    assert main(["export", WHERE, "--out", str(out), "--push", "me/vit.1", *more]) == 0
    assert "me/vit.1: uploaded" in capsys.readouterr().out
    there = hub.repositories["me/vit.1"]
    assert there["private"] is not public
    assert there["files"].keys() == {"README.md", "config.json", "model.safetensors"}
    assert there["files"]["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert b'timm.create_model("hf-hub:me/vit.1", pretrained=True)' in there["files"]["README.md"]
    assert str(tmp_path).encode() not in there["ever"]  # a repository keeps all it ever had
    assert "hf_secret" not in (out / "README.md").read_text()


def test_nothing_is_sent_unasked(hub: type[Hub], tmp_path: Path) -> None:
    assert main(["export", WHERE, "--out", str(tmp_path / "out")]) == 0
    assert not hub.repositories


def test_a_hub_that_says_no(hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.refuse = True
    assert main(["export", WHERE, "--out", str(tmp_path / "out"), "--push", "me/vit"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("maskery: --push me/vit: the hub did not take it")
    assert said.count("\n") == 1
    assert "hf_secret" not in said
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_no_network_no_login_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    out = ["export", WHERE, "--out", str(tmp_path / "out"), "--push"]
    assert main([*out, "me/vit"]) == 1
    said = capsys.readouterr().err
    assert "the hub did not take it" in said
    assert said.count("\n") == 1
    assert (tmp_path / "out" / "README.md").exists()
    out[3] = str(tmp_path / "other")
    assert main([*out, "../vit"]) == 1
    assert "OWNER/NAME is wanted" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main([*out, "me/vit"]) == 1
    assert "nobody is logged in" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_lines_that_load_it_from_the_hub() -> None:
    for load, expected in (
        ('f("local-dir:o", pretrained=True)', 'f("hf-hub:me/vit", pretrained=True)'),
        ('f("o")', 'f("me/vit")'),
        (
            'f("o/model.onnx")',
            'from huggingface_hub import snapshot_download\nf(snapshot_download("me/vit") + "/model.onnx")',
        ),
    ):
        assert hub_code(load, "o", "me/vit") == expected
