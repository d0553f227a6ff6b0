"""What was claimed of CAKE before it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heedful.lab import Claim

LENGTH = 512
KNOWN = ("niah1", "mk1", "mk3", "mq", "vt", "marked")
"""Tasks that claims about quality are decided on."""
LATE = "niah1@agnostic"
RIVALS = ("snapkv", "pyramidkv", "h2o", "tova", "streaming-llm", "random")
TUNABLE = ("cake", "snapkv", "pyramidkv", "h2o")
"""Methods with something to tune; each gets the same number of settings."""
SMALL = tuple(slots / LENGTH for slots in (20, 24, 32))
LARGE = 128 / LENGTH
_ITEMS: dict[str, Any] = {"unit": ("item",), "fixed": "one checkpoint"}


def _against(control: str, method: str = "cake", shares: Sequence[float] = SMALL) -> dict[str, Any]:
    return {
        "treatment": {"method": method},
        "control": {"method": control},
        "where": {"part": "quality", "task": list(KNOWN), "share": list(shares)},
    }


_PUBLISHED = {
    "snapkv": "above SnapKV at all budgets of LongBench, most at small ones",
    "pyramidkv": "above PyramidKV at all budgets of LongBench, most at small ones",
    "h2o": "above H2O at all budgets of LongBench",
    "tova": "above TOVA at all budgets of LongBench",
    "streaming-llm": "above StreamingLLM at all budgets of LongBench",
}

CLAIMS = (
    *(
        Claim(
            f"knows-{task}",
            f"With the full cache the model answers at least 95 % of {task}, so that losses are the policy's.",
            "accuracy",
            rule="noninferior",
            control=0.95,
            treatment={"method": "full"},
            where={"task": task},
            **_ITEMS,
        )
        for task in (*KNOWN, "mv", "mk2", LATE)
    ),
    Claim(
        "near-full",
        "With 20 of 512 entries, 4 % of the cache, CAKE loses less than five points to the full cache.",
        "accuracy",
        rule="noninferior",
        d=0.05,
        treatment={"method": "cake", "share": SMALL[0]},
        control={"method": "full"},
        where={"part": "quality", "task": list(KNOWN)},
        published="near the full cache with 3.2 % of it",
        **_ITEMS,
    ),
    *(
        Claim(
            f"beats-{rival}",
            f"With 20 to 32 entries per layer CAKE answers more than {rival}.",
            "accuracy",
            rule="superior",
            d=0.02,
            published=_PUBLISHED.get(rival, ""),
            **_against(rival),
            **_ITEMS,
        )
        for rival in RIVALS
    ),
    *(
        Claim(
            f"tuned-beats-{rival}",
            f"Tuned with equal effort, with 20 to 32 entries per layer CAKE answers more than {rival}.",
            "accuracy",
            rule="superior",
            d=0.02,
            **_against(f"{rival}@tuned", "cake@tuned"),
            **_ITEMS,
        )
        for rival in TUNABLE[1:]
    ),
    Claim(
        "unequal",
        "Layers differ: the preference varies over the layers of a prompt by more than half of its mean.",
        "cv",
        rule="superior",
        control=0.5,
        treatment={"part": "layers", "method": "cake", "task": list(KNOWN)},
        **_ITEMS,
    ),
    Claim(
        "split-matters",
        "The layers' own budgets are better than the same budgets shuffled over the layers.",
        "accuracy",
        rule="superior",
        d=0.02,
        **_against("cake:split=shuffled"),
        **_ITEMS,
    ),
    Claim(
        "split-helps",
        "With SnapKV's choice within layers, CAKE's split is better than equal budgets.",
        "accuracy",
        rule="superior",
        d=0.02,
        **_against("snapkv", "cake:gamma=0"),
        **_ITEMS,
    ),
    Claim(
        "indicator-helps",
        "With equal budgets, CAKE's choice within layers is better than SnapKV's.",
        "accuracy",
        rule="superior",
        d=0.02,
        **_against("snapkv", "cake:split=uniform"),
        **_ITEMS,
    ),
    *(
        Claim(
            f"not-{factor}-alone",
            f"The preference is better than {factor} alone.",
            "accuracy",
            rule="superior",
            d=0.0,
            **_against(f"cake:split={factor}"),
            **_ITEMS,
            published="both factors together are best in the paper's ablation",
        )
        for factor in ("dispersion", "shift")
    ),
    Claim(
        "some-split-helps",
        "A split found greedily on calibration items is better than equal budgets: layers are worth splitting for.",
        "accuracy",
        rule="superior",
        d=0.02,
        treatment={"method": "greedy"},
        control={"method": "cake:split=uniform"},
        where={"part": "oracle"},
        **_ITEMS,
    ),
    Claim(
        "exact",
        "The cascade keeps, entry for entry, what one decision at the end keeps.",
        "differing",
        kind="exact",
        treatment={"part": "memory", "method": "cake"},
    ),
    Claim(
        "bounded",
        "While the prompt is read, the cascade never holds more than the pool, the windows, one entry per layer "
        "and one whole layer.",
        "over_bound",
        kind="exact",
        treatment={"part": "memory", "method": "cake"},
    ),
    Claim(
        "peak-memory",
        "At 8192 tokens the cascade's peak is less than a fifth of that of evicting at the end.",
        "peak_entries",
        rule="superior",
        d=0.8,
        relative=True,
        unit=("seed",),
        fixed="one geometry",
        treatment={"method": "cake"},
        control={"method": "cake:cascade=0"},
        where={"part": "memory", "context": 8192},
    ),
    Claim(
        "faster",
        "At 8192 tokens of context a 3.2 % budget decodes at least half as fast again as the full cache.",
        "tokens_per_s",
        rule="superior",
        d=0.5,
        relative=True,
        unit=("seed",),
        fixed="one geometry, one thread",
        treatment={"contender": "cake"},
        control={"contender": "full"},
        where={"part": "speed", "context": 8192},
        published="over 10x at 128k tokens, on a GPU with FlashAttention-2",
    ),
    Claim(
        "with-quantisation",
        "CAKE combines with a quantised cache.",
        "accuracy",
        reason="needs a cache that stores quantised keys and values, which this library does not have",
        published="combines with KV quantisation",
    ),
    Claim(
        "late-question",
        "Where the question comes after eviction, the window says nothing about it: a tie with SnapKV.",
        "accuracy",
        rule="tie",
        d=0.1,
        boundary=True,
        treatment={"method": "cake"},
        control={"method": "snapkv"},
        where={"part": "late", "share": 32 / LENGTH},
        **_ITEMS,
    ),
    Claim(
        "large-budget",
        "With 128 entries per layer there is room for all that matters: within one point of SnapKV.",
        "accuracy",
        rule="tie",
        d=0.01,
        boundary=True,
        **_against("snapkv", shares=[LARGE]),
        **_ITEMS,
    ),
)
