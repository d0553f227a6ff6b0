"""The log that is compared on if there is none: made payments, whose truth is known."""

from __future__ import annotations

import numpy as np
import polars as pl

from heedful.bandits.commands.logs import Log
from heedful.bandits.exploring import draw
from heedful.bandits.oracle_policies import ContextualEpsilon
from heedful.bandits.oracles import LogisticOracle
from heedful.bandits.payments import Payments

ROWS, DAYS, EPSILON = 20_000, 40, 0.3


def payments(seed: int = 0) -> Log:
    """40 days of payments that a model of 2000 older ones decided about, in three of ten cases at random."""
    world, rng = Payments(seed=seed, nonlinearity=0.5), np.random.default_rng([seed, 11])
    old = world.requests(2000, rng)
    done = draw(old.feasible / old.feasible.sum(axis=1, keepdims=True), rng)
    model = LogisticOracle().fit(old.contexts, done, old.outcomes[np.arange(2000), done], world.actions)
    asked = world.requests(ROWS, rng)
    chances = ContextualEpsilon(epsilon=EPSILON).probabilities(model.predict(asked.contexts), asked.feasible)
    actions, rows = draw(chances, rng), np.arange(ROWS)
    return Log(
        name="made payments",
        contexts=pl.DataFrame({f"feature_{j}": asked.contexts[:, j] for j in range(world.features)}),
        actions=actions,
        labels=tuple(f"intervention-{k}" for k in range(world.actions)),
        rewards=asked.outcomes[rows, actions],
        propensities=chances[rows, actions],
        feasible=asked.feasible,
        places=np.zeros(ROWS, dtype=np.int64),
        days=rows // (ROWS // DAYS),
        truth=asked.means,
    )
