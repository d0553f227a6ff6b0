"""Online decisions with partial, late or fair-constrained feedback.

>>> from heedful.bandits import LinUCB, Reward
>>> learner = LinUCB(alpha=0.5).start(actions=3, features=2, seed=0)
>>> choice = learner.decide([1.0, 0.2])
>>> learner.update(Reward(choice.token, reward=1.0))
>>> learner.counts
Counts(decided=1, pending=0, learned=1, expired=0, late=0)

Names are loaded when they are first used, so that listing experiments does not import numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heedful.bandits.arms import ArmLanes, ArmLearner, ArmMethod, Batch, Choice, Choices, Reward, Rewards
    from heedful.bandits.auditors import Panel
    from heedful.bandits.base import Counts, Decision, Feedback, Learner, Ledger, Method
    from heedful.bandits.baselines import RoundRobin, Uniform
    from heedful.bandits.context_semi_bandit_ftpl import ContextSemiBanditFTPL
    from heedful.bandits.epsilon_greedy import EpsilonGreedy
    from heedful.bandits.exp2 import Exp2
    from heedful.bandits.exp3 import EXP3
    from heedful.bandits.learners import make, names
    from heedful.bandits.lints import LinTS
    from heedful.bandits.linucb import LinUCB
    from heedful.bandits.ofs import OFS
    from heedful.bandits.one_sided import Acceptance, Labels, LinearRules, OneSidedMethod
    from heedful.bandits.one_sided_baselines import AcceptAll, BankRule, ExploreFirst, FullInformation, NaiveWeights
    from heedful.bandits.primal_dual import PrimalDualUCB
    from heedful.bandits.thompson import BernoulliThompson, GaussianThompson
    from heedful.bandits.threshold_baselines import PessimisticSearch, StaticThreshold, ThresholdUCB
    from heedful.bandits.thresholds import Outcome, Outcomes, Threshold, ThresholdMethod, Thresholds
    from heedful.bandits.ucb1 import UCB1

__all__ = [
    "EXP3",
    "OFS",
    "UCB1",
    "AcceptAll",
    "Acceptance",
    "ArmLanes",
    "ArmLearner",
    "ArmMethod",
    "BankRule",
    "Batch",
    "BernoulliThompson",
    "Choice",
    "Choices",
    "ContextSemiBanditFTPL",
    "Counts",
    "Decision",
    "EpsilonGreedy",
    "Exp2",
    "ExploreFirst",
    "Feedback",
    "FullInformation",
    "GaussianThompson",
    "Labels",
    "Learner",
    "Ledger",
    "LinTS",
    "LinUCB",
    "LinearRules",
    "Method",
    "NaiveWeights",
    "OneSidedMethod",
    "Outcome",
    "Outcomes",
    "Panel",
    "PessimisticSearch",
    "PrimalDualUCB",
    "Reward",
    "Rewards",
    "RoundRobin",
    "StaticThreshold",
    "Threshold",
    "ThresholdMethod",
    "ThresholdUCB",
    "Thresholds",
    "Uniform",
    "make",
    "names",
]

_HOME = {
    "ArmLanes": "arms", "ArmLearner": "arms", "ArmMethod": "arms", "Batch": "arms", "Choice": "arms",
    "Choices": "arms", "Reward": "arms", "Rewards": "arms",
    "Counts": "base", "Decision": "base", "Feedback": "base", "Learner": "base", "Ledger": "base", "Method": "base",
    "RoundRobin": "baselines", "Uniform": "baselines", "EpsilonGreedy": "epsilon_greedy", "EXP3": "exp3",
    "make": "learners", "names": "learners", "LinTS": "lints", "LinUCB": "linucb",
    "BernoulliThompson": "thompson", "GaussianThompson": "thompson", "UCB1": "ucb1",
    "OFS": "ofs", "PrimalDualUCB": "primal_dual", "PessimisticSearch": "threshold_baselines",
    "StaticThreshold": "threshold_baselines", "ThresholdUCB": "threshold_baselines", "Outcome": "thresholds",
    "Outcomes": "thresholds", "Threshold": "thresholds", "ThresholdMethod": "thresholds", "Thresholds": "thresholds",
    "Panel": "auditors", "ContextSemiBanditFTPL": "context_semi_bandit_ftpl", "Exp2": "exp2",
    "Acceptance": "one_sided", "Labels": "one_sided", "LinearRules": "one_sided", "OneSidedMethod": "one_sided",
    "AcceptAll": "one_sided_baselines", "BankRule": "one_sided_baselines", "ExploreFirst": "one_sided_baselines",
    "FullInformation": "one_sided_baselines", "NaiveWeights": "one_sided_baselines",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"heedful.bandits.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
