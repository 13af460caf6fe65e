"""The occlusion recipe on digits whose maps are the pixel masks, with two students in one picture."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from recipes.context_digits.demo import TEACHER
from recipes.context_digits.generate import generate
from recipes.evaluate import occlusion
from recipes.intervals import wilson
from tests.recipes.test_fidelity import ROWS, write_perfect_maps


def test_digits_go_first_or_last(tmp_path: Path) -> None:
    generate(tmp_path / "data", ROWS, seed=0, split="test")
    write_perfect_maps(tmp_path / "maps", tmp_path / "data" / "images")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / TEACHER.name).write_bytes(TEACHER.read_bytes())
    options = f"--model test_resnet --checkpoint {TEACHER} --checkpoint {tmp_path / 'again' / TEACHER.name}"
    options += " --model-arg output_stride=8 --num-classes 10 --input-size 96 --crop-mode squash --crop-pct 1"
    options += f" --grid 12 --steps 6 --batch-size 30 --workers 0 --maps {tmp_path / 'maps'} -o {tmp_path / 'o.png'}"
    done = CliRunner().invoke(occlusion.main, [str(tmp_path / "data" / "images"), *options.split()])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()[1:-1]]
    curves = {f"{label} {order}": [float(cell.rstrip("%")) for cell in cells] for label, order, *cells in lines}
    # files of one name are told apart by their folders, and the same weights say the same
    assert [*curves] == [
        f"{label} {o}" for label in ("context_digits,", "again,") for o in ("random", "attentive", "background")
    ]
    assert curves["again, attentive"] == curves["context_digits, attentive"]
    assert all(curve[0] > 80 and curve[-1] < 40 for curve in curves.values())
    # a fifth of the tokens holds the digit, and the rest does not
    assert curves["again, attentive"][1] < curves["again, random"][1] - 20
    assert curves["again, background"][3] > curves["again, random"][3] + 20
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.width > 2 * picture.height  # three panels
        assert len(picture.getcolors(1 << 20) or []) > 3


def test_classes_go_by_a_map(tmp_path: Path) -> None:
    generate(tmp_path / "data", ROWS, seed=0, split="test")
    write_perfect_maps(tmp_path / "maps", tmp_path / "data" / "images")
    (tmp_path / "names.txt").write_text("1 2 3 4 5 6 7 8 9 0".replace(" ", "\n"))
    options = f"--model test_resnet --checkpoint {TEACHER} --model-arg output_stride=8 --num-classes 10 --grid 12"
    options += f" --input-size 96 --crop-mode squash --crop-pct 1 --steps 2 --workers 0 -o {tmp_path / 'o.png'}"
    options += f" --maps {tmp_path / 'maps'} --class-map {tmp_path / 'names.txt'}"
    done = CliRunner().invoke(occlusion.main, [str(tmp_path / "data" / "images"), *options.split()])
    assert done.exit_code == 0, done.output
    assert float(done.output.splitlines()[1].split()[2].rstrip("%")) < 20  # each class is taken for its neighbour


def test_interval_of_a_share() -> None:
    """Wilson's, as in Brown, Cai and DasGupta (2001): 5 of 10 and 0 of 10."""
    low, high = wilson(np.array([5, 0]), 10)
    assert low == pytest.approx([0.2366, 0.0], abs=1e-4)
    assert high == pytest.approx([0.7634, 0.2775], abs=1e-4)


def test_a_model_argument_that_is_none() -> None:
    done = CliRunner().invoke(occlusion.main, [str(Path(__file__).parent), "--model-arg", "depth"])
    assert done.exit_code == 2
    assert "expected NAME=VALUE" in done.output
