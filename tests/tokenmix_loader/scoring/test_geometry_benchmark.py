"""The figures that docs quote, on a few images."""

from benchmarks.geometry import format_table, run


def test_exact_geometry_beats_the_published_one() -> None:
    result = run(pairs=40, landmarks=10)
    for name, found in result["augmentations"].items():
        ratios = {target: row["ratio_to_area"] for target, row in found["targets"].items()}
        assert ratios["exact"] < 0.15
        assert ratios["exact"] <= ratios["exact, without bounds"] < ratios["published, unswapped"] < ratios["published"]
        assert found["landmarks_px"]["mean"] < 0.06
        assert found["landmarks_px"]["p99"] < 0.25
        assert f"{name}: {found['scores']} scores" in format_table(result)
