"""Multinomial logistic regression with an L2 penalty, on features that are read in blocks.

    loss = sum_i w_i (-log p_i[label_i]) + l2 / 2 |W|^2,    p_i = softmax(W x_i + b),    sum_i w_i = 1

The bias b is not penalised. Minimised by L-BFGS over the whole sum, so the result depends on the features alone, not on
an order of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from extract.own_classes.spool import Spool

BLOCK_BYTES = 1 << 25  # of features and what is computed of them at a time
MAX_ITERATIONS = 200
GRADIENT_TOLERANCE = 1e-6  # the largest derivative at the end
LOSS_TOLERANCE = 1e-9


class Regression:
    """N standardised rows of C features in a spool, each with one of K labels."""

    def __init__(self, features: Spool, labels: torch.Tensor, classes: int, device: torch.device):
        """`labels`: int64 [N]. `device`: where to compute."""
        self._features, self._device = features, device
        self.labels = labels.to(device)
        self.classes = classes
        self._rows_at_once = max(1, BLOCK_BYTES // (4 * (features.channels + 4 * classes)))

    def start(self) -> torch.Tensor:
        """Zeros [K, C + 1]: W, and b in the last column; float64."""
        return torch.zeros(self.classes, self._features.channels + 1, dtype=torch.float64, device=self._device)

    def fit(
        self, start: torch.Tensor, weights: torch.Tensor, l2: float, check: Callable[[], None] = lambda: None
    ) -> torch.Tensor:
        """The best [K, C + 1]. `weights`: float32 [N], 0 for rows that are left out. `check` is called often."""
        found = start.clone().requires_grad_()
        weights = weights.to(self._device)
        optimiser = torch.optim.LBFGS(
            [found],
            max_iter=MAX_ITERATIONS,
            tolerance_grad=GRADIENT_TOLERANCE,
            tolerance_change=LOSS_TOLERANCE,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        @torch.no_grad()
        def evaluate() -> float:
            loss, slope = self._loss(found, weights, check)
            found.grad = slope
            found.grad[:, :-1] += l2 * found[:, :-1]
            return loss + l2 / 2 * float(found[:, :-1].square().sum())

        optimiser.step(evaluate)  # type: ignore[no-untyped-call]
        return found.detach()

    @torch.no_grad()
    def predict(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The log-probability of every row's label [N], and the class with the largest [N]."""
        parts = []
        for rows, _, log_p in self._log_probabilities(parameters):
            parts.append((log_p.gather(1, self.labels[rows, None])[:, 0], log_p.argmax(1)))
        log_p_label, predicted = (torch.cat(column) for column in zip(*parts, strict=True))
        return log_p_label, predicted

    def _loss(
        self, parameters: torch.Tensor, weights: torch.Tensor, check: Callable[[], None]
    ) -> tuple[float, torch.Tensor]:
        """The sum over rows, and its derivative; products in float32, sums over blocks in float64."""
        loss, slope = 0.0, torch.zeros_like(parameters)
        for rows, x, log_p in self._log_probabilities(parameters):
            check()
            labels, row_weights = self.labels[rows, None], weights[rows, None]
            loss -= float((log_p.gather(1, labels) * row_weights).double().sum())
            error = log_p.exp_().scatter_add_(1, labels, torch.full_like(row_weights, -1.0)).mul_(row_weights)
            slope[:, :-1] += error.T @ x
            slope[:, -1] += error.sum(0)
        return loss, slope

    def _log_probabilities(self, parameters: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Block by block: which rows, their features [n, C], and the log-probabilities of all classes [n, K]."""
        weight, bias = parameters[:, :-1].float(), parameters[:, -1].float()
        for start, block in self._features.blocks(self._rows_at_once):
            x = torch.from_numpy(block).to(self._device)
            yield slice(start, start + len(block)), x, torch.log_softmax(torch.addmm(bias, x, weight.T), 1)
