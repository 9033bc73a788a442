"""What is learned from labels, under the same contract and in the same loop: one final class a file."""

from collections.abc import Callable

from ..config import Run
from ..objective import Objective
from ..suggest import Suggestion
from .classification.finetune import Finetune
from .classification.probe import Probe
from .classification.recipe import finetune_recipe, probe_recipe
from .detection.objective import Detect
from .detection.recipe import detection_recipe
from .segmentation.objective import Segment
from .segmentation.recipe import segmentation_recipe
from .small_data import LabelledData
from .vqa.objective import Vqa
from .vqa.recipe import vqa_recipe

TASKS: dict[str, type[Objective]] = {
    "probe": Probe,
    "finetune": Finetune,
    "segment": Segment,
    "detect": Detect,
    "vqa": Vqa,
}
TASK_RECIPES: dict[str, Callable[[Run, LabelledData], Suggestion]] = {  # for what the options do not say
    "probe": probe_recipe,
    "finetune": finetune_recipe,
    "segment": segmentation_recipe,
    "detect": detection_recipe,
    "vqa": vqa_recipe,
}
