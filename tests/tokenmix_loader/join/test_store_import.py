import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["store.py", "store/__init__.py", "store/readme.txt"])
def test_another_package_of_the_name_is_told_by_its_path(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("")
    # A folder without __init__.py loses against any real package, so there ours must not be on the path.
    (tmp_path / "tokenmix_loader").symlink_to(ROOT / "tokenmix_loader")
    probe = f"import sys; sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if p != {str(ROOT)!r})]; "
    probe += "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]; import tokenmix_loader"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: tokenmix_loader: expected the package `store` of tokenmix-maps")
    assert str(tmp_path / "store") in last
    assert "rename" in last
