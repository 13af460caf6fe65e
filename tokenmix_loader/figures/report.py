"""A page about a whole store, for people: one HTML file with everything in it, which asks no network for anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tokenmix_loader.figures.accuracy import Accuracy, accuracy_of, predictions_of
from tokenmix_loader.figures.charts import heat_map, histogram
from tokenmix_loader.figures.facts import Facts, facts_of
from tokenmix_loader.figures.gallery import Group, readable, sort_samples
from tokenmix_loader.figures.page_file import MARK, page_path, write_page
from tokenmix_loader.figures.pairs import Score, mix_pairs
from tokenmix_loader.figures.samples import Join, Samples, draw_samples, join
from tokenmix_loader.figures.thumbnails import data_uri
from tokenmix_loader.join.original_images import Images
from tokenmix_loader.scoring.evidence import AUTO, EVIDENCE, evidence_for
from tokenmix_loader.shapes import require_choice, require_count
from tokenmix_loader.store_access import StoredPredictions

MIXES = 6
MANY_EMPTY = 0.05  # share of the maps above which the page warns
STRONG_CENTRE = 0.6  # share of the evidence in the central quarter above which it warns
FIRST_CLASSES, MOST_CLASSES = 12, 2000  # listed at once, and in all
MANY_CLASSES = 20  # from here on there is a histogram of them
MASK = 4  # of the panels; its flat colours want no loss
PANELS = ("image a", "where a is seen", "image b", "where b is seen", "mask: a orange, b blue", "mixed image")


class Mix(NamedTuple):
    """A mixed pair: addresses of its pictures with their titles, and both labels' scores."""

    panels: list[tuple[str, str]]
    scores: tuple[Score, Score]


def write_report(
    images: Images,
    store: str | Path,
    output: str | Path,
    *,
    samples: int = 500,
    seed: int = 0,
    evidence: str = AUTO,
    same_files: bool = True,
) -> Path:
    """Write the page and return its path: `output` if it ends in .html, else index.html in a folder of that name.

    The store need not be finished. `samples` images are drawn evenly by `seed`; no more maps than theirs and those of a
    few mixes are read. `evidence` as of `read_tokens`, `same_files` as of MapDataset.

    Raises StoreMismatch where the images are not those that the maps were made from, StoreError where the store cannot
    be read or has no map yet, OSError where the page cannot be written, ValueError for other arguments.
    """
    require_choice("write_report: evidence", evidence, (AUTO, *EVIDENCE))
    require_count("write_report: samples", samples)
    target = page_path(output)
    joined = join(images, store, same_files=same_files)
    chosen = evidence_for(joined.maps.kind, evidence)
    drawn = draw_samples(joined, samples, chosen, np.random.default_rng(seed))
    groups = sort_samples(joined, drawn)
    stored = predictions_of(joined.maps)
    facts, accuracy = facts_of(store, joined.maps), accuracy_of(stored)
    write_page(
        target,
        _template().render(
            mark=MARK,
            facts=facts,
            header=facts.header,
            accuracy=accuracy,
            accuracy_chart=_accuracy_chart(accuracy),
            first_classes=FIRST_CLASSES,
            most_classes=MOST_CLASSES,
            unreadable=stored.unreadable,
            groups=groups,
            lost=[tile for group in groups for tile in group.tiles if tile.error],
            drawn=len(drawn.image),
            seed=seed,
            evidence=chosen,
            charts=_charts(drawn),
            centre=_centre(drawn),
            average=_average_chart(drawn),
            mixes=_mixes(joined, groups, drawn, seed, evidence),
            attention=list(_attention(facts, accuracy, stored, drawn)),
        ),
    )
    return target


def _template() -> Any:
    folder = FileSystemLoader(Path(__file__).parent / "template")
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "count": "{:,}".format, "duration": _duration}
    return environment.get_template("page.html")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _attention(facts: Facts, accuracy: Accuracy, stored: StoredPredictions, drawn: Samples) -> Iterator[str]:
    """What is unusual, in sentences."""
    if not facts.complete:
        yield (
            f"The store is not finished: {facts.shards:,} of {facts.header.sharding.shards:,} shards are in place. "
            "This page is about those; training needs all of them."
        )
    yield from accuracy.warnings
    if stored.unreadable:
        yield f"{stored.unreadable:,} images could not be read and have no map."
    empty = float((drawn.mass <= 0).mean())
    if empty > MANY_EMPTY:
        yield f"{_percent(empty)} of the sampled maps are empty; those images are scored by area."
    if _centre(drawn) > STRONG_CENTRE:
        yield f"{_percent(_centre(drawn))} of the evidence lies in the central quarter of the view."


def _centre(drawn: Samples) -> float:
    """Mean share of a map's evidence in the central quarter; NaN where no map has evidence."""
    seen = drawn.central[drawn.mass > 0]
    return float(seen.mean()) if len(seen) else float("nan")


def _charts(drawn: Samples) -> list[dict[str, Any]]:
    central = drawn.central[drawn.mass > 0]
    listed = (
        (
            "Mass", drawn.mass, "mean evidence of a token", None,
            "One hill is normal. Worry about a spike at zero: empty maps.",
        ),
        (
            "Peak", drawn.peak, "largest evidence of a token", None,
            "Spread out is normal. Worry when all maps have the same peak: they were cut off, or are constant.",
        ),
        (
            "Centre", central, "share in the central quarter", 0.25,
            "Dashed: evenly spread evidence. Worry when nearly all maps lie far right: the teacher may look at the "
            "middle whatever is there.",
        ),
    )  # fmt: skip
    return [
        {
            "title": title,
            "look": look,
            "chart": histogram(values, what, "maps", _in_words(values, what), mark=mark, unit=mark is not None),
        }
        for title, values, what, mark, look in listed
        if len(values)
    ]


def _in_words(values: Any, what: str) -> str:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return (
        f"Histogram of {len(values)} maps, {what}: the median is {middle:.3g}, "
        f"nine of ten lie between {low:.3g} and {high:.3g}."
    )


def _average_chart(drawn: Samples) -> Any:
    """Times the evidence that an even spread would give."""
    times = drawn.average * drawn.average.size
    alt = f"The average map: its brightest token has {times.max():.1f} times the evidence of an even spread."
    return heat_map(times, "times an even spread", alt)


def _accuracy_chart(accuracy: Accuracy) -> Any:
    shares = np.array([line.share for line in accuracy.classes])
    if len(shares) < MANY_CLASSES:
        return None
    words = f"Histogram of {len(shares)} classes by the share of their images that the teacher gets right."
    return histogram(shares, "share of right predictions", "classes", words, mark=accuracy.top1, unit=True)


def _mixes(joined: Join, groups: list[Group], drawn: Samples, seed: int, evidence: str) -> list[Mix]:
    usable = readable(groups, joined, drawn)
    found = mix_pairs(joined.images, joined.maps, joined.rows, usable, MIXES, seed, evidence)
    return [Mix([(title, data_uri(pair.panels[at], exact=at == MASK)) for at, title in enumerate(PANELS)], pair.scores)
            for pair in found]  # fmt: skip
