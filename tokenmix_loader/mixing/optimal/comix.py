"""Co-Mixup (Kim, Choo, Jeong, Song; arXiv 2102.03065): a batch mixed as a whole, outputs of as many images as pay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tokenmix_loader.batch import TokenSources
from tokenmix_loader.mixing.optimal.blocks import block_counts, pool_saliency, require_blocks, to_tokens
from tokenmix_loader.mixing.optimal.cut import Doubles, Ints
from tokenmix_loader.mixing.optimal.swaps import best_swaps, swap_energy
from tokenmix_loader.shapes import require_count, require_number, require_share

_PUBLISHED_BLOCKS = 4  # per side


@dataclass(frozen=True, kw_only=True)
class CoMixSettings:
    """Hyper-parameters of Co-Mixup, with the paper's letters and its values.

    The batch is cut into parts of at most `part` images, each of which becomes as many outputs. `beta`: what
    neighbouring blocks of different images cost. `gamma`: what a block costs for each block of the other outputs that
    shows the same image, from the share `tau` of an image's blocks on. `omega`: how much of that goes by the distance
    between the places where two images matter most: such images rather share an output than appear in two. `eta`: how
    much the drawn shares of the images count, Dirichlet(`alpha`, ..., `alpha`) for each output. `passes` over all
    outputs, from the second on with half-half blocks. `blocks` per side, a divisor of the student's grid; None: the one
    nearest to the published 4, so 4 for a grid of 16 and 7 for one of 14 tokens.
    """

    beta: float = 0.32
    gamma: float = 1.0
    tau: float = 0.83
    omega: float = 0.001
    eta: float = 0.05
    alpha: float = 2.0
    passes: int = 4
    part: int = 16
    blocks: int | None = None

    def __post_init__(self) -> None:
        for name in ("beta", "gamma", "tau", "eta"):
            require_number(f"CoMixSettings: {name}", getattr(self, name), "a number of at least 0", 0)
        require_share("CoMixSettings: omega", self.omega)
        require_number("CoMixSettings: alpha", self.alpha, "a number above 0", np.finfo(float).tiny)
        require_blocks("CoMixSettings: blocks", self.blocks)
        for name in ("passes", "part"):
            require_count(f"CoMixSettings: {name}", getattr(self, name))


def comix_sources(rng: np.random.Generator, guide: torch.Tensor, chosen: CoMixSettings) -> TokenSources:
    """Where the tokens of a mixed batch come from; `guide` [B, gh, gw] >= 0 on the CPU: what matters, on any scale."""
    batch, gh, gw = guide.shape
    counts = block_counts("comix_sources: blocks", chosen.blocks, (gh, gw))
    blocks = min(counts, key=lambda count: abs(np.log(count / _PUBLISHED_BLOCKS)))
    saliency = pool_saliency(guide, blocks)
    contents = []
    for images in np.array_split(np.arange(batch), -(-batch // chosen.part)):
        distances = place_distances(guide[images[0] : images[-1] + 1])
        shares = rng.dirichlet(np.full(len(images), chosen.alpha), size=len(images))
        contents.append(images[0] + mix_part(saliency[images], shares, distances, chosen))
    image = to_tokens(torch.from_numpy(np.moveaxis(np.concatenate(contents), 3, 1).copy()), (gh, gw))
    whole = image[:, 0] == image[:, 1]
    weight = torch.stack((torch.where(whole, 1.0, 0.5), torch.where(whole, 0.0, 0.5)), dim=1)
    return TokenSources(image, torch.arange(gh * gw).view(gh, gw).expand(image.shape), weight)


def place_distances(guide: torch.Tensor) -> Doubles:
    """L1 distances between the tokens that matter most, [m, m], on a scale on which they sum to m, or are all 0."""
    _, _, width = guide.shape
    places = guide.flatten(1).argmax(dim=1).numpy()
    y, x = np.divmod(places, width)
    distances: Doubles = np.abs(y - y[:, None]) / guide.shape[1] + np.abs(x - x[:, None]) / width
    if (total := distances.sum()) > 0:
        distances *= len(places) / total
    return distances


def mix_part(saliency: Doubles, shares: Doubles, distances: Doubles, chosen: CoMixSettings) -> Ints:
    """Contents [m, b, b, 2] of m outputs, as in `best_swaps`, from m inputs.

    `saliency` [m, b, b] as shares; `shares` [m, m] of the inputs in each output by the prior; `distances` [m, m].
    Outputs take turns, with all others fixed: then what others show is a cost of each input, and `best_swaps` does the
    rest. From the second pass on, an output changes only where the energy of all, `batch_energy`, becomes less.
    """
    problem = _Problem(saliency, shares, distances, chosen)
    inputs, blocks = saliency.shape[:2]
    contents, counts = np.zeros((inputs, blocks, blocks, 2), np.int64), np.zeros((inputs, inputs))
    own, overlap = np.full(inputs, np.inf), 0.0
    for turn in range(chosen.passes):
        for j in range(inputs):
            costs = problem.costs(j, counts.sum(axis=0) - counts[j])
            start = contents[j] if turn else np.repeat(costs.argmin(axis=0)[..., None], 2, axis=2)
            found = best_swaps(costs, start, problem.weight, soft=turn > 0)
            changed = counts.copy()
            changed[j] = _count(found, inputs)
            new_own, new_overlap = problem.own_energy(j, found), problem.overlap(changed)
            if new_own + new_overlap < own[j] + overlap:
                contents[j], counts, own[j], overlap = found, changed, new_own, new_overlap
    return contents


def batch_energy(
    saliency: Doubles, shares: Doubles, distances: Doubles, contents: Ints, chosen: CoMixSettings
) -> float:
    """What `mix_part` makes small: what outputs hide and tear apart, how unlikely they are, and how they overlap."""
    problem = _Problem(saliency, shares, distances, chosen)
    counts = np.array([_count(each, len(contents)) for each in contents])
    return problem.overlap(counts) + sum(problem.own_energy(j, each) for j, each in enumerate(contents))


class _Problem:
    """The terms of the energy of one part: m inputs, as many outputs, n blocks each."""

    def __init__(self, saliency: Doubles, shares: Doubles, distances: Doubles, chosen: CoMixSettings) -> None:
        n = saliency[0].size
        self.weight = chosen.beta / n
        self._saliency = saliency
        # Saliency per block goes with 1 / n, so the prior has to: `eta` is that of the published blocks.
        self._prior = -chosen.eta * _PUBLISHED_BLOCKS**2 / n * np.log(shares.clip(min=np.finfo(float).tiny))
        self._alike = (1 - chosen.omega) * np.eye(len(saliency)) + chosen.omega * distances
        self._gamma, self._least = chosen.gamma, chosen.tau * n

    def costs(self, j: int, others: Doubles) -> Doubles:
        """Of inputs in the blocks of output j, [m, b, b]; `others` [m]: how many blocks of other outputs show each."""
        overlap = self._gamma * np.maximum(self._least, self._alike @ others)
        costs: Doubles = (self._prior[j] + overlap)[:, None, None] - self._saliency
        return costs

    def own_energy(self, j: int, contents: Ints) -> float:
        """What contents [b, b, 2] of output j cost by themselves."""
        return swap_energy(self._prior[j][:, None, None] - self._saliency, contents, self.weight)

    def overlap(self, counts: Doubles) -> float:
        """What it costs that outputs show the same inputs, by their numbers of blocks [m, m]."""
        others = counts.sum(axis=0) - counts
        return float(self._gamma * (counts * np.maximum(self._least, others @ self._alike)).sum())


def _count(contents: Ints, inputs: int) -> Doubles:
    """How many blocks show each input, [m]; a half-half block counts half for both."""
    return np.bincount(contents.ravel(), minlength=inputs) / 2
