"""The generated images, their masks and the weights that were trained on them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recipes.context_digits import scene
from recipes.context_digits.generate import generate, main
from recipes.context_digits.train_teacher import accuracy, scenes

WEIGHTS = Path(scene.__file__).with_name("teacher.safetensors")
COUNT = 40


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def decoded(path: Path) -> Image.Image:
    image = Image.open(path)
    image.load()  # and close the file
    return image


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "root"
    generate(folder, COUNT, seed=3, split="test")
    return folder


def test_layout_and_counts(root: Path) -> None:
    images = sorted(path.relative_to(root / "images").with_suffix("") for path in root.glob("images/*/*.jpg"))
    masks = sorted(path.relative_to(root / "masks").with_suffix("") for path in root.glob("masks/*/*.png"))
    assert images == masks
    assert Counter(path.parent.name for path in images) == {str(label): COUNT // 10 for label in range(10)}
    assert len(contents(root)) == 2 * COUNT + 1


def test_sizes_and_aspects_vary(root: Path) -> None:
    sizes = [decoded(path).size for path in sorted(root.glob("images/*/*.jpg"))]
    assert sizes == [decoded(path).size for path in sorted(root.glob("masks/*/*.png"))]
    shapes = Counter((width > height) - (width < height) for width, height in sizes)
    assert min(shapes[-1], shapes[0], shapes[1]) >= 4
    assert min(map(min, sizes)) >= scene.SHORT_SIDE_PX[0]
    assert len({min(size) for size in sizes}) > COUNT // 2


def test_process_count_does_not_change_a_byte(root: Path, tmp_path: Path) -> None:
    generate(tmp_path / "two", COUNT, seed=3, split="test", processes=2)
    assert contents(tmp_path / "two") == contents(root)


def test_interrupted_call_is_finished(root: Path, tmp_path: Path) -> None:
    whole = contents(root)
    for name in sorted(whole)[::2]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole[name])
    (tmp_path / "context-digits.json").write_bytes(whole["context-digits.json"])
    generate(tmp_path, COUNT, seed=3, split="test")
    assert contents(tmp_path) == whole


def test_other_settings_and_other_files_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=r"expected .*'seed': 4.*found .*'seed': 3"):
        generate(root, COUNT, seed=4, split="test")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="expected an empty folder"):
        generate(tmp_path, COUNT, seed=3, split="test")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_command_line(root: Path, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "new"), "--count", str(COUNT), "--seed", "3", "--split", "test"]
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    assert contents(tmp_path / "new") == contents(root)
    refused = CliRunner().invoke(main, [*arguments, "--seed", "4"])
    assert refused.exit_code == 1
    assert "name another folder" in refused.output


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(scene.SPLITS), st.integers(0, 10**6))
def test_mask_is_exactly_where_the_digit_is(seed: int, split: str, index: int) -> None:
    drawn = scene.render(seed, split, index)
    image, background = (np.asarray(part, np.int16) for part in (drawn.image, drawn.background))
    opacity, change = np.asarray(drawn.mask), np.abs(image - background).sum(2)
    assert drawn.label == index % 10
    assert not change[opacity == 0].any()
    assert (change[opacity == 255] > 0).mean() > 0.85
    assert np.ptp(image[opacity == 255], axis=0).max() == 0  # one colour
    box = drawn.mask.getbbox()
    assert box is not None
    assert 0.1 <= max(box[2] - box[0], box[3] - box[1]) / min(drawn.image.size) <= 0.9


def test_jpeg_shows_what_was_drawn(root: Path) -> None:
    for index in range(5):
        drawn = scene.render(3, "test", index)
        name = f"{drawn.label}/test-{index:05d}"
        jpeg = np.asarray(decoded(root / f"images/{name}.jpg"), np.int16)
        assert np.abs(jpeg - np.asarray(drawn.image)).mean() < 4
        np.testing.assert_array_equal(decoded(root / f"masks/{name}.png"), drawn.mask)


def test_digits_of_the_test_split_are_held_out() -> None:
    train, test = scene.digit_rows("train"), scene.digit_rows("test")
    assert set(train).isdisjoint(test)
    assert len(train) + len(test) == 1797
    assert 0.19 < len(test) / 1797 < 0.21
    drawn = {
        split: {digit.tobytes() for digits in scene.sources(split).digits for digit in digits} for split in scene.SPLITS
    }
    assert drawn["train"].isdisjoint(drawn["test"])


def test_every_photograph_is_credited() -> None:
    readme = Path(scene.__file__).with_name("README.md").read_text()
    assert [name for name in scene.PHOTOGRAPHS if f"`{name}`" not in readme] == []


def test_settings_are_recorded(root: Path) -> None:
    recorded = json.loads((root / "context-digits.json").read_text())
    assert recorded == {"version": 1, "seed": 3, "split": "test", "count": COUNT}


def test_teacher_recognises_unseen_digits() -> None:
    import timm
    from safetensors.torch import load_file

    model = timm.create_model("test_resnet", num_classes=10, output_stride=8)
    model.load_state_dict(load_file(WEIGHTS), strict=True)
    assert accuracy(model, scenes(seed=11, split="test", count=200, side_px=96)) >= 0.93
