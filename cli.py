"""The `tokenmix` command: its help, and what it says; the commands are in tokenmix_commands, a file for each group.

Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click


def _refuse_others() -> None:
    """End where a package of ours is another of that name: of the folder that the command runs in, or of PYTHONPATH."""
    for name in ("extract", "store", "tokenmix_loader", "tokenmix_commands"):
        spec = importlib.util.find_spec(name)  # finds it without running it
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        found = next((Path(place).resolve() for place in places if place), None)
        if found != Path(__file__).resolve().parent / name / "__init__.py":
            raise SystemExit(
                f"tokenmix: error: expected the package `{name}` of tokenmix-maps beside {__file__}, found "
                f"{found or 'none'}; run from another folder, rename that one, or take its folder out of PYTHONPATH"
            )


_refuse_others()

from tokenmix_commands.exchange import export, import_  # noqa: E402 -- not before it is known to be ours
from tokenmix_commands.grouped_help import Commands  # noqa: E402
from tokenmix_commands.look_after import drop_extension, info, verify  # noqa: E402
from tokenmix_commands.look_and_train import bench, report, show  # noqa: E402
from tokenmix_commands.make_maps import extract, fit_head, plan, status, submit  # noqa: E402
from tokenmix_commands.share import pull, push  # noqa: E402

SECTIONS = {
    "Make maps": [plan, extract, submit, status, fit_head],
    "Look after a store": [verify, info, drop_extension],
    "Look at maps and train": [show, report, bench],
    "Share and exchange": [push, pull, import_, export],
}
FIRST_STEPS = [
    "tokenmix extract imagenet/train maps --teacher resnet101 --pretrained",
    "tokenmix show maps --images imagenet/train -o maps.png",
    "then train with them: two lines in timm's train.py, docs/timm.md",
]


@click.group(
    "tokenmix",
    cls=Commands,
    sections=SECTIONS,
    first_steps=FIRST_STEPS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="tokenmix-maps")
def main() -> None:
    """Teacher activation maps, computed once, as exact TokenMix targets.

    A teacher looks once at every training image and leaves a map of where it saw the label; a training reads these
    maps to score mixed images. `tokenmix COMMAND --help` has an example of each command.
    """


if __name__ == "__main__":
    main()
