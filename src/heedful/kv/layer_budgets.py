"""A pool of entries, shared out over layers in whole numbers: in proportion, up to what a layer can take."""

from __future__ import annotations

import torch
from torch import Tensor


def shares(preference: Tensor, pool: Tensor, cap: Tensor) -> Tensor:
    """Water-filling: ``min(cap, c P)``, with c such that it adds up to the pool.

    What layers cannot take goes to the others, in proportion to P again; where those have no preference, equally.

    Args:
        preference: float64 ``[batch, layers]``, P; what is negative or not finite counts as 0.
        pool: int64 ``[batch]``, entries to share out.
        cap: int64 ``[batch]``, the most that a layer can take.

    Returns:
        float64 ``[batch, layers]``; sums are ``min(pool, layers x cap)``.
    """
    weight = preference.where(preference.isfinite() & (preference > 0), 0.0)
    weight = weight / weight.amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    layers, most = preference.shape[1], cap.double()[:, None]
    total = torch.minimum(pool, layers * cap).double()[:, None]
    open_ = torch.ones_like(weight, dtype=torch.bool)
    while True:
        left = total - most * (layers - open_.sum(dim=1, keepdim=True))
        mine = weight * open_
        mine = torch.where(mine.sum(dim=1, keepdim=True) > 0, mine, open_.double())
        share = left * (mine / mine.sum(dim=1, keepdim=True).clamp(min=1e-300))
        over = open_ & (share > most)
        if not over.any():
            return torch.where(open_, share, most)
        open_ = open_ & ~over


def whole(exact: Tensor, total: Tensor) -> Tensor:
    """Whole numbers that add up: floors, then one more for the largest remainders, of equal ones the lower layer's.

    Args:
        exact: float64 ``[batch, layers]``, at least 0.
        total: int64 ``[batch]``, what ``exact`` adds up to.

    Returns:
        int64 ``[batch, layers]``, each ``exact`` rounded up or down.
    """
    floor = (exact + 1e-9).floor()
    missing = total - floor.sum(dim=1).long()
    remainder = ((exact - floor) * 1e9).round()
    order = remainder.argsort(dim=1, descending=True, stable=True)
    lucky = torch.arange(exact.shape[1]) < missing[:, None]
    return floor.long().scatter_add(1, order, lucky.long())


def reference_budgets(preference: Tensor, pool: Tensor, cap: Tensor) -> Tensor:
    """The published code's budgets, as int64 ``[batch, layers]``; arguments as for :func:`shares`.

    Proportional shares are truncated; what exceeds the cap is spread over the other layers equally, once; then equal
    amounts are added or taken until the sum is the pool. A layer may end above the cap, so that the sum of what it can
    hold falls short.
    """
    clean = preference.where(preference.isfinite() & (preference > 0), 0.0)
    clean = torch.where(clean.sum(dim=1, keepdim=True) > 0, clean, 1.0)
    budgets = (pool[:, None] * (clean / clean.sum(dim=1, keepdim=True))).long()
    above = (budgets - cap[:, None]).clamp(min=0)
    budgets = budgets - above
    budgets = budgets + _parts(above.sum(dim=1), budgets < cap[:, None])
    missing = pool - budgets.sum(dim=1)
    budgets = budgets + _parts(missing.clamp(min=0), budgets < cap[:, None])
    budgets = budgets - _parts((-missing).clamp(min=0), budgets > 1)
    return budgets.clamp(min=0).minimum(cap[:, None])


def _parts(amount: Tensor, among: Tensor) -> Tensor:
    """``amount`` ``[batch]`` in equal parts for the layers ``among`` ``[batch, layers]``; the first get the rest."""
    count = among.sum(dim=1).clamp(min=1)
    rank = among.cumsum(dim=1) - 1
    return ((amount // count)[:, None] + (rank < (amount % count)[:, None]).long()) * among
