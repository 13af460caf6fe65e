"""The commands of recipes/train/tables.md can be given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm

from recipes.train import train
from recipes.train.settings import Settings
from tokenmix_loader.mixing.settings import MixSettings, check_settings

TABLES = Path(train.__file__).with_name("tables.md")
COMMANDS = sorted(set(re.findall(r"`TRAIN([^`]*)`", TABLES.read_text())))


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) > 25


@pytest.mark.parametrize("command", COMMANDS)
def test_every_row_is_a_set_of_options(command: str, tmp_path: Path) -> None:
    arguments = [str(tmp_path), str(tmp_path), "--val", str(tmp_path), *command.split()]
    given: dict[str, Any] = train.main.make_context("train", arguments).params
    settings = Settings(**{name: given[name] for name in Settings.__dataclass_fields__})
    assert timm.is_model(settings.model)
    mixing = settings.mixing(14 * 14)
    del mixing["seed"]
    check_settings(MixSettings(**mixing), 1000, (14, 14))
