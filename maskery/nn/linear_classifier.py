"""A vision transformer with a linear classifier: what probing and fine-tuning train, in the form other libraries have.

B batch, C channels, N patches, D width, M classes
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .vit import ViT

Pooling = Literal["class_token", "mean_patch", "both"]


@dataclass(frozen=True)
class Pool:
    """The features that the classifier gets of the last block's tokens."""

    of: Pooling = "class_token"  # both: concatenated, the class token first
    norm_last: bool = False  # the norm is of the mean, as in a fine-tuned MAE, instead of the mean of normed tokens

    def __str__(self) -> str:
        names = {"mean_patch": "mean patch token", "both": "class token and the mean patch"}
        name = names.get(self.of, "class token")
        return f"norm of the {name}" if self.norm_last else f"{name} after the last norm"


class LinearClassifier(nn.Module):
    """Images in [0, 1] -> logits. The encoder's norm is the last before the classifier, wherever it stands."""

    def __init__(self, encoder: ViT, pool: Pool, head: nn.Linear):
        super().__init__()
        self.encoder, self.pool, self.head = encoder, pool, head

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, M]."""
        return self.answer(self.encoder.trunk(self.encoder.normalise(images)))

    def answer(self, tokens: Tensor) -> Tensor:
        """Tokens before the last norm [B, 1 + N, D] -> logits [B, M]."""
        if self.pool.norm_last:
            return self.head(self.encoder.norm(tokens[:, 1:].mean(1)))
        return self.head(pooled(self.encoder.norm(tokens), self.pool.of))

    def timm_state(self) -> dict[str, Tensor]:
        """Tensors under timm's names: `fc_norm` is the norm of a mean."""
        state = {name: t.detach() for name, t in self.encoder.state_dict().items()}
        if self.pool.norm_last:
            state = {f"fc_{name}" if name.startswith("norm.") else name: t for name, t in state.items()}
        return state | {f"head.{name}": t.detach() for name, t in self.head.state_dict().items()}


def pooled(tokens: Tensor, of: Pooling) -> Tensor:
    """Tokens [B, 1 + N, D] -> [B, D], or [B, 2 D] for both."""
    parts = {"class_token": tokens[:, 0], "mean_patch": tokens[:, 1:].mean(1)}
    return torch.cat(list(parts.values()), dim=1) if of == "both" else parts[of]


def probabilities(logits: Tensor, multilabel: bool) -> Tensor:
    """Logits [B, M] -> probabilities: of one class out of M, or of each class by itself when multilabel."""
    return logits.sigmoid() if multilabel else logits.softmax(-1)
