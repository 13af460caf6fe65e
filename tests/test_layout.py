"""The structure that everything else relies on: directions of import, names, start-up time."""

import ast
import importlib.metadata
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "cli.py": {"extract", "store", "tokenmix_loader"},
    "extract": {"store"},
    "store": set(),
    "tokenmix_loader": {"store"},
}
OURS = {"cli", "extract", "store", "tokenmix_loader", "recipes", "benchmarks", "tests"}


def imported(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part: str) -> None:
    sources = [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py"))
    assert sources
    for source in sources:
        forbidden = imported(source) & OURS - ALLOWED[part] - {part}
        assert not forbidden, f"{source.relative_to(ROOT)} imports {sorted(forbidden)}"


def test_store_imports_neither_torch_nor_timm() -> None:
    probe = "import sys, store; assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_loader_imports_store_in_one_place() -> None:
    places = [p.name for p in (ROOT / "tokenmix_loader").rglob("*.py") if "store" in imported(p)]
    assert places == ["store_access.py"]


def test_the_four_names_are_ours_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in ("cli", "extract", "store", "tokenmix_loader"):
        # an editable install lists its .pth file, not its modules
        assert set(owners.get(name, ["tokenmix-maps"])) == {"tokenmix-maps"}, name


def test_help_is_light() -> None:
    probe = (
        "import sys, runpy\n"
        "sys.argv = ['tokenmix', '--help']\n"
        "try: runpy.run_module('cli', run_name='__main__')\n"
        "except SystemExit as end: assert end.code in (0, None)\n"
        "heavy = {'torch', 'timm', 'h5py', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "extract" in done.stdout


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "cli", "--help"], cwd=ROOT, capture_output=True, check=True)
        return time.monotonic() - started

    assert min(seconds() for _ in range(5)) < 0.5
