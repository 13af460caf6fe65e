"""The commands as a user meets them: real runs on real photographs, and what each mistake says."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from recipes.context_digits.generate import generate
from store import MapStore
from tests.tokenmix_commands.conftest import QUICK, TEACHER, tokenmix
from tokenmix_commands.output.terminal import user_errors

ROOT = Path(__file__).parents[2]


def fails(result: Result, *parts: str, code: int = 1) -> None:
    assert result.exit_code == code, result.output
    for part in parts:
        assert part in result.output
    assert "Traceback" not in result.output


def test_extract_as_a_process(images: Path, tmp_path: Path) -> None:
    """Outside the test's interpreter, with decoding processes, without a terminal: plain progress lines."""
    job = ["extract", images, tmp_path / "maps", *TEACHER, "--num-classes", "10", "--workers", "2"]
    command = [sys.executable, "-m", "cli", *job]
    first = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "20/20 images" in first.stderr
    assert "top-1" in first.stderr
    assert "1 shards written, this worker's share is complete" in first.stdout
    again = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


def test_plan_writes_nothing_and_counts_right(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = tokenmix("plan", images, *QUICK)
    assert result.exit_code == 0, result.output
    assert "20 images" in result.output
    assert "shards    3 of 8 rows" in result.output
    assert list(tmp_path.iterdir()) == []


def test_plan_refuses_what_extract_would_refuse(images: Path) -> None:
    fails(
        tokenmix("plan", images, "--teacher", "resnet26", "--random-weights", "0"),
        "1000 classes",
        "found 10 classes",
        "--class-map",
    )


def test_verify(maps: Path, images: Path, tmp_path: Path) -> None:
    assert tokenmix("verify", maps, "--images", images).exit_code == 0
    generate(tmp_path, 20, seed=1, split="train")
    other = tmp_path / "images"
    fails(tokenmix("verify", maps, "--images", other), str(other), "dataset.digest", "20 are gone", "test-00000.jpg")


def test_verify_names_what_is_broken(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "maps"
    tokenmix("extract", images, store, *QUICK)
    shard = store / "shard-00001.h5"
    content = bytearray(shard.read_bytes())
    content[4096 + 3] ^= 1
    shard.write_bytes(content)
    fails(tokenmix("verify", store), "shard-00001.h5")
    (store / "shard-00002.h5").unlink()
    fails(tokenmix("verify", store), "shard-00001.h5", "shard-00002.h5")


def test_info(maps: Path) -> None:
    assert "20 images" in tokenmix("info", maps).output
    header = json.loads(tokenmix("info", maps, "--json").output)
    assert header["kind"] == "label"
    assert header["grid"] == [2, 2]
    assert header["shards_present"] == 3


def test_status(images: Path, tmp_path: Path) -> None:
    (broken := tmp_path / "images" / "0").mkdir(parents=True)
    for name in "123456789":
        (tmp_path / "images" / name).symlink_to(images / name)
    (broken / "torn.jpg").write_bytes(b"")
    tokenmix("extract", tmp_path / "images", tmp_path / "maps", *QUICK)
    assert "shards    3 of 3" in tokenmix("status", tmp_path / "maps").output
    assert "unreadable: '0/torn.jpg'" in tokenmix("status", tmp_path / "maps", "--errors", "--watch").output
    state = json.loads(tokenmix("status", tmp_path / "maps", "--json").output)
    assert (state["rows_done"], state["workers"], state["unreadable"]) == (19, [], None)


def test_submit_checks_first(maps: Path, images: Path, tmp_path: Path) -> None:
    script = tokenmix("submit", images, tmp_path / "new", *QUICK, "--tasks", "3", "--gpus", "1", "--dry-run").stdout
    assert "#SBATCH --array=0-2\n" in script
    assert f"extract {images} " in script
    assert not (tmp_path / "new").exists()
    fails(tokenmix("submit", images, tmp_path / "new", *QUICK, "--tasks", "4", "--dry-run"), "per shard", "found 3")
    fails(tokenmix("submit", images, maps, *QUICK, "--tasks", "1", "--crop-mode", "squash"), "preprocessing.crop_mode")
    fails(tokenmix("submit", tmp_path / "none", maps, *QUICK, "--tasks", "1"), "found nothing")
    fails(tokenmix("submit", images, maps, *QUICK, "--tasks", "1"), "found 0")


def test_show_writes_a_picture(maps: Path, images: Path, tmp_path: Path) -> None:
    result = tokenmix("show", maps, "--images", images, "-o", tmp_path / "out.png", "--pairs", 2)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 400
        assert len(picture.getcolors(1 << 24) or []) > 1000
    again = tokenmix("show", maps, "--images", images, "-o", tmp_path / "again.png", "--pairs", 2)
    assert again.exit_code == 0
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "again.png").read_bytes()


@pytest.mark.parametrize(("name", "found"), [("a.jpg", "JPEG"), ("a.WEBP", "WEBP"), ("a.tif", "TIFF")])
def test_show_writes_the_format_that_the_name_says(
    name: str, found: str, maps: Path, images: Path, tmp_path: Path
) -> None:
    assert tokenmix("show", maps, "--images", images, "-o", tmp_path / name, "--pairs", 1).exit_code == 0
    with Image.open(tmp_path / name) as picture:
        assert picture.format == found


@pytest.mark.parametrize(("name", "why"), [("out", "no ending"), ("out.txt", ".txt"), ("no/out.png", "no folder")])
def test_show_refuses_a_name_before_it_works(name: str, why: str, maps: Path, images: Path, tmp_path: Path) -> None:
    fails(tokenmix("show", maps, "--images", images, "-o", tmp_path / name), why, code=2)
    assert list(tmp_path.iterdir()) == []


def test_show_names_a_file_that_no_file_system_takes(maps: Path, images: Path, tmp_path: Path) -> None:
    fails(tokenmix("show", maps, "--images", images, "-o", tmp_path / f"{'x' * 300}.png"), "File name too long", code=1)


def test_report_writes_a_page(maps: Path, images: Path, tmp_path: Path) -> None:
    report = ("report", maps, "--images", images, "--samples", 5)
    for output, page in (("page.html", "page.html"), ("site", "site/index.html"), ("site", "site/index.html")):
        result = tokenmix(*report, "-o", tmp_path / output)
        assert result.exit_code == 0, result.output
        assert f"{tmp_path / page}: 0." in result.output
        assert (tmp_path / page).read_text("utf-8").count("its map over the photograph") == 5


def test_report_refuses_before_it_works(maps: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine")
    report = ("report", maps, "--images", images, "-o")
    fails(tokenmix(*report, tmp_path / "mine.html"), "expected nothing or an earlier report, found something else")
    fails(tokenmix(*report, tmp_path / "no" / "page.html"), "expected a folder", "found nothing")
    fails(tokenmix(*report, images / "site"), "expected a report outside of the images' folder")
    fails(tokenmix(*report, tmp_path / f"{'x' * 300}.html"), "File name too long")
    fails(tokenmix("report", maps, "-o", tmp_path / "a.html"), "--images", code=2)
    fails(tokenmix("report", maps, "--images", tmp_path / "none", "-o", tmp_path / "a.html"), "found nothing")
    fails(tokenmix("report", tmp_path, "--images", images, "-o", tmp_path / "a.html"), "not a store")
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.html"]
    assert not (images / "site").exists()


def test_report_without_its_packages(maps: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tokenmix_loader.figures.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = tokenmix("report", maps, "--images", images, "-o", tmp_path / "page.html")
    fails(result, "expected the package matplotlib, found none; pip install 'tokenmix-maps[figures]'")


@pytest.mark.parametrize("name", ["extract", "store", "tokenmix_loader", "tokenmix_commands"])
def test_a_module_of_the_users_own_that_is_called_like_ours(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("raise AssertionError('must not run')")
    command = [sys.executable, "-m", "cli", "info", "maps"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"expected the package `{name}` of tokenmix-maps beside {ROOT / 'cli.py'}" in done.stderr
    assert f"found {tmp_path / name}.py; run from another folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_image_that_is_broken_now_is_named(maps: Path, images: Path, tmp_path: Path) -> None:
    """In this process, and in one that decodes, whose traceback would be of no use."""
    broken = tmp_path / "images"
    shutil.copytree(images, broken)
    for photo in broken.glob("*/*"):
        photo.write_bytes(b"")
    shown = tokenmix("show", maps, "--images", broken, "-o", tmp_path / "out.png", "--copies")
    benched = tokenmix("bench", maps, "--images", broken, "--workers", 1, "--batch-size", 4)
    for result in (shown, benched):
        fails(
            result, "tokenmix: error: '", ".jpg': expected an image that can be decoded", "no image format that Pillow"
        )
        assert result.output.count("\n") == 1


def test_warnings_of_libraries_are_lines_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with user_errors():
            warnings.warn("as libraries do", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: as libraries do\n"


def test_bench_mixes_pairs(maps: Path, images: Path) -> None:
    for batch in (3, 1):
        fails(tokenmix("bench", maps, "--images", images, "--batch-size", batch), "--batch-size", code=2)


def test_show_refuses_other_images(maps: Path, tmp_path: Path) -> None:
    generate(tmp_path, 20, seed=1, split="train")
    result = tokenmix("show", maps, "--images", tmp_path / "images", "-o", tmp_path / "out.png")
    fails(result, "found none for 20", "train-00000.jpg")
    assert not (tmp_path / "out.png").exists()


def test_show_refuses_images_that_were_turned_since(maps: Path, images: Path, tmp_path: Path) -> None:
    turned = tmp_path / "images"
    shutil.copytree(images, turned)
    for photo in turned.glob("*/*"):
        with Image.open(photo) as upright:
            upright.resize((90, 200)).save(photo)
    show = ("show", maps, "--images", turned, "-o", tmp_path / "out.png")
    fails(tokenmix(*show), "of 20 files compared 20 are not those that its maps were made from", "--copies")
    fails(tokenmix(*show, "--copies"), "expected an image of", "found 90 x 200")
    assert not (tmp_path / "out.png").exists()


def test_reading_an_unfinished_store(images: Path, tmp_path: Path) -> None:
    tokenmix("extract", images, tmp_path / "maps", *QUICK)
    for shard in (0, 2):
        (tmp_path / "maps" / f"shard-{shard:05d}.h5").unlink()
    result = tokenmix("show", tmp_path / "maps", "--images", images, "-o", tmp_path / "out.png")
    fails(result, "expected 3 shards, found 1", "tokenmix extract")
    fails(tokenmix("verify", tmp_path / "maps"), "shard-00000.h5")
    assert "1 of 3 present" in tokenmix("info", tmp_path / "maps").output


@pytest.mark.parametrize(
    "command", [["verify"], ["info"], ["show", "--images", "x", "-o", "y.png"], ["bench", "--images", "x"]]
)
def test_no_store_there(command: Sequence[str], tmp_path: Path, images: Path) -> None:
    given = [images if part == "x" else part for part in command]
    fails(tokenmix(*given, tmp_path / "nowhere"), str(tmp_path / "nowhere"))


def test_extract_into_another_configuration(maps: Path, images: Path) -> None:
    fails(
        tokenmix("extract", images, maps, *QUICK, "--crop-mode", "squash"), "preprocessing.crop_mode", "stored", "given"
    )
    assert len(MapStore(maps)) == 20


def test_extract_errors_exit_1(images: Path, tmp_path: Path) -> None:
    fails(tokenmix("extract", tmp_path / "none", tmp_path / "maps", *QUICK), "found nothing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    fails(tokenmix("extract", images, tmp_path / "mine", *QUICK), "not a store")
    fails(tokenmix("extract", images, images / "maps", *QUICK), "outside of the images' folder")
    fails(tokenmix("extract", images, tmp_path / "m", "--teacher", "resnet_26", "--random-weights", "0"), "resnet26")
    fails(tokenmix("extract", images, tmp_path / "m", "--teacher", "resnet26"), "--pretrained")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("option", "kind"), [(["--top-k", "3"], "topk"), (["--cam-stage", "layer3"], "cam"), (["--no-spread"], "cam")]
)
def test_options_of_another_kind_are_refused(option: list[str], kind: str, images: Path, tmp_path: Path) -> None:
    fails(tokenmix("extract", images, tmp_path / "maps", *QUICK, *option), option[0], f"--kind {kind}", "--kind label")


def test_a_reader_that_has_seen_enough(maps: Path) -> None:
    command = [sys.executable, "-m", "cli", "info", str(maps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "options",
    [
        ["--input-size", "big"],
        ["--input-size", "²"],
        ["--input-size", "0"],
        ["--crop-pct", "1.5"],
        ["--crop-mode", "fill"],
        ["--batch-size", "0"],
    ],
)
def test_usage_errors_exit_2(options: Sequence[str], images: Path, tmp_path: Path) -> None:
    fails(tokenmix("extract", images, tmp_path / "maps", *QUICK, *options), options[0], code=2)


def test_rectangular_input(images: Path, tmp_path: Path) -> None:
    assert tokenmix("extract", images, tmp_path / "maps", *QUICK, "--input-size", "64x128").exit_code == 0
    assert MapStore(tmp_path / "maps").grid == (2, 4)


def test_read_only_folder(images: Path) -> None:
    fails(tokenmix("extract", images, "/proc/maps-cannot-be-here", *QUICK), "/proc/maps-cannot-be-here")
