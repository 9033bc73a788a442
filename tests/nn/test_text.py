"""Words as tokens."""

from maskery.nn.text import PAD, START, UNKNOWN, Words, words_of


def test_words() -> None:
    assert words_of(["Is it red?", "is the dog's red"], 3) == ("is", "red", "?")
    words = Words(["is", "it"])
    assert words(["Is it RED?", ""], 6).tolist() == [[START, 3, 4, UNKNOWN, UNKNOWN, PAD], [START, *[PAD] * 5]]
    assert words(["is it is it is it"], 3).tolist() == [[START, 3, 4]]
    assert words.longest(["is it", "is"]) == 3
