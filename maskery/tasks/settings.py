"""Check the numbers among the settings of a task."""

import math
from typing import Any

ABOVE_0, BELOW_1 = math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0)  # for open ends of a range


def check_range(config: Any, *names: str, low: float = 0.0, high: float = math.inf, note: str = "") -> None:
    """ValueError that names the first of these settings that is out of the range; None is in every range."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            limits = f"at least {low:g}" if math.isinf(high) else f"between {round(low, 9):g} and {round(high, 9):g}"
            raise ValueError(f"--settings.{name.replace('_', '-')} is {value}: {limits}{note}")
