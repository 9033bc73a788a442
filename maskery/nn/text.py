"""Questions: words or pieces of words as numbers, and an encoder of them, new or pretrained.

B questions, L tokens of each, W width
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..text import needs_extra
from .vit import Block

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
PAD, UNKNOWN, START = 0, 1, 2
NAMED = 3  # tokens before the first word


class Tokens(Protocol):
    pad: int
    start: int  # what an empty question has at its beginning
    count: int

    def __call__(self, questions: Sequence[str], length: int) -> np.ndarray:
        """[B, length] int64, filled with `pad`; what is longer is cut."""
        ...

    def longest(self, questions: Sequence[str]) -> int:
        """Tokens of the longest one."""
        ...


class Words:
    """A number for each of the words that are known, one for all others."""

    pad, start = PAD, START

    def __init__(self, words: Sequence[str]):
        self.place = {word: i + NAMED for i, word in enumerate(words)}
        self.count = NAMED + len(words)

    def __call__(self, questions: Sequence[str], length: int) -> np.ndarray:
        found = np.full((len(questions), length), PAD)
        for row, question in zip(found, questions, strict=True):
            numbers = [START, *(self.place.get(word, UNKNOWN) for word in split(question))][:length]
            row[: len(numbers)] = numbers
        return found

    def longest(self, questions: Sequence[str]) -> int:
        return 1 + max((len(split(question)) for question in questions), default=0)


def split(question: str) -> list[str]:
    return WORD.findall(question.lower())


def words_of(questions: Iterable[str], most: int) -> tuple[str, ...]:
    """The most frequent words, by the alphabet where they are as frequent."""
    counts = Counter(word for question in questions for word in split(question))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most])


class Pieces:
    """The tokens of a pretrained encoder, by its own tokeniser."""

    def __init__(self, where: str):
        self.tokenizer = loaded(lambda auto, **how: auto.AutoTokenizer.from_pretrained(where, **how), where)
        if self.tokenizer.pad_token_id is None:
            raise ValueError(f"--settings.text {where}: its tokeniser has no token that fills up short questions")
        self.pad, self.count = self.tokenizer.pad_token_id, len(self.tokenizer)
        self.start = self.tokenizer("")["input_ids"][0] if self.tokenizer("")["input_ids"] else self.pad

    def __call__(self, questions: Sequence[str], length: int) -> np.ndarray:
        found = self.tokenizer(list(questions), padding="max_length", truncation=True, max_length=length)
        return np.array(found["input_ids"], np.int64).reshape(len(questions), length)

    def longest(self, questions: Sequence[str]) -> int:
        each = self.tokenizer(list(questions))["input_ids"] if questions else []
        return max(map(len, each), default=1)


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
        x, mix = self.embed(tokens) + self.positions, among(real)
        for block in self.blocks:
            x = block(x, mix)
        return self.norm(x)


class Pretrained(nn.Module):
    """A transformer of the library transformers, as BERT is one, brought to the width that is wanted.

    Its weights are read from safetensors, and none of its repository's code runs. Without dropout.
    """

    def __init__(self, where: str, length: int, width: int):
        super().__init__()
        # "cpu": settings are checked under the meta device, and an encoder that is not there has to fail there.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            how: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
            self.net = loaded(lambda auto, **k: auto.AutoModel.from_pretrained(where, **how, **k), where)
        facts = self.net.config
        if facts.is_encoder_decoder or not getattr(facts, "hidden_size", None):
            raise ValueError(f"--settings.text {where}: a {facts.model_type} is no encoder of text as BERT is one")
        most = getattr(facts, "max_position_embeddings", length)
        if length > most:
            raise ValueError(f"--settings.length is {length}: {where} reads {most} tokens at most")
        for name, part in self.net.named_children():
            if name == "pooler":
                part.requires_grad_(False)  # not part of it
        self.proj = nn.Linear(facts.hidden_size, width)

    def train(self, mode: bool = True) -> "Pretrained":
        super().train(mode)
        self.net.eval()  # no dropout
        return self

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """As `WordEncoder`."""
        return self.proj(self.net(input_ids=tokens, attention_mask=real.long()).last_hidden_state)


def among(real: Tensor) -> Any:
    """Attention to the tokens [B, L] that are no padding."""
    return partial(F.scaled_dot_product_attention, attn_mask=real[:, None, None])


def loaded(load: Any, where: str) -> Any:
    """What the library reads: from a directory without looking anywhere else. ValueError in one line: it cannot."""
    try:
        import transformers
        from transformers.utils import logging
    except ImportError:
        raise ValueError(needs_extra("--settings.text", "transformers", "vqa")) from None
    local = Path(where).is_dir()
    if not local and where.startswith((".", "/", "~")):
        raise ValueError(f"--settings.text {where}: no such directory")
    verbose = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load(transformers, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as e:
        raise ValueError(f"--settings.text {where}: {str(e).strip().splitlines()[0]}") from None
    finally:
        logging.set_verbosity(verbose)
        logging.enable_progress_bar()
