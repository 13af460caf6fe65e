"""`--config`: what a file gives is what the command line would have given."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cli import main
from extract.job.slurm import SlurmOptions
from store import MapStore
from tests.extract.conftest import MakeFolder
from tokenmix_commands.options.config_file import read_config
from tokenmix_commands.options.job import job_options
from tokenmix_commands.options.slurm import slurm_options


@click.command()
@job_options
def command(**given: Any) -> None:
    click.echo(repr(sorted(given.items())))


def given_by(tmp_path: Path, config: object, *arguments: str) -> str:
    """What the command is given by options in a file, those of the command line behind it."""
    (tmp_path / "job.json").write_text(json.dumps(config))
    return typed(*arguments, "--config", str(tmp_path / "job.json"))


def typed(*arguments: str) -> str:
    result = CliRunner().invoke(command, ["images", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_file_is_what_the_command_line_would_be(tmp_path: Path) -> None:
    config = {"teacher": "a b", "pretrained": True, "compile": False, "model-arg": ["x=1", "y=2"], "batch-size": 64,
              "input-size": "64x96", "crop-pct": 0.9, "checkpoint": "w.pth"}  # fmt: skip
    line = ["--teacher", "a b", "--pretrained", "--model-arg", "x=1", "--model-arg", "y=2", "--batch-size", "64",
            "--input-size", "64x96", "--crop-pct", "0.9", "--checkpoint", "w.pth"]  # fmt: skip
    assert given_by(tmp_path, config) == typed(*line)


def test_the_command_line_wins(tmp_path: Path) -> None:
    config = {"teacher": "resnet26", "batch-size": 64, "model-arg": ["x=1"]}
    expected = typed("--teacher", "resnet26", "--batch-size", "8", "--model-arg", "y=2")
    assert given_by(tmp_path, config, "--batch-size", "8", "--model-arg", "y=2") == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"batch-sizes": 3}', "found 'batch-sizes'; did you mean 'batch-size'?"),
        ('{"batch_size": 3}', "did you mean 'batch-size'?"),
        ('{"config": "x"}', "found 'config'"),
        ('{"batch-size": 1.5}', "'1.5' is not a valid integer"),
        ('{"batch-size": true}', "--batch-size: expected a text or a number, found true"),
        ('{"batch-size": 8, "teacher": "a", "batch-size": 4}', "expected every option once, found 'batch-size' again"),
        ('{"checkpoint": null}', "--checkpoint: expected a text or a number, found null; leave out what is not given"),
        ('{"scales": [1, 2]}', "--scales: expected a text or a number, as S,S, found [1, 2]"),
        ('{"crop-pct": NaN}', "'nan' is not in the range 0<x<=1."),
        ('{"batch-size": 0}', "0 is not in the range"),
        ('{"pretrained": "yes"}', '--pretrained: expected true or false, found "yes"'),
        ('{"model-arg": "x=1"}', '--model-arg: expected a list, each KEY=VALUE, found "x=1"'),
        ('["teacher"]', "found a list"),
        (
            "teacher = 3",
            'job.json: expected JSON, as {"batch-size": 64}, or YAML under a name that ends in .yaml or .yml',
        ),
        ("[" * 100_000, "maximum recursion depth"),
    ],
)
def test_files_that_are_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(text)
    result = CliRunner().invoke(command, ["images", "--teacher", "t", "--config", str(tmp_path / "job.json")])
    assert result.exit_code == 2
    assert why in " ".join(result.output.split())


YAML = """\
# a job
teacher: a b
pretrained: true
compile: false
model-arg: [x=1, y=2]
batch-size: 64
input-size: 64x96
checkpoint: 012
"""


@pytest.mark.parametrize("name", ["job.yaml", "job.YML"])
def test_yaml_is_read_as_it_is_typed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(YAML)
    line = ["--teacher", "a b", "--pretrained", "--model-arg", "x=1", "--model-arg", "y=2", "--batch-size", "64",
            "--input-size", "64x96", "--checkpoint", "012"]  # fmt: skip
    assert typed("--config", str(tmp_path / name)) == typed(*line)


def test_a_time_in_yaml_is_no_number_in_base_60(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("time: 12:00:00\ntasks: 2\n")

    @click.command()
    @slurm_options
    @click.option("--config", callback=read_config, is_eager=True, type=click.Path(path_type=Path))
    def array(slurm: SlurmOptions, config: Path) -> None:
        click.echo(slurm.time)

    assert CliRunner().invoke(array, ["--config", str(tmp_path / "job.yaml")]).output == "12:00:00\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "expected YAML, found while parsing"),
        ("- a", "found a list"),
        ("pretrained: yes", '"yes"'),
        ("batch-size: 8\nbatch-size: 4", "expected every option once, found 'batch-size' again"),
        ("device: null", '--device: expected a text or a number, found "null"; leave out what is not given'),
        ("input-key:", '--input-key: expected a text or a number, as COLUMN|SUFFIXES, found ""; leave out'),
        ("", "a NoneType"),
    ],
)
def test_yaml_that_is_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    result = CliRunner().invoke(command, ["images", "--teacher", "t", "--config", str(tmp_path / "job.yaml")])
    assert result.exit_code == 2
    assert why in " ".join(result.output.split())


def test_one_file_serves_all_commands(tmp_path: Path) -> None:
    """What `submit` alone takes stops no `plan`, whose own options count."""
    (tmp_path / "job.json").write_text('{"tasks": 4, "max-errors": 3, "teacher": "none of these"}')
    result = CliRunner().invoke(main, ["plan", str(tmp_path), "--config", str(tmp_path / "job.json")])
    assert result.exit_code == 1, result.output
    assert "expected images" in result.output


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"teacher": "resnet26"}', encoding="utf-8-sig")
    result = CliRunner().invoke(command, ["images", "--config", str(tmp_path / "job.json")])
    assert result.exit_code == 0, result.output


def test_no_such_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["images", "--teacher", "t", "--config", str(tmp_path / "none.json")])
    assert result.exit_code == 2
    assert "No such file" in result.output


def test_extract_and_submit_by_file(make_folder: MakeFolder, tmp_path: Path) -> None:
    images, maps, config = make_folder({"a": ["1.jpg"], "b": ["2.jpg"]}), tmp_path / "maps", tmp_path / "job.json"
    options = {"teacher": "test_resnet", "random-weights": 0, "num-classes": 2, "input-size": 64, "shard-size": 1}
    config.write_text(json.dumps({**options, "workers": 0}))
    done = CliRunner().invoke(main, ["extract", str(images), str(maps), "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert MapStore(maps).header.shard_rows == 1
    config.write_text(json.dumps({**options, "tasks": 2, "partition": "gpu"}))
    script = CliRunner().invoke(main, ["submit", str(images), f"{maps}2", "--config", str(config), "--dry-run"])
    assert script.exit_code == 0, script.output
    assert "#SBATCH --partition=gpu" in script.output
    assert "--teacher test_resnet --random-weights 0" in script.output
    assert "--config" not in script.output
