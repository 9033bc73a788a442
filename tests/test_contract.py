"""What the loop relies on, for every method and task."""

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from maskery.data.crops import Crop
from maskery.nn.decoder import DecoderSize
from maskery.nn.vit import ViTConfig, recompute_blocks
from maskery.objective import Batch, Objective
from maskery.objectives import OBJECTIVES
from maskery.tasks.detection import targets
from maskery.tasks.detection.objective import Detect
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.segmentation.objective import Segment
from maskery.tasks.vqa.objective import Vqa
from maskery.weights.teacher import build_objective

VIT = ViTConfig(48, 2, 3, 8, (32, 32))
HEADS = {"mlp": {"head": "mlp"}, "linear": {"head": "linear"}, "frozen": {"head": "linear", "freeze": True}}
DETECTORS = {"frozen": {"freeze": True}, "boxes": {"masks": "off"}, "windows": {"window": 2, "global_blocks": 1}}
ASKING = {"frozen": {"freeze": True}, "blind": {"blind": True}, "wide": {"width": 64, "questions": 1}}
KINDS = {"segment": HEADS, "detect": DETECTORS, "vqa": ASKING}
CASES = [*OBJECTIVES, *(f"{task}/{kind}" for task, kinds in KINDS.items() for kind in kinds)]


def built(name: str) -> Objective:
    torch.manual_seed(0)
    name, _, head = name.partition("/")
    method = OBJECTIVES[name]
    special = KINDS.get(name, {})
    small: dict[str, Any] = {"decoder": DecoderSize(32, 1, 4), "width": 16, "rois": 16}
    small |= {"words": '["how", "many", "moons"]', "length": 5, "questions": 3} | special.get(head, {})
    if name == "cmt-mae":
        small["teacher"] = "random:test_vit"  # its own cannot be had without a network
    if method.labelled:
        small["labels"] = LabelsConfig(classes='["moon", "ring", "star"]')
    known = {f.name for f in fields(method.Config)}
    return build_objective(method, method.Config(**{k: v for k, v in small.items() if k in known}), VIT).train()


def batch_of(objective: Objective, seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    label = {"label": torch.tensor([2, 0, 1, 1])} if objective.labelled else {}
    if isinstance(objective, Segment):
        label = {"label": torch.randint(-1, 3, (4, 32, 32)).short()}
    images = {name: torch.rand(4, 3, 32, 32) for name in objective.views(Crop())}
    if isinstance(objective, Detect):
        label = {"label": targets.grid_of_squares(images["image"], objective.with_masks)}
        label["label"].classes[:, ::2] = 2
    if isinstance(objective, Vqa):
        asked = objective.blank(4)
        asked.tokens[:, :, 1:] = torch.randint(6, asked.tokens[:, :, 1:].shape)
        asked.real[:, 1:] = torch.rand(asked.real[:, 1:].shape) < 0.7
        asked.answers[:], asked.scores[:] = torch.randint(3, asked.answers.shape), 0.9
        label = {"label": asked}
    return images | label


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_everything_trainable(name: str) -> None:
    objective = built(name)
    losses = objective(batch_of(objective), 0.0)
    assert all(v.ndim == 0 for v in losses.values())
    losses["loss"].backward()
    for parameter_name, p in objective.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, parameter_name
            assert p.grad.abs().sum() > 0, parameter_name
        else:
            assert p.grad is None, parameter_name


@pytest.mark.parametrize("name", CASES)
def test_blocks_of_a_tuned_encoder_learn_slower_the_deeper_they_lie(name: str) -> None:
    objective = built(name)
    factor = getattr(objective.config, "layer_decay", 1.0)  # methods have none: all of them learns alike
    assert (factor < 1) == (name.partition("/")[0] in ("finetune", "segment", "detect", "vqa"))
    power = {"patch_embed": 3, "cls_token": 3, "pos_embed": 3, "blocks.0": 2, "blocks.1": 1, "norm": 0}
    for parameter, p in objective.named_parameters():
        if parameter.startswith("encoder."):
            expected = next(n for part, n in power.items() if parameter.startswith(f"encoder.{part}"))
            assert name == "probe" or objective.lr_multiplier(parameter) == pytest.approx(factor**expected), parameter
            plain = p.ndim > 1 and not (factor < 1 and parameter.endswith(("cls_token", "pos_embed")))
            assert objective.has_weight_decay(parameter, p) == plain, parameter
        elif name != "probe":  # whose heads have rates of their own
            assert objective.lr_multiplier(parameter) == 1, parameter


@pytest.mark.parametrize("name", CASES)
def test_forward_changes_no_state(name: str) -> None:
    objective = built(name)
    before = copy.deepcopy(objective.state_dict())
    batch = batch_of(objective)
    given = copy.deepcopy(batch)
    objective(batch, 0.3)["loss"].backward()
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert batch.keys() == given.keys()
    for k, v in given.items():
        parts = [(batch[k], v)] if isinstance(v, Tensor) else [(getattr(batch[k], n), x) for n, x in vars(v).items()]
        assert all(torch.equal(a, b) for a, b in parts), k


@pytest.mark.parametrize("name", CASES)
def test_what_was_drawn_before_is_not_drawn_again(name: str) -> None:
    objective = built(name)
    drawn = objective.sample(batch_of(objective), 0.1)
    torch.manual_seed(1)
    first = objective(drawn, 0.5)["loss"]
    torch.manual_seed(2)
    assert torch.equal(first, objective(drawn, 0.5)["loss"])
    torch.manual_seed(1)
    one = objective(batch_of(objective), 0.5)["loss"]
    other = objective(batch_of(objective), 0.5)["loss"]
    assert torch.equal(one, other)  # masks come from the seed alone


@pytest.mark.parametrize("name", [*OBJECTIVES, "segment/frozen"])  # the other heads are parts of these
def test_compiles_as_one_graph_or_is_none(name: str) -> None:
    objective = built(name)
    drawn = objective.sample(batch_of(objective), 0.1)
    torch._dynamo.reset()
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    if objective.no_compile_reason:  # who says that it is no graph is asked, too
        with pytest.raises(torch._dynamo.exc.TorchDynamoException):
            compiled(drawn, 0.1)
        return
    torch.testing.assert_close(compiled(drawn, 0.1)["loss"], objective(drawn, 0.1)["loss"])
    count = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled(objective.sample(batch_of(objective, 3), 0.2), 0.2)  # another batch, another time: the same graph
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == count


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_images_in_range(name: str) -> None:
    objective = built(name).eval()
    with torch.no_grad():
        columns = objective.picture(objective.sample(batch_of(objective), 0.1))
    assert len(columns) >= 2
    for images in columns.values():
        assert images.shape == (4, 3, 32, 32)
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1


FROZEN = ("probe", "segment/frozen", "detect/frozen", "vqa/frozen", "vqa/blind")  # whose encoder has no backward


@pytest.mark.parametrize("name", [name for name in CASES if name not in FROZEN])
def test_recomputing_keeps_less_and_changes_nothing(name: str) -> None:
    objective, kept, losses, gradients = built(name), [], [], []
    drawn = objective.sample(batch_of(objective), 0.1)
    own = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    torch._dynamo.reset()
    steps: list[Any] = [objective, objective]
    if name == "mixed-ae":  # whose blocks note something beside their result
        steps.append(torch.compile(objective, fullgraph=True, backend="aot_eager"))
    for step in steps:
        sizes: dict[int, int] = {}

        def pack(x: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = step(drawn, 0.1)["loss"]
        kept.append(sum(sizes.values()))
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad for p in objective.parameters() if p.grad is not None])
        objective.zero_grad()
        recompute_blocks(objective)
    most = {"segment": 0.9, "detect": 0.99, "vqa": 0.9}.get(name.partition("/")[0], 0.6)
    assert kept[1] < most * kept[0]  # UPerNet, Mask R-CNN and layers of fusion keep more than two small blocks do
    for i in range(1, len(steps)):
        torch.testing.assert_close(losses[i], losses[0])
        for mine, theirs in zip(gradients[i], gradients[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
