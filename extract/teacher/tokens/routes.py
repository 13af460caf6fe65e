"""The route from a model's tokens to their logits. It is chosen by checks on the model, never by the model's name.

With tokens t_i, their mean p and the tail h, the logits of the tokens must average to the model's own:

    affine      mean h(t_i) == h(p) == model(x)      a token's logit is h(t_i)
    pointwise   mean h(t_i) == model(x)              the same: the head's nonlinear layers come before the pooling
    linearised  h(p) == model(x)                     h(p) + J_h(p) (t_i - p), which averages to h(p) exactly
    gradient    h(t_1 .. t_n) == model(x)            h(t) + n g_i t_i - sum_j g_j t_j, g_i = dh/dt_i: averages to h(t)
    surrogate   h(class token) == model(x)           h(t_i), whose average is not the model's; only when asked for

The sum over channels of g_i t_i is HiResCAM (Draelos and Carin 2020, section 3). For an affine or a linearised head it
gives the same logits as the form's own formula, so these three forms share their code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from extract.teacher.tokens.reading_order import check_reading_order, probe_images
from extract.teacher.tokens.token_sources import HeadSource, MapSource, TokenSource, find_pool, possible_layouts

FORMS = ("affine", "pointwise", "linearised", "gradient", "surrogate")
TOLERANCE = 2e-6  # of the largest logit, float32: looser bounds pass heads that are not affine


@dataclass(frozen=True)
class Route:
    """How one model's tokens are turned into logits."""

    source: TokenSource
    form: str  # of the table above
    channels: int
    error: float  # of the form's identity, relative to the largest logit
    locality: float  # see reading_order.py

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.source.layout.grid

    def __str__(self) -> str:
        return f"{self.source}, {self.form}"

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, 3, H, W] -> tokens [B, h, w, C] of the model's dtype."""
        return self.source.tokens(images)

    def output_logits(self, tokens: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, h, w, C], one output per image [B] -> its logits [B, h, w], and the whole image's logits [B, K].

        One backward pass through the tail gives what each token contributes to this logit; other outputs cost nothing.
        """
        if self.form in ("pointwise", "surrogate"):
            logits = self.all_logits(tokens)
            index = outputs.view(-1, 1, 1, 1).expand(*logits.shape[:3], 1)
            return logits.gather(3, index).squeeze(3), logits.mean((1, 2))
        with torch.enable_grad():
            tokens = tokens.detach().requires_grad_()
            image = self.image_logits(tokens)
            chosen = image.gather(1, outputs[:, None])
            slope = torch.autograd.grad(chosen.sum(), tokens)[0]
        h, w = self.grid
        share = (tokens.detach() * slope).sum(3) * (h * w)
        return share + (chosen.detach()[..., None] - share.mean((1, 2), keepdim=True)), image.detach()

    def image_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, h, w, C] -> logits [B, K] of the whole image."""
        if self.form in ("pointwise", "surrogate"):
            return self.all_logits(tokens).mean((1, 2))
        return self.source.tail(tokens if self.form == "gradient" else tokens.mean((1, 2)))

    def all_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, h, w, C] -> logits [B, h, w, K] of all classes; in the gradient form that would be K passes."""
        assert self.form != "gradient"
        flat = tokens.flatten(0, 2)
        if self.form == "linearised":
            at = tokens.mean((1, 2), keepdim=True).expand_as(tokens).flatten(0, 2)
            # by two backward passes: forward mode lacks some layers and compiles others by torch.jit
            value, change = torch.autograd.functional.jvp(self.source.tail, at, flat - at)  # type: ignore[no-untyped-call]
            logits: torch.Tensor = value + change
        else:
            logits = self.source.tail(flat)
        return logits.view(*tokens.shape[:3], -1)

    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [K, C] and bias [K] of an affine tail, which say everything about it."""
        assert self.form == "affine"
        device = next(self.source.model.parameters()).device
        bias = self.source.tail(torch.zeros(1, self.channels, device=device))[0]
        return (self.source.tail(torch.eye(self.channels, device=device)) - bias).T, bias


@dataclass(frozen=True)
class Refusal:
    """Why a source of tokens cannot be used; `reached` counts the checks that it passed before."""

    reached: int
    expected: str
    found: str


@torch.no_grad()
def choose_route(model: torch.nn.Module, input_size: tuple[int, int], *, class_token: bool = False) -> Route | Refusal:
    """The first route whose identity holds on this model, with its tokens in reading order; else the latest refusal.

    `class_token`: also try the surrogate, last. Raises what the model raises when it cannot run at this size.
    """
    images = probe_images(input_size, flat=False)
    direct = model(images[:2])
    if not direct.any():
        return Refusal(3, "logits that are not all zero", "only zeros: its head has no weights yet")
    refusals = [Refusal(0, "features [B, C, h, w], [B, h, w, C] or [B, tokens, C] before the pooling", "none")]
    for source in _sources(model, images, class_token):
        verdict = _try_source(source, images, direct)
        if isinstance(verdict, Route):
            return verdict
        refusals.append(verdict)
    return max(refusals, key=lambda refusal: refusal.reached)


def _sources(model: torch.nn.Module, images: torch.Tensor, class_token: bool) -> Iterator[TokenSource]:
    size = (images.shape[2], images.shape[3])
    layouts = list(possible_layouts(model.forward_features(images[:2]), size))  # type: ignore[operator]
    yield from (HeadSource(model, layout) for layout in layouts)
    pool = find_pool(model, images[:2])
    grids = [layout.grid for layout in layouts]
    if pool is not None and (not grids or pool.layout.grid in grids):
        yield pool  # a smaller grid, behind a convolution without padding, would not cover the image
    yield from (MapSource(model, layout) for layout in layouts)
    if class_token:
        yield from (HeadSource(model, replace(layout, repeated=True)) for layout in layouts if layout.prefix)


def _try_source(source: TokenSource, images: torch.Tensor, direct: torch.Tensor) -> Route | Refusal:
    h, w = source.layout.grid
    if h * w < 2:
        return Refusal(0 if source.layout.prefix else 2, "a grid of tokens", "one token; give a larger --input-size")
    try:
        tokens = source.tokens(images)
        form, error = _form_of(source, tokens[: len(direct)], images, direct)
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as problem:
        return Refusal(1, "a head that takes one token at a time", f"{type(problem).__name__}: {problem}"[:200])
    if not error <= TOLERANCE:
        expected = "token logits that average to the model's own, or its head at the mean token"
        return Refusal(2, f"{expected}, within {TOLERANCE:g}", f"a relative error of {error:.2g}")
    order = check_reading_order(source, (images.shape[2], images.shape[3]), tokens)
    if order.problem:
        return Refusal(3, "tokens in reading order", order.problem)
    return Route(source, form, tokens.shape[-1], error, order.locality)


def _form_of(
    source: TokenSource, tokens: torch.Tensor, images: torch.Tensor, direct: torch.Tensor
) -> tuple[str, float]:
    """The form whose identity holds, affine before the others, or failing that the nearest; and its error."""
    if isinstance(source, MapSource):
        return "gradient", _error(source.tail(tokens), direct)
    if source.layout.repeated:
        features = source.model.forward_features(images[: len(direct)])
        return "surrogate", _error(source.tail(features[:, 0]), direct)
    averaged = source.tail(tokens.flatten(0, 2)).view(*tokens.shape[:3], -1).double().mean((1, 2))
    pointwise = _error(averaged, direct)
    linearised = _error(source.tail(tokens.mean((1, 2))), direct)
    if max(pointwise, linearised) <= TOLERANCE:
        return "affine", max(pointwise, linearised)
    return ("pointwise", pointwise) if pointwise < linearised else ("linearised", linearised)


def _error(logits: torch.Tensor, direct: torch.Tensor) -> float:
    """The largest difference, relative to the largest logit; infinite where the shapes differ."""
    if logits.shape != direct.shape:
        return float("inf")
    return float((logits - direct).abs().max() / direct.abs().max())
