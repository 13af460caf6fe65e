"""Arguments and options that several commands take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import click

from extract.settings.check import CHOICES
from tokenmix_commands.grouped_help import Argument, Decorator, options_under
from tokenmix_commands.options.store_place import StorePlace
from tokenmix_commands.options.values import PATH, Range

Callback = Callable[..., None]  # what becomes a command

teacher_option = options_under("The teacher")
sight_option = options_under("What the teacher sees")
map_option = options_under("The maps")
images_option = options_under("The images")
run_option = options_under("The run")

IMAGES_ARE = "A folder with a sub-folder per class, a .tar of one, hfds/NAME[:SPLIT] or wds/FOLDER."
store_argument = partial(click.argument, "store", cls=Argument)
STORE = store_argument(type=StorePlace(urls=False), explained="The folder of the maps, as `extract` wrote it.")
ANY_STORE = store_argument(type=StorePlace(urls=True), explained="The folder of the maps, or where they were pushed.")
NEW_STORE = store_argument(type=StorePlace(urls=False),
                           explained="The folder to write the maps to, made where it is not there.")  # fmt: skip
IMAGES = click.argument("images", type=PATH, cls=Argument, explained=IMAGES_ARE)
ORIGINAL_IMAGES = click.option("--images", type=PATH, required=True, metavar="IMAGES",
                               help="Those that the maps were made from, as `extract` was given them.")  # fmt: skip
CLASS_MAP = images_option("--class-map", type=PATH, metavar="FILE",
                          help="Which output of the teacher shows each class: rows `name,output`, or one name per "
                          "line, whose number is the output. Not needed for WordNet ids and class names.")  # fmt: skip
KEYS = [
    images_option("--input-key", metavar="COLUMN|SUFFIXES",
                  help="As timm's: images' column of hfds/, default image; else their suffixes: 'jpg;png;gif'."),
    images_option("--target-key", metavar="COLUMN",
                  help="As timm's: labels' column of hfds/, default label; of wds/, a field of .json."),
]  # fmt: skip
HEAD = teacher_option("--head", type=PATH, metavar="FILE",
                      help="Of `fit-head`, for your own classes: in the place of the teacher's own.")  # fmt: skip
CLASS_WEIGHTS = run_option("--class-weights", type=click.Choice(CHOICES["class_weights"]), default="balanced",
                           show_default=True, help="Every class counts the same, or every image.")  # fmt: skip
WORKER = run_option("--worker", metavar="I/N",
                    help="Do the share of worker I of N; default: torchrun's, Slurm's, or 0/1.")  # fmt: skip
MAX_ERRORS = run_option("--max-errors", type=click.IntRange(0), metavar="N",
                        help="Unreadable images to accept; default: 0.1 % of the rows.")  # fmt: skip
MIN_TOP1 = run_option("--min-top1", type=Range(0, 1), metavar="SHARE",
                      help="Fail below this share of right predictions; stop early below half of it.")  # fmt: skip
EXTEND = run_option("--extend", is_flag=True, help="Add shards for images that came since the store was made.")


def with_options(options: Sequence[Decorator], command: Callback) -> Callback:
    """The command with these options, in this order in its help."""
    for option in reversed(options):
        command = option(command)
    return command
