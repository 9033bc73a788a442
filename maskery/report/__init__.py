"""Pictures, health and pages. `maskery.report(run=...)` writes the page of a run: this package can be called."""

import sys
from types import ModuleType
from typing import Any


class _Page(ModuleType):
    """The verb has the name that this package has: Python finds one of them, depending on what was imported first."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        from ..reporting import report

        return report(*args, **named)


sys.modules[__name__].__class__ = _Page
