"""A timm backbone under the decoder of SETR-PUP (arXiv 2012.15840, Sec. 3.2): convolutions with upsampling between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import LayerNorm2d
from timm.models import load_state_dict
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn


class Segmenter(nn.Module):
    """Images [B, 3, H, W] to class logits [B, K, H, W]."""

    def __init__(self, backbone: Any, level: int, num_classes: int, width: int):
        """`level`: which of the backbone's feature maps is taken, -1 is the last; what follows it is dropped.

        `width`: channels of the decoder, 256 in the paper of SETR.
        """
        super().__init__()
        maps = backbone.feature_info
        if not -len(maps) <= level < len(maps):
            raise ValueError(f"--level: expected one of {len(maps)} feature maps, -1 the last, found {level}")
        self.backbone, self.level = backbone, level % len(maps)
        channels, reduction = maps[level]["num_chs"], maps[level]["reduction"]
        backbone.prune_intermediate_layers([self.level], prune_norm=True, prune_head=True)
        self.decoder = nn.Sequential(
            LayerNorm2d(channels, eps=1e-6), *_upward(channels, width, reduction), nn.Conv2d(width, num_classes, 1)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """H and W must suit the backbone: vision transformers know one size only, see `create`."""
        (features,) = self.backbone.forward_intermediates(images, indices=[self.level], intermediates_only=True)
        logits: torch.Tensor = self.decoder(features)
        return nn.functional.interpolate(logits, size=images.shape[2:], mode="bilinear")

    def parameter_groups(self, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
        """The backbone's, the earlier the layer the lower its rate, and the decoder's at the full rate."""
        groups: list[dict[str, Any]] = param_groups_layer_decay(
            self.backbone, weight_decay, self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay")
            else (), layer_decay=layer_decay,
        )  # fmt: skip
        flat = [p for p in self.decoder.parameters() if p.ndim <= 1]
        full = [p for p in self.decoder.parameters() if p.ndim > 1]
        return [*groups, {"params": full, "weight_decay": weight_decay}, {"params": flat, "weight_decay": 0.0}]


def _upward(channels: int, width: int, reduction: int) -> Iterator[nn.Module]:
    """Twice as large again and again, until one value stands for one pixel."""
    if reduction < 1 or reduction & (reduction - 1):
        raise ValueError(f"--level: expected feature maps 1/2, 1/4, 1/8 ... of the image, found 1/{reduction}")
    for step in range(reduction.bit_length() - 1):
        yield nn.Conv2d(width if step else channels, width, 3, padding=1, bias=False)
        yield nn.BatchNorm2d(width)
        yield nn.ReLU(inplace=True)
        yield nn.Upsample(scale_factor=2, mode="bilinear")


def create_backbone(name: str, weights: Path | None, *, pretrained: bool, crop_px: int, drop_path: float) -> Any:
    """A timm model for crops of `crop_px`, with weights from a training's checkpoint, timm's own, or random ones.

    Position embeddings are interpolated. Raises ValueError where the checkpoint's tensors are not the model's; those of
    its classifier may be missing or there.
    """
    model = timm.create_model(name, pretrained=pretrained, num_classes=0, drop_path_rate=drop_path)
    if weights is not None:
        given = load_state_dict(str(weights))
        classifiers = model.pretrained_cfg["classifier"]
        heads = tuple(f"{head}." for head in ((classifiers,) if isinstance(classifiers, str) else classifiers))
        given = {name: tensor for name, tensor in given.items() if not name.startswith(heads)}
        wanted = model.state_dict()
        wrong = [n for n in wanted.keys() | given.keys() if n not in wanted or n not in given
                 or wanted[n].shape != given[n].shape]  # fmt: skip
        if wrong:
            raise ValueError(
                f"{weights}: expected the tensors of {name}, found {len(wrong)} others, such as {min(wrong)}; "
                "give the --model that was trained"
            )
        model.load_state_dict(given)
    if hasattr(model, "set_input_size"):
        model.set_input_size((crop_px, crop_px))
    return model


def create_optimizer(model: Segmenter, lr: float, weight_decay: float, layer_decay: float) -> torch.optim.Optimizer:
    """AdamW as in BEiT's transfer (arXiv 2106.08254, Table 14)."""
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model.parameter_groups(weight_decay, layer_decay), opt="adamw", lr=lr, eps=1e-8, betas=(0.9, 0.999)
    )
    return optimizer
