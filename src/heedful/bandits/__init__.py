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
    from heedful.bandits.ar2 import AR2
    from heedful.bandits.arms import ArmLanes, ArmLearner, ArmMethod, Batch, Choice, Choices, Reward, Rewards
    from heedful.bandits.auditors import Panel
    from heedful.bandits.base import Counts, Decision, Feedback, Learner, Ledger, Method
    from heedful.bandits.baselines import RoundRobin, Uniform
    from heedful.bandits.batched_exp3 import BatchedEXP3
    from heedful.bandits.block_ucb import BlockUCB
    from heedful.bandits.classification_oracles import (
        ClassificationOracle,
        ExhaustiveOracle,
        Hypotheses,
        LinearOracle,
        StumpOracle,
    )
    from heedful.bandits.context_semi_bandit_ftpl import ContextSemiBanditFTPL
    from heedful.bandits.dlinucb import DLinUCB
    from heedful.bandits.dynamical import LinearSystem
    from heedful.bandits.dynlin_ucb import DynLinUCB
    from heedful.bandits.epsilon_greedy import EpsilonGreedy
    from heedful.bandits.exp2 import Exp2
    from heedful.bandits.exp3 import EXP3
    from heedful.bandits.falcon import Falcon
    from heedful.bandits.fee_payments import FeePayments
    from heedful.bandits.generations import Generations, Log
    from heedful.bandits.learners import make, names
    from heedful.bandits.linear_rules import LinearRules
    from heedful.bandits.lints import LinTS
    from heedful.bandits.linucb import LinUCB
    from heedful.bandits.lsd import Payoffs
    from heedful.bandits.lsd_explore import LSDExploreCommit
    from heedful.bandits.lsd_learner import SwitchLanes, SwitchLearner, SwitchMethod, Turn, Turns
    from heedful.bandits.lsd_optimistic import LSDOptimistic
    from heedful.bandits.off_policy import Estimate, Logged, Support
    from heedful.bandits.ofs import OFS
    from heedful.bandits.oful import OFUL
    from heedful.bandits.one_sided import Acceptance, Labels, OneSidedLanes, OneSidedLearner, OneSidedMethod
    from heedful.bandits.one_sided_baselines import AcceptAll, BankRule, ExploreFirst, FullInformation, NaiveWeights
    from heedful.bandits.oracle_policies import ContextualEpsilon, EpsilonSplit, Greedy, Softmax
    from heedful.bandits.oracles import BoostingOracle, LogisticOracle, MLPOracle, RidgeOracle
    from heedful.bandits.payments import Digits, Payments
    from heedful.bandits.primal_dual import PrimalDualUCB
    from heedful.bandits.sliding_window_ucb import SlidingWindowUCB
    from heedful.bandits.squarecb import SquareCB
    from heedful.bandits.thompson import BernoulliThompson, GaussianThompson
    from heedful.bandits.threshold_baselines import PessimisticSearch, StaticThreshold, ThresholdUCB
    from heedful.bandits.thresholds import Outcome, Outcomes, Threshold, ThresholdMethod, Thresholds
    from heedful.bandits.ucb1 import UCB1
    from heedful.bandits.vectors import VectorLanes, VectorLearner, VectorMethod

__all__ = [
    "AR2",
    "EXP3",
    "OFS",
    "OFUL",
    "UCB1",
    "AcceptAll",
    "Acceptance",
    "ArmLanes",
    "ArmLearner",
    "ArmMethod",
    "BankRule",
    "Batch",
    "BatchedEXP3",
    "BernoulliThompson",
    "BlockUCB",
    "BoostingOracle",
    "Choice",
    "Choices",
    "ClassificationOracle",
    "ContextSemiBanditFTPL",
    "ContextualEpsilon",
    "Counts",
    "DLinUCB",
    "Decision",
    "Digits",
    "DynLinUCB",
    "EpsilonGreedy",
    "EpsilonSplit",
    "Estimate",
    "ExhaustiveOracle",
    "Exp2",
    "ExploreFirst",
    "Falcon",
    "FeePayments",
    "Feedback",
    "FullInformation",
    "GaussianThompson",
    "Generations",
    "Greedy",
    "Hypotheses",
    "LSDExploreCommit",
    "LSDOptimistic",
    "Labels",
    "Learner",
    "Ledger",
    "LinTS",
    "LinUCB",
    "LinearOracle",
    "LinearRules",
    "LinearSystem",
    "Log",
    "Logged",
    "LogisticOracle",
    "MLPOracle",
    "Method",
    "NaiveWeights",
    "OneSidedLanes",
    "OneSidedLearner",
    "OneSidedMethod",
    "Outcome",
    "Outcomes",
    "Panel",
    "Payments",
    "Payoffs",
    "PessimisticSearch",
    "PrimalDualUCB",
    "Reward",
    "Rewards",
    "RidgeOracle",
    "RoundRobin",
    "SlidingWindowUCB",
    "Softmax",
    "SquareCB",
    "StaticThreshold",
    "StumpOracle",
    "Support",
    "SwitchLanes",
    "SwitchLearner",
    "SwitchMethod",
    "Threshold",
    "ThresholdMethod",
    "ThresholdUCB",
    "Thresholds",
    "Turn",
    "Turns",
    "Uniform",
    "VectorLanes",
    "VectorLearner",
    "VectorMethod",
    "make",
    "names",
]

_HOME = {
    "BlockUCB": "block_ucb", "LSDExploreCommit": "lsd_explore", "LSDOptimistic": "lsd_optimistic", "Payoffs": "lsd",
    "SlidingWindowUCB": "sliding_window_ucb", "SwitchLearner": "lsd_learner", "SwitchMethod": "lsd_learner",
    "SwitchLanes": "lsd_learner", "Turn": "lsd_learner", "Turns": "lsd_learner",
    "AR2": "ar2", "BatchedEXP3": "batched_exp3", "DLinUCB": "dlinucb", "LinearSystem": "dynamical",
    "DynLinUCB": "dynlin_ucb", "OFUL": "oful", "VectorLanes": "vectors", "VectorLearner": "vectors",
    "VectorMethod": "vectors",
    "ArmLanes": "arms", "ArmLearner": "arms", "ArmMethod": "arms", "Batch": "arms", "Choice": "arms",
    "Choices": "arms", "Reward": "arms", "Rewards": "arms",
    "Counts": "base", "Decision": "base", "Feedback": "base", "Learner": "base", "Ledger": "base", "Method": "base",
    "RoundRobin": "baselines", "Uniform": "baselines", "EpsilonGreedy": "epsilon_greedy", "EXP3": "exp3",
    "make": "learners", "names": "learners", "LinTS": "lints", "LinUCB": "linucb",
    "BernoulliThompson": "thompson", "GaussianThompson": "thompson", "UCB1": "ucb1",
    "Falcon": "falcon", "FeePayments": "fee_payments", "Generations": "generations", "Log": "generations",
    "Estimate": "off_policy", "Logged": "off_policy", "Support": "off_policy", "ContextualEpsilon":
    "oracle_policies", "EpsilonSplit": "oracle_policies", "Greedy": "oracle_policies", "Softmax":
    "oracle_policies", "BoostingOracle": "oracles", "LogisticOracle": "oracles", "RidgeOracle": "oracles",
    "MLPOracle": "oracles",
    "Digits": "payments", "Payments": "payments", "SquareCB": "squarecb",
    "OFS": "ofs", "PrimalDualUCB": "primal_dual", "PessimisticSearch": "threshold_baselines",
    "StaticThreshold": "threshold_baselines", "ThresholdUCB": "threshold_baselines", "Outcome": "thresholds",
    "Outcomes": "thresholds", "Threshold": "thresholds", "ThresholdMethod": "thresholds", "Thresholds": "thresholds",
    "ClassificationOracle": "classification_oracles", "ExhaustiveOracle": "classification_oracles",
    "Hypotheses": "classification_oracles",
    "StumpOracle": "classification_oracles", "LinearOracle": "classification_oracles", "Panel": "auditors",
    "ContextSemiBanditFTPL": "context_semi_bandit_ftpl", "Exp2": "exp2",
    "Acceptance": "one_sided", "Labels": "one_sided", "LinearRules": "linear_rules",
    "OneSidedLanes": "one_sided", "OneSidedLearner": "one_sided", "OneSidedMethod": "one_sided",
    "AcceptAll": "one_sided_baselines", "BankRule": "one_sided_baselines", "ExploreFirst": "one_sided_baselines",
    "FullInformation": "one_sided_baselines", "NaiveWeights": "one_sided_baselines",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"heedful.bandits.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
