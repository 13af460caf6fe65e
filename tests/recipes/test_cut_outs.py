"""The generated images and masks; on synthetic stamps everywhere, on Debian's where they are installed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from recipes.context_digits.scene import PHOTOGRAPHS
from recipes.cut_outs import stamps as stamps_module
from recipes.cut_outs.choose_labels import SIDE_PX, lite_teacher, on_grey
from recipes.cut_outs.generate import class_folders, generate, main
from recipes.cut_outs.scene import Look, objects, photographs, render
from recipes.cut_outs.stamps import listed_stamps, read_cut_out, stamp_folder

COUNT = 12
OBJECTS = {"ball": ([852], 852), "box/red": ([637, 1], 637), "box/unknown": ([5], None), "cat": ([281, 282], 282)}


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def decoded(path: Path) -> Image.Image:
    image = Image.open(path)
    image.load()  # and close the file
    return image


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Three stamps, each an ellipse with an empty border and a soft edge."""
    folder = tmp_path_factory.mktemp("stamps")
    rng = np.random.default_rng(0)
    for number, name in enumerate(OBJECTS):
        height, width = 60 + 20 * number, 90
        y, x = np.mgrid[-1.2 : 1.2 : height * 1j, -1.2 : 1.2 : width * 1j]
        alpha = np.clip((1 - np.hypot(x, y)) * 10, 0, 1) * 255
        pixels = np.dstack([rng.integers(0, 256, (height, width, 3)), alpha]).astype(np.uint8)
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels, "RGBA").save(folder / f"{name}.png")
    document = {"stamps": {name: {"may_mean": may, "label": label} for name, (may, label) in OBJECTS.items()}}
    (folder / "objects.json").write_text(json.dumps(document))
    return Look(folder, folder / "objects.json")


@pytest.fixture(scope="module")
def root(look: Look, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut-outs") / "root"
    generate(folder, COUNT, seed=3, split="test", look=look)
    return folder


def test_layout_and_counts(root: Path) -> None:
    images = sorted(path.relative_to(root / "images").with_suffix("") for path in root.glob("images/*/*.jpg"))
    masks = sorted(path.relative_to(root / "masks").with_suffix("") for path in root.glob("masks/*/*.png"))
    assert images == masks
    # tennis ball, mailbox, tiger cat; the stamp without a label is not drawn
    expected = {"n04409515": COUNT // 3, "n03710193": COUNT // 3, "n02123159": COUNT // 3}
    assert Counter(path.parent.name for path in images) == expected
    assert len(contents(root)) == 2 * COUNT + 1


def test_folders_by_index(look: Look, root: Path, tmp_path: Path) -> None:
    paths = generate(tmp_path, 3, seed=3, split="test", look=look, naming="index")
    assert [path.parent.name for path in paths] == ["0852", "0637", "0282"]
    assert paths[0].read_bytes() == (root / "images/n04409515/test-00000.jpg").read_bytes()
    with pytest.raises(ValueError, match="expected naming to be one of"):
        class_folders(look, "latin")


def test_process_count_does_not_change_a_byte(look: Look, root: Path, tmp_path: Path) -> None:
    generate(tmp_path / "two", COUNT, seed=3, split="test", look=look, processes=2)
    assert contents(tmp_path / "two") == contents(root)


def test_interrupted_call_is_finished(look: Look, root: Path, tmp_path: Path) -> None:
    whole = contents(root)
    for name in [*sorted(whole)[::2], "cut-outs.json"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole[name])
    generate(tmp_path, COUNT, seed=3, split="test", look=look)
    assert contents(tmp_path) == whole


def test_other_settings_and_other_files_are_refused(look: Look, root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=r"expected .*'seed': 4.*found .*'seed': 3"):
        generate(root, COUNT, seed=4, split="test", look=look)
    larger = Look(look.stamps, look.objects, object_share=(0.8, 0.9))
    with pytest.raises(FileExistsError, match=r"expected .*0\.9.*found .*0\.75"):
        generate(root, COUNT, seed=3, split="test", look=larger)
    fewer = tmp_path.with_suffix(".json")
    fewer.write_text(look.objects.read_text().replace("852", "853"))
    with pytest.raises(FileExistsError, match=r"expected .*'objects': .*found .*'objects': "):
        generate(root, COUNT, seed=3, split="test", look=Look(look.stamps, fewer))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="expected an empty folder"):
        generate(tmp_path, COUNT, seed=3, split="test", look=look)
    for count, split, message in [(0, "test", "count >= 1"), (1, "dev", "split to be one of")]:
        with pytest.raises(ValueError, match=message):
            generate(tmp_path / "new", count, seed=0, split=split, look=look)


@pytest.mark.parametrize(
    "fields", [{"object_share": (0.5, 1.1)}, {"object_share": (0, 1)}, {"short_side_px": (90, 80)}]
)
def test_impossible_ranges_are_refused(tmp_path: Path, fields: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="cut-outs: expected"):
        Look(tmp_path, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", range(40))
def test_mask_is_exactly_where_the_object_is(look: Look, index: int) -> None:
    drawn = render(look, 5, "train", index)
    image, background = (np.asarray(part, np.int16) for part in (drawn.image, drawn.background))
    opacity, change = np.asarray(drawn.mask), np.abs(image - background).sum(2)
    assert not change[opacity == 0].any()
    assert (change[opacity == 255] > 0).mean() > 0.95
    assert look.short_side_px[0] <= min(drawn.image.size) <= look.short_side_px[1]
    box = drawn.mask.getbbox()
    assert box is not None
    share = max((box[2] - box[0]) / drawn.image.width, (box[3] - box[1]) / drawn.image.height)
    assert look.object_share[0] - 0.03 <= share <= look.object_share[1] + 0.01


def test_splits_share_no_photograph() -> None:
    train, test = photographs("train"), photographs("test")
    assert set(train).isdisjoint(test)
    assert sorted(train + test) == sorted(PHOTOGRAPHS)
    assert min(len(train), len(test)) >= 5


def test_listed_objects_are_sound() -> None:
    """What objects.json says, whether the stamps are there or not."""
    stamps = listed_stamps()
    assert all(0 <= index < 1000 for stamp in stamps for index in stamp.may_mean)
    assert all(stamp.label is None or stamp.label in stamp.may_mean for stamp in stamps)
    assert len(objects()) >= 60
    assert len({stamp.label for stamp in objects()}) >= 50


def test_folder_of_the_stamps(look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUXPAINT_STAMPS", str(look.stamps))
    assert stamp_folder() == look.stamps
    assert stamp_folder(tmp_path) == tmp_path
    monkeypatch.delenv("TUXPAINT_STAMPS")
    monkeypatch.setattr(stamps_module, "DEFAULT_FOLDER", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"apt-get install .*apt-get download .*dpkg-deb -x.*TUXPAINT_STAMPS"):
        stamp_folder()
    with pytest.raises(FileNotFoundError, match="expected a stamp of tuxpaint-stamps-default"):
        read_cut_out(tmp_path, "cat")


def test_command_line_without_the_package(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, [str(tmp_path / "new"), "--stamps", str(tmp_path / "none")])
    assert refused.exit_code == 1
    assert "apt-get install tuxpaint-stamps-default" in refused.output
    assert not (tmp_path / "new").exists()


def test_object_alone_on_grey(look: Look) -> None:
    image = np.asarray(on_grey(read_cut_out(look.stamps, "ball")), np.int16)
    different = np.argwhere(np.abs(image - 128).sum(2) > 6)
    assert image.shape == (SIDE_PX, SIDE_PX, 3)
    np.testing.assert_allclose(different.mean(0), SIDE_PX / 2, atol=4)
    assert abs(np.ptp(different, axis=0).max() / SIDE_PX - 0.7) < 0.02


def test_weights_in_another_order_are_refused(tmp_path: Path) -> None:
    import timm
    import torch

    tensors = timm.create_model("test_resnet").state_dict()
    renamed = {f"old.{name}": tensor for name, tensor in tensors.items()}
    torch.save(renamed, tmp_path / "sound.pth")
    model = lite_teacher("test_resnet", tmp_path / "sound.pth")
    assert torch.equal(model.state_dict()["fc.weight"], tensors["fc.weight"])
    torch.save(dict(reversed(renamed.items())), tmp_path / "reversed.pth")
    with pytest.raises(ValueError, match="expected the tensors of test_resnet in its order"):
        lite_teacher("test_resnet", tmp_path / "reversed.pth")


def test_every_listed_stamp_can_be_drawn(tmp_path: Path) -> None:
    try:
        folder = stamp_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    stamps = objects()
    for stamp in listed_stamps():
        opacity = np.asarray(read_cut_out(folder, stamp.name).getchannel("A"))
        assert 0.05 < (opacity > 127).mean() < 0.99, stamp.name
    paths = generate(tmp_path / "new", len(stamps), seed=0, split="test", look=Look(folder))
    assert len({path.parent.name for path in paths}) == len({stamp.label for stamp in stamps})
    opaque = [np.asarray(decoded(mask)).mean() / 255 for mask in (tmp_path / "new/masks").glob("*/*.png")]
    assert 0.002 < min(opaque) < max(opaque) < 0.6
