from typing import Any

import pytest

from maskery.nn.vit import ViTConfig
from maskery.tasks import TASKS


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("probe", {"layer": 5}, "--settings.layer 5 and --settings.blocks 1: this encoder has 4 blocks"),
        ("probe", {"layer": -1}, "this encoder has 4 blocks"),
        ("probe", {"layer": 2, "blocks": 3}, "this encoder has 4 blocks"),
        ("probe", {"blocks": 0}, "this encoder has 4 blocks"),
        ("probe", {"lrs": ()}, "at least one factor, all above 0, none twice"),
        ("probe", {"lrs": (1.0, 0.0)}, "all above 0"),
        ("probe", {"lrs": (1.0, 1.0)}, "none twice"),
        ("probe", {"pooling": "attentive", "heads": 7}, "--settings.heads 7: a width of 48"),
        ("finetune", {"layer_decay": 0.0}, "nothing but the head would learn"),
        ("finetune", {"layer_decay": 1.5}, "--settings.layer-decay is 1.5: between 0 and 1"),
        ("finetune", {"drop_path": 1.0}, "--settings.drop-path is 1.0"),
        ("finetune", {"erasing": -0.1}, "--settings.erasing is -0.1"),
        ("finetune", {"smoothing": 1.0}, "--settings.smoothing is 1.0"),
        ("finetune", {"average": 1.0}, "--settings.average is 1.0"),
        ("finetune", {"mixup": -1.0}, "--settings.mixup is -1.0: at least 0"),
        ("finetune", {"cutmix": -1.0}, "--settings.cutmix is -1.0"),
        ("segment", {"dropout": 1.0}, "--settings.dropout is 1.0: between 0 and 1"),
        ("segment", {"layer_decay": 0.0}, "--settings.freeze does that"),
        ("segment", {"head": "mlp", "width": 18}, "--settings.width is 18: a multiple of 4"),
        ("segment", {"scale": (2.0, 0.5)}, "--settings.scale is"),
        ("segment", {"cat_max_ratio": 0.0}, "--settings.cat-max-ratio is 0.0"),
        ("segment", {"ignore_index": -1}, "--settings.ignore-index is -1"),
        ("detect", {"width": 0}, "--settings.width is 0: at least 1"),
        ("detect", {"layer_decay": 0.0}, "--settings.freeze does that"),
        ("vqa", {"text_rate": 0.0}, "--settings.text-rate is 0.0: between 0 and 1"),
        ("vqa", {"layers": 0}, "--settings.layers is 0: at least 1"),
    ],
)
def test_settings_that_make_no_sense(task: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TASKS[task](TASKS[task].Config(**settings), ViTConfig(48, 4, 3, 8, (32, 32)))
