"""The occlusion recipe as a user runs it, on digits whose maps are the pixel masks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from recipes.context_digits.demo import TEACHER
from recipes.context_digits.generate import generate
from recipes.evaluate import occlusion
from tests.recipes.test_fidelity import ROWS, write_perfect_maps


def test_digits_go_first_or_last(tmp_path: Path) -> None:
    generate(tmp_path / "data", ROWS, seed=0, split="test")
    write_perfect_maps(tmp_path / "maps", tmp_path / "data" / "images")
    script = shutil.copy(occlusion.__file__, tmp_path)
    options = f"--model test_resnet --checkpoint {TEACHER} --model-arg output_stride=8 --num-classes 10 --input-size 96"
    options += " --crop-mode squash --crop-pct 1 --grid 12 --steps 6 --batch-size 30 --workers 0 --maps maps"
    done = subprocess.run(
        [sys.executable, script, "data/images", *options.split()],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[1:-1]]
    curves = {name: [float(cell.rstrip("%")) for cell in cells] for name, *cells in lines}
    assert [*curves] == ["random", "attentive", "background"]
    assert all(curve[0] > 80 and curve[-1] < 40 for curve in curves.values())
    # a fifth of the tokens holds the digit, and the rest does not
    assert curves["attentive"][1] < curves["random"][1] - 20
    assert curves["background"][3] > curves["random"][3] + 20
    with Image.open(tmp_path / "occlusion.png") as picture:
        assert picture.size == (occlusion.WIDTH, occlusion.HEIGHT)
        assert len(picture.getcolors(1 << 16) or []) > 3
