"""tracking.json: what a run is called elsewhere, so that `maskery resume` goes on with it."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

from ..outputs import write_file as write_whole

Say = Callable[[str], None]
FAREWELL = 30.0  # seconds that the end of a run waits for a tracker


class Names:
    """By tracker. Beside them how far the pictures are that one has which would show the same one again."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()  # MLflow's thread writes, too

    def _known(self) -> dict[str, str]:
        try:
            known = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}  # a damaged one is no reason to stop: the run gets another name
        return known if isinstance(known, dict) else {}

    def __getitem__(self, tracker: str) -> str | None:
        return self._known().get(tracker)

    def __setitem__(self, tracker: str, name: str) -> None:
        with self.lock:
            write_whole(self.path, json.dumps(self._known() | {tracker: name}, indent=1).encode())
