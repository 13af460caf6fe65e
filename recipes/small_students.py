"""Students that a CPU (`small_...`) or a GPU (`wide_...`) trains in minutes, known to timm once this is imported.

The transformers have a class token, tokens of 8 px, and patches from strided convolutions (arXiv 2106.14881): from one
linear layer so small a transformer learns far too slowly. The others are residual networks. `small_vit` and `small_cnn`
see 64 px and have some 0.3 M parameters; `wide_vit` has DeiT-Ti's width and depth, `wide_cnn` is half as wide as
ResNet-18, and both see 96 px.
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

__all__ = ["small_cnn", "small_vit", "wide_cnn", "wide_vit"]

CONFIG: Final[dict[str, Any]] = {
    "input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
}  # fmt: skip
WIDE: Final = CONFIG | {"input_size": (3, 96, 96)}
PATCH_PX: Final = 8
default_cfgs = {  # where timm looks for them
    "small_vit": CONFIG | {"fixed_input_size": True}, "small_cnn": CONFIG,
    "wide_vit": WIDE | {"fixed_input_size": True}, "wide_cnn": WIDE,
}  # fmt: skip


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
    return _transformer(CONFIG, {"embed_dim": 64, "depth": 6, "num_heads": 4} | options)


@register_model  # type: ignore[untyped-decorator]
def wide_vit(pretrained: bool = False, **options: Any) -> nn.Module:
    """Twelve blocks of 192 channels, as DeiT-Ti."""
    _refuse_weights(pretrained)
    return _transformer(WIDE, {"embed_dim": 192, "depth": 12, "num_heads": 3} | options)


@register_model  # type: ignore[untyped-decorator]
def small_cnn(pretrained: bool = False, **options: Any) -> nn.Module:
    """Four stages of one block."""
    _refuse_weights(pretrained)
    return _residual(CONFIG, {"layers": [1, 1, 1, 1], "channels": (16, 32, 64, 128), "stem_width": 16} | options)


@register_model  # type: ignore[untyped-decorator]
def wide_cnn(pretrained: bool = False, **options: Any) -> nn.Module:
    """Four stages of two blocks."""
    _refuse_weights(pretrained)
    return _residual(WIDE, {"layers": [2, 2, 2, 2], "channels": (32, 64, 128, 256), "stem_width": 32} | options)


def _transformer(config: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    chosen = {"img_size": config["input_size"][1], "patch_size": PATCH_PX} | _known(options)
    return _configured(VisionTransformer(embed_layer=ConvolutionalStem, **chosen), "head", config)


def _residual(config: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    return _configured(ResNet(BasicBlock, **_known(options)), "fc", config)


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Without what timm's create_model adds for its own registry."""
    return {
        name: value
        for name, value in options.items()
        if name not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    }


def _configured(model: Any, classifier: str, config: dict[str, Any]) -> nn.Module:
    model.pretrained_cfg = model.default_cfg = config | {"classifier": classifier, "num_classes": model.num_classes}
    return model  # type: ignore[no-any-return]


def _refuse_weights(pretrained: bool) -> None:
    if pretrained:
        raise ValueError(
            "small and wide students: expected a checkpoint, found pretrained=True; no weights of them were published"
        )
