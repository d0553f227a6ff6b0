"""Microseconds per decision of bandit learners, alone, in batches and many seeds at once, and beside other libraries.

    python benchmarks/bandits.py [--part rounds|batches|seeds|peers] [--rounds 5] [--quick]

One core. A round is what a user writes: decide, look the reward up, update. Of rounds the median of 100,000 is taken,
each by itself; all else is processor time. All methods take turns, several times over, so that other work on the
machine matters little. Other libraries (VowpalWabbit, MABWiser, river) run in a virtual environment of their own that
is made on first use; they are given the same contexts and the same rewards, round by round, with the same exploration,
and what they earn is compared seed by seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before scikit-learn

import numpy as np
from scipy import stats

from heedful.bandits import (
    BoostingOracle,
    Generations,
    Labels,
    LinearRules,
    LogisticOracle,
    MLPOracle,
    Outcome,
    Outcomes,
    Payments,
    Reward,
    Rewards,
    RidgeOracle,
    SquareCB,
    make,
    names,
)
from heedful.bandits.exploring import draw
from reporting import report

PEERS = ("vowpalwabbit==9.11.9", "mabwiser==2.7.4", "river==0.26.1")
SIZES = ((10, 20), (100, 20), (10, 100), (100, 100))
LANES = (64, 256)
TOLD = 20
"""Rounds whose contexts and rewards are drawn beforehand, and come again and again: as near as if drawn just now."""
LINEAR = ("linucb", "lints", "squarecb", "falcon", "contextual-epsilon", "softmax")
BESIDE = (
    ("squarecb", "vowpalwabbit", "squarecb"),
    ("contextual-epsilon", "vowpalwabbit", "epsilon"),
    ("linucb", "mabwiser", "linucb"),
    ("lints:scale=0.3", "mabwiser", "lints"),
    ("contextual-epsilon", "mabwiser", "epsilon"),
    ("ucb1", "mabwiser", "ucb1"),
    ("linucb", "river", "linucb"),
    ("epsilon-greedy", "river", "epsilon"),
    ("ucb1", "river", "ucb1"),
    ("exp3", "river", "exp3"),
)
"""Ours, the library, and its method; exploration is the same, but for what the page says."""

SERVER = r"""
import json, random, sys, time
import numpy as np

def vowpalwabbit(method, seed, x, rewards):
    import vowpalwabbit
    how = {"squarecb": "--squarecb --gamma_scale 10 --gamma_exponent 0.5", "epsilon": "--epsilon 0.1"}[method]
    work = vowpalwabbit.Workspace(f"--cb_explore_adf {how} --cb_type mtr -q sa --quiet --random_seed {seed}")
    rng, total, K = np.random.default_rng(seed), 0.0, rewards.shape[1]
    begun = time.process_time()
    for t in range(len(x)):
        shared = "shared |s " + " ".join(f"{j}:{v:.6f}" for j, v in enumerate(x[t]))
        chances = np.array(work.predict([shared, *(f"|a {k}" for k in range(K))]))
        k = int(rng.choice(K, p=chances / chances.sum()))
        reward = rewards[t, k]
        total += reward
        lines = [f"|a {j}" if j != k else f"0:{-reward}:{chances[k]} |a {j}" for j in range(K)]
        work.learn([shared, *lines])
    return time.process_time() - begun, total

def mabwiser(method, seed, x, rewards):
    from mabwiser.mab import MAB, LearningPolicy
    policy = {
        "linucb": lambda: LearningPolicy.LinUCB(alpha=1.0, l2_lambda=1.0),
        "lints": lambda: LearningPolicy.LinTS(alpha=0.3, l2_lambda=1.0),
        "epsilon": lambda: LearningPolicy.LinGreedy(epsilon=0.1, l2_lambda=1.0),
        "ucb1": lambda: LearningPolicy.UCB1(alpha=1.0),
    }[method]()
    K, linear, total = rewards.shape[1], method != "ucb1", 0.0
    learner = MAB(arms=list(range(K)), learning_policy=policy, seed=seed)
    begun = time.process_time()
    for t in range(len(x)):
        row = x[t : t + 1]
        first = t == 0 if linear else t < K  # without a context it never tries what it was not told of
        k = t % K if first else learner.predict(row) if linear else learner.predict()
        reward = rewards[t, k]
        total += reward
        told = ([k], [reward], row) if linear else ([k], [reward])
        learner.fit(*told) if t == 0 else learner.partial_fit(*told)
    return time.process_time() - begun, total

def river(method, seed, x, rewards):
    from river import bandit
    policy = {
        "linucb": lambda: bandit.LinUCBDisjoint(alpha=1.0, seed=seed),
        "epsilon": lambda: bandit.EpsilonGreedy(epsilon=0.1, seed=seed),
        "ucb1": lambda: bandit.UCB(delta=1.0, seed=seed),
        "exp3": lambda: bandit.Exp3(gamma=0.1, seed=seed),
    }[method]()
    arms, linear, total = list(range(rewards.shape[1])), method == "linucb", 0.0
    begun = time.process_time()
    for t in range(len(x)):
        context = dict(enumerate(x[t])) if linear else None
        k = policy.pull(arms, context=context) if linear else policy.pull(arms)
        reward = float(rewards[t, k])
        total += reward
        policy.update(k, context, reward) if linear else policy.update(k, reward)
    return time.process_time() - begun, total

for line in sys.stdin:
    asked = json.loads(line)
    data = np.load(asked["file"])
    print(json.dumps(globals()[asked["peer"]](asked["method"], asked["seed"], data["x"], data["rewards"])), flush=True)
"""


class Peer:
    """Other libraries, in a process that stays."""

    def __init__(self) -> None:
        command = [peer_python(), "-W", "ignore", "-c", SERVER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, **asked: Any) -> tuple[float, float]:
        """Seconds of processor time of a run, and its total reward."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        seconds, total = json.loads(self._process.stdout.readline())
        return seconds, total

    def close(self) -> None:
        self._process.communicate()


def peer_python() -> Path:
    """The Python that has the other libraries, in an environment in the cache folder, made if it is not there."""
    folder = Path.home() / ".cache" / "heedful" / "benchmarks" / "-".join(p.replace("==", "-") for p in PEERS)
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
        (folder / "ready").touch()
    return python


def clocks(works: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Seconds of processor time of each, the median of rounds in which all take turns; the first time compiles."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for mine, work in zip(taken, works, strict=True):
            begun = time.thread_time()
            work()
            if number > 0:
                mine.append(time.thread_time() - begun)
    return [statistics.median(mine) for mine in taken]


def play(learner: Any, contexts: np.ndarray, rewards: np.ndarray) -> float:
    """Rounds as a user writes them; the total reward."""
    total = 0.0
    for t in range(len(contexts)):
        choice = learner.decide(contexts[t])
        reward = float(rewards[t, choice.action])
        total += reward
        learner.update(Reward(choice.token, reward))
    return total


def rounds_part(passes: int, length: int) -> list[dict[str, Any]]:
    """Microseconds of wall time per round of every method at four sizes: the median of ``length`` rounds, taken in some
    passes over all of them, so that a minute in which the machine is slow is a part of every median and no more."""
    rng, works = np.random.default_rng(0), []
    for spec in names("arms"):
        for actions, features in SIZES:
            contexts, rewards = rng.normal(size=(1000, features)), rng.random((1000, actions))
            learner = make(spec).start(actions, features)
            play(learner, contexts[:10], rewards[:10])  # compiles
            works.append((spec, f"K={actions} d={features}, us", learner, contexts, rewards, np.empty(length)))
    for part in np.array_split(np.arange(length), passes):
        for _, _, learner, contexts, rewards, taken in works:
            taken[part] = nanoseconds(learner, contexts, rewards, len(part))
    rows: dict[str, dict[str, Any]] = {}
    for spec, column, *_, taken in works:
        rows.setdefault(spec, {"method": spec})[column] = float(np.median(taken)) / 1e3
    return list(rows.values())


def nanoseconds(learner: Any, contexts: np.ndarray, rewards: np.ndarray, length: int) -> np.ndarray:
    """Of so many rounds, int64 ``[length]``; contexts and rewards are gone through in turn."""
    taken, now = np.empty(length, dtype=np.int64), time.perf_counter_ns
    for t in range(length):
        place = t % len(contexts)
        begun = now()
        choice = learner.decide(contexts[place])
        learner.update(Reward(choice.token, float(rewards[place, choice.action])))
        taken[t] = now() - begun
    return taken


def batches_part(rounds: int, length: int) -> list[dict[str, Any]]:
    """Microseconds per row of batches: methods on their own, exploration of given scores, and whole generations."""
    rows, works, rng = [], [], np.random.default_rng(0)
    for actions, features in SIZES[:2]:
        contexts = rng.normal(size=(length, features))
        for spec in LINEAR:
            learner = make(spec).start(actions, features, max_pending=1)
            rows.append({"what": f"{spec}, decide_batch", "K": actions, "d": features})
            works.append(lambda it=learner, c=contexts: it.decide_batch(length, c))
        scores = rng.random((length, actions))
        for what, work in (
            ("inverse-gap weighting of given scores", lambda s=scores: SquareCB().probabilities(s, rows=6000)),
            ("the same, and sampling", lambda s=scores: draw(SquareCB().probabilities(s, rows=6000), rng)),
        ):
            rows.append({"what": what, "K": actions, "d": None})
            works.append(work)
    for row, seconds in zip(rows, clocks(works, rounds), strict=True):
        row["us per row"] = 1e6 * seconds / length
    count, per = (12, 2000) if length >= 2000 else (3, 200)
    oracles = (RidgeOracle(), LogisticOracle(), BoostingOracle(), MLPOracle())
    runs = clocks([lambda o=oracle: generations(o, count, per) for oracle in oracles], max(1, rounds // 3))
    for oracle, seconds in zip(oracles, runs, strict=True):
        what = f"{count} generations of {per} on {oracle.name}: fit, score, weigh, sample"
        rows.append({"what": what, "K": 8, "d": 8, "us per row": 1e6 * seconds / (count * per)})
    return rows


def generations(oracle: Any, count: int, per: int) -> None:
    """A whole run of SquareCB on payments."""
    world = Payments(nonlinearity=1.0)
    served = Generations(oracle, SquareCB(), world.actions, world.features)
    for number in range(count):
        asked = world.requests(per, np.random.default_rng(number))
        log = served.serve(asked.contexts, asked.feasible)
        served.close(asked.outcomes[np.arange(per), log.actions])


def seeds_part(rounds: int, length: int) -> list[dict[str, Any]]:
    """Microseconds per round and seed: one learner after the other, and all of them together."""
    kinds = [*((name, "arms") for name in names("arms")), *OTHERS]
    works = [Simulation(kind, make(spec), lanes, length) for spec, kind in kinds for lanes in LANES]
    seconds = iter(clocks([each for work in works for each in (work.one_by_one, work.all_together)], rounds))
    rows = []
    for spec, _ in kinds:
        row: dict[str, Any] = {"method": spec}
        for lanes in LANES:
            loop, batched = (1e6 * next(seconds) / (lanes * length) for _ in range(2))
            row |= {f"loop, {lanes} seeds": loop, f"together, {lanes}": batched, f"ratio, {lanes}": loop / batched}
        rows.append(row)
    return rows


OTHERS = (
    ("oful", "vectors"), ("dynlin-ucb", "vectors"), ("d-linucb", "vectors"), ("ofs", "thresholds"),
    ("primal-dual-ucb", "thresholds"), ("block-ucb", "switching"), ("exp2:eta=0.02", "one-sided"),
    ("exp2:eta=0.02,explore=john", "one-sided"),
)  # fmt: skip


class Simulation:
    """The same rounds with a learner per seed, and with a lane per seed; what is told is drawn beforehand."""

    def __init__(self, kind: str, method: Any, lanes: int, length: int) -> None:
        self.kind, self.lanes, self.length = kind, lanes, length
        rng, (actions, features) = np.random.default_rng(0), SIZES[0]
        self.contexts = rng.normal(size=(TOLD, lanes, features))
        self.rewards = rng.random((TOLD, lanes, actions))
        self.people = rng.random((TOLD, lanes, 4, 7))
        rules = LinearRules.random(rng.random((300, 7)), 150, rng)
        asked: tuple[Any, ...] = {
            "arms": (actions, features), "vectors": (rng.normal(size=(6, 3)),), "thresholds": (25,),
            "switching": (4, 4), "one-sided": (rules, 4),
        }[kind]  # fmt: skip
        self.alone = [method.start(*asked, seed=seed) for seed in range(lanes)]
        self.together = method.many(*asked, seeds=range(lanes))
        self.index = np.arange(lanes)

    def one_by_one(self) -> None:
        for lane, learner in enumerate(self.alone):
            for t in range(self.length):
                self._round(learner, t, lane)

    def all_together(self) -> None:
        for t in range(self.length):
            self._round(self.together, t, None)

    def _round(self, learner: Any, t: int, lane: int | None) -> None:
        """One round of a lane, or of all of them."""
        t %= TOLD
        rewards = self.rewards[t] if lane is None else self.rewards[t, lane]
        if self.kind == "arms":
            decision = learner.decide(self.contexts[t] if lane is None else self.contexts[t, lane])
        elif self.kind == "one-sided":
            decision = learner.decide(self.people[t] if lane is None else self.people[t, lane])
        else:
            decision = learner.decide()
        if self.kind == "one-sided":
            learner.update(Labels(decision.token, np.where(decision.accepted, 1.0, np.nan)))
        elif self.kind == "thresholds":
            if lane is None:
                learner.update(Outcomes(decision.token, rewards[:, 0], rewards[:, 1] - 0.5, rewards[:, 2]))
            else:
                told = rewards.tolist()
                learner.update(Outcome(decision.token, told[0], told[1] - 0.5, told[2]))
        elif lane is None:
            actions = decision.arms if self.kind == "switching" else decision.actions
            learner.update(Rewards(decision.token, rewards[self.index, actions]))
        else:
            action = decision.arm if self.kind == "switching" else decision.action
            learner.update(Reward(decision.token, float(rewards[action])))


def peers_part(seeds: int, length: int) -> list[dict[str, Any]]:
    """Time and reward beside other libraries, on the same contexts and rewards, seed by seed, in passes over all of
    them; in each pass the first seed is played twice, and the second time counts."""
    actions, features, peer, work = 10, 20, Peer(), {}
    # Of every comparison: seconds and reward per round, ours and theirs.
    found: list[list[tuple[float, float, float, float]]] = [[] for _ in BESIDE]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            asked = Payments(seed=seed, actions=actions, features=features - 1).requests(
                length, np.random.default_rng([seed, 5])
            )
            work[seed] = np.column_stack([np.ones(length), asked.contexts]), asked.outcomes
            np.savez(f"{folder}/{seed}.npz", x=work[seed][0], rewards=work[seed][1])
        for part in np.array_split(np.arange(seeds), max(1, seeds // 5)):
            for (spec, library, method), mine in zip(BESIDE, found, strict=True):
                for number, seed in enumerate([part[0], *part]):
                    learner = make(spec).start(actions, features, int(seed))
                    begun = time.thread_time()
                    total = play(learner, *work[seed])
                    taken = time.thread_time() - begun
                    asked_for = {"peer": library, "method": method, "seed": int(seed), "file": f"{folder}/{seed}.npz"}
                    took, other = peer.run(**asked_for)
                    if number > 0:
                        mine.append((taken / length, took / length, total / length, other / length))
    peer.close()
    rows = []
    for (spec, library, method), measured in zip(BESIDE, found, strict=True):
        ours, theirs, reward, other = np.array(measured).T
        gaps = reward - other
        half = stats.t.ppf(0.975, seeds - 1) * gaps.std(ddof=1) / np.sqrt(seeds)
        rows.append(
            {
                "method": spec,
                "peer": f"{library} {method}",
                "us, ours": 1e6 * float(np.median(ours)),
                "us, peer": 1e6 * float(np.median(theirs)),
                "peer / ours": float(np.median(theirs) / np.median(ours)),
                "reward, ours": float(reward.mean()),
                "reward, peer": float(other.mean()),
                "ours - peer": float(gaps.mean()),
                "low": float(gaps.mean() - half),
                "high": float(gaps.mean() + half),
            }
        )
    return rows


def _report(title: str, rows: Sequence[Mapping[str, Any]], part: str, quick: bool) -> None:
    versions = {name: version(name) for name in ("numpy", "numba", "scikit-learn")}
    peers = dict(peer.split("==") for peer in PEERS if part == "peers")
    report(title, rows, f"bandits-{part}", versions | peers, quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs; nothing is written")
    parser.add_argument("--part", choices=("rounds", "batches", "seeds", "peers"), help="one part; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--seeds", type=int, default=20, help="of the comparison with other libraries")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # the other libraries' process too: moving between cores costs either
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rounds, length, seeds = (1, 100, 2) if given.quick else (given.rounds, 2000, given.seeds)
    single = 200 if given.quick else 100_000
    parts: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
        "rounds": (f"Microseconds per round, median of {single}", lambda: rounds_part(rounds, single)),
        "batches": ("Microseconds per row of a batch", lambda: batches_part(rounds, length)),
        "seeds": ("Microseconds per round and seed, K = 10, d = 20", lambda: seeds_part(rounds, length // 20)),
        "peers": ("Beside other libraries, K = 10, d = 20", lambda: peers_part(seeds, length // 2)),
    }
    for part, (title, work) in parts.items():
        if given.part in (None, part):
            _report(title, work(), part, given.quick)


if __name__ == "__main__":
    main()
