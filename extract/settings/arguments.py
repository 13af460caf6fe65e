"""A job's settings as the command line that gives them: what `submit` writes into its script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from extract.images.table_names import absolute_images
from extract.settings import JobOptions, TeacherSpec

# Fields whose options have other names; `worker` is each task's own.
_TEACHER_NAMES = {"name": "teacher", "model_args": "model-arg"}
_JOB_NAMES = {"shard_rows": "shard-size", "decoding_processes": "workers"}


def job_arguments(
    images: Path, store: Path, teacher: TeacherSpec, options: JobOptions, class_map: Path | None = None
) -> list[str]:
    """Arguments of `tokenmix extract` that give exactly these, from any working directory.

    What is a default of the settings is left out, but for the number of decoding processes, whose default is the
    machine's.
    """
    arguments = [absolute_images(images), str(store.absolute())]
    for spec, names in ((teacher, _TEACHER_NAMES), (options, _JOB_NAMES)):
        for field in fields(spec):
            value = getattr(spec, field.name)
            if field.name == "worker" or (value == field.default and field.name != "decoding_processes"):
                continue
            arguments += _spelled(f"--{names.get(field.name, field.name).replace('_', '-')}", value)
    return arguments + ([] if class_map is None else ["--class-map", str(class_map.absolute())])


def _spelled(option: str, value: object) -> Iterator[str]:
    if value is True:
        yield option
    elif value is False:
        yield option.replace("--", "--no-", 1)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from (option, f"{key}={part!r}")
    else:
        yield option
        if isinstance(value, tuple):
            yield ("x" if option == "--input-size" else ",").join(map(str, value))
        else:
            yield str(value.absolute() if isinstance(value, Path) else value)
