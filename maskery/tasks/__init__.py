"""What is learned from labels, under the same contract and in the same loop: one final class a file."""

from ..objective import Objective
from .detect import Detect
from .finetune import Finetune
from .probe import Probe
from .segment import Segment
from .vqa import Vqa

TASKS: dict[str, type[Objective]] = {
    "probe": Probe,
    "finetune": Finetune,
    "segment": Segment,
    "detect": Detect,
    "vqa": Vqa,
}
