"""The page of a run over HTTP, for browsers on this machine and nobody else: two answers, the page and its version."""

import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ..signals import interruptible

HOST = "127.0.0.1"


def serve(page: Callable[[str], str], state: Callable[[], str], port: int, say: Callable[[str], None]) -> None:
    """Serve `page(version)` at / until SIGINT or SIGTERM. `state` is another text whenever the page would be another.

    ValueError in one line when the port is taken or there is no such port.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}: a port is a number from 0 to 65535")
    try:
        server = Server(page, state, port)
    except OSError as e:
        raise ValueError(f"port {port} cannot be used ({e.strerror}): another --port, or 0 for any that is free") from e
    with server, interruptible():
        say(f"http://{HOST}:{server.server_port} shows the run while it goes on; Ctrl-C ends this")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            say("no longer watching; the run goes on")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, page: Callable[[str], str], state: Callable[[], str], port: int):
        self.page, self.state = page, state
        self.lock, self.made, self.text = threading.Lock(), "", b""
        super().__init__((HOST, port), Handler)

    def version(self) -> str:
        return hashlib.blake2b(self.state().encode(), digest_size=8).hexdigest()

    def current(self) -> bytes:
        """The page, made anew when something in the run is new; by one request at a time."""
        with self.lock:
            version = self.version()
            if version != self.made:
                self.text, self.made = self.page(version).encode(), version
            return self.text


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        port = self.server.server_port
        if self.headers.get("Host", "") not in (f"{HOST}:{port}", f"localhost:{port}"):
            return self.answer(403, b"only for this machine\n")  # a page elsewhere whose name was turned to 127.0.0.1
        if self.path == "/":
            try:
                return self.answer(200, self.server.current(), "text/html")
            except (ValueError, OSError) as e:  # the run is gone
                return self.answer(500, f"{e}\n".encode("utf-8", "backslashreplace"))
        if self.path == "/version":
            return self.answer(200, self.server.version().encode())
        return self.answer(404, b"there is only /\n")

    def answer(self, code: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return
