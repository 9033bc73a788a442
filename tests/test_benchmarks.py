"""What benchmarks count by hand is what is computed."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.count import per_image
from benchmarks.methods import TEACHERS, built, predicted, vit_of
from benchmarks.step import Case
from maskery.methods import METHODS
from maskery.recipes import DECODERS


@pytest.mark.parametrize("name", METHODS)
def test_operations_are_counted_right(name: str) -> None:
    case = Case("vit-micro", 8, 64, 4)
    objective = built(name, case).train()
    batch = {"image": torch.rand(case.batch, 3, case.pixels, case.pixels)}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # others are not counted on a CPU
        objective(objective.draw(batch, 0.5), 0.5)["loss"].backward()
    mae = per_image(vit_of(case), DECODERS[case.model])["mae"]
    assert counter.get_total_flops() / case.batch == pytest.approx(predicted(case)[name] * mae, rel=0.025)


def test_paper_ratios_at_base_size() -> None:
    ratios = predicted(Case("vit-base", 16, 224, 1))
    assert ratios["rc-mae"] == pytest.approx(4 / 3)
    assert ratios["mixed-ae"] == pytest.approx(1.007, abs=1e-3)
    assert TEACHERS["vit-base"][0] == "vit_base_patch16_224"
