"""tracking.json: the ids of a run in its trackers, so that `maskery resume` continues them."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

from ..outputs import write_file

Say = Callable[[str], None]
CLOSE_TIMEOUT = 30.0  # seconds that the end of a run waits for a tracker


class TrackerIds:
    """Run ids by tracker, and the step of the last picture sent to one that would show a picture twice."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()  # MLflow's thread writes as well

    def _read(self) -> dict[str, str]:
        try:
            ids = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}  # a damaged file does not stop the run: it gets a new id
        return ids if isinstance(ids, dict) else {}

    def __getitem__(self, tracker: str) -> str | None:
        return self._read().get(tracker)

    def __setitem__(self, tracker: str, run_id: str) -> None:
        with self.lock:
            write_file(self.path, json.dumps(self._read() | {tracker: run_id}, indent=1).encode())
