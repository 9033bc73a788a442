"""MixedAE: what its limits have to be, against MAE, a plain ViT and loops written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskery.data.crops import Crop
from maskery.methods.mae import MAE, MAEConfig
from maskery.methods.mixed_ae import MixedAE, MixedAEConfig
from maskery.nn import homologous, masking
from maskery.nn.decoder import DecoderSize
from maskery.nn.masking import Mask
from maskery.nn.targets import pixels
from maskery.nn.vit import ViT, ViTConfig
from maskery.objective import Batch

VIT, P, N = ViTConfig(48, 3, 3, 8, (32, 32)), 8, 16
DECODER = DecoderSize(32, 1, 4)
MODES = pytest.mark.parametrize("mode", ["compose", "full"])


def built(vit: ViTConfig = VIT, **settings: object) -> MixedAE:
    torch.manual_seed(0)
    return MixedAE(MixedAEConfig(**({"decoder": DECODER} | settings)), vit)  # pyright: ignore[reportArgumentType]


def drawn(method: MixedAE, b: int, seed: int = 1) -> Batch:
    torch.manual_seed(seed)
    return method.sample({"image": torch.rand(b, 3, 32, 32)}, 0.0)


def given(batch: Batch) -> Mask:
    return batch["mask"]._replace(keep=batch["places"])


def owners(method: MixedAE, batch: Batch) -> tuple[Tensor, Tensor]:
    """Which image each token of each mixed sequence is of, and its place, both [M, N]: by loops."""
    G, places = method.config.group, batch["places"].tolist()
    k = N // G
    image, place = [], []
    for group in range(len(places) // G):
        for r in range(len(places[0]) // k):
            image.append([group * G + o for o in range(G) for _ in range(k)])
            place.append([n for o in range(G) for n in places[group * G + o][r * k : (r + 1) * k]])
    return torch.tensor(image), torch.tensor(place)


def pixel_mixed(images: Tensor, image: Tensor, place: Tensor) -> Tensor:
    """The mixed images [M, C, H, W], pixel blocks copied one by one."""
    mixed = torch.full((len(image), *images.shape[1:]), torch.nan, dtype=images.dtype)
    columns = images.shape[3] // P
    for s in range(len(image)):
        for i, n in zip(image[s].tolist(), place[s].tolist(), strict=True):
            rows = slice(n // columns * P, n // columns * P + P)
            cols = slice(n % columns * P, n % columns * P + P)
            mixed[s, :, rows, cols] = images[i, :, rows, cols]
    return mixed


# ------------------------------------------------------------------------------------------- what is drawn
@MODES
def test_what_is_drawn(mode: str) -> None:
    method = built(mode=mode)
    batch = drawn(method, 8)
    image, place = owners(method, batch)
    assert len(image) == (8 if mode == "full" else 2)
    assert torch.equal(place.sort(1).values, torch.arange(N).expand_as(place))  # every place once
    for b in range(8):
        sequence = b if mode == "full" else b // 4
        mine = place[sequence][image[sequence] == b]
        assert torch.equal(batch["mask"].keep[b], mine)
        assert sorted((batch["mask"].hidden[b] == 0).nonzero()[:, 0].tolist()) == sorted(mine.tolist())
    assert len({tuple(p) for p in place.tolist()}) == len(place)  # every sequence has its own draw


@MODES
def test_scores_are_the_first_thing_drawn(mode: str) -> None:
    method, images = built(mode=mode), torch.rand(8, 3, 32, 32)
    torch.manual_seed(5)
    batch = method.sample({"image": images}, 0.0)
    torch.manual_seed(5)
    order = torch.rand(8 if mode == "full" else 2, N).argsort(1)
    for b in range(8):
        sequence = b if mode == "full" else b // 4
        assert torch.equal(batch["mask"].keep[b], order[sequence, b % 4 * 4 : b % 4 * 4 + 4])


# --------------------------------------------------------------------------------------------- the oracles
@MODES
@pytest.mark.parametrize("group", [2, 4])
def test_told_who_belongs_together_it_is_maes_encoder(mode: str, group: int) -> None:
    """With the true mask, no segment embedding and no class token, images cannot see each other."""
    method = built(mode=mode, group=group, segment=False).double()
    batch = drawn(method, 8)
    x = method.encoder.normalise(batch["image"].double())
    owner = torch.arange(N) // (N // group)
    allowed = torch.zeros(1 + N, 1 + N, dtype=torch.bool)
    allowed[1:, 1:] = owner == owner[:, None]  # not the class key
    allowed[0] = True

    def same_image(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)

    found = homologous.unmix(method.encode(x, given(batch), same_image), 8, group)[:, 1:]
    expected = method.encoder.embed(x, batch["mask"])[:, 1:]
    for block in method.encoder.blocks:
        expected = block(expected)
    torch.testing.assert_close(found, method.encoder.norm(expected), rtol=0, atol=1e-6)
    recognised = method.encode(x, given(batch), homologous.attention(N // group, group, []))
    assert (homologous.unmix(recognised, 8, group)[:, 1:] - found).abs().max() > 0.1  # nobody tells the method


@MODES
def test_naive_mixing_is_a_plain_vit_on_mixed_pixels(mode: str) -> None:
    """k = N, no segment: mixing pixels then embedding = embedding then mixing, and the weights are a plain ViT's."""
    method = built(mode=mode, segment=False, top_k=N)
    plain = ViT(VIT)
    plain.load_state_dict(method.encoder.state_dict(), strict=True)
    assert set(method.encoder.state_dict()) == set(plain.state_dict())
    batch = drawn(method, 8)
    image, place = owners(method, batch)
    x = plain.normalise(batch["image"])
    mixed = pixel_mixed(x, image, place)

    seen: list[Tensor] = []
    method.encoder.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(args[0]))
    z = method.encode(x, given(batch), homologous.attention(method.top_k(x), 4, []))
    for ours, theirs in ((seen[0], plain.embed(mixed)), (z, plain.encode(mixed))):
        torch.testing.assert_close(ours[:, 1:], masking.take(theirs[:, 1:], place), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours[:, 0], theirs[:, 0], rtol=1e-5, atol=1e-5)


@MODES
def test_segments_say_the_index_in_the_group(mode: str) -> None:
    method = built(mode=mode)
    assert method.segments is not None
    assert (method.segments.shape, 0.01 < float(method.segments.detach().std()) < 0.03) == ((4, 48), True)
    batch = drawn(method, 8)
    image, place = owners(method, batch)
    x = method.encoder.normalise(batch["image"])
    seen: list[Tensor] = []
    method.encoder.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(args[0]))
    method.encode(x, given(batch), F.scaled_dot_product_attention)
    for s in range(len(image)):
        for token in range(N):
            i, n = int(image[s, token]), int(place[s, token])
            plain = method.encoder.embed(x[i : i + 1])[0, 1 + n]
            torch.testing.assert_close(seen[0][s, 1 + token], plain + method.segments[i % 4], rtol=1e-5, atol=1e-5)
    assert "segments" in method.state_dict()
    assert "segments" not in built(segment=False).state_dict()


def test_it_begins_as_mae() -> None:
    torch.manual_seed(0)
    mae = MAE(MAEConfig(decoder=DECODER), VIT).state_dict()
    ours = built().state_dict()
    assert set(ours) - set(mae) == {"segments"}
    assert all(torch.equal(ours[name], value) for name, value in mae.items())


# ---------------------------------------------------------------------------------------------- the losses
@MODES
@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_loss_written_out(mode: str, norm_pix: bool) -> None:
    method = built(mode=mode, norm_pix=norm_pix, lam=0.3, tau=0.5, first_block=1, top_k=6)
    batch = drawn(method, 8)
    losses = method(batch, 0.0)
    image, place = owners(method, batch)
    x = method.encoder.normalise(batch["image"])
    shares: list[Tensor] = []
    z = method.encode(x, given(batch), homologous.attention(6, 4, shares))
    assert len(shares) == 2  # not in block 0

    errors = []
    for i in range(8):
        sequence = i if mode == "full" else i // 4
        mine = image[sequence] == i
        tokens = method.decoder.embed(z[sequence])  # [1 + N, d]
        full = method.decoder.mask_token[0].repeat(N, 1)
        full[place[sequence][mine]] = tokens[1:][mine]
        y = torch.cat([tokens[:1], full])[None] + method.decoder.pos_embed
        for block in method.decoder.blocks:
            y = block(y)
        x_hat = method.decoder.pred(method.decoder.norm(y))[0, 1:]
        hidden = sorted(set(range(N)) - set(place[sequence][mine].tolist()))
        assert len(hidden) == N - N // 4
        errors.append((x_hat - pixels(x[i : i + 1], P, norm_pix)[0])[hidden].square().mean())
    torch.testing.assert_close(losses["reconstruction"], torch.stack(errors).mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["homologous"], homologous.contrast(z[:, 1:], 4, 0.5), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + 0.3 * losses["homologous"])
    torch.testing.assert_close(losses["homologous_share"], torch.stack(shares).mean())
    assert not losses["homologous_share"].requires_grad


def test_first_block() -> None:
    method = built(first_block=2, segment=False)
    batch = drawn(method, 4)
    x = method.encoder.normalise(batch["image"])
    attention = homologous.attention(4, 4, [])
    tokens = method.encoder.embed(x, batch["mask"])
    z = torch.cat([tokens[:1, :1], tokens[:, 1:].reshape(1, N, -1)], dim=1)
    one, two, three = method.encoder.blocks
    expected = method.encoder.norm(three(two(one(z)), attention))
    torch.testing.assert_close(method.encode(x, given(batch), attention), expected)


def test_without_weight_the_contrast_has_no_gradient() -> None:
    gradients = []
    for lam in (0.0, 0.1):
        method = built(lam=lam)
        losses = method(drawn(method, 4), 0.0)
        (part,) = torch.autograd.grad(losses["reconstruction"], method.segments, retain_graph=True)
        (whole,) = torch.autograd.grad(losses["loss"], method.segments)
        gradients.append((part - whole).abs().max())
        assert torch.equal(losses["loss"], losses["reconstruction"]) == (lam == 0)
    assert gradients[0] == 0 < gradients[1]


@MODES
def test_what_an_image_depends_on(mode: str) -> None:
    method = built(mode=mode)
    batch = drawn(method, 8)
    x = method.encoder.normalise(batch["image"])

    def tokens(x: Tensor) -> Tensor:
        z = method.encode(x, given(batch), homologous.attention(4, 4, []))
        return homologous.unmix(z, 8, 4).detach()

    before, image = tokens(x), x.clone()
    unseen = sorted(set(range(N)) - set(batch["places"][0].tolist()))
    for n in unseen:  # in no sequence of its group
        image[0, :, n // 4 * P : n // 4 * P + P, n % 4 * P : n % 4 * P + P] += 1
    assert torch.equal(tokens(image), before)
    image[4:] += 1
    after = tokens(image)
    torch.testing.assert_close(after[:4], before[:4], rtol=0, atol=1e-6)  # of another group
    image[1] += 1
    assert (tokens(image)[0] - before[0]).abs().max() > 1e-4  # of the same group


def test_it_learns_to_recognise_its_own_patches() -> None:
    """Images of one colour and noise: the share of own keys rises above chance, without any hint but their content."""
    method = built(ViTConfig(48, 2, 3, 8, (32, 32)), segment=False, lam=1.0)
    optimizer = torch.optim.Adam(method.parameters(), 2e-3)
    shares, contrasts = [], []
    for step in range(120):
        torch.manual_seed(step)
        images = (torch.rand(16, 3, 1, 1) + 0.1 * torch.randn(16, 3, 32, 32)).clamp(0, 1)
        losses = method({"image": images}, 0.0)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        shares.append(float(losses["homologous_share"]))
        contrasts.append(float(losses["homologous"].detach()))
    assert shares[0] < 0.28
    assert sum(shares[-20:]) / 20 > 0.34
    assert sum(contrasts[-20:]) < sum(contrasts[:20]) - 1


# -------------------------------------------------------------------------------- sizes, settings, errors
@MODES
@pytest.mark.parametrize(("height", "width", "channels"), [(32, 64, 5), (16, 48, 1)])
def test_other_sizes_and_channels(mode: str, height: int, width: int, channels: int) -> None:
    vit = ViTConfig(48, 1, 3, 8, (height, width), (0.5,) * channels, (0.2,) * channels)
    method = built(vit, mode=mode, group=2)
    for size in ((height, width), (48, 40)):  # another grid at run time
        losses = method({"image": torch.rand(4, channels, *size)}, 0.0)
        assert losses["loss"].isfinite()


def test_top_k_grows_with_the_image() -> None:
    small, large, wide = torch.zeros(4, 3, 32, 32), torch.zeros(4, 3, 64, 64), torch.zeros(4, 3, 16, 48)
    for top_k, expected in ((None, [4, 16, 3]), (6, [6, 24, 4]), (16, [16, 64, 12]), (1, [1, 4, 1])):
        method = built(top_k=top_k)
        assert [method.top_k(x) for x in (small, large, wide)] == expected
    assert float(built(top_k=16)({"image": large}, 0.0)["homologous_share"]) == 0.25


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group": 1}, "a group of 1 images .* 16 patches .* possible are 2, 4, 8$"),
        ({"group": 0}, "a group of 0 images"),
        ({"group": -4}, "a group of -4 images"),
        ({"group": 3}, "a group of 3 images cannot share 16 patches equally"),
        ({"group": 16}, "a group of 16 images .* two or more for each"),
        ({"top_k": 0}, "top_k 0 is not one of 1 to 16"),
        ({"top_k": 17}, "top_k 17 is not one of 1 to 16"),
        ({"first_block": 3}, "first_block 3 is not one of 0 to 2"),
        ({"first_block": -1}, "first_block -1 is not one of 0 to 2"),
        ({"tau": 0.0}, "tau is 0: .* above 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], words: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=words) as e:
        built(**settings)
    assert "\n" not in str(e.value)


def test_batches_and_images_that_cannot_be_mixed() -> None:
    method = built()
    assert method.micro_batch_multiple == 4
    with pytest.raises(ValueError, match="a batch of 6 images cannot be mixed in groups of 4"):
        method({"image": torch.rand(6, 3, 32, 32)}, 0.0)
    with pytest.raises(ValueError, match="a group of 4 images cannot share 9 patches equally"):
        method({"image": torch.rand(4, 3, 24, 24)}, 0.0)


def test_what_the_contract_asks_for() -> None:
    crop = Crop()
    with torch.device("meta"):
        method = built()
    assert method.views(crop) == {"image": crop}
    assert len(method.notes) == 1
    assert "75%" in method.notes[0]


def test_full_compiles_as_one_graph() -> None:
    method = built(ViTConfig(48, 1, 3, 8, (32, 32)), mode="full")
    batch = drawn(method, 4)
    torch._dynamo.reset()
    compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
    losses = compiled(batch, 0.1)
    for name, value in method(batch, 0.1).items():
        torch.testing.assert_close(losses[name], value)


@MODES
def test_pictures(mode: str) -> None:
    method = built(mode=mode)
    batch = drawn(method, 8)
    with torch.no_grad():
        columns = method.picture(batch)
    assert list(columns)[:3] == ["original", "mixed", "what is its own"]
    assert len(columns) == 5
    torch.testing.assert_close(columns["original"], batch["image"])
    mixed = pixel_mixed(batch["image"], *owners(method, batch))
    sequences = torch.arange(8) if mode == "full" else torch.arange(8) // 4
    torch.testing.assert_close(columns["mixed"], mixed[sequences])
    hidden = batch["mask"].hidden.view(8, 1, 4, 4).repeat_interleave(P, 2).repeat_interleave(P, 3)
    torch.testing.assert_close(columns["what is its own"], batch["image"] * (1 - hidden) + 0.5 * hidden)
    assert all(float(v.min()) >= 0 and float(v.max()) <= 1 for v in columns.values())
