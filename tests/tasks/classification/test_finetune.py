from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.data.mixup import Mixup
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import maskery
from maskery.data.augment import seeded
from maskery.nn import positions
from maskery.nn.vit import ViT, ViTConfig, drop_paths
from maskery.objective import Batch
from maskery.optim import grouped
from maskery.tasks.classification.finetune import Finetune, FinetuneConfig, smoothed
from maskery.tasks.labels import LabelsConfig
from maskery.weights import load
from tests.exported import to_timm
from tests.test_microbatch import gradients
from tests.test_train import metrics

from ..runs import done

VIT = ViTConfig(48, 3, 3, 8, (32, 32))
THREE = LabelsConfig(classes='["moon", "ring", "star"]')
SEVERAL = LabelsConfig(classes='["moon", "ring", "star"]', several=True)
PLAIN: dict[str, Any] = dict.fromkeys(("erasing", "mixup", "cutmix", "smoothing", "drop_path"), 0.0) | {"augment": None}
CPU = torch.device("cpu")


def finetune(labels: LabelsConfig = THREE, vit: ViTConfig = VIT, **settings: Any) -> Finetune:
    torch.manual_seed(0)
    return Finetune(FinetuneConfig(labels=labels, **settings), vit).train()


def lively(task: Finetune) -> Finetune:
    """With a head and a norm that are not as they begin."""
    torch.manual_seed(5)
    for p in [*task.head.parameters(), *task.norm.parameters()]:
        nn.init.normal_(p, 0.5, 0.5)
    return task


def batch_of(seed: int = 0, images: int = 8) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return {"image": torch.rand(images, 3, 32, 32, generator=g), "label": torch.randint(3, (images,), generator=g)}


def base() -> Finetune:
    with torch.device("meta"):
        return Finetune(FinetuneConfig(), ViTConfig())


def test_layer_decay_of_vit_base_is_maes() -> None:
    task, power = base(), {"encoder.cls_token": 13, "encoder.pos_embed": 13, "encoder.patch_embed.proj.weight": 13}
    power |= {"encoder.patch_embed.proj.bias": 13, "norm.weight": 0, "norm.bias": 0, "head.weight": 0, "head.bias": 0}
    for name, p in task.named_parameters():
        if p.requires_grad:
            expected = power.get(name, 12 - int(name.split(".")[2]) if ".blocks." in name else None)
            assert expected is not None, name
            assert task.lr_multiplier(name) == pytest.approx(0.65**expected, rel=1e-12), name
    assert finetune(pooling="class_token").lr_multiplier("encoder.norm.weight") == 1


def test_weight_decay_leaves_out_what_maes_does() -> None:
    task = base()
    kept = {name for name, p in task.named_parameters() if p.requires_grad and task.has_weight_decay(name, p)}
    every = {name for name, p in task.named_parameters() if p.requires_grad and p.ndim > 1}
    assert every - kept == {"encoder.cls_token", "encoder.pos_embed"}
    assert kept < every
    groups = grouped(task, 0.05, task.has_weight_decay, task.lr_multiplier)
    assert len(groups) == 2 * 14  # decayed and not: patch embedding, 12 blocks, head
    assert sum(len(g["params"]) for g in groups) == len([p for p in task.parameters() if p.requires_grad])
    assert {g["weight_decay"] for g in groups} == {0.0, 0.05}


def test_all_that_counts_is_trained_positions_too() -> None:
    frozen = {name for name, p in finetune().named_parameters() if not p.requires_grad}
    assert frozen == {"encoder.norm.weight", "encoder.norm.bias"}  # a fresh one takes its place
    assert not [name for name, p in finetune(pooling="class_token").named_parameters() if not p.requires_grad]


def test_the_head_begins_near_zero_and_the_norm_afresh() -> None:
    task = finetune(LabelsConfig(classes=str([*range(400)])))
    assert float(task.head.weight.detach().std()) == pytest.approx(2e-5, rel=0.03)
    assert float(task.head.bias.detach().abs().max()) == 0
    assert isinstance(task.norm, nn.LayerNorm)
    assert bool((task.norm.weight == 1).all())


@pytest.mark.parametrize("pooling", ["mean_patch", "class_token"])
def test_the_network_is_timms(pooling: Any) -> None:
    task = lively(finetune(pooling=pooling, **PLAIN))
    mean_patch = pooling == "mean_patch"
    size = {"embed_dim": 48, "depth": 3, "num_heads": 3, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
    pool: dict[str, Any] = {"global_pool": "avg" if mean_patch else "token", "fc_norm": mean_patch}
    theirs = VisionTransformer(32, 8, num_classes=3, **size, **pool).eval()
    state = {n: t for n, t in task.encoder.state_dict().items() if not (mean_patch and n.startswith("norm."))}
    state |= {f"fc_norm.{n}": t for n, t in task.norm.state_dict().items()}
    theirs.load_state_dict(state | {f"head.{n}": t for n, t in task.head.state_dict().items()})
    image = batch_of()["image"]
    with torch.no_grad():
        expected = theirs(task.encoder.normalise(image))
        torch.testing.assert_close(task.eval().classify(image)[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_with_everything_off_it_is_plain_training() -> None:
    task, batch = lively(finetune(**PLAIN)), batch_of(images=5)
    drawn = task.sample(dict(batch), 0.0)
    assert drawn.keys() == {"image", "y"}
    assert torch.equal(drawn["image"], batch["image"])
    f = task.encoder
    tokens = f.embed(f.normalise(batch["image"]))
    for block in f.blocks:
        tokens = block(tokens)
    logits = task.head(task.norm(tokens[:, 1:].mean(1)))
    torch.testing.assert_close(task(drawn, 0.0)["loss"], F.cross_entropy(logits, batch["label"]))
    assert (task.micro_batch_multiple, task.augment) == (1, None)


def test_in_evaluation_nothing_is_drawn() -> None:
    batch = batch_of()
    drawn = finetune().eval().sample(dict(batch), 0.0)
    assert drawn.keys() == {"image", "y"}
    assert drawn["image"] is batch["image"]
    assert drawn["y"] is batch["label"]


def test_paths_are_dropped_more_often_the_later_the_block() -> None:
    torch.manual_seed(0)
    paths = drop_paths(20_000, 4, 0.3, CPU)
    for i, rate in enumerate((0.0, 0.1, 0.2, 0.3)):
        values = paths[:, i].unique().tolist()
        assert values == pytest.approx([1.0] if rate == 0 else [0.0, 1 / (1 - rate)])
        for part in paths[:, i].unbind(1):
            assert float((part == 0).float().mean()) == pytest.approx(rate, abs=0.012)
            assert float(part.mean()) == pytest.approx(1, abs=0.02)
    both = (paths[:, 3] == 0).all(1).float().mean()
    assert float(both) == pytest.approx(0.09, abs=0.01)  # attention and MLP are dropped apart
    assert bool((drop_paths(10, 1, 0.5, CPU) == 1).all())


def test_a_dropped_path_adds_nothing() -> None:
    task, image = finetune(), batch_of()["image"]
    f, x = task.encoder, task.encoder.normalise(image)
    assert torch.equal(f.trunk(x, torch.zeros(8, 3, 2)), f.embed(x))
    torch.testing.assert_close(f.trunk(x, torch.ones(8, 3, 2)), f.trunk(x))
    one = torch.ones(8, 3, 2)
    one[2, 1] = 0
    different = (f.trunk(x, one) - f.trunk(x)).abs().amax((1, 2)) > 1e-3
    assert different.tolist() == [i == 2 for i in range(8)]


def test_micro_batches_are_cut_from_what_was_drawn_for_the_whole_batch() -> None:
    task = lively(finetune(drop_path=0.5))
    torch.manual_seed(1)
    with torch.no_grad():
        batch = task.sample(batch_of(images=12), 0.0)
    assert batch["paths"].shape == (12, 3, 2)
    loss, whole = gradients(task, batch, 12, 12)
    for size in (6, 4, 2):
        same, cut = gradients(task, batch, 12, size)
        assert same == pytest.approx(loss, rel=1e-6)
        for name, value in cut.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6, msg=name)


def test_mixing_is_timms() -> None:
    task, kinds = finetune(erasing=0.0, drop_path=0.0), set()
    for seed in range(12):
        batch = batch_of(seed)
        torch.manual_seed(seed)
        drawn = task.sample(dict(batch), 0.0)
        torch.manual_seed(seed)
        with seeded(int(torch.randint(2**31, ()))):
            image, y = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=3)(batch["image"].clone(), batch["label"])
        torch.testing.assert_close(drawn["image"], image)
        torch.testing.assert_close(drawn["y"], y)
        kinds.add(bool((image == batch["image"]).any()))  # cutmix leaves pixels as they were
    assert kinds == {True, False}


def test_labels_of_any_kind_are_mixed_by_the_shares_of_their_images() -> None:
    """Image i is 1 in channel i and 0 elsewhere: means of channels are shares."""
    task = finetune(SEVERAL)
    y = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    for seed in range(6):
        with seeded(seed):
            mixed = task.mixed({"image": torch.eye(6)[:, :, None, None].expand(6, 6, 20, 20), "y": y})
        shares = mixed["image"].mean((2, 3))
        assert float(shares.diagonal().min()) < 1
        torch.testing.assert_close(mixed["y"], shares @ y)


def test_labels_are_as_exact_in_half_precision() -> None:
    task, both = finetune(), []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            both.append(task.sample(batch_of(), 0.0)["y"])
    assert torch.equal(*both)


def test_smoothing() -> None:
    one = smoothed(torch.tensor([2, 0]), THREE, 0.3)
    torch.testing.assert_close(one, torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]))
    many = smoothed(torch.tensor([[1.0, 0.0, 1.0]]), SEVERAL, 0.2)
    torch.testing.assert_close(many, torch.tensor([[0.9, 0.1, 0.9]]))


def test_erasing_puts_noise_into_some_rectangles() -> None:
    task, image = finetune(erasing=0.25), torch.full((400, 3, 32, 32), 0.5)
    torch.manual_seed(0)
    with seeded(0):
        erased = task.erased(image)
    changed = ((erased - image).abs() > 1e-5).any(1)  # [B, H, W]
    touched = changed.any(2).any(1)
    assert float(touched.float().mean()) == pytest.approx(0.25, abs=0.07)
    area = changed[touched].float().mean((1, 2))
    assert float(area.min()) > 0.01
    assert float(area.max()) < 0.36
    noise = task.encoder.normalise(erased).permute(0, 2, 3, 1)[changed]
    assert float(noise.std()) == pytest.approx(1, abs=0.05)  # of images as the network sees them
    assert bool((image == 0.5).all())


def test_what_is_drawn_follows_from_torchs_seed_alone() -> None:
    task, batch = finetune(), batch_of()
    torch.manual_seed(3)
    one = task.sample(dict(batch), 0.0)
    np.random.seed(99)
    torch.manual_seed(3)
    again = task.sample(dict(batch), 0.0)
    assert all(torch.equal(one[name], again[name]) for name in ("image", "y", "paths"))
    other = task.sample(dict(batch), 0.0)
    assert not torch.equal(one["image"], other["image"])


def test_the_average_follows_steps_alone_and_is_what_answers() -> None:
    task, batch = lively(finetune(average=0.9)), batch_of()
    assert task.average is not None
    name, start = "0.blocks.1.mlp.fc1.weight", {n: t.clone() for n, t in task.average.net.state_dict().items()}
    with torch.no_grad():
        for p in task.parts().parameters():
            p.add_(1)
    task(batch, 0.0)["loss"].backward()
    assert all(torch.equal(t, start[n]) for n, t in task.average.net.state_dict().items())
    task.after_step(0.5)
    torch.testing.assert_close(task.average.net.state_dict()[name], start[name] + 0.1)
    f, norm, head = task.average.net
    with torch.no_grad():
        expected = task.eval().logits(f, norm, head, batch["image"])
        assert torch.equal(task.classify(batch["image"])[:, 0], expected)
        own = task.logits(task.encoder, task.norm, task.head, batch["image"])
    assert not torch.allclose(own, expected)
    assert not [n for n, p in task.named_parameters() if n.startswith("average") and p.requires_grad]


def test_the_average_begins_with_the_weights_that_training_starts_from(tmp_path: Path) -> None:
    to_timm(ViT(VIT), tmp_path / "start")
    task = finetune(average=0.999)
    load.start_from(task, tmp_path / "start")
    assert task.average is not None
    theirs = task.average.net.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in task.parts().state_dict().items())


def test_positions_are_interpolated_for_another_image_size(tmp_path: Path) -> None:
    torch.manual_seed(1)
    small = ViT(VIT)
    nn.init.normal_(small.pos_embed)
    to_timm(small, tmp_path / "small")
    task = finetune(vit=ViTConfig(48, 3, 3, 8, (32, 64)))
    assert "adapted" in load.start_from(task, tmp_path / "small")
    expected = positions.resize(small.pos_embed, (4, 4), (4, 8))
    torch.testing.assert_close(task.encoder.pos_embed, expected)
    assert task.encoder.pos_embed.requires_grad
    assert task.eval().classify(torch.rand(2, 3, 32, 64)).shape == (2, 1, 3)


def test_images_of_five_channels_are_learned_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label, level in (("dark", 60), ("light", 180)):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(level - 30, level + 30, (32, 32, 5), dtype=np.uint8)
                file = tmp_path / "images" / split / label / f"{i}.tif"
                tifffile.imwrite(file, image, photometric="minisblack", planarconfig="contig")
    done("finetune", tmp_path / "images", tmp_path / "out", steps=2, settings={"augment": None})
    assert maskery.load(tmp_path / "out").config.channels == 5
    assert metrics(tmp_path / "out")[-1]["top1"] >= 0
    with pytest.raises(ValueError, match=r"not of 5 of 8 bits: --settings\.augment none"):
        done("finetune", tmp_path / "images", tmp_path / "no", steps=2)


def test_a_classifier_that_was_trained_before_lends_its_encoder_and_not_its_head(tmp_path: Path) -> None:
    before, vit = FinetuneConfig(labels=LabelsConfig(classes='["a", "b"]')), ViTConfig(48, 2, 3, 8, (32, 32))
    torch.manual_seed(0)
    first = Finetune(before, vit)
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(1)
    second = Finetune(before, vit)
    head = second.head.weight.clone()
    said = load.start_from(second, Path(f"{tmp_path / 'model.safetensors'}#heads=3,size=32x32"))
    assert "at random: norm, head" in said
    assert torch.equal(second.head.weight, head)
    assert torch.equal(second.encoder.blocks[1].mlp.fc1.weight, first.encoder.blocks[1].mlp.fc1.weight)
