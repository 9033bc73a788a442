"""A vision transformer with a linear classifier on it: the plain form of what probing and fine-tuning leave.

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
    """What of the last block's tokens the classifier looks at."""

    of: Pooling = "class_token"  # both: side by side, the class token first
    norm_last: bool = (
        False  # the norm is of the mean, as a fine-tuned MAE has it; otherwise the mean is of normed tokens
    )

    def __str__(self) -> str:
        said = {
            "class_token": "class token",
            "mean_patch": "mean patch token",
            "both": "class token and the mean patch",
        }
        return f"norm of the {said[self.of]}" if self.norm_last else f"{said[self.of]} after the last norm"


class LinearClassifier(nn.Module):
    """Images in [0, 1] -> logits. The encoder's norm is the one in front of the classifier, wherever it stands."""

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
        tokens = self.encoder.norm(tokens)
        parts = {"class_token": tokens[:, 0], "mean_patch": tokens[:, 1:].mean(1)}
        return self.head(torch.cat(list(parts.values()), 1) if self.pool.of == "both" else parts[self.pool.of])

    def timm_state(self) -> dict[str, Tensor]:
        """Its tensors under timm's names: `fc_norm` is the norm of a mean."""
        state = {name: t.detach() for name, t in self.encoder.state_dict().items()}
        if self.pool.norm_last:
            state = {f"fc_{name}" if name.startswith("norm.") else name: t for name, t in state.items()}
        return state | {f"head.{name}": t.detach() for name, t in self.head.state_dict().items()}


def probabilities(logits: Tensor, multilabel: bool) -> Tensor:
    """Logits [B, M] -> probabilities: of one class out of M, or of each class by itself when multilabel."""
    return logits.sigmoid() if multilabel else logits.softmax(-1)
