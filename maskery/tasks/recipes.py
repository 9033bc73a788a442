"""The recipe of each task: how it is trained unless somebody says otherwise."""

from collections.abc import Callable

from ..config import Run
from ..suggest import Suggestion
from .classification.recipe import finetune_recipe, probe_recipe
from .detection.recipe import detection_recipe
from .segmentation.recipe import segmentation_recipe
from .small_data import LabelledData
from .vqa.recipe import vqa_recipe

TASK_RECIPES: dict[str, Callable[[Run, LabelledData], Suggestion]] = {
    "probe": probe_recipe,
    "finetune": finetune_recipe,
    "segment": segmentation_recipe,
    "detect": detection_recipe,
    "vqa": vqa_recipe,
}
