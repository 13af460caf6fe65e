"""A timm model by its name: built, with its weights, ready to run."""

from __future__ import annotations

import difflib
from contextlib import AbstractContextManager, nullcontext

import timm
import torch

from extract.errors import TeacherError
from extract.settings import TeacherSpec
from extract.teacher.packaged import PACKAGES, load_packaged, timm_name
from extract.teacher.weights import first_line, load_checkpoint
from store.spec import CLASS_AGNOSTIC_KINDS

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Arguments of timm that would load other weights, or contradict the header, without our options knowing.
RESERVED_ARGS = frozenset(
    {"pretrained", "checkpoint_path", "num_classes", "pretrained_cfg", "pretrained_cfg_overlay", "in_chans"}
)


def build_model(spec: TeacherSpec) -> torch.nn.Module:
    """The timm model with its weights, in evaluation mode, on the CPU, float32. Raises TeacherError."""
    name, packaged = timm_name(spec.name), spec.pretrained and spec.name in PACKAGES
    _check_name(name)
    _check_sources(spec)
    model_args = dict(spec.model_args)
    reserved = sorted(RESERVED_ARGS & model_args.keys())
    if reserved:
        raise TeacherError(
            f"--model-arg {reserved[0]}: expected an argument of the model's architecture; weights, classes and "
            "preprocessing have options of their own: --checkpoint, --pretrained, --num-classes, --crop-mode"
        )
    if spec.num_classes is not None:
        model_args["num_classes"] = spec.num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.random_weights or 0)
        try:
            model: torch.nn.Module = timm.create_model(name, pretrained=spec.pretrained and not packaged, **model_args)
        except Exception as error:
            hint = (
                "; without network give --checkpoint FILE, or --teacher efficientnet_lite0"
                if spec.pretrained
                else "; check --model-arg"
            )
            raise TeacherError(f"--teacher {spec.name}: timm cannot build it: {first_line(error)}{hint}") from error
    _require_parts(model, spec)
    if packaged:
        load_packaged(model, spec.name)
    if spec.checkpoint is not None:
        load_checkpoint(model, spec.checkpoint)
    return model.eval().requires_grad_(False)


def _require_parts(model: torch.nn.Module, spec: TeacherSpec) -> None:
    """What `features_only` and its like return has other methods than a classifier."""
    lacking = [name for name in ("forward_features", "forward_head", "num_classes") if not hasattr(model, name)]
    if lacking:
        raise TeacherError(
            f"--teacher {spec.name}: expected a classifier of timm's, found {type(model).__name__} without "
            f"{', '.join(lacking)}; {_other_arguments(spec)}"
        )


@torch.no_grad()
def require_logits(model: torch.nn.Module, spec: TeacherSpec, input_size: tuple[int, int]) -> None:
    """Raise TeacherError for a model that cannot run at this size (height, width), or that gives no logits [B, K].

    Without K, as models come that are for features only, there is nothing but the kinds that need no classes.
    """
    try:
        logits = model(torch.zeros(1, 3, *input_size))
    except Exception as error:  # whatever an odd --model-arg, or another size, makes of it
        raise TeacherError(
            f"--teacher {spec.name}: cannot run at {input_size[0]} x {input_size[1]} px: {first_line(error)}; check "
            "--input-size and --model-arg"
        ) from error
    outputs = int(model.num_classes)  # type: ignore[arg-type]
    if not outputs and spec.kind in CLASS_AGNOSTIC_KINDS:
        return
    found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not outputs or found != [1, outputs]:
        raise TeacherError(
            f"--teacher {spec.name}: expected logits [1, K] of K classes for --kind {spec.kind}, found a model of "
            f"{outputs} classes that gives {found}; {_other_arguments(spec)}"
            + ("" if outputs else ", give it a head (`tokenmix fit-head`, then --head), or use --kind activation")
        )


def _other_arguments(spec: TeacherSpec) -> str:
    given = ", ".join(f"--model-arg {name}={value!r}" for name, value in spec.model_args.items())
    return f"leave {given} out" if given else "give another --teacher"


def _check_name(name: str) -> None:
    if ":" in name or timm.is_model(name):  # hf-hub:, local-dir: are resolved by timm
        return
    near = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=3, cutoff=0.5)
    nearest = f"; did you mean {', '.join(near)}?" if near else ""
    raise TeacherError(f"--teacher {name}: expected a timm model, found no such name{nearest}")


def _check_sources(spec: TeacherSpec) -> None:
    sources = sum([spec.pretrained, spec.checkpoint is not None, spec.random_weights is not None])
    if sources != 1:
        raise TeacherError(
            f"--teacher {spec.name}: expected one source of weights, found {sources}; give one of --pretrained, "
            "--checkpoint FILE, or --random-weights SEED (for trying things out)"
        )


def autocast(spec: TeacherSpec) -> AbstractContextManager[object]:
    """The precision in which the teacher's forward pass runs."""
    dtype = AMP_DTYPES[spec.amp]
    return nullcontext() if dtype is None else torch.autocast(torch.device(spec.device or "cpu").type, dtype)


def to_device(model: torch.nn.Module, name: str) -> torch.device:
    """Move the model, convolutions in the faster memory format; TeacherError where the device cannot be used."""
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # "meta" takes a model, but has no numbers
        model.to(device).to(memory_format=torch.channels_last)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise TeacherError(f"--device {name}: cannot be used: {error}") from error
    return device
