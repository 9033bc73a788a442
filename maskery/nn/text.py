"""Questions as tokens, and an encoder of them: a small one from scratch or a pretrained one.

B questions, L tokens of each, W width
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from ..text import needs_extra
from .attention import KERNELS, masked_attention
from .vit import Block, Mix

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
PAD, UNKNOWN, START = 0, 1, 2
SPECIAL = 3  # tokens before the first word


class Words:
    """A tokeniser: one token for each known word, one for all others."""

    pad, start = PAD, START  # what fills up short questions; the first token of an empty one

    def __init__(self, words: Sequence[str]):
        self.number = {word: i + SPECIAL for i, word in enumerate(words)}
        self.count = SPECIAL + len(words)

    def __call__(self, questions: Sequence[str], length: int) -> np.ndarray:
        """[B, length] int64, filled with `pad`; longer questions are cut."""
        tokens = np.full((len(questions), length), PAD)
        for row, question in zip(tokens, questions, strict=True):
            numbers = [START, *(self.number.get(word, UNKNOWN) for word in split(question))][:length]
            row[: len(numbers)] = numbers
        return tokens

    def longest(self, questions: Sequence[str]) -> int:
        """Tokens of the longest one."""
        return 1 + max((len(split(question)) for question in questions), default=0)


def split(question: str) -> list[str]:
    return WORD.findall(question.lower())


def words_of(questions: Iterable[str], most: int) -> tuple[str, ...]:
    """The most frequent words; equally frequent ones in alphabetical order."""
    counts = Counter(word for question in questions for word in split(question))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most])


class Pieces:
    """The tokeniser of a pretrained encoder, used like `Words`."""

    def __init__(self, where: str):
        self.tokenizer = loaded(where, lambda library, **how: library.AutoTokenizer.from_pretrained(where, **how))
        if self.tokenizer.pad_token_id is None:
            raise ValueError(f"--settings.text {where}: its tokeniser has no token that fills up short questions")
        self.pad, self.count = self.tokenizer.pad_token_id, len(self.tokenizer)
        empty = self.tokenizer("")["input_ids"]
        self.start = empty[0] if empty else self.pad

    def __call__(self, questions: Sequence[str], length: int) -> np.ndarray:
        tokens = self.tokenizer(list(questions), padding="max_length", truncation=True, max_length=length)
        return np.array(tokens["input_ids"], np.int64).reshape(len(questions), length)

    def longest(self, questions: Sequence[str]) -> int:
        return max(map(len, self.tokenizer(list(questions))["input_ids"] if questions else []), default=1)


class WordEncoder(nn.Module):
    """A small transformer, pre-norm, trained from scratch."""

    def __init__(self, count: int, length: int, width: int, heads: int, depth: int):
        super().__init__()
        self.embed = nn.Embedding(count, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Tokens [B, L], those that are no padding [B, L] -> [B, L, W]."""
        x, mix = self.embed(tokens) + self.positions, padding_mask(real)
        for block in self.blocks:
            x = block(x, mix)
        return self.norm(x)


class PretrainedText(nn.Module):
    """A transformer like BERT from the library transformers, projected to the width W. Without dropout.

    Its weights are read from safetensors, and none of its repository's code runs.
    """

    def __init__(self, where: str, length: int, width: int):
        super().__init__()
        # "cpu": settings are checked under the meta device, where a missing encoder has to fail, too.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
            self.net = loaded(where, lambda library, **how: library.AutoModel.from_pretrained(where, **options, **how))
        config = self.net.config
        if config.is_encoder_decoder or not getattr(config, "hidden_size", None):
            raise ValueError(f"--settings.text {where}: a {config.model_type} is no encoder of text like BERT")
        most = getattr(config, "max_position_embeddings", length)
        if length > most:
            raise ValueError(f"--settings.length is {length}: {where} reads {most} tokens at most")
        for name, part in self.net.named_children():
            if name == "pooler":
                part.requires_grad_(False)  # not used
        self.proj = nn.Linear(config.hidden_size, width)

    def train(self, mode: bool = True) -> "PretrainedText":
        super().train(mode)
        self.net.eval()  # no dropout
        return self

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """As `WordEncoder`."""
        with sdpa_kernel(KERNELS):
            return self.proj(self.net(input_ids=tokens, attention_mask=real.long()).last_hidden_state)


def padding_mask(real: Tensor) -> Mix:
    """Attention to the tokens [B, L] that are no padding."""
    return partial(masked_attention, mask=real[:, None, None])


def loaded(where: str, load: Callable[..., Any]) -> Any:
    """Load with transformers, from a directory without using the network. ValueError in one line when it cannot."""
    try:
        import transformers
        from transformers.utils import logging
    except ImportError:
        raise ValueError(needs_extra("--settings.text", "transformers", "vqa")) from None
    local = Path(where).is_dir()
    if not local and where.startswith((".", "/", "~")):
        raise ValueError(f"--settings.text {where}: no such directory")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load(transformers, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as e:
        raise ValueError(f"--settings.text {where}: {str(e).strip().splitlines()[0]}") from None
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
