"""Two students that a CPU trains in minutes, known to timm by name once this module is imported.

`small_vit` is a vision transformer with a class token whose patches come from strided convolutions (arXiv
2106.14881): from one linear layer so small a transformer learns far too slowly. `small_cnn` is a residual network.
Both see 64 px and have some 0.3 M parameters; `small_vit` has 8 x 8 tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

__all__ = ["small_cnn", "small_vit"]

CONFIG: Final[dict[str, Any]] = {
    "input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
}  # fmt: skip
default_cfgs = {"small_vit": CONFIG | {"fixed_input_size": True}, "small_cnn": CONFIG}  # where timm looks for them


class ConvolutionalStem(nn.Module):
    """Images [B, 3, H, W] to tokens [B, T, D], in the place of timm's `PatchEmbed`."""

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: Any):
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        halvings = patch_size.bit_length() - 1
        widths = [in_chans, *(embed_dim >> (halvings - 1 - step) for step in range(halvings))]
        layers: list[nn.Module] = []
        for given, made in pairwise(widths[:-1]):
            layers += [nn.Conv2d(given, made, 3, 2, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-2], widths[-1], 3, 2, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """H and W are those of the model."""
        tokens: torch.Tensor = self.layers(images).flatten(2).transpose(1, 2)
        return tokens


@register_model  # type: ignore[untyped-decorator]
def small_vit(pretrained: bool = False, **options: Any) -> nn.Module:
    """Six blocks of 64 channels."""
    _refuse_weights(pretrained)
    size = CONFIG["input_size"][1]
    chosen = {"img_size": size, "patch_size": 8, "embed_dim": 64, "depth": 6, "num_heads": 4} | options
    return _configured(VisionTransformer(embed_layer=ConvolutionalStem, **_known(chosen)), "head")


@register_model  # type: ignore[untyped-decorator]
def small_cnn(pretrained: bool = False, **options: Any) -> nn.Module:
    """Four stages of one block."""
    _refuse_weights(pretrained)
    chosen = {"layers": [1, 1, 1, 1], "channels": (16, 32, 64, 128), "stem_width": 16} | options
    return _configured(ResNet(BasicBlock, **_known(chosen)), "fc")


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Without what timm's create_model adds for its own registry."""
    return {
        name: value
        for name, value in options.items()
        if name not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    }


def _configured(model: Any, classifier: str) -> nn.Module:
    model.pretrained_cfg = model.default_cfg = CONFIG | {"classifier": classifier, "num_classes": model.num_classes}
    return model  # type: ignore[no-any-return]


def _refuse_weights(pretrained: bool) -> None:
    if pretrained:
        raise ValueError(
            "small students: expected a checkpoint, found pretrained=True; no weights of them were published"
        )
