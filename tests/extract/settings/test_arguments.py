"""Settings -> arguments -> settings: what `submit` writes into a script is what it was given."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from extract import JobOptions, TeacherSpec
from extract.settings import KINDS
from extract.settings.arguments import job_arguments
from tokenmix_commands.options.job import job_options
from tokenmix_commands.options.shared import EXTEND, MAX_ERRORS, STORE, WORKER


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What a command is given for these arguments."""
    seen: dict[str, Any] = {}

    @click.command()
    @job_options
    @STORE
    @WORKER
    @MAX_ERRORS
    @EXTEND
    def command(**values: Any) -> None:
        seen.update(values)

    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(lambda s: s[0] != "-")
literals = st.one_of(st.integers(), st.booleans(), st.none(), words, st.tuples(st.integers(), st.integers()))
specs = st.builds(
    TeacherSpec,
    name=words,
    pretrained=st.booleans(),
    checkpoint=st.none() | st.just(Path("/w/a b.pth")),
    random_weights=st.none() | st.integers(0, 9),
    num_classes=st.none() | st.integers(1, 9),
    head=st.none() | st.just(Path("/w/own head.safetensors")),
    model_args=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), literals, max_size=3),
    input_size=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
    crop_mode=st.sampled_from([None, "center", "squash", "border"]),
    crop_pct=st.none() | st.floats(0.01, 1),
    device=st.sampled_from([None, "cpu", "cuda:1"]),
    amp=st.sampled_from(["none", "bf16"]),
    compile=st.booleans(),
    kind=st.sampled_from([kind for kind in KINDS if kind not in ("topk", "cam")]),
    class_token=st.booleans(),
    flip_average=st.booleans(),
)
options_ = st.builds(
    JobOptions,
    dtype=st.sampled_from(["float16", "uint8"]),
    shard_rows=st.integers(1, 9999),
    batch_size=st.integers(1, 99),
    decoding_processes=st.integers(0, 9),
    extend=st.booleans(),
    max_errors=st.none() | st.integers(0, 9),
)


@given(specs, options_, st.none() | st.just(Path("/c/map.txt")))
def test_round_trip(spec: TeacherSpec, options: JobOptions, class_map: Path | None) -> None:
    values = parsed(job_arguments(Path("/i/x y"), Path("/s/maps"), spec, options, class_map))
    assert values == {
        "images": Path("/i/x y"), "store": Path("/s/maps"), "teacher": spec, "options": options, "class_map": class_map,
    }  # fmt: skip


@pytest.mark.parametrize(
    "spec",
    [
        TeacherSpec("t", kind="topk", top_k=7),
        TeacherSpec("t", kind="cam", cam_stage="layer3", spread=False, rivals=0, cam_grid=9),
    ],
)
def test_options_of_one_kind(spec: TeacherSpec) -> None:
    assert parsed(job_arguments(Path("/i"), Path("/s"), spec, JobOptions()))["teacher"] == spec


def test_paths_are_absolute_and_defaults_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = TeacherSpec("resnet26", checkpoint=Path("w.pth"))
    arguments = job_arguments(Path("images"), Path("maps"), spec, JobOptions(decoding_processes=3), Path("map.txt"))
    assert arguments == [
        f"{tmp_path}/images", f"{tmp_path}/maps", "--teacher", "resnet26", "--checkpoint", f"{tmp_path}/w.pth",
        "--workers", "3", "--class-map", f"{tmp_path}/map.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [("output_stride=8", ("output_stride", 8)), ("act=relu", ("act", "relu")), ("dims=(1,2)", ("dims", (1, 2)))],
)
def test_model_arg_values(text: str, expected: tuple[str, object]) -> None:
    assert parsed(["i", "s", "--teacher", "t", "--model-arg", text])["teacher"].model_args == dict([expected])


def test_model_arg_without_a_value() -> None:
    command = click.command()(job_options(lambda **_: None))
    result = CliRunner().invoke(command, ["i", "--teacher", "t", "--model-arg", "output_stride"])
    assert result.exit_code == 2
    assert "'output_stride' is not KEY=VALUE" in result.output
