"""Visual question answering: questions attend to an image; classification over the most frequent answers.

f     tokens of the image before the encoder's last norm; the encoder is trained with layer decay, or frozen  [B, S, D]
q     tokens of Q questions about each: a small transformer from scratch, or a pretrained encoder of text  [B, Q, L, W]
z     the first token of each question after layers of self-attention, cross-attention to f, MLP              [B, Q, W]
s     the score of each of M answers: its soft accuracy (`evals/vqa.py`)                                      [B, Q, M]

    L = sum over questions and answers of binary cross entropy(g(z), s) / (B x the mean number of questions an image)

Stated: the soft scores as targets of independent sigmoids (Teney et al. 2018, "Tips and tricks for VQA"), 3,129 answers
(likewise), the head g: two linear layers with GELU and LayerNorm between (LXMERT, Tan and Bansal 2019), cross-attention
from words to an encoder's patches (as in METER, Dou et al. 2022; theirs goes both ways).
Ours: all sizes, one encoding of an image for its questions, the head's first bias (each answer as likely as 1 of M).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.crops import Crop, WholeImage
from ...data.dataset import ImageData
from ...data.question_targets import NO_ANSWER, PartialCrop, QuestionTargets, question_targets
from ...data.sources.vqa_v2 import VqaSource
from ...data.train_dataset import RandomCrops, SamplingPlan, TrainDataset
from ...evals.eval_pass import EvalPass, InferenceOptions
from ...evals.vqa import Answers, Truth, accuracies, answer_questions
from ...nn.fusion import Fusion
from ...nn.text import PretrainedText, WordEncoder
from ...nn.vit import ViTConfig, init_linears
from ...objective import Batch, Losses
from ...pictures.reconstruction import overlay
from ..labels import LabelsConfig
from ..supervision import ABOVE_0, SupervisedObjective, check_range, supervised_encoder
from . import targets

HEAD_WIDTH = 64  # of an attention head, as in every usual model, where the image's encoder does not say


@dataclass(frozen=True)
class VqaConfig:
    text: str | None = None  # encoder of text: a name or directory of transformers; None: a small one from scratch
    text_layers: int = 2  # of the one from scratch
    text_rate: float = 0.1  # what the learning rate of a pretrained one is multiplied by
    layers: int = 2  # in which questions attend to the image
    width: int | None = None  # of the questions; None: the image encoder's
    length: int | None = None  # tokens of a question; None: as many as the longest in training has, at most 20
    questions: int | None = None  # of an image in one step; None: as many as 95 % of the images have, at most 8
    vocabulary: int = 3129  # answers that are learned: the most frequent ones of training
    blind: bool = False  # without the image: what can be answered from questions alone
    freeze: bool = False  # the image's encoder is not trained
    keep: float = 1.0  # least fraction of each side of an image in a training crop; questions are about all of it
    layer_decay: float = 0.75  # of the learning rate, from each block to the one before it
    drop_path: float = 0.1  # in the last block, linearly less before it
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    words: str = ""  # of the data: a JSON list of those that are known
    asked: float = 1.0  # of the data: questions of an image in one step, on average


class Vqa(SupervisedObjective):
    Config = VqaConfig
    config: VqaConfig
    no_weight_decay = (*SupervisedObjective.no_weight_decay, "text.positions")

    def __init__(self, config: VqaConfig, vit: ViTConfig):
        super().__init__()
        check_settings(config)
        self.config, self.layer_decay, self.names = config, config.layer_decay, config.labels.names
        self.count = M = config.labels.count
        W, L = config.width or vit.dim, config.length or targets.MAX_LENGTH
        heads = vit.heads if vit.dim == W else max(1, W // HEAD_WIDTH)
        if W % heads:
            raise ValueError(f"--settings.width is {W}: a multiple of {HEAD_WIDTH}, or the encoder's own {vit.dim}")
        self.encoder = supervised_encoder(vit, not (config.freeze or config.blind))  # f
        self.encoder.norm.requires_grad_(False)  # not part of it
        self.vocabulary = targets.tokens_of(config.text, config.words)
        self.text: WordEncoder | PretrainedText = (  # q
            PretrainedText(config.text, L, W)
            if config.text
            else WordEncoder(self.vocabulary.count, L, W, heads, config.text_layers)
        )
        self.fusion = Fusion(W, None if config.blind else vit.dim, heads, config.layers)  # z
        self.head = nn.Sequential(nn.Linear(W, 2 * W), nn.GELU(), nn.LayerNorm(2 * W), nn.Linear(2 * W, M))  # g
        for part in (self.fusion, self.head, *(() if config.text else (self.text,))):
            init_linears(part)
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, -math.log(max(M - 1, 1)))
        if config.text:
            self.pretrained_prefixes = ("text.net.",)
            self.notes = (f"questions are read by {config.text}, {self.vocabulary.count:,} tokens",)

    @classmethod
    def prepare(cls, settings: Any, data: ImageData) -> tuple[Any, ImageData]:
        check_settings(settings)
        return targets.prepare(settings, data)

    def train_dataset(self, data: ImageData, crops: Sequence[Crop], plan: SamplingPlan) -> TrainDataset:
        target = question_targets(self.table(data, data.train), plan.seed)
        return TrainDataset(data.images, data.train, plan, RandomCrops([PartialCrop(self.config.keep)]), target)

    def table(self, data: ImageData, images: np.ndarray) -> Any:
        source = data.images.source
        assert isinstance(source, VqaSource)
        return targets.question_table(self.config, source, images, self.vocabulary)

    def picture_targets(self, data: ImageData, indices: np.ndarray) -> Batch:
        table = self.table(data, indices)
        questions = table.targets([table.questions(i, 0, 0) for i in indices.tolist()])
        return {"label": questions.to(self.device)}

    def lr_multiplier(self, name: str) -> float:
        if self.config.text and name.startswith("text.net."):
            return self.config.text_rate
        return super().lr_multiplier(name)

    def sample(self, batch: Batch, t: float) -> Batch:
        image = batch["image"]
        y = batch["label"] if "label" in batch else self.blank(len(image)).to(image.device)
        if self.config.blind or not self.training:
            return {"image": image, "y": y}
        return {"image": image, "y": y} | self.sample_encoder(image, self.image_features)

    def blank(self, images: int) -> QuestionTargets:
        """As many questions as there can be, for a trial on noise."""
        shape = (images, self.config.questions or 1)
        tokens = torch.full((*shape, self.config.length or targets.MAX_LENGTH), self.vocabulary.start)
        no_answer = torch.full((*shape, 1), NO_ANSWER)
        return QuestionTargets(tokens, torch.ones(shape, dtype=torch.bool), no_answer, torch.zeros(*shape, 1))

    def forward(self, batch: Batch, t: float) -> Losses:
        batch = batch if "y" in batch else self.sample(batch, t)
        y, f = batch["y"], batch.get("features")
        f = self.image_features(batch["image"], batch.get("paths")) if f is None else f
        s = y.dense_scores(self.count)
        logits = self.answer_logits(f, y.tokens)
        each = F.binary_cross_entropy_with_logits(logits, s, reduction="none").sum(-1)  # [B, Q]
        return {"loss": (each * y.real).sum() / (len(each) * self.config.asked)}

    def image_features(self, image: Tensor, paths: Tensor | None = None) -> Tensor:
        """f, [B, S, D]; the image itself where it is not used."""
        return image if self.config.blind else self.encoder.trunk(self.encoder.normalise(image), paths)

    def answer_logits(self, f: Tensor, tokens: Tensor) -> Tensor:
        """f of B images, tokens of Q questions about each [B, Q, L] -> logits [B, Q, M] in float32."""
        q, real = self.question_features(tokens.to(f.device))
        return self.head(self.fusion(q, real, None if self.config.blind else f)).float()

    def question_features(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """q [B, Q, L, W], and which tokens are no padding [B, Q, L]: always the first, so that there is one."""
        real = (tokens != self.vocabulary.pad) | (torch.arange(tokens.shape[-1], device=tokens.device) == 0)
        return self.text(tokens.flatten(0, 1), real.flatten(0, 1)).unflatten(0, tokens.shape[:2]), real

    def tokens(self, questions: Sequence[str]) -> np.ndarray:
        return self.vocabulary(questions, self.config.length or targets.MAX_LENGTH)

    def answer(self, image: Tensor, questions: Sequence[Sequence[str]]) -> list[list[tuple[str, float]]]:
        """Images [B, C, H, W] in [0, 1], the same number of questions about each -> answers and their probabilities."""
        tokens = torch.from_numpy(np.stack([self.tokens(each) for each in questions]))
        best = self.answer_logits(self.image_features(image), tokens).sigmoid().max(-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[(self.names[m], probability) for m, probability in zip(*pair, strict=True)] for pair in pairs]

    def answers(self, data: ImageData, indices: np.ndarray, **options: Any) -> Answers:
        """Answer all questions about these images, in eval mode; `options` are those of `InferenceOptions`."""
        inference = InferenceOptions(self.device, **options)
        images = EvalPass.of(data.images, indices, WholeImage(self.encoder.config.image_size), inference)
        return answer_questions(self, images, self.config.questions or 1)

    def metrics(self, data: ImageData, indices: np.ndarray, precision: torch.dtype, workers: int) -> dict[str, float]:
        source = data.images.source
        assert isinstance(source, VqaSource)
        result = self.answers(data, indices, precision=precision, workers=workers)
        questions = [source.question(k) for k in result.numbers]
        pairs = zip(questions, result.best, strict=True)
        return accuracies(questions, [Truth.of(q.answers).score(self.names[m]) for q, m in pairs])

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        image, y = batch["image"], batch["y"]
        if self.config.blind:
            return {"image": image, "not used": torch.full_like(image, 0.5)}
        attention = self.fusion.attention(*self.question_features(y.tokens), self.image_features(image))
        return {"image": image, "attention of the first question": overlay(image, attention, self.encoder.grid(image))}


def check_settings(config: VqaConfig) -> None:
    """ValueError that names a setting out of its range."""
    check_range(config, "layer_decay", "text_rate", low=ABOVE_0, high=1)
    check_range(config, "drop_path", high=0.99)
    check_range(config, "keep", low=0.5, high=1, note=", or crops lose what questions are about")
    check_range(config, "text_layers", "layers", "width", "length", "questions", "vocabulary", low=1)
    if config.labels.balanced:
        raise ValueError("--settings.labels.balanced: answers have no such loss")
