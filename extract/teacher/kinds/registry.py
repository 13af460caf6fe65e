"""The kinds by name."""

from __future__ import annotations

from collections.abc import Mapping

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.kinds.activation import Activation
from extract.teacher.kinds.base import Kind
from extract.teacher.kinds.cam import Cam
from extract.teacher.kinds.features import Features
from extract.teacher.kinds.label import Label
from extract.teacher.kinds.topk import Topk

KIND_CLASSES: Mapping[str, type[Kind]] = {kind.name: kind for kind in (Label, Topk, Cam, Activation, Features)}


def kind_class(spec: TeacherSpec) -> type[Kind]:
    """The class of `spec.kind`; TeacherError for an unknown kind, or an option that only another kind takes."""
    if spec.kind not in KIND_CLASSES:
        raise TeacherError(f"--kind: expected one of {', '.join(KIND_CLASSES)}, found {spec.kind}")
    for kind in KIND_CLASSES.values():
        for name in sorted(kind.options - KIND_CLASSES[spec.kind].options):
            value = getattr(spec, name)
            if value is not None:
                option = ("no-" * (value is False) + name).replace("_", "-")
                raise TeacherError(
                    f"--{option}: expected --kind {kind.name}, found --kind {spec.kind}; leave one of them out"
                )
    return KIND_CLASSES[spec.kind]
