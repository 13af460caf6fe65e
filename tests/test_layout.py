"""The structure that everything else relies on: directions of import, names, start-up time."""

import ast
import importlib.metadata
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "cli.py": {"tokenmix_commands"},
    "tokenmix_commands": {"extract", "store", "tokenmix_loader"},
    "extract": {"store"},
    "store": set(),
    "tokenmix_loader": {"store"},
}
OURS = {"cli", "extract", "store", "tokenmix_loader", "tokenmix_commands", "recipes", "benchmarks", "tests"}


PACKAGES = ("extract", "store", "tokenmix_loader", "tokenmix_commands")
MOST_ENTRIES = 12


def imported(source: Path) -> set[str]:
    """Modules that a file imports at run time, wherever in it; of `from a import b` both `a` and `a.b`."""
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def sources(package: str) -> dict[str, Path]:
    """Module name -> file."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part: str) -> None:
    files = [ROOT / part] if part.endswith(".py") else [*sources(part).values()]
    assert files
    for file in files:
        forbidden = {name.partition(".")[0] for name in imported(file)} & OURS - ALLOWED[part] - {part}
        assert not forbidden, f"{file.relative_to(ROOT)} imports {sorted(forbidden)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_among_the_modules_of_a_package(package: str) -> None:
    files = sources(package)
    graph = {name: (imported(file) & files.keys()) - {name, package} for name, file in files.items()}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_among_the_rooms_of_a_package(package: str) -> None:
    """A room is a folder of the package, or a module beside them."""
    files, graph = sources(package), defaultdict[str, set[str]](set)
    for name, file in files.items():
        for other in (imported(file) & files.keys()) - {package}:
            if name != package and room(other) != room(name):
                graph[room(name)].add(room(other))
    TopologicalSorter(graph).prepare()


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_can_be_taken_in_at_a_glance(package: str) -> None:
    for folder in {file.parent for file in sources(package).values()}:
        entries = [entry.name for entry in folder.iterdir() if entry.name not in ("__pycache__", ".DS_Store")]
        assert len(entries) <= MOST_ENTRIES, f"{folder.relative_to(ROOT)}: {sorted(entries)}"


def test_store_imports_neither_torch_nor_timm() -> None:
    probe = "import sys, store; assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_loader_imports_store_in_one_place() -> None:
    places = [name for name, file in sources("tokenmix_loader").items() if "store" in imported(file)]
    assert places == ["tokenmix_loader.store_access"]


def test_the_names_at_the_top_are_ours_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in ("cli", *PACKAGES):
        # an editable install lists its .pth file, not its modules
        assert set(owners.get(name, ["tokenmix-maps"])) == {"tokenmix-maps"}, name


def test_help_is_light() -> None:
    """So that it answers at once: of all that is installed it imports click alone, and of ours what tells options."""
    probe = (
        "import sys, runpy\n"
        "before = set(sys.modules)\n"  # by what is installed, at the start of every Python
        "sys.argv = ['tokenmix', '--help']\n"
        "try: runpy.run_module('cli', run_name='__main__')\n"
        "except SystemExit as end: assert end.code in (0, None)\n"
        "others = {name.partition('.')[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names\n"
        "others.discard('__mp_main__')\n"  # another name of __main__, by multiprocessing
        "assert others == {'click', 'extract', 'tokenmix_commands'}, others\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "extract" in done.stdout
