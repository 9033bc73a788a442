"""A real browser for tests: headless Chromium, spoken to over its debugging protocol."""

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """One tab. `errors` are exceptions and whatever the console was told of as an error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse):
        self.loop, self.socket, self.sent, self.errors = loop, socket, 0, list[str]()
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), 60))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.sent += 1
        await self.socket.send_json({"id": self.sent, "method": method, "params": parameters})
        while True:
            heard = json.loads((await self.socket.receive()).data)
            self._note(heard)
            if heard.get("id") == self.sent:
                assert "error" not in heard, heard
                return heard["result"]

    def _note(self, heard: dict[str, Any]) -> None:
        match heard.get("method"), heard.get("params", {}):
            case "Runtime.exceptionThrown", found:
                self.errors.append(json.dumps(found["exceptionDetails"]))
            case "Runtime.consoleAPICalled", {"type": "error" | "warning" | "assert"} as found:
                self.errors.append(json.dumps(found["args"]))
            case "Log.entryAdded", {"entry": {"level": "error" | "warning"} as entry}:
                self.errors.append(entry["text"])
            case "Network.requestWillBeSent", found if not found["request"]["url"].startswith("data:"):
                self.requests.append(found["request"]["url"])

    def open(self, url: str, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never became true: {script}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38, "ArrowDown": 40, "Escape": 27}
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def point(self, selector: str) -> None:
        """Move the pointer onto an element."""
        self.run(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )
        x, y = self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here (apt install chromium, or any Chrome): pages are not tried in a browser")
    flags = [*FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen([program, *flags], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    try:
        found = profile / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (found.exists() and "\n" in found.read_text()):
            assert process.poll() is None, "Chromium did not start"
            assert time.monotonic() < end, "Chromium did not start within a minute"
            time.sleep(0.05)
        port = found.read_text().split()[0]
        session = loop.run_until_complete(_session())
        try:
            socket = loop.run_until_complete(_socket(session, port))
            yield Browser(loop, socket)
        finally:
            loop.run_until_complete(session.close())
    finally:
        process.terminate()
        process.wait(20)
        loop.close()


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


async def _socket(session: aiohttp.ClientSession, port: str) -> aiohttp.ClientWebSocketResponse:
    for _ in range(200):
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
        if tabs:
            return await session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0)
        await asyncio.sleep(0.05)
    raise AssertionError("Chromium has no tab")
