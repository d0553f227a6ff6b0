"""Group fairness beside individual fairness: fairlearn's reductions, who know all labels, and Exp2, which does not.

    python benchmarks/bandits_fairlearn.py [--seeds 10] [--quick]

German Credit and COMPAS, as in the experiment fair-one-sided, with its features, rules, panels and rounds of four
people. A seed halves the people. On one half fairlearn's ExponentiatedGradient fits logistic regressions under
demographic parity or equalised odds, at its defaults and with all labels; so does plain logistic regression; Exp2 goes
through 2000 rounds and sees the labels of those whom it accepts. On the other half every policy is fixed, and known by
the probability with which it accepts each person: its errors per person, the gap in acceptance between the two groups,
and the share of 2000 rounds in which the panel reports a pair. Means over seeds and 95 % t intervals; differences are
paired by seed.

Decided beforehand: group fairness is a stand-in for individual fairness if it at least halves the share of rounds with
a report against plain logistic regression, that is, if the interval of its share less half of that one's is below 0.

fairlearn runs in a virtual environment of its own that is made on first use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import venv
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before scikit-learn

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression

from heedful.bandits import Exp2, LinearRules, Panel
from heedful.bandits.admissions import Applicants, arrivals_of, compas_applicants, german_applicants, play
from heedful.bandits.auditors import most_unfair
from heedful.lab import data
from heedful.lab.files import read_parquet
from reporting import report

PEER = "fairlearn==0.13.0"
FILES = {
    "german": ("german-credit/german.parquet", german_applicants),
    "compas": ("compas-deidentified/compas.parquet", compas_applicants),
}
PEOPLE, ROUNDS = 4, 2000
PAIRS = (
    ("demographic parity", "logistic"),
    ("equalised odds", "logistic"),
    ("demographic parity", "half of logistic"),
    ("equalised odds", "half of logistic"),
    ("demographic parity", "exp2, C = 8"),
    ("equalised odds", "exp2, C = 8"),
    ("logistic", "exp2, C = 8"),
    ("logistic, by chance", "exp2, C = 8"),
    ("exp2, C = 0", "exp2, C = 8"),
)
"""What is compared with what; of a half only the share of rounds with a report."""

Floats = NDArray[np.float64]

SERVER = r"""
import json, sys
from importlib.metadata import version
import numpy as np
from fairlearn.reductions import DemographicParity, EqualizedOdds, ExponentiatedGradient
from sklearn.linear_model import LogisticRegression

print(json.dumps({f"{name} beside fairlearn": version(name) for name in ("scikit-learn", "numpy")}), flush=True)
for line in sys.stdin:
    given, found = np.load(line.strip()), {}
    for name, constraint in (("demographic parity", DemographicParity()), ("equalised odds", EqualizedOdds())):
        fitted = ExponentiatedGradient(LogisticRegression(max_iter=1000), constraint)
        fitted.fit(given["known"], given["labels"], sensitive_features=given["known"][:, -1])
        found[name] = fitted._pmf_predict(given["asked"])[:, 1].tolist()  # predict draws; this is what it draws with
    print(json.dumps(found), flush=True)
"""


class Peer:
    """fairlearn, in a process that stays."""

    def __init__(self) -> None:
        command = [peer_python(), "-W", "ignore", "-c", SERVER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions: dict[str, str] = self._read()

    def policies(self, known: Applicants, asked: Applicants) -> dict[str, Floats]:
        """With which probability each of ``asked`` is accepted, by classifiers that were fitted to ``known``."""
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            np.savez(file, known=known.features, labels=known.labels, asked=asked.features)
            file.flush()
            assert self._process.stdin is not None
            print(file.name, file=self._process.stdin, flush=True)
            return {name: np.clip(chances, 0.0, 1.0) for name, chances in self._read().items()}

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def peer_python() -> Path:
    """The Python that has fairlearn, in an environment in the cache folder, made if it is not there."""
    folder = Path.home() / ".cache" / "heedful" / "benchmarks" / PEER.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
        (folder / "ready").touch()
    return python


def exp2_policy(price: float, known: Applicants, asked: Applicants, panel: Panel, seed: int, rounds: int) -> Floats:
    """With which probability Exp2 accepts each of ``asked`` after its rounds among ``known``; its settings are those of
    the experiment."""
    rules = LinearRules.random(known.features, 150, np.random.default_rng([seed, 2]))
    learner = Exp2(rounds=rounds, penalty=price, eta=0.02, mix=0.05).start(rules, PEOPLE, seed)
    play(learner, known, panel, arrivals_of(known, rounds, PEOPLE, seed))
    places = np.arange(-(-len(asked.labels) // PEOPLE) * PEOPLE) % len(asked.labels)
    treated = [learner.decide(asked.features[four]).treatment for four in places.reshape(-1, PEOPLE)]
    return np.concatenate(treated)[: len(asked.labels)]


def policies(
    known: Applicants, asked: Applicants, panel: Panel, seed: int, rounds: int, peer: Peer
) -> dict[str, Floats]:
    """All policies: with which probability each of ``asked`` is accepted."""
    chances = LogisticRegression(max_iter=1000).fit(known.features, known.labels).predict_proba(asked.features)[:, 1]
    return {
        "accept all": np.ones(len(chances)),
        "logistic": (chances > 0.5).astype(float),
        "logistic, by chance": chances,
        **peer.policies(known, asked),
        **{f"exp2, C = {price}": exp2_policy(price, known, asked, panel, seed, rounds) for price in (0, 8)},
    }


def judged(policy: Floats, people: Applicants, rounds: NDArray[np.int64], tolerances: Floats, alpha: float) -> Floats:
    """Errors per person, the gap in acceptance between the groups, and the share of rounds with a report."""
    favoured = people.features[:, -1] == 1
    errors = np.where(people.labels == 1, 1 - policy, policy).mean()
    gap = abs(policy[favoured].mean() - policy[~favoured].mean())
    reported = [most_unfair(policy[who], one, alpha) is not None for who, one in zip(rounds, tolerances)]
    return np.array([errors, gap, np.mean(reported)])


def measured(pool: Applicants, seeds: int, rounds: int, peer: Peer) -> dict[str, Floats]:
    """Every policy's numbers, float64 ``[seeds, 3]``."""
    found: dict[str, list[Floats]] = {}
    for seed in range(seeds):
        order = np.random.default_rng([seed, 9]).permutation(len(pool.labels))
        known, asked = (Applicants(pool.features[part], pool.labels[part]) for part in np.array_split(order, 2))
        panel = Panel.random(pool.features.shape[1], 5, np.random.default_rng([seed, 3]), gamma=0.5, slack=(0.05, 0.15))
        arrivals = arrivals_of(asked, rounds, PEOPLE, 1000 + seed)
        tolerances = np.stack([panel.tolerances(asked.features[row]) for row in arrivals])
        for name, policy in policies(known, asked, panel, seed, rounds, peer).items():
            found.setdefault(name, []).append(judged(policy, asked, arrivals, tolerances, panel.alpha))
    return {name: np.array(rows) for name, rows in found.items()}


def rows_of(people: str, found: Mapping[str, Floats]) -> list[dict[str, Any]]:
    """A row per policy, and one per paired difference."""
    rows = [_row(people, name, None, values) for name, values in found.items()]
    for one, other in PAIRS:
        half = other.startswith("half of ")
        rival = found[other.removeprefix("half of ")] * (0.5 if half else 1.0)
        rows.append(_row(people, one, other, found[one] - rival, only_reports=half))
    return rows


def _row(people: str, one: str, other: str | None, values: Floats, only_reports: bool = False) -> dict[str, Any]:
    row: dict[str, Any] = {"people": people, "policy": one, "less that of": other}
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    for name, mean, width in zip(("error", "gap", "reported"), values.mean(axis=0), half):
        shown = (mean, mean - width, mean + width) if name == "reported" or not only_reports else (None, None, None)
        row |= dict(zip((name, f"{name} low", f"{name} high"), (None if x is None else float(x) for x in shown)))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs; nothing is written")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    seeds, rounds = (2, 100) if given.quick else (given.seeds, ROUNDS)
    paths = {people: data.find(file) for people, (file, _) in FILES.items()}
    missing = [FILES[people][0].partition("/")[0] for people, path in paths.items() if path is None]
    if missing:
        print("Nothing is measured without its data; fetch it: heedful data fetch " + " ".join(missing))
        return
    peer, rows = Peer(), []
    for people, (_, read) in FILES.items():
        rows += rows_of(people, measured(read(read_parquet(paths[people])), seeds, rounds, peer))
    peer.close()
    versions = {name: version(name) for name in ("numpy", "scikit-learn")} | dict([PEER.split("==")]) | peer.versions
    title = f"Group fairness beside individual fairness, {seeds} seeds"
    report(title, rows, "bandits-fairlearn", versions, given.quick, device="one core")


if __name__ == "__main__":
    main()
