"""A log of offers, of which the best depends on the shop; for the tests of the command."""

from __future__ import annotations

import numpy as np
import polars as pl

from heedful.bandits.exploring import draw


def a_log(n: int = 1200, seed: int = 0) -> pl.DataFrame:
    """Shops and baskets; offer b is better for shop x, c for the others; a is logged most."""
    rng = np.random.default_rng(seed)
    shop, basket = rng.choice(["x", "y", "z"], n), rng.normal(size=n)
    p = np.where(np.arange(3) == 0, 0.6, 0.2) * np.ones((n, 3))
    actions = draw(p, rng)
    best = np.where(shop == "x", 1, 2)
    rewards = (rng.random(n) < np.where(actions == best, 0.8, 0.2)).astype(int)
    return pl.DataFrame(
        {
            "at": np.datetime64("2024-01-01") + (np.arange(n) // 30).astype("timedelta64[D]"),
            "shop": shop,
            "basket": basket,
            "action": np.array(["a", "b", "c"])[actions],
            "reward": rewards,
            "propensity": p[np.arange(n), actions],
        }
    )
