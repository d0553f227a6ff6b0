"""Payments of real merchants' profiles under real fee rules; how they are authorised is made.

From the data set ``dabstep-fees`` come merchants (category, account type, capture delay), which acquirers each may
use, where these are, and 1000 fee rules. Everything else is drawn: which interventions each merchant may use (six to
ten of ten), how card scheme, country, amount and hour bear on authorisation, and the payments themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from heedful.bandits.checks import between, whole
from heedful.bandits.payments import Floats, Requests

if TYPE_CHECKING:
    import polars as pl

INTERVENTIONS = (
    "none", "retry-now", "retry-later", "3ds-challenge", "3ds-frictionless", "network-token", "card-number",
    "full-message", "short-message", "exemption",
)  # fmt: skip
LEAST_FEASIBLE = 8
"""Actions of a request, at least."""
CREDIT_SHARE, AMOUNT_MEDIAN, AMOUNT_SPREAD = 0.7, 50.0, 1.0
ACIS = "ABCDEFG"
"""Kinds of card entry that fee rules tell apart."""


@dataclass(frozen=True, eq=False)
class FeePayments:
    """Actions are pairs of an acquirer and an intervention, ``acquirer * 10 + intervention``.

    Reward: ``(authorised - weight * fee / cap + weight) / (1 + weight)``, in [0, 1], where the fee is
    ``fixed + rate * amount / 10000`` by the mean of the rules that match and at most ``cap``, charged for every try.

    Attributes:
        fees: the fee rules.
        merchants: merchants.
        merchant_acquirers: pairs of merchant and acquirer.
        acquirer_countries: where acquirers are.
        volumes: merchant -> what its share of payments is in proportion to; those without one count as the median.
        seed: of all that is made.
        weight: of fees against authorisation, at least 0.
        cap: a fee that counts as much as ``weight``, in euros, above 0.

    Raises ValueError for a merchant without an acquirer, or an acquirer without a country.
    """

    fees: pl.DataFrame
    merchants: pl.DataFrame
    merchant_acquirers: pl.DataFrame
    acquirer_countries: pl.DataFrame
    volumes: Mapping[str, float]
    seed: int = 0
    weight: float = 0.5
    cap: float = 2.0

    def __post_init__(self) -> None:
        whole("seed", self.seed, least=0)
        between("weight", self.weight, 0.0)
        between("cap", self.cap, 0.0, open_low=True)
        used = set(self.merchant_acquirers["acquirer"])
        if lost := used - set(self.acquirer_countries["acquirer"]):
            raise ValueError(f"acquirer_countries: no country of {sorted(lost)[0]!r}")
        if lost := set(self.merchants["merchant"]) - set(self.merchant_acquirers["merchant"]):
            raise ValueError(f"merchant_acquirers: no acquirer of {sorted(lost)[0]!r}")

    @cached_property
    def acquirers(self) -> tuple[str, ...]:
        """Their names, in order of actions."""
        return tuple(sorted(self.acquirer_countries["acquirer"]))

    @cached_property
    def countries(self) -> tuple[str, ...]:
        """Where cards are issued: the acquirers' countries, and one more."""
        return (*sorted(set(self.acquirer_countries["country_code"])), "other")

    @cached_property
    def schemes(self) -> tuple[str, ...]:
        """Card schemes."""
        return tuple(sorted(set(self.fees["card_scheme"])))

    @property
    def actions(self) -> int:
        """K."""
        return len(self.acquirers) * len(INTERVENTIONS)

    @property
    def features(self) -> int:
        """d: amount, hour (2), credit, and one-hot card scheme, country, account type."""
        return 4 + len(self.schemes) + len(self.countries) + len(set(self.merchants["account_type"]))

    @cached_property
    def _feasible(self) -> NDArray[np.bool_]:
        """bool ``[merchants, K]``: as many interventions, drawn, as give the least number of actions or more."""
        rng = np.random.default_rng([self.seed, 2])
        found = np.zeros((len(self.merchants), len(self.acquirers), len(INTERVENTIONS)), dtype=np.bool_)
        for row, merchant in enumerate(self.merchants["merchant"]):
            own = self.merchant_acquirers.filter(merchant=merchant)["acquirer"].to_list()
            least = max(6, -(-LEAST_FEASIBLE // len(own)))
            count = int(rng.integers(least, len(INTERVENTIONS) + 1))
            some = rng.choice(len(INTERVENTIONS), count, replace=False)
            for acquirer in own:
                found[row, self.acquirers.index(acquirer), some] = True
        return found.reshape(len(self.merchants), -1)

    @cached_property
    def rules(self) -> Floats:
        """float64 ``[merchants, schemes, 2 credit, aci, 2 within the country, 2]``: the mean fixed amount and rate of
        the rules that match; the mean of all of the scheme's where none does. Conditions on a merchant's monthly volume
        and fraud are left aside: they are known of five merchants only."""
        shape = (len(self.schemes), 2, len(ACIS), 2)
        found = np.empty((len(self.merchants), *shape, 2))
        amounts = self.fees.select("fixed_amount", "rate").to_numpy().astype(np.float64)
        column = {name: self.fees[name].to_list() for name in self.fees.columns}
        scheme = np.array(column["card_scheme"]) == np.array(self.schemes)[:, None]
        credit, inside = (_agrees(column[name], (False, True)) for name in ("is_credit", "intracountry"))
        kinds = _among(column["aci"], ACIS)
        for m, merchant in enumerate(self.merchants.iter_rows(named=True)):
            own = _among(column["account_type"], [merchant["account_type"]])[0]
            own &= _among(column["merchant_category_code"], [merchant["merchant_category_code"]])[0]
            own &= _agrees(column["capture_delay"], [merchant["capture_delay"]])[0]
            for s, c, a, i in np.ndindex(*shape):
                rows = own & scheme[s] & credit[c] & kinds[a] & inside[i]
                found[m, s, c, a, i] = amounts[rows if rows.any() else scheme[s]].mean(axis=0)
        return found

    @cached_property
    def _world(self) -> tuple[Floats, Floats, Floats, Floats]:
        """What authorisation is made of: weights ``[10, d]`` and intercepts of interventions, and of acquirers ``[8]``;
        shares of merchants."""
        rng = np.random.default_rng([self.seed, 3])
        weights = rng.normal(0, 0.4, (len(INTERVENTIONS), self.features))
        intercepts = rng.normal(1.2, 0.5, len(INTERVENTIONS))
        middle = float(np.median(list(self.volumes.values()))) if self.volumes else 1.0
        share = np.array([self.volumes.get(name, middle) for name in self.merchants["merchant"]])
        return weights, intercepts, rng.normal(0, 0.15, len(self.acquirers)), share / share.sum()

    def requests(self, n: int, rng: np.random.Generator) -> Requests:
        """The next n requests; actions of one payment share their luck."""
        weights, intercepts, quality, share = self._world
        merchant = rng.choice(len(share), n, p=share)
        scheme, country = rng.integers(0, len(self.schemes), n), rng.integers(0, len(self.countries), n)
        credit, aci = (rng.random(n) < CREDIT_SHARE).astype(int), rng.integers(0, len(ACIS), n)
        amount, hour = AMOUNT_MEDIAN * np.exp(AMOUNT_SPREAD * rng.standard_normal(n)), rng.random(n) * 24
        kinds = sorted(set(self.merchants["account_type"]))
        kind = np.array([kinds.index(name) for name in self.merchants["account_type"]])[merchant]
        clock = 2 * np.pi * hour / 24
        contexts = np.column_stack(
            [
                np.log(amount / AMOUNT_MEDIAN), np.sin(clock), np.cos(clock), credit - CREDIT_SHARE,
                np.eye(len(self.schemes))[scheme], np.eye(len(self.countries))[country], np.eye(len(kinds))[kind],
            ]
        )  # fmt: skip
        chance = special.expit((contexts @ weights.T + intercepts)[:, None, :] + quality[:, None])
        chance = chance.reshape(n, -1)
        where = dict(self.acquirer_countries.iter_rows())
        inside = np.array([self.countries.index(where[name]) for name in self.acquirers]) == country[:, None]
        fixed, rate = np.moveaxis(
            self.rules[merchant[:, None], scheme[:, None], credit[:, None], aci[:, None], inside.astype(int)], -1, 0
        )
        fee = np.minimum(fixed + rate * amount[:, None] / 10_000, self.cap) / self.cap
        cost = self.weight * np.repeat(fee, len(INTERVENTIONS), axis=1)
        luck = rng.random((n, 1)) < chance
        means, outcomes = ((value - cost + self.weight) / (1 + self.weight) for value in (chance, luck))
        return Requests(contexts, self._feasible[merchant], means, outcomes)


def _agrees(rules: Sequence[Any], values: Sequence[Any]) -> NDArray[np.bool_]:
    """bool ``[values, rules]``: which rules speak of each value; None in a rule speaks of all."""
    return np.array([[rule is None or rule == value for rule in rules] for value in values])


def _among(rules: Sequence[Any], values: Sequence[Any]) -> NDArray[np.bool_]:
    """bool ``[values, rules]``: which rules list each value; an empty list speaks of all."""
    return np.array([[not rule or value in rule for rule in rules] for value in values])
