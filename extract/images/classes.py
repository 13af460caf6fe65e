"""Which output of the teacher shows each class of the dataset.

Found in this order: a class map; the names that a head of one's own gives its outputs, and then by nothing else; names
that the teacher's label set knows (WordNet ids, or the words of their classes); as many classes as outputs, in order.
Anything else is refused, because a wrong guess would be a wrong map everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from timm.data import ImageNetInfo, infer_imagenet_subset

from extract.errors import ImagesError

IMAGENET_1K_CLASSES = 1000
_NOT_NEEDED = "none: these maps need none, so top-1 is not counted"
_ROW = re.compile(r'("(?P<quoted>([^"]|"")+)"|(?P<name>.*\S))\s*,\s*(?P<output>\d{1,9})', re.ASCII)


class TeacherClasses(NamedTuple):
    """`outputs`: the teacher's output for each of the K classes, none where the maps need no classes; and how found."""

    outputs: tuple[int, ...]
    how: str


def match_classes(
    class_names: Sequence[str],
    outputs: int,
    class_map: Path | None = None,
    *,
    output_names: Sequence[str] = (),
    needed: bool = True,
) -> TeacherClasses:
    """Match K names to a teacher of so many outputs; `needed` is False for maps that are the same for every label.

    `output_names`: those of the teacher's outputs, where a head of one's own names them. `class_map`: a text file, line
    number = output, or rows `name,output`; it may name more than the dataset has.
    Raises ImagesError for a class map that does not fit, for a name of two classes, and where nothing matches.
    """
    if not outputs:
        return TeacherClasses((), "none: the teacher knows no classes")
    if class_map is not None:
        return TeacherClasses(_by_map(class_names, outputs, class_map), f"by {class_map}")
    if output_names:
        return _by_head(class_names, output_names, needed=needed)
    label_set = infer_imagenet_subset({"num_classes": outputs})
    known = _names_of(label_set) if label_set else {}
    unknown = [name for name in class_names if name not in known and _plain(name) not in known]
    if label_set and not unknown:
        return TeacherClasses(tuple(_by_name(name, known) for name in class_names), f"by name, as {label_set} has them")
    if len(class_names) == outputs:
        return TeacherClasses(tuple(range(outputs)), "in order")
    if not needed:
        return TeacherClasses((), _NOT_NEEDED)
    raise _nothing_matches(class_names, outputs, label_set, unknown)


def describe_output(class_names: Sequence[str], output: int, outputs: int) -> str:
    """The words for an output in the label set that knows all of the dataset's class names; empty where none does."""
    label_set = infer_imagenet_subset({"num_classes": outputs})
    known = _names_of(label_set) if label_set else {}
    if not label_set or not all(name in known or _plain(name) in known for name in class_names):
        return ""
    return str(ImageNetInfo(label_set).index_to_description(output)).split(",")[0]


def _by_head(class_names: Sequence[str], output_names: Sequence[str], *, needed: bool) -> TeacherClasses:
    numbers = {name: output for output, name in enumerate(output_names)}
    unknown = [name for name in class_names if name not in numbers]
    if not unknown:
        return TeacherClasses(tuple(numbers[name] for name in class_names), "by name, as the head has them")
    if not needed:
        return TeacherClasses((), _NOT_NEEDED)
    raise ImagesError(
        f"classes: expected names of the head's {len(output_names)} classes ({_listed(output_names)}), found "
        f"{len(unknown)} others: {_listed(unknown)}; fit a head on these images, or say which output shows each class "
        "with --class-map FILE (rows `name,output`)"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def _nothing_matches(
    class_names: Sequence[str], outputs: int, label_set: str | None, unknown: list[str]
) -> ImagesError:
    if label_set:
        found = f"{len(class_names)} classes, of which it does not know {', '.join(map(repr, unknown[:3]))}"
        expected = (
            f"names of the teacher's {outputs} classes ({label_set}: WordNet ids, or words: {_example(label_set)!r})"
        )
    else:
        found, expected = f"{len(class_names)} classes", f"{outputs} classes, one for each output of the teacher"
    return ImagesError(
        f"classes: expected {expected}, found {found}; say which output shows each class with --class-map FILE "
        "(rows `name,output`), fit a head of your own (`tokenmix fit-head`), or give a --checkpoint whose head has the "
        "dataset's own classes, with --num-classes"
    )


def _by_map(class_names: Sequence[str], outputs: int, path: Path) -> tuple[int, ...]:
    numbers = _read_class_map(path, class_names)
    missing = [name for name in class_names if name not in numbers]
    if missing:
        raise ImagesError(
            f"{path}: expected every class of the dataset, found {len(missing)} missing: {_listed(missing)}; "
            f"{_why_missing(missing, numbers)}"
        )
    beyond = next((name for name, output in numbers.items() if output >= outputs), None)
    if beyond is not None:
        raise ImagesError(
            f"{path}: expected outputs below {outputs}, as many as the teacher has, found {numbers[beyond]} for "
            f"{beyond!r}; give the class map of this teacher"
        )
    return tuple(numbers[name] for name in class_names)


def _why_missing(missing: Sequence[str], numbers: Mapping[str, int]) -> str:
    """What to do about classes that a map lacks, by what it has in their place."""
    alike = {unicodedata.normalize("NFC", name): name for name in numbers}
    if twin := next((alike[key] for name in missing if (key := unicodedata.normalize("NFC", name)) in alike), None):
        return f"{twin!a} of the map looks the same, in other characters: copy the names from the folders"
    odd = next((name for name in numbers if not _ROW.fullmatch(name)), None)
    if odd is not None and any(_ROW.fullmatch(name) for name in numbers):
        return f"{odd!r} is no row of a name and a number, so every line as a whole was taken for a name: mend it"
    return "add them, as the folders are named"


def _read_class_map(path: Path, class_names: Sequence[str]) -> dict[str, int]:
    """Name -> output. Rows `name,output` if all lines are such; else the number of the line counts."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImagesError(f"{path}: expected a text in UTF-8, found {error}; save it as such") from error
    except OSError as error:
        raise ImagesError(f"{path}: expected a class map, one class per line, found {error.strerror}") from error
    lines = [line.strip() for line in text.rstrip().split("\n")]
    rows = [_ROW.fullmatch(line) for line in lines]
    if all(rows):
        pairs = [(_row_name(row), int(row["output"])) for row in rows if row]
    else:
        pairs = [(line, number) for number, line in enumerate(lines)]
    seen: dict[str, int] = {}
    for number, (name, output) in enumerate(pairs, 1):
        if not name or name in seen or (name.startswith("#") and name not in class_names):
            found = "an empty one" if not name else f"{name!r} again" if name in seen else f"{name!r}"
            raise ImagesError(
                f"{path}: line {number}: expected another class on every line, and no comments, found {found}; a "
                "line's number, from 0, is the output, unless all lines are rows `name,output`"
            )
        seen[name] = output
    return seen


def _row_name(row: re.Match[str]) -> str:
    """As programs write names with commas: in quotes, which are doubled inside."""
    return row["name"] or row["quoted"].replace('""', '"')


def _by_name(name: str, known: Mapping[str, tuple[int, ...]]) -> int:
    found = known.get(name) or known[_plain(name)]
    if len(found) > 1:
        raise ImagesError(
            f"class {name!r}: expected the name of one class, found one of outputs {', '.join(map(str, found))}; name "
            "the folder by its WordNet id, or give a --class-map"
        )
    return found[0]


@cache
def _names_of(label_set: str) -> Mapping[str, tuple[int, ...]]:
    """Every name that a class goes by -> its outputs; a name that is one class's first is not another's later one."""
    info = ImageNetInfo(label_set)
    ranked: dict[str, dict[int, list[int]]] = {}
    for output, (identifier, words) in enumerate(zip(info.label_names(), info.label_descriptions(), strict=True)):
        for rank, name in _names(identifier, words):
            ranked.setdefault(name, {}).setdefault(rank, []).append(output)
    return {name: tuple(dict.fromkeys(by_rank[min(by_rank)])) for name, by_rank in ranked.items()}


def _names(identifier: str, words: str) -> Iterator[tuple[int, str]]:
    """`n01440764`, `tench, Tinca tinca` -> the id, all words, the first of them and the others, the surest first."""
    yield 0, identifier
    yield 1, _plain(words)
    for place, word in enumerate(words.split(",")):
        yield 2 + min(place, 1), _plain(word)


def _plain(name: str) -> str:
    """As folders and label sets spell a name alike: no capitals, and blanks for underscores and hyphens."""
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))


def _example(label_set: str) -> str:
    return str(ImageNetInfo(label_set).label_descriptions()[0].split(",")[0])
