"""Questions as batches: as many rows as an image has, each question as often as the others."""

from pathlib import Path

import numpy as np
import torch

from maskery.data.crops import ViewBox, WholeImage
from maskery.data.eval_dataset import EvalDataset
from maskery.data.images import Images
from maskery.data.loader import eval_batches, train_batches
from maskery.data.question_targets import NO_ANSWER, PartialCrop, QuestionTable, QuestionTargets, question_targets
from maskery.data.sources.source import split_indices
from maskery.data.sources.vqa_v2 import VqaSource
from maskery.data.train_dataset import RandomCrops, SamplingPlan, TrainDataset
from maskery.demo.scenes import scene
from tests.data.sources.test_vqa_v2 import coco_layout, opened


def table_of(source: VqaSource, most: int = 3) -> QuestionTable:
    """Every question's one token is its number, its one answer too."""
    q = int(source.first[-1])
    numbers = np.arange(q)[:, None]
    return QuestionTable(
        source.first, numbers.astype(np.int32), numbers.astype(np.int32), np.full((q, 1), 0.3, np.float32), most
    )


def test_every_question_is_asked_as_often(vqa: Path) -> None:
    source = opened(vqa)
    images, table = Images(source, channels=3, bits=8, pages="first", min_side=1), table_of(source)
    train = split_indices(source, 0.0)[0]
    plan, crops = SamplingPlan((16, 16), 5, 4), RandomCrops([PartialCrop()])
    data = TrainDataset(images, train, plan, crops, question_targets(table, 5))
    rounds = 12  # every image has up to twelve questions: after so many epochs each was asked at least three times
    seen: dict[int, int] = {}
    for part in train_batches(data, 0, 2 * rounds, 0):
        label: QuestionTargets = part["label"]
        assert label.tokens.shape == (4, 3, 1)
        for number, real, answer in zip(
            *(x.flatten().tolist() for x in (label.tokens, label.real, label.answers)), strict=True
        ):
            if real:
                seen[number] = seen.get(number, 0) + 1
                assert answer == number
            else:
                assert (number, answer) == (0, NO_ANSWER)
    for i in train.tolist():
        counts = [seen.get(k, 0) for k in source.numbers(np.array([i]))]
        assert min(counts) > 0
        assert max(counts) - min(counts) <= 1, "of one image's questions none is asked more often than the others"


def test_questions_belong_to_their_image(vqa: Path) -> None:
    """An image that cannot be read is replaced by the next one, with the questions of that."""
    source = opened(vqa)
    broken = vqa / str(source.names[3])
    broken.write_bytes(b"no picture")
    images, table = Images(source, channels=3, bits=8, pages="first", min_side=1), table_of(source)
    plan, crops = SamplingPlan((32, 32), 0, 8), RandomCrops([PartialCrop()])
    part = TrainDataset(images, np.arange(8), plan, crops, question_targets(table, 0))[0]
    assert [name for name, _ in part["skipped"]] == [source.names[3]]
    for view, first in zip(part["views"][0], part["label"].tokens[:, 0, 0].tolist(), strict=True):
        i = int(np.searchsorted(source.first, first, "right")) - 1
        assert np.array_equal(view.permute(1, 2, 0).numpy(), scene(0, i, 32).image)


def test_whole_images_whatever_their_shape(tmp_path: Path) -> None:
    root = coco_layout(tmp_path)
    images = Images(opened(root), channels=3, bits=8, pages="first", min_side=1)
    (part,) = eval_batches(EvalDataset(images, np.arange(2), WholeImage((8, 8)), 4))
    assert part["images"].shape == (2, 3, 8, 8)
    assert PartialCrop().sample(16, 20, (8, 8), np.full(24, 0.99)) == ViewBox((0, 0, 20, 16), (8, 8))
    assert PartialCrop(0.5).sample(16, 20, (8, 8), np.zeros(24)) == ViewBox((0, 0, 10, 8), (8, 8))


def test_targets() -> None:
    answers = torch.tensor([[[2, 0], [NO_ANSWER, NO_ANSWER]]])
    asked = QuestionTargets(
        torch.zeros(1, 2, 1), torch.ones(1, 2, dtype=torch.bool), answers, torch.tensor([[[0.3, 1.0], [0, 0]]])
    )
    assert torch.equal(asked.dense_scores(3), torch.tensor([[[1.0, 0, 0.3], [0, 0, 0]]]))
    both = QuestionTargets.cat([asked, asked])
    assert (len(both), both.answers.shape) == (2, (2, 2, 2))
