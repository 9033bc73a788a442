"""What is learned from labels, under the same contract and in the same loop: one final class a file."""

from ..objective import Objective
from .classification.finetune import Finetune
from .classification.probe import Probe
from .detection.objective import Detect
from .segmentation.objective import Segment
from .vqa.objective import Vqa

TASKS: dict[str, type[Objective]] = {
    "probe": Probe,
    "finetune": Finetune,
    "segment": Segment,
    "detect": Detect,
    "vqa": Vqa,
}
