"""Dealing, mixing, un-mixing; attention to the best keys; the contrast between owners."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given as examples
from hypothesis import strategies as st
from torch import Tensor

from maskery.nn import homologous, masking


@examples(m=st.integers(1, 3), group=st.integers(2, 5), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_every_place_has_one_owner_and_every_owner_as_many(m: int, group: int, k: int, seed: int) -> None:
    torch.manual_seed(seed)
    n = group * k
    scores = torch.rand(m, n)
    dealt = homologous.deal(scores, group)
    assert (dealt.hidden.shape, dealt.keep.shape, dealt.restore.shape) == ((m, group, n), (m, group, k), (m, group, n))
    assert torch.equal((1 - dealt.hidden).sum(1), torch.ones(m, n))
    for sequence in range(m):
        best_first = sorted(range(n), key=lambda place: float(scores[sequence, place]))
        for member in range(group):
            mask = masking.Mask(*(field[sequence, member] for field in dealt))
            assert mask.keep.tolist() == best_first[member * k : (member + 1) * k]
            assert (mask.hidden == 0).nonzero()[:, 0].tolist() == sorted(mask.keep.tolist())
            assert sorted(mask.restore.tolist()) == list(range(n))
            assert mask.restore[mask.keep].tolist() == list(range(k))


@pytest.mark.parametrize("full", [False, True])
def test_mixed_and_back(full: bool) -> None:
    groups, G, k = 3, 4, 2
    b, n = groups * G, G * k
    R = G if full else 1
    torch.manual_seed(0)
    dealt = homologous.deal(torch.rand(groups * R, n), G)
    places = homologous.given(dealt.keep, b)
    images = torch.arange(b * n).view(b, n, 1)  # a token says which image and place it is
    sequences = homologous.mix(masking.take(images, places), G, k)
    assert sequences.shape == (groups * R, n, 1)
    for s in range(groups * R):
        for token, value in enumerate(sequences[s, :, 0].tolist()):
            image, place = divmod(value, n)
            member = token // k
            assert image == s // R * G + member  # of the sequence's group, in the order of members
            assert place == dealt.keep[s, member, token % k]

    cls = -1 - torch.arange(groups * R).view(-1, 1, 1)
    back = homologous.unmix(torch.cat([cls, sequences], dim=1), b, G)
    keep = homologous.own(dealt.keep, b)
    for image in range(b):
        sequence = image if full else image // G
        assert keep[image].tolist() == dealt.keep[sequence, image % G].tolist()
        assert back[image, 0] == -1 - sequence
        assert torch.equal(back[image, 1:], images[image, keep[image]])


def by_hand(q: Tensor, k: Tensor, v: Tensor, top_k: int) -> Tensor:
    out = torch.zeros_like(v)
    for m in range(q.shape[0]):
        for h in range(q.shape[1]):
            for query in range(q.shape[2]):
                fit = [float(q[m, h, query] @ k[m, h, key]) / math.sqrt(q.shape[3]) for key in range(k.shape[2])]
                patches = sorted(range(1, len(fit)), key=lambda key: -fit[key])
                seen = [0, *(patches[:top_k] if query else patches)]
                weights = [math.exp(fit[key]) for key in seen]
                for key, weight in zip(seen, weights, strict=True):
                    out[m, h, query] += weight / sum(weights) * v[m, h, key]
    return out


@pytest.mark.parametrize("top_k", [1, 3, 8, 12])
def test_attention_is_the_one_computed_by_hand(top_k: int) -> None:
    torch.manual_seed(top_k)
    q, k, v = torch.randn(3, 2, 2, 13, 4, dtype=torch.float64)
    shares: list[Tensor] = []
    found = homologous.attention(top_k, 4, shares)(q, k, v)
    torch.testing.assert_close(found, by_hand(q, k, v, top_k), rtol=1e-6, atol=1e-6)
    assert len(shares) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_let_no_more_in(dtype: torch.dtype) -> None:
    tokens, top_k = 17, 5
    q, k = torch.ones(2, 2, 3, tokens, tokens, dtype=dtype)
    weights = homologous.attention(top_k, 4, [])(
        q, k, torch.eye(tokens, dtype=dtype).expand_as(q)
    )  # values: who it was
    assert ((weights[:, :, 1:] > 0).sum(-1) == top_k + 1).all()
    assert (weights[:, :, 1:, 0] > 0).all()
    assert ((weights[:, :, 0] > 0).sum(-1) == tokens).all()
    torch.testing.assert_close(weights[:, :, 1:].max().float(), torch.tensor(1 / 6), rtol=1e-2, atol=0)


def test_what_is_chosen_in_half_precision_is_compared_in_float32() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, 65, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        chosen = homologous.nearest(q, k, 7)
    exact = (q.double() @ k.double().mT)[:, :, 1:, 1:].topk(7).indices
    assert torch.equal(chosen.sort().values, exact.sort().values)


def test_all_keys_are_ordinary_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 17, 8)
    ordinary = F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(homologous.attention(16, 4, [])(q, k, v), ordinary)
    every = homologous.nearest(q, k, 16)
    torch.testing.assert_close(homologous.attend(q, k, v, every), ordinary, rtol=1e-5, atol=1e-6)


def test_keys_that_are_not_chosen_get_no_gradient() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 9, 4).unbind()
    k.requires_grad_()
    chosen = homologous.nearest(q, k, 3)
    homologous.attend(q, k, v, chosen)[0, 0, 1].sum().backward()  # of the first patch's query
    assert k.grad is not None
    touched = (k.grad[0, 0].abs().sum(-1) > 0).nonzero()[:, 0].tolist()
    assert touched == [0, *sorted(1 + i for i in chosen[0, 0, 0].tolist())]


def test_share_counts_keys_of_the_same_owner() -> None:
    group, k = 3, 4
    torch.manual_seed(0)
    chosen = torch.rand(2, 2, 12, 12).topk(5).indices
    same = [
        query // k == key // k
        for sequence in chosen.tolist()
        for head in sequence
        for query, keys in enumerate(head)
        for key in keys
    ]
    assert float(homologous.own_fraction(chosen, group)) == pytest.approx(sum(same) / len(same))
    own = torch.arange(12).view(3, 1, 4).expand(3, 4, 4).reshape(1, 1, 12, 4)
    assert homologous.own_fraction(own, group) == 1


def test_the_share_is_chance_at_random() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 16, 4, 65, 8)
    shares: list[Tensor] = []
    attention = homologous.attention(16, 4, shares)
    attention(q, k, v)
    attention(q, k, v.mul(2))
    assert len(shares) == 2
    assert float(shares[0]) == float(shares[1]) == pytest.approx(0.25, abs=0.01)
    homologous.attention(64, 4, shares)(q, k, v)
    assert shares[2] == 0.25


def test_contrast_by_hand() -> None:
    torch.manual_seed(0)
    m, group, k, tau = 2, 3, 4, 0.3
    n = group * k
    z = torch.randn(m, n, 5)
    total = 0.0
    for s in range(m):
        cos = [[float(F.cosine_similarity(a.double(), b.double(), 0)) for b in z[s]] for a in z[s]]
        for i in range(n):
            below = sum(math.exp(cos[i][j] / tau) for j in range(n) if j != i)
            friends = [j for j in range(n) if j != i and j // k == i // k]
            total -= sum(math.log(math.exp(cos[i][j] / tau) / below) for j in friends) / len(friends) / n / m
    assert float(homologous.contrast(z, group, tau)) == pytest.approx(total, rel=1e-5)


def test_contrast_of_collapsed_and_of_separated_features() -> None:
    collapsed = torch.randn(1, 1, 8).expand(2, 196, 8).clone().requires_grad_()
    loss = homologous.contrast(collapsed, 4, 0.25)
    assert float(loss.detach()) == pytest.approx(math.log(195), abs=1e-4) == pytest.approx(5.273, abs=1e-3)
    loss.backward()
    assert collapsed.grad is not None
    assert collapsed.grad.isfinite().all()
    separated = 7 * torch.eye(4).repeat_interleave(49, 0).expand(2, 196, 4)
    assert float(homologous.contrast(separated, 4, 0.25)) == pytest.approx(3.926, abs=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(homologous.contrast(separated.bfloat16(), 4, 0.25)) == pytest.approx(3.926, abs=1e-3)
