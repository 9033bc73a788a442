import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from maskery.demo.vqa import write_files, write_vqa
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.vqa.objective import Vqa, VqaConfig
from maskery.tasks.vqa.targets import Forms
from tests.bad_input import BadInput, assert_refused, misused

from ..evaluation import Evaluation
from ..runs import opened
from ..squares import prepared


def test_answers_of_a_vocabulary_in_other_forms() -> None:
    forms = Forms(("t-shirt", "t shirt", "2", "dog"))
    assert forms.worth(("t-shirt",) * 10) == {0: 1.0}
    assert forms.worth(("T-shirt",) * 3 + ("two",) * 7) == {0: pytest.approx(0.9), 1: pytest.approx(0.9), 2: 1.0}
    assert forms.worth(("cat",) * 10) == {}


def test_a_test_split_beside_a_val_split_is_held_out_where_it_is_answered(few: Path) -> None:
    shutil.copytree(few / "val", few / "test")
    for file in (few / "test").iterdir():
        file.rename(file.with_name(file.name.replace("val", "test")))
    write_files(few, "test", [(2, "is it blue?", ["no"] * 10)])
    _, data = prepared(few)
    splits = data.images.source.splits
    kinds = [set(splits[which]) for which in (data.train, data.held_out, data.validation)]
    assert kinds == [{"train"}, {"test"}, {"val"}]


def test_what_is_taken_from_the_data(few: Path) -> None:
    settings, data = prepared(few)
    assert settings.labels.names == ("blue", "left", "no", "red", "right", "yes")  # as frequent: by the alphabet
    assert json.loads(settings.words)[:3] == ["?", "is", "it"]
    assert (settings.length, settings.questions, settings.asked) == (6, 3, 3.0)
    again, _ = Vqa.prepare(settings, data)
    assert again == settings
    assert len(prepared(few, vocabulary=2)[0].labels.names) == 2
    assert prepared(few, questions=2)[0].asked == 2.0
    settings, data = prepared(few, labels=LabelsConfig(share="50%", tune=0.25))
    assert (len(data.train), len(data.validation), len(data.held_out)) == (3, 1, 4)
    write_files(few, "val", [(0, "what color is it?", ["red"] * 10), (1, "which hue?", ["purple"] * 10)])
    held_out_says_more, _ = prepared(few)
    assert held_out_says_more.labels.names == again.labels.names  # what is held out is not looked at
    assert held_out_says_more.words == again.words
    with pytest.raises(ValueError, match=r"opened without questions: --images\.questions"):
        Vqa.prepare(VqaConfig(), opened(few))


def test_built_in_scenes(tmp_path: Path) -> None:
    write_vqa(tmp_path / "scenes", 6, size=32, holdout=0.34)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        write_vqa(tmp_path / "scenes", 6)
    settings, data = prepared(tmp_path / "scenes")
    assert (len(data.train), len(data.held_out)) == (4, 2)
    assert "yes" in settings.labels.names


def nothing_in_common(root: Path) -> None:
    write_files(root, "val", [(i, "what is it?", ["a cat"] * 10) for i in range(4)])


def twice_the_same(root: Path) -> None:
    file = root / "questions_train.json"
    tree = json.loads(file.read_text())
    tree["questions"].append(tree["questions"][0])
    file.write_text(json.dumps(tree))


def setting(message: str, *options: str) -> BadInput:
    return BadInput(message, options=options)


BAD = [
    BadInput(r"no questions: looked for \*OpenEnded\*_train", lambda root: [f.unlink() for f in root.glob("*.json")]),
    BadInput("two questions have the id 0", twice_the_same),
    BadInput("none of its|is held out|none is left to train on", lambda root: shutil.rmtree(root / "train")),
    BadInput("none of the 6 answers .* is right for any of the 4 held-out questions", nothing_in_common),
    setting("--shots counts images of a class, and these have none", "--shots", "2"),
    setting("answers have no such loss", "--settings.labels.balanced"),
    setting("--settings.keep is 0.2: between 0.5 and 1", "--settings.keep", "0.2"),
    setting("--settings.vocabulary is 0: at least 1", "--settings.vocabulary", "0"),
    setting("--settings.width is 200: a multiple of 64, or .* own 128", "--settings.width", "200"),
    setting("--settings.text ./nowhere: no such directory", "--settings.text", "./nowhere"),
    misused("did you mean --settings.blind", "--settings.blnd"),
    misused("vqa has no quick form", "--quick"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.message[-30:])
def test_unusable_data_and_settings(bad: BadInput, vqa: Evaluation, few: Path, tmp_path: Path, capsys: Any) -> None:
    bad.spoil(few)
    assert_refused(vqa.command(tmp_path / "o", data=few), bad, capsys, tmp_path / "o")
