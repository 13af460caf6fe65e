"""The shell's completion: what it offers, that it loads nothing heavy, and that real shells use it."""

import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from cli import main
from extract.settings import KINDS, NAMED_TEACHERS

TOKENMIX = Path(sys.executable).with_name("tokenmix")
# What a user writes into the shell's own file, as docs/command-line.md says.
SET_UP = {
    "bash": ['eval "$(_TOKENMIX_COMPLETE=bash_source tokenmix)"'],
    "zsh": ["autoload -Uz compinit && compinit", 'eval "$(_TOKENMIX_COMPLETE=zsh_source tokenmix)"'],
    "fish": ["_TOKENMIX_COMPLETE=fish_source tokenmix | source"],
}
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
# The completion calls the program; what is typed calls this, which shows what it was given.
PROBE = {
    "bash": "tokenmix() { printf '<%s>' \"$@\"; echo; }",
    "zsh": "tokenmix() { printf '<%s>' \"$@\"; echo; }",
    "fish": "function tokenmix; printf '<%s>' $argv; echo; end",
}
PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def offered(*arguments: str) -> list[tuple[str, str]]:
    """Type and value of what is offered for the last argument."""
    found = ShellComplete(main, {}, "tokenmix", "_TOKENMIX_COMPLETE").get_completions(
        list(arguments[:-1]), arguments[-1]
    )
    return [(item.type, str(item.value)) for item in found]


def test_commands_options_and_their_values() -> None:
    assert offered("ver") == [("plain", "verify")]
    assert offered("extract", "i", "s", "--kind", "") == [("plain", kind) for kind in KINDS]
    assert offered("extract", "i", "s", "--teacher", "") == [("plain", name) for name in NAMED_TEACHERS]
    assert offered("plan", "i", "--teacher", "efficientnet_lite1") == [("plain", "efficientnet_lite1")]
    assert offered("import", "to") == [("plain", "tokenlabeling")]
    assert ("plain", "--pretrained") in offered("submit", "i", "s", "--pre")


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", ""],
        ["extract", "images", ""],
        ["extract", "i", "s", "--head", "h"],
        ["extract", "i", "s", "--checkpoint", "h"],
        ["extract", "i", "s", "--class-map", "h"],
        ["extract", "i", "s", "--config", "h"],
        ["show", "maps", "--images", "h"],
        ["show", "maps", "-o", "h"],
        ["import", "relabel", ""],
    ],
)
def test_paths(arguments: list[str]) -> None:
    assert offered(*arguments) == [("file", arguments[-1])]


def test_it_loads_nothing_heavy() -> None:
    """So it answers at once."""
    probe = (
        "import sys\n"
        "from cli import main\n"
        "try: main(prog_name='tokenmix')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'h5py', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    asked = {
        "_TOKENMIX_COMPLETE": "bash_complete",
        "COMP_WORDS": "tokenmix extract i s --teacher res",
        "COMP_CWORD": "5",
    }
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=PAGE.parents[1], env={**os.environ, **asked}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["plain,resnet101", "plain,resnet26"]


def typed(shell: str, folder: Path, *lines: str) -> str:
    """What an interactive shell shows for lines that were typed one after the other."""
    path = f"{TOKENMIX.parent}:{os.environ['PATH']}"
    environ = {"PATH": path, "TERM": "dumb", "HOME": str(folder), "LANG": "C.UTF-8"}
    ours, its = os.openpty()
    shown, given = b"", [f"{line}\n".encode() for line in lines] + [b"echo 'the'end\n"]
    command = ["setsid", "--ctty", *START[shell]]
    with subprocess.Popen(command, cwd=folder, env=environ, stdin=its, stdout=its, stderr=its) as process:
        until = time.monotonic() + 20
        while b"theend" not in shown and time.monotonic() < until:
            if select.select([ours], [], [], 0.3)[0]:
                shown += os.read(ours, 4096)
            elif given:  # the shell waits for more
                os.write(ours, given.pop(0))
        process.kill()
    os.close(ours)
    os.close(its)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r", "", shown.decode(errors="replace"))


@pytest.mark.parametrize("shell", START)
def test_a_real_shell_completes(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "my-photos").mkdir()
    line = "tokenmix ext\tmy-ph\t maps --teacher nfn\t--kind act\t"
    shown = typed(shell, tmp_path, *SET_UP[shell], PROBE[shell], line)
    assert re.search("<extract><my-photos/?><maps><--teacher><nfnet_f6><--kind><activation>", shown), shown


@pytest.mark.parametrize("shell", SET_UP)
def test_the_page_says_how(shell: str) -> None:
    assert all(line in PAGE.read_text() for line in SET_UP[shell])
