"""Which output of the teacher shows each class: by map, by name, in order, or refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timm.data import ImageNetInfo

from extract.errors import ImagesError
from extract.images.classes import match_classes

IDS = ImageNetInfo("imagenet-1k").label_names()
WORDS = ImageNetInfo("imagenet-1k").label_descriptions()


@given(st.lists(st.integers(0, 999), min_size=1, max_size=100, unique=True))
def test_any_subset_by_wordnet_id(outputs: list[int]) -> None:
    assert match_classes([IDS[output] for output in outputs], 1000).outputs == tuple(outputs)


def test_imagenette_by_the_names_that_people_give_its_folders() -> None:
    names = ["tench", "English_springer", "cassette player", "chain saw", "church", "French-horn", "garbage truck"]
    assert match_classes(names, 1000).outputs == (0, 217, 482, 491, 497, 566, 569)


def test_every_whole_description_is_its_class_or_refused_as_one_of_two() -> None:
    twice = {words for words in WORDS if WORDS.count(words) > 1}
    assert twice == {"crane", "maillot"} or twice == {"crane"}
    for output, words in enumerate(WORDS):
        if words not in twice:
            assert match_classes([words], 1000).outputs == (output,), words


def test_a_first_word_beats_another_classs_later_word() -> None:
    """`panther` is a later word of leopard and of jaguar: neither is meant more than the other."""
    assert match_classes(["jaguar"], 1000).outputs == (290,)
    with pytest.raises(ImagesError, match=r"'panther'.*one of outputs 290, 286|'panther'.*one of outputs 286, 290"):
        match_classes(["panther"], 1000)


def test_a_name_of_two_classes_is_refused() -> None:
    with pytest.raises(ImagesError, match=r"'crane'.*one of outputs 134, 517.*WordNet id"):
        match_classes(["tench", "crane"], 1000)


def test_a_thousand_names_in_alphabetical_order_are_not_taken_in_order() -> None:
    names = sorted(words for words in WORDS if WORDS.count(words) == 1)
    found = match_classes(names, 1000)
    assert found.outputs == tuple(WORDS.index(name) for name in names)
    assert found.how == "by name, as imagenet-1k has them"


def test_larger_label_sets() -> None:
    assert match_classes(["n01440764"], 21843).how == "by name, as imagenet-21k-goog has them"
    assert ImageNetInfo("imagenet-12k").label_names()[match_classes(["n02123045"], 11821).outputs[0]] == "n02123045"


def test_as_many_classes_as_outputs_are_taken_in_order() -> None:
    assert match_classes(["a", "b", "c"], 3) == ((0, 1, 2), "in order")
    assert match_classes([str(i) for i in range(1000)], 1000).outputs == tuple(range(1000))


def test_anything_else_is_refused_with_the_two_ways_out() -> None:
    with pytest.raises(ImagesError, match=r"imagenet-1k: .*'tench'.*'my cat', 'dogs'.*--class-map.*--checkpoint"):
        match_classes(["my cat", "tench", "dogs"], 1000)
    with pytest.raises(ImagesError, match="expected 7 classes, one for each output of the teacher, found 3 classes"):
        match_classes(["a", "b", "c"], 7)


def test_maps_that_need_no_classes() -> None:
    assert match_classes(["a", "b"], 7, needed=False).outputs == ()
    assert match_classes(["a", "b"], 2, needed=False).outputs == (0, 1)
    assert match_classes(["a", "b"], 0).outputs == ()


@pytest.mark.parametrize(
    "text", ["x\nb\na\ny\n", "\ufeffa, 2\nb,1\nunused , 0\n", "b,1\r\na,2\r\n", "x\nb\na\n\n \n", '"b",1\n"a" , 2\n']
)
def test_by_class_map(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "map.txt").write_bytes(text.encode())
    assert match_classes(["a", "b"], 4, path) == ((2, 1), f"by {path}")


def test_names_with_commas_are_no_rows(tmp_path: Path) -> None:
    (path := tmp_path / "map.txt").write_text("tench, Tinca tinca\ncrane, 2\n")
    assert match_classes(["crane, 2"], 4, path).outputs == (1,)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a\n\nb\n", "line 2: .*found an empty one"),
        ("", "line 1: .*found an empty one"),
        ("a\na\nb\n", "line 2: .*found 'a' again"),
        ("a,1\na,2\nb,3\n", "line 2: .*found 'a' again"),
        ("# mine\na\nb\n", "line 1: .*no comments, found '# mine'"),
        ("class,output\na,0\nb,1\n", "'class,output' is no row of a name and a number"),
        ("a,0\nb,-1\n", "'b,-1' is no row"),
        (f"a,0\nb,{'9' * 5000}\n", "is no row"),
        ("a\n", "1 missing: 'b'"),
        ("a,0\nb,4\n", "outputs below 4.*found 4 for 'b'"),
    ],
)
def test_a_class_map_that_does_not_fit(tmp_path: Path, text: str, match: str) -> None:
    (path := tmp_path / "map.txt").write_text(text)
    with pytest.raises(ImagesError, match=match) as caught:
        match_classes(["a", "b"], 4, path)
    assert str(path) in str(caught.value)


def test_a_class_map_has_names_with_commas_quotes_and_number_signs(tmp_path: Path) -> None:
    (path := tmp_path / "map.txt").write_text('"crane, bird",1\ncrane, machine,2\n"a ""b""",0\n#4,3\n')
    assert match_classes(["crane, machine", "crane, bird", 'a "b"', "#4"], 4, path).outputs == (2, 1, 0, 3)


def test_a_class_map_whose_names_only_look_the_same_is_told_so(tmp_path: Path) -> None:
    """macOS writes an accent as a character of its own."""
    (path := tmp_path / "map.txt").write_text("caf\u00e9,1\n", encoding="utf-8")
    with pytest.raises(ImagesError, match=r"'caf\\xe9' of the map looks the same, in other characters"):
        match_classes(["cafe\u0301"], 4, path)


def test_a_class_map_that_cannot_be_read(tmp_path: Path) -> None:
    (path := tmp_path / "map.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ImagesError, match="a text in UTF-8"):
        match_classes(["a"], 4, path)
    with pytest.raises(ImagesError, match="No such file"):
        match_classes(["a"], 4, tmp_path / "none.txt")
