import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskery.data.sources.vqa_v2 import Question
from maskery.evals.vqa import Priors, Truth, accuracies, accuracy_rows, normalise


def score(answer: str, people: list[str]) -> float:
    return Truth.of(people).score(answer)


@pytest.mark.parametrize(("matches", "worth"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_ten_people(matches: int, worth: float) -> None:
    """Leaving one out: of m who agree, m times m - 1 of the others do, 10 - m times m do."""
    others = [f"something else {i}" for i in range(10 - matches)]
    assert score("red", ["red"] * matches + others) == pytest.approx(worth)


def test_ten_who_agree() -> None:
    assert score("red", ["red"] * 10) == 1
    assert score("blue", ["red"] * 10) == 0


@given(st.lists(st.sampled_from(["red", "a red", "2", "two", "blue", "Blue"]), min_size=10, max_size=10))
def test_it_is_the_mean_over_leaving_each_one_out(people: list[str]) -> None:
    said = [normalise(p) for p in people] if len(set(people)) > 1 else people
    for answer in ("red", "two", "blue"):
        own = normalise(answer) if len(set(people)) > 1 else answer
        each = [min(1, (said[:i] + said[i + 1 :]).count(own) / 3) for i in range(10)]
        assert score(answer, people) == pytest.approx(sum(each) / 10)


def test_both_sides_are_normalised_where_people_differ() -> None:
    people = ["Two"] * 3 + ["2"] * 2 + ["the 2."] + ["three"] * 4
    assert score("two", people) == 1
    assert score("3", people) == 1
    assert score("A dog!", ["dog"] + ["cat"] * 9) == pytest.approx(0.3)


def test_where_they_agree_nothing_is_changed_but_blanks() -> None:
    """As the official code: "t-shirt" of ten people stays "t-shirt"."""
    assert score("t-shirt", ["t-shirt"] * 10) == 1
    assert score("t shirt", ["t-shirt"] * 10) == 0
    assert score(" t-shirt\n", ["t-shirt"] * 10) == 1
    assert score("t-shirt", ["t-shirt"] * 9 + ["shirt"]) == 1
    assert score("t shirt", ["t-shirt"] * 9 + ["shirt"]) == 1


@pytest.mark.parametrize(
    ("answers", "worth"),
    [
        ([], 0.0),
        (["red"], 1.0),
        (["red", "blue"], 1.0),
        (["red"] + ["blue"] * 4, 0.6),
        (["red"] + ["blue"] * 19, 9.5 / 60),
    ],
)
def test_other_numbers_of_people_count_in_proportion(answers: list[str], worth: float) -> None:
    assert score("red", answers) == pytest.approx(worth)
    assert score("green", answers) == 0


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("The Dog", "dog"),
        ("an apple, a pear", "apple pear"),  # a comma before a blank goes
        ("black,white", "black white"),  # one between words parts them
        ("1,000", "1000"),  # and one between digits goes
        ("1,000 t-shirts", "1000 tshirts"),  # which then is so for every mark
        ("t-shirt", "t shirt"),
        ("- red", "red"),
        ("yes!", "yes"),
        ("is it?", "is it"),
        ("2.5", "2.5"),  # periods stay before digits
        ("st. john", "st john"),
        ("u.s.a.", "usa"),
        (".5 in.", ".5 in"),
        ("none", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("isnt it", "isn't it"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),  # the official table's own slip
        ("he's", "he's"),
        ("its", "its"),
        ("5:30", "5:30"),  # colons, apostrophes, percent signs stay
        ("50%", "50%"),
        ("(left)", "left"),
        ("a\tb\nc", "b c"),
        ("the", ""),
    ],
)
def test_normalise(raw: str, said: str) -> None:
    assert normalise(raw) == said


def question(text: str, answers: list[str], kind: str = "other", asks: str = "what") -> Question:
    return Question(text, 0, tuple(answers), kind, asks)


def test_accuracies_and_tables() -> None:
    kinds = ["yes/no", "other", "other", "shade"]
    found = accuracies([question("?", ["x"], kind) for kind in kinds], [1.0, 0.0, 0.5, 0.5])
    assert found == {"accuracy": 0.5, "accuracy_yes_no": 1.0, "accuracy_other": 0.25}
    table = accuracy_rows(kinds, [1.0, 0.0, 0.5, 0.5], "kind")
    assert table[0] == {"kind": "other", "accuracy": 0.25, "questions": 2}
    assert [row["kind"] for row in table] == ["other", "shade", "yes/no"]


def test_priors_of_training() -> None:
    training = [question("is it red?", ["yes"] * 10, asks="is")] * 2 + [
        question("Is it  blue?", ["no"] * 10, asks="is")
    ]
    training += [question("what?", ["dog"] * 10)] * 2 + [question("what else?", ["yes"] * 10)]
    priors = Priors.of(training)
    assert (priors.overall, priors.by_type) == ("yes", {"is": "yes", "what": "dog"})
    asked = [question("is it blue?", ["no"] * 10, asks="is"), question("what now?", ["dog"] * 10)]
    asked += [question("how?", ["yes"] * 10, asks="how"), question("is it red?", ["yes"] * 10, asks="is")]
    assert priors.scores(asked) == {"prior": 0.5, "prior_by_type": 0.75, "prior_by_question": 1.0}


def test_the_usual_answer() -> None:
    assert Truth.of(["b", "a", "b", "a", "a", "c"]).most_common == "b"  # nothing is left of articles
    assert Truth.of(["red", "blue", "red", "blue"]).most_common == "blue"  # as many: by the alphabet
