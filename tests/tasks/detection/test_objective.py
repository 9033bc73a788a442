from typing import Any

import pytest
import torch

from maskery.data.object_targets import ObjectTargets
from maskery.microbatch import slice_batch
from maskery.tasks.detection import targets
from maskery.tasks.detection.objective import Detect, DetectConfig

from ..runs import NAMES, VIT


def built(**settings: Any) -> Detect:
    torch.manual_seed(0)
    return Detect(DetectConfig(**{"labels": NAMES, "width": 16, "rois": 16} | settings), VIT).train()


def batch_of(n: int = 4) -> dict[str, Any]:
    torch.manual_seed(3)
    image = torch.rand(n, 3, 32, 32)
    return {"image": image, "label": targets.grid_of_squares(image, True)}


def test_the_loss_is_the_sum_of_its_parts() -> None:
    losses = built()(batch_of(), 0.0)
    assert set(losses) == {"loss", "objectness", "proposals", "classes", "boxes", "masks"}
    total = sum(float(value) for name, value in losses.items() if name != "loss")
    assert losses["loss"].item() == pytest.approx(total)
    assert "masks" not in built(masks="off")(batch_of(), 0.0)


def test_losses_of_micro_batches_are_those_of_the_batch() -> None:
    """But for the mean over what is sampled: images here have all that is asked for."""
    task = built(drop_path=0.0)
    drawn = task.sample(batch_of(), 0.0)
    whole = task(drawn, 0.0)
    parts = [task(slice_batch(drawn, start, 2), 0.0) for start in (0, 2)]
    for name in ("objectness", "classes"):
        assert float(sum(p[name] for p in parts)) / 2 == pytest.approx(float(whole[name]), rel=0.02)


def test_images_without_objects_are_learned_from() -> None:
    task, batch = built(), batch_of()
    batch["label"] = ObjectTargets.stack([targets.no_objects((32, 32))] * 4, (32, 32), True)
    losses = task(batch, 0.0)
    assert float(losses["objectness"]) > 0
    assert float(losses["masks"]) == float(losses["boxes"]) == 0
    losses["loss"].backward()
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)  # as processes have to agree on


def test_nothing_is_found_beyond_the_image() -> None:
    task, image = built().eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for answer in task.detect(image, torch.tensor([[16, 24], [32, 8]])):
            assert set(answer) == {"boxes", "classes", "scores", "masks"}
        first, second = task.detect(image, torch.tensor([[16, 24], [32, 8]]))
    for answer, (h, w) in ((first, (16, 24)), (second, (32, 8))):
        assert len(answer["boxes"]) > 0
        assert (answer["boxes"] <= torch.tensor([w, h, w, h])).all()
        assert ((answer["classes"] >= 0) & (answer["classes"] < 3)).all()
        assert (answer["scores"].diff() <= 0).all()


def test_other_sizes_than_the_configured_one() -> None:
    with torch.no_grad():
        assert len(built(window=3, global_blocks=1).eval().detect(torch.rand(1, 3, 48, 64))) == 1


def test_frozen_encoders_stay_and_windows_need_no_class_token() -> None:
    task = built(freeze=True)
    assert not any(p.requires_grad for p in task.encoder.parameters())
    assert not task.encoder.training
    assert not built(window=2, global_blocks=1).encoder.cls_token.requires_grad
    assert built().encoder.cls_token.requires_grad


def test_precision_of_coordinates_in_bfloat16() -> None:
    task, batch = built(), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(batch, 0.0)
        answers = task.eval().detect(batch["image"])
    assert losses["loss"].dtype == torch.float32
    assert answers[0]["boxes"].dtype == torch.float32
