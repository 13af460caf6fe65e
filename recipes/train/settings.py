"""What decides the weights of a run, and the options of the command line: both come from one list of fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import reduce
from typing import Any, TypeVar

import click

from tokenmix_loader.mixing.settings import GUIDED
from tokenmix_loader.scoring.evidence import AUTO, EVIDENCE
from tokenmix_loader.scoring.masks import KINDS

Command = TypeVar("Command", bound=Callable[..., Any])
BASE_BATCH = 1024  # the batch that `lr_base` is for
DEIT_TOKENS, DEIT_MIN_TOKENS = 196, 14  # 14 x 14 tokens of 16 px, and how many of them a block has at least


class TrainingError(ValueError):
    """What cannot be trained, or not be gone on with: what was expected, what was found, what to do."""


def _of(default: Any, explanation: str, **option: Any) -> Any:
    """A field, with what click has to know of its option; `--name` is the field's."""
    return field(default=default, metadata={"help": explanation, **option})


def _choice(*names: str) -> click.Choice[str]:
    return click.Choice(names)


_SHARE = click.FloatRange(0, 1)
_COUNT = click.IntRange(min=1)
_RATE = click.FloatRange(min=0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The paper's recipe (TokenMix, Sec. 4.2 and Table 12), which is DeiT's with TokenMix in the place of CutMix.

    What the paper leaves open is as in DeiT's and the authors' scripts: bicubic crops, colours jittered by .4 where no
    augmentation changes them, a warm-up from 1e-6. A run can be resumed with the very same settings only.
    """

    model: str = _of("deit_small_patch16_224", "timm's name.")
    num_classes: int | None = _of(None, "Outputs; default: as many as the images have classes.", type=_COUNT)
    img_size: int | None = _of(None, "Pixels per side; default: the model's.", type=_COUNT)
    grid: int | None = _of(None, "Tokens of a mask per side; default: found out and printed.", type=_COUNT)
    model_arg: tuple[str, ...] = _of((), "NAME=VALUE for timm's model; repeatable.", multiple=True)
    drop_path: float = _of(0.1, "Rate at which blocks are left out.", type=_SHARE)

    epochs: int = _of(300, "The paper's: 300, or 400.", type=_COUNT)
    batch_size: int = _of(BASE_BATCH, "Images per update, of all processes together.", type=_COUNT)
    accumulate: int = _of(1, "Parts of an update that are computed one after another.", type=_COUNT)
    lr_base: float = _of(1e-3, f"Learning rate at a batch of {BASE_BATCH}; scaled linearly.", type=_RATE)
    lr: float | None = _of(None, "The learning rate itself, not scaled.", type=_RATE)
    min_lr: float = _of(1e-6, "Where the cosine ends.", type=_RATE)
    warmup_lr: float = _of(1e-6, "Where the warm-up begins.", type=_RATE)
    warmup_epochs: int = _of(5, "At most half of all epochs.", type=click.IntRange(min=0))
    weight_decay: float = _of(0.05, "Of AdamW.", type=_RATE)
    clip_grad: float | None = _of(None, "Longest gradient; default: any.", type=click.FloatRange(0, min_open=True))
    ema_decay: float | None = _of(None, "Average the weights too, by this decay, such as .9999.", type=_SHARE)
    loss: str = _of("bce", "Of tokenmix, area and relabel.", type=_choice("bce", "ce"))
    precision: str = _of("auto", "auto: bfloat16 on a GPU.", type=_choice("auto", "float32", "bfloat16"))
    channels_last: bool = _of(False, "Memory format; faster for CNNs on a GPU.", is_flag=True)
    seed: int = _of(0, "Of everything that is left to chance.", type=click.IntRange(min=0))

    missing: str = _of("error", "Images without a map: score them by area.", type=_choice("error", "area"))
    aa: str = _of("rand-m9-mstd0.5-inc1", "timm's augmentation: RandAugment(9, .5); none: colours are jittered.")
    crop_scale: tuple[float, float] = _of((0.08, 1.0), "Shares of the area that crops have.", type=(float, float))
    hflip: float = _of(0.5, "Share of images that are mirrored.", type=_SHARE)
    reprob: float = _of(0.25, "Share of images of which a part is erased.", type=_SHARE)

    supervision: str = _of(
        "tokenmix", "How labels are scored.", type=_choice("tokenmix", "area", "relabel", "tokenlabeling")
    )
    evidence: str = _of(AUTO, "What is made of the maps.", type=_choice(AUTO, *EVIDENCE))
    mask_kind: str = _of("block", "Kind of mask.", type=_choice(*KINDS, "cutmix", *GUIDED))
    kept: float = _of(0.5, "Share of tokens kept.", type=_SHARE)
    beta: tuple[float, float] | None = _of(
        None, "Draw the share kept from Beta(A, B): 1 1 for small students.", type=(float, float)
    )
    min_tokens: int | None = _of(None, "Tokens of a block; default: a 14th of all, 14 of 14 x 14.", type=_COUNT)
    per: str = _of("batch", "What has a mask of its own.", type=_choice("batch", "sample"))
    mix_prob: float = _of(1.0, "Share of batches that are mixed; 0: no mixing.", type=_SHARE)
    mixup: float = _of(0.8, "Mixup's alpha; 0: no Mixup.", type=click.FloatRange(min=0))
    switch_prob: float = _of(0.5, "Share of mixed batches that get TokenMix, not Mixup.", type=_SHARE)
    mixup_off_epoch: int = _of(0, "Stop mixing at this epoch; 0: never.", type=click.IntRange(min=0))
    smoothing: float = _of(0.1, "Of labels.", type=_SHARE)

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up."""
        return self.lr_base * self.batch_size / BASE_BATCH if self.lr is None else self.lr

    @property
    def by_token(self) -> bool:
        """Whether the student has to classify every token."""
        return self.supervision == "tokenlabeling"

    def mixing(self, tokens: int) -> dict[str, Any]:
        """Keywords of `TokenMixCollate` for masks of so many tokens."""
        chosen: dict[str, Any] = {
            "mixup_alpha": self.mixup, "prob": self.mix_prob, "switch_prob": self.switch_prob,
            "label_smoothing": self.smoothing, "supervision": self.supervision, "evidence": self.evidence,
            "kind": self.mask_kind, "kept": self.kept, "beta": self.beta, "per": self.per, "seed": self.seed,
        }  # fmt: skip
        if self.mask_kind in KINDS:
            share = DEIT_MIN_TOKENS / DEIT_TOKENS
            chosen["min_tokens"] = self.min_tokens or max(1, round(share * tokens))
        elif self.min_tokens is not None:
            chosen["min_tokens"] = self.min_tokens  # refused there, with the reason
        return chosen


def setting_options(command: Command) -> Command:
    """An option for each field of `Settings`."""
    return reduce(lambda decorated, option: option(decorated), reversed([*map(_option, fields(Settings))]), command)


def _option(setting: Any) -> Callable[[Command], Command]:
    known = dict(setting.metadata)
    shown = not (setting.default is None or setting.default is False or setting.default == ())
    return click.option(
        f"--{setting.name.replace('_', '-')}", setting.name, default=setting.default, show_default=shown, **known
    )
