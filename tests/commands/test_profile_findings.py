"""What a profile advises: one sentence for each thing that costs time, the dearest first."""

from typing import Any

import pytest

from maskery.commands.profile import PARTS
from maskery.commands.profile_findings import findings, table


def facts(wait: float = 0.0, **others: Any) -> dict[str, Any]:
    """A step on a GPU that leaves nothing to be wished for, but for what is given."""
    shares = dict.fromkeys(PARTS, 0.01) | {"forward": 0.3, "data wait": wait}
    shares |= others.pop("shares", {})
    shares["backward"] = 1 - sum(shares.values())
    usual = {
        "step_seconds": 0.1,
        "images_per_second": 1000.0,
        "parts": {name: 0.1 * share for name, share in shares.items()},
        "shares": shares,
        "gflop_per_image": 57.2,
        "matrix_product_tflops": 750.0,
        "utilisation": 0.5,
        "memory_gb": 60.0,
        "memory_total_gb": 80.0,
        "workers": 8,
        "images_per_second_per_worker": 500.0,
        "kept_in_memory": False,
        "packed": False,
        "batch_size": 4096,
        "micro_batch": 256,
        "precision": "bf16",
        "compile": "on",
        "bf16": True,
        "cores": 16,
    }
    return usual | others


def test_nothing_to_change() -> None:
    (sentence,) = findings(facts(), "cuda")
    assert sentence.startswith("Nothing to change: 95% of a step is forward and backward, at 50% of")


@pytest.mark.parametrize(
    ("changed", "words", "not_there"),
    [
        ({"workers": 0}, ["none runs during a step", "--images.workers 4", "maskery pack"], []),
        ({"workers": 2}, ["2 of them are not enough for the 2,000", "--images.workers 4", "maskery pack"], []),
        ({"workers": 2, "packed": True}, ["--images.workers 4"], ["maskery pack"]),
        ({"workers": 2, "cores": 2, "packed": True}, ["more cores would help"], ["--images.workers"]),
        ({"workers": 2, "cores": 2}, ["maskery pack"], ["--images.workers"]),
        ({"workers": 8}, ["8 would be enough if they had cores of their own"], ["--images.workers"]),
        ({"workers": 0, "kept_in_memory": True}, ["--images.workers 4"], ["maskery pack"]),
    ],
)
def test_waiting_for_images(changed: dict[str, Any], words: list[str], not_there: list[str]) -> None:
    sentence = findings(facts(0.5, **changed), "cuda")[0]
    assert sentence.startswith("50% of a step is waiting for images: one loader process makes 500 a second")
    assert all(word in sentence for word in words), sentence
    assert not any(word in sentence for word in not_there), sentence


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"precision": "float32"}, "--precision bf16"),
        ({"compile": "off"}, "--compile on"),
        ({"memory_gb": 10.0}, "a larger --micro-batch than 256"),
        ({"shares": {"draw": 0.3}}, "30% of a step is what the method draws beforehand"),
        ({"shares": {"optimiser": 0.2}}, "21% of a step is the optimiser's: a larger --batch-size"),
        ({"shares": {"crop": 0.2}}, "20% of a step is cutting crops"),
    ],
)
def test_one_thing_to_change(changed: dict[str, Any], words: str) -> None:
    (sentence,) = findings(facts(**changed), "cuda")
    assert words in sentence


def test_the_dearest_comes_first() -> None:
    found = findings(facts(0.25, precision="float32", shares={"optimiser": 0.3}), "cuda")
    assert [next(w for w in ("float32", "waiting", "optimiser") if w in f) for f in found] == [
        "float32",
        "optimiser",
        "waiting",
    ]


def test_a_cpu_is_not_told_to_be_a_gpu() -> None:
    assert findings(facts(precision="float32", compile="off", memory_gb=1.0), "cpu")[0].startswith("Nothing to change")


def test_the_table() -> None:
    text = table(facts(0.25) | {"findings": ["One.", "Two."]})
    assert "data wait           25.0  25.0%" in text
    assert "1,000.0 images/s" in text
    assert text.endswith("- One.\n- Two.")
