"""Policies on a log: trained on its first part, evaluated on the rest, with what the rest cannot say.

Predictions of estimators come from models of the measured rows too, but of other thirds of them than the one that they
are used on: a model that chose would flatter its own choice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import ArmMethod, Reward
from heedful.bandits.commands.encoder import Encoder
from heedful.bandits.commands.logs import Log
from heedful.bandits.commands.options import Contender
from heedful.bandits.commands.tables import Floats
from heedful.bandits.exploring import mask_of
from heedful.bandits.off_policy import Estimate, Logged, Support
from heedful.bandits.oracles import Oracle, RidgeOracle
from heedful.lab.errors import LabError
from heedful.lab.intervals import block_interval, bootstrap_interval

THIRDS = 3
FOLDS = 5
SMOOTHED = 0.01
"""Of estimated propensities so much is uniform, so that none is 0."""
LEAST_DAYS = 20
"""From so many days on they are what is drawn again."""
LEAST_TELLING = 5
"""Rows whose reward is not the usual one and that a policy gives weight to: with fewer no interval is given."""
BATCHES = 2048
"""Into so many parts, at most, a log without as many days is cut before its blocks are drawn again."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was found about a policy.

    Attributes:
        contender: the policy.
        estimates: by name; ``replay`` for a learner.
        support: how far the log carries it; None without propensities.
        truth: its value, where it is known.
        matched: rows whose logged action the learner chose too; None for a rule.
        weighed: bool ``[n]``: rows that it gives weight to; None without propensities.
    """

    contender: Contender
    estimates: dict[str, Estimate]
    support: Support | None
    truth: float | None
    matched: int | None = None
    weighed: NDArray[np.bool_] | None = None


class _Scale(NamedTuple):
    """Rewards on [0, 1], as models and gammas want them: from the least to the largest of some."""

    low: float
    width: float

    @classmethod
    def of(cls, rewards: Floats) -> _Scale:
        return cls(float(rewards.min()), float(np.ptp(rewards)) or 1.0)

    def shares(self, rewards: Floats) -> Floats:
        """Where rewards lie in the range; 0 and 1 for what is beyond it."""
        return np.clip((rewards - self.low) / self.width, 0.0, 1.0)


@dataclass(eq=False)
class Work:
    """A log in two parts.

    Args:
        before: what policies are trained on; its propensities are estimated, where it has none and they are asked for.
        measured: what they are evaluated on.
        propensities: of the measured rows; None if they are not known.
        clip: weights are at most that in estimates; None: not clipped. How far the log carries a policy is said of the
            weights as they are.
    """

    before: Log
    measured: Log
    propensities: Floats | None
    clip: float | None

    def __post_init__(self) -> None:
        encode = Encoder.of(self.before.contexts)
        self._before, self.contexts = encode(self.before.contexts), encode(self.measured.contexts)
        self._scale = _Scale.of(self.before.rewards)
        self._number = len(self.measured.labels)
        self.feasible = mask_of(self.measured.feasible, len(self.measured), self._number)
        self._models: dict[str, Any] = {}
        self._predicted: dict[str, Floats] = {}

    @property
    def covered(self) -> NDArray[np.bool_]:
        """bool ``[n, K]``: actions that the measured part takes at all, in that place."""
        places, actions = self.measured.places, self.measured.actions
        taken = np.zeros((int(places.max()) + 1, self._number), dtype=np.bool_)
        taken[places, actions] = True
        return taken[places]

    def policy(self, contender: Contender, oracle: Oracle | None) -> Floats:
        """float64 ``[n, K]``: what a rule would do on the measured rows."""
        assert contender.rule is not None
        n = len(self.measured)
        if contender.spec == "uniform":
            scores = np.zeros((n, self._number))
            return contender.rule.probabilities(scores, self.measured.feasible)
        key = contender.oracle or "best-action"
        x, asked = self._before, self.contexts
        if not contender.oracle:
            x, asked, oracle = x[:, :0], asked[:, :0], RidgeOracle()
        assert oracle is not None
        if key not in self._models:
            self._models[key] = self._fit(oracle, x, self.before)
        model = self._models[key]
        return contender.rule.probabilities(model.predict(asked), self.measured.feasible, model.rows)

    def predicted(self, name: str, oracle: Oracle) -> Floats:
        """float64 ``[n, K]``: rewards of the measured rows, each third predicted from the others."""
        if name not in self._predicted:
            log, n = self.measured, len(self.measured)
            found = np.empty((n, self._number))
            for rows in np.array_split(np.arange(n), THIRDS):
                others = np.setdiff1d(np.arange(n), rows)
                scale = _Scale.of(log.rewards[others])
                y = scale.shares(log.rewards[others])
                model = self._quiet(oracle, self.contexts[others], log.actions[others], y)
                found[rows] = model.predict(self.contexts[rows]) * scale.width + scale.low
            self._predicted[name] = found
        return self._predicted[name]

    def _fit(self, oracle: Oracle, x: Floats, log: Log) -> Any:
        return self._quiet(oracle, x, log.actions, self._scale.shares(log.rewards))

    def _quiet(self, oracle: Oracle, x: Floats, actions: NDArray[np.int64], rewards: Floats) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # one class: every policy is then the same, as the table shows
            return oracle.fit(x, actions, rewards, self._number)

    def _chances_before(self) -> Floats:
        """float64 ``[n]``: with which probabilities the first part was done."""
        if self.before.propensities is None:
            self.before = replace(self.before, propensities=estimated_propensities(self.before, self._before))
        assert self.before.propensities is not None
        return self.before.propensities

    def replay(self, method: ArmMethod, seed: int) -> tuple[Estimate, NDArray[np.bool_]]:
        """The value of a learner, from the rows whose logged action it would have chosen too; and which these are.

        It is first told the whole first part; then it decides each measured row, and is told those that match. Rows
        count by the inverse of their propensity (Li, Chu, Langford, Wang, WSDM 2011, where all are the same). A learner
        is told rewards on the scale of the first part, cut to it: that the rest holds larger ones nobody knew then.
        """
        assert self.propensities is not None
        chances = self._chances_before()
        log, past = self.measured, self.before
        first, then = (np.column_stack([np.ones(len(x)), x]) for x in (self._before, self.contexts))
        learner = method.start(self._number, first.shape[1], seed, expire_after=1)
        told = self._scale.shares(past.rewards)
        for x, action, reward, chance in zip(first, past.actions, told, chances, strict=True):
            learner.learn_logged(action, reward, chance, x)
        rewards, matches = self._scale.shares(log.rewards), np.zeros(len(log), dtype=np.bool_)
        for i in range(len(log)):
            mask = log.feasible[i if len(log.feasible) > 1 else 0]
            choice = learner.decide(then[i], mask)
            if choice.action == log.actions[i]:
                matches[i] = True
                learner.update(Reward(choice.token, float(rewards[i])))
        weights = matches / self.propensities
        if self.clip is not None:
            weights = np.minimum(weights, self.clip)
        return Estimate("replay", weights * log.rewards, weights), matches


def estimated_propensities(log: Log, contexts: Floats) -> Floats:
    """float64 ``[n]``: the probability of what was done, by a multinomial logistic regression on the other folds.

    Folds are stretches of the log. Infeasible actions have 0; of the rest 1 % is spread uniformly.
    """
    from sklearn.linear_model import LogisticRegression

    n, number = len(log), len(log.labels)
    mask = np.broadcast_to(log.feasible, (n, number))
    found = np.empty(n)
    for rows in np.array_split(np.arange(n), FOLDS):
        others = np.setdiff1d(np.arange(n), rows)
        chances = np.zeros((len(rows), number))
        seen = np.unique(log.actions[others])
        if len(seen) == 1:
            chances[:, seen] = 1.0
        else:
            fitted = LogisticRegression(max_iter=200, tol=1e-3).fit(contexts[others], log.actions[others])
            chances[:, fitted.classes_] = fitted.predict_proba(contexts[rows])
        chances = np.where(mask[rows], chances, 0.0) + 1e-12 * mask[rows]
        chances /= chances.sum(axis=1, keepdims=True)
        even = mask[rows] / mask[rows].sum(axis=1, keepdims=True)
        found[rows] = ((1 - SMOOTHED) * chances + SMOOTHED * even)[np.arange(len(rows)), log.actions[rows]]
    return found


def run(
    work: Work,
    contenders: Sequence[Contender],
    oracles: dict[str, Oracle],
    estimators: Sequence[str],
    seed: int,
    progress: Callable[[int, int], None],
) -> list[Outcome]:
    """Every policy, on the measured part.

    Args:
        work: the log.
        contenders: the policies; learners are left out where propensities are not known.
        oracles: models by name; the first one predicts for the estimators.
        estimators: which.
        seed: of learners.
        progress: told how many are done, of how many.
    """
    log, found = work.measured, []
    name, oracle = next(iter(oracles.items()))
    logged = None
    if work.propensities is not None:
        logged = Logged(log.actions, log.rewards, work.propensities, work.covered)
    for done, contender in enumerate(contenders):
        progress(done, len(contenders))
        if contender.learner is not None:
            if work.propensities is not None:
                estimate, matching = work.replay(contender.learner, seed)
                # What a log carries of a learner are the rows that matched.
                carried, matched = Support.of(matching / work.propensities), int(matching.sum())
                found.append(Outcome(contender, {"replay": estimate}, carried, None, matched, matching))
            continue
        policy = work.policy(contender, oracles.get(contender.oracle))
        predicted = work.predicted(name, oracle) if {"dr", "direct"} & set(estimators) else None
        support: Support | None = None
        weighed: NDArray[np.bool_] | None = None
        if logged is None:
            direct = (policy * work.predicted(name, oracle)).sum(axis=1)
            estimates = {"direct": Estimate("direct", direct, np.ones(len(log)))}
        else:
            estimates, support = logged.estimates(policy, predicted, work.clip), logged.support(policy)
            weighed = logged.weights(policy) > 0
        kept = {each: estimates[each] for each in estimators}
        truth = None if log.truth is None else float((policy * log.truth).sum(axis=1).mean())
        found.append(Outcome(contender, kept, support, truth, None, weighed))
    return found


@dataclass(frozen=True, eq=False)
class Intervals:
    """95 % intervals by drawing days, or stretches of a log without as many days, again.

    Attributes:
        days: ``[n]``: numbers of days, in order; None if the log has none.
        rows: n.
    """

    days: NDArray[np.int64] | None
    rows: int

    @property
    def by_days(self) -> bool:
        """Whether there are days enough."""
        return self.days is not None and len(np.unique(self.days)) >= LEAST_DAYS

    def __call__(self, numerators: Floats, denominators: Floats) -> tuple[float, float]:
        """Of the ratio of two sums over rows."""
        rng = np.random.default_rng(0)
        if self.by_days:
            which = np.unique(np.asarray(self.days), return_inverse=True)[1]
            above, below = (np.bincount(which, weights=each) for each in (numerators, denominators))
            return bootstrap_interval(above, below, rng)
        edges = np.linspace(0, self.rows, min(BATCHES, self.rows) + 1).astype(np.int64)[:-1]
        return block_interval(np.add.reduceat(numerators, edges), np.add.reduceat(denominators, edges), rng)


def rows(outcomes: Sequence[Outcome], work: Work, intervals: Intervals) -> list[dict[str, Any]]:
    """A row per policy: estimates with intervals, the gain over what was logged, and support."""
    log = work.measured
    values, counts = np.unique(log.rewards, return_counts=True)
    unusual = log.rewards != values[counts.argmax()]
    found = []
    for out in outcomes:
        row: dict[str, Any] = {"policy": out.contender.spec, "oracle": out.contender.oracle}
        problems = [] if out.support is None else list(out.support.problems)
        enough = True
        if out.weighed is not None and (telling := int((unusual & out.weighed).sum())) < LEAST_TELLING:
            enough = False
            usual = f"{values[counts.argmax()]:g}"
            problems.append(f"rows that bear on it and whose reward is not {usual}: {telling}")
        for name in ("dr", "snips", "ips", "direct", "replay"):
            told = enough or name == "direct"
            row |= _spread(name, out.estimates.get(name), intervals if told else None)
        best = next((out.estimates[name] for name in ("dr", "replay", "snips", "ips") if name in out.estimates), None)
        row |= _spread("gain", None if best is None else _over(best, log.rewards), intervals if enough else None)
        support = out.support
        row |= {
            "ess": None if support is None else support.ess,
            "max_weight": None if support is None else support.max_weight,
            "mean_weight": None if support is None else support.mean_weight,
            "unlogged": None if support is None or out.matched is not None else support.uncovered,
            "matched": out.matched,
            "truth": out.truth,
            "problems": "; ".join(problems),
        }
        found.append(row)
    return found


def _over(estimate: Estimate, rewards: Floats) -> Estimate | None:
    """What an estimate is above the mean of the log; linearised, so that both are drawn again together."""
    if not estimate.denominators.sum():
        return None
    residuals = estimate.numerators - estimate.value * estimate.denominators
    terms = estimate.value + residuals / estimate.denominators.mean() - rewards
    return Estimate("gain", terms, np.ones(len(rewards)))


def _spread(name: str, estimate: Estimate | None, intervals: Intervals | None) -> dict[str, float | None]:
    """An estimate and its interval; nothing for one that is none, and no interval where it could not be finite."""
    row: dict[str, float | None] = dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    if estimate is None or not estimate.denominators.sum():
        return row
    row[name] = estimate.value
    if intervals is not None:
        low, high = intervals(estimate.numerators, estimate.denominators)
        if np.isfinite([low, high]).all():
            row[f"{name}_low"], row[f"{name}_high"] = low, high
    return row


def check_split(log: Log, share: float) -> int:
    """Where the measured part begins. Raises LabError if a part has fewer than 50 rows."""
    cut = int(len(log) * share)
    if min(cut, len(log) - cut) < 50:
        raise LabError(
            f"--split {share:g}: of {len(log)} rows {cut} are trained on and {len(log) - cut} measured; both need 50"
        )
    return cut


def odd_propensities(work: Work) -> str:
    """In words, that the stated propensities do not fit what was logged; empty if they do.

    The weights of the uniform policy have mean 1, less what is never logged, if the propensities are right.
    """
    assert work.propensities is not None
    mask = work.feasible & work.covered
    expected = float((mask.sum(axis=1) / work.feasible.sum(axis=1)).mean())
    n = len(work.measured)
    weights = 1.0 / (np.broadcast_to(work.feasible, (n, work.feasible.shape[1])).sum(axis=1) * work.propensities)
    error = float(weights.std(ddof=1)) / np.sqrt(n)
    if abs(weights.mean() - expected) <= 4 * error + 2e-3 * expected:
        return ""
    return (
        "the stated propensities do not fit the log: weights of the uniform policy have mean "
        f"{weights.mean():.3g}, expected {expected:.3g}"
    )
