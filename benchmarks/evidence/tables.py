"""The tables of docs/evidence.md and docs/own-data.md, made from benchmarks/results/*.json.

python -m benchmarks.evidence.tables      # rewrites what stands between <!-- table: NAME --> and <!-- /table -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.evidence.scores import BARE

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"
PAGES: Final = ("docs/evidence.md", "docs/own-data.md")
TEACHERS: Final = ("efficientnet_lite0", "efficientnet_lite2")
TARGETS: Final = {
    "centred Gaussian": "a centred Gaussian, no map",
    "label, logit": "`label`, the paper's evidence",
    "label, contrast": "`label`, `contrast`",
    "cam, logit": "`cam`, `logit`",
    "cam, contrast": "**`cam` as it comes** (`contrast`)",
    "cam, scales 1,2, logit": "`cam --scales 1,2`, `logit`",
    "cam, scales 1,2, contrast": "**`cam --scales 1,2`** (`contrast`)",
    "ideal 28 x 28": "the mask itself, 28 x 28",
    "ideal 18 x 18": "18 x 18",
    "ideal 12 x 12": "12 x 12",
}
SETS: Final = {"cut-outs": "cut-outs, EfficientNet-lite0", "digits": "digits, the demo's"}


def ratio(found: Mapping[str, Any], name: str = "ratio_to_area") -> str:
    """With its interval."""
    low, high = found["interval"]
    return f"{found[name]:.3f} [{low:.3f}, {high:.3f}]"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def targets(result: Mapping[str, Any]) -> str:
    """Of both teachers."""
    found = [result["teachers"][teacher]["targets"] for teacher in TEACHERS]
    rows = [
        [
            words,
            *(ratio(of[name]) for of in found),
            ", ".join(f"{of[name]['without_objects']['ratio_to_area']:.2f}" for of in found),
            ", ".join(f"{of[name]['worse_than_area']:.0%}" for of in found),
            ", ".join(f"{of[name]['mass_inside']:.2f}" for of in found),
        ]
        for name, words in TARGETS.items()
    ]
    columns = ["lite0, 224 px", "lite2, 260 px", "without objects behind", "worse than area", "mass on the object"]
    return markdown(["evidence", *columns], rows)


def large(result: Mapping[str, Any]) -> str:
    """Of lite0, objects that fill the image."""
    found = result["teachers"][TEACHERS[0]]["targets"]
    words = {
        "centred Gaussian": "a centred Gaussian, no map",
        "label, logit": "`label`, the paper's evidence",
        "cam, fused only, contrast": "`cam --no-spread --rivals 0`",
        "cam, rivals 0, contrast": "`cam --rivals 0`",
        "cam, contrast": "`cam` as it comes",
    }
    rows = [[text, ratio(found[name]), f"{found[name]['without_objects']['ratio_to_area']:.2f}"]
            for name, text in words.items()]  # fmt: skip
    return markdown(["evidence", "lite0, 224 px", "without objects behind"], rows)


def photographs(result: Mapping[str, Any]) -> str:
    """Of lite0, by the photograph behind the object, the easiest first."""
    found = result["teachers"][TEACHERS[0]]["by_background"]
    order = sorted(found, key=lambda name: float(found[name]["cam, contrast"]))
    names = [Path(name).stem.replace("_", " ") + ("" if name in BARE else " *") for name in order]
    kinds = {"`cam`": "cam, contrast", "two scales": "cam, scales 1,2, contrast"}
    return markdown(
        ["photograph", *names],
        [[words, *(f"{found[name][kind]:.2f}" for name in order)] for words, kind in kinds.items()],
    )


def views(result: Mapping[str, Any]) -> str:
    """By what the teacher sees of the image."""
    words = {
        "cam, contrast": "`cam`, central square at 224 px, as it comes",
        "cam, scales 1,2, contrast": "`cam --scales 1,2`",
        **{f"cam, whole image at {px} px, contrast": f"`cam`, whole image at {px} px" for px in (224, 320, 448)},
        "cam, whole image at 224 px, scales 1,2, contrast": "`cam --scales 1,2`, whole image at 224 px",
    }
    rows = [
        [text, ratio(of, "all"), f"{of['in_view']:.3f}", f"{of['out_of_view']:.3f}"]
        for name, text in words.items()
        for of in [result["targets"][name]]
    ]
    return markdown(["`contrast` of", "all", "object in the central view", "object not, or only in part"], rows)


def transformer(result: Mapping[str, Any]) -> str:
    """`contrast` of all maps but the class token's, whose evidence is the paper's, and those of the mask."""
    rows = []
    for name, found in result["targets"].items():
        kind, _, form = name.rpartition(", ")
        paper = kind.startswith("label")
        if name.startswith("ideal"):
            rows.append([f"the mask itself, {name.removeprefix('ideal ')}", ratio(found)])
        elif (form == "logit") == paper and kind:
            rows.append([f"{kind}, {form}" if paper else kind, ratio(found)])
    return markdown(["evidence", "error"], rows)


def variants(result: Mapping[str, Any]) -> str:
    """All of them; a part's name on its first line."""
    rows, before = [], ""
    for name, forms in result["choices"].items():
        part, _, choice = name.partition(": ")
        if part != "area":
            cells = [ratio(forms[form]) if form in forms else "" for form in ("fused", "spread")]
            rows.append([part if part != before else "", choice, *cells, f"{forms['spread']['without_objects']:.3f}"])
            before = part
    return markdown(["part", "choice", "as fused", "spread", "spread, without objects behind"], rows)


def own_classes(result: Mapping[str, Any]) -> str:
    """Both heads."""
    rows = []
    for images, words in SETS.items():
        for kind, found in result["sets"][images].items():
            own, fitted = (found["ratio_to_area"][head] for head in ("its own head", "fitted head"))
            low, high = found["interval"]
            difference = f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            rows.append([words, f"`{kind}`", f"{own:.3f}", f"{fitted:.3f}", difference])
            words = ""
    return markdown(["images, teacher", "kind", "the teacher's own head", "the fitted head", "difference"], rows)


TABLES: Final[Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]]] = {
    "targets": ("evidence", targets),
    "large": ("evidence_large", large),
    "photographs": ("evidence", photographs),
    "views": ("evidence_view", views),
    "transformer": ("transformer", transformer),
    "variants": ("evidence_variants", variants),
    "own classes": ("own_classes", own_classes),
}


def filled(page: str) -> str:
    """The page's text with its tables as the results have them. Raises KeyError for a name that is none, ValueError
    for a mark without its end.
    """

    def table(found: re.Match[str]) -> str:
        script, make = TABLES[found[1]]
        result = json.loads((RESULTS / f"{script}.json").read_text("utf-8"))
        return f"<!-- table: {found[1]} -->\n{make(result)}<!-- /table -->"

    text, count = re.subn(r"<!-- table: ([^>]*) -->\n.*?<!-- /table -->", table, page, flags=re.DOTALL)
    if count != page.count("<!-- table"):
        raise ValueError(f"expected <!-- table: NAME --> and <!-- /table --> in turn, found {count} such pairs")
    return text


def main() -> None:
    """Rewrite the pages."""
    for page in PAGES:
        path = ROOT / page
        path.write_text(filled(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
