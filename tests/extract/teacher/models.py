"""Models for checks of identities: none of them holds only because something is zero."""

from typing import Any

import timm
import torch
from torch.nn.modules.batchnorm import _BatchNorm

SIZE = 96  # pixels


def shaken(name: str, **args: Any) -> torch.nn.Module:
    """A model with random norms and biases, and batch norms calibrated on noise, so that its signal survives."""
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(name, num_classes=10, **args)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(torch.rand_like(parameter) * 0.6 - 0.3)
        for norm in (module for module in model.modules() if isinstance(module, _BatchNorm)):
            norm.momentum = None
        model.train()(torch.randn(4, 3, SIZE, SIZE))
    return model.eval()
