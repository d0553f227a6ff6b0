"""What was claimed of the Past-Future scheduler before it was measured."""

from __future__ import annotations

from typing import Any

from heedful.lab import Claim

DISTRIBUTIONS = ("distribution-1", "distribution-2", "distribution-3")
OURS = "past-future:rho=0.03"
FAMILIES = {
    "past-future": tuple(f"past-future:rho={rho}" for rho in (0.03, 0.05, 0.1)),
    "aggressive": tuple(f"aggressive:watermark={w}" for w in (0.99, 0.95, 0.9)),
    "conservative": tuple(f"conservative:overcommit={v}" for v in (1.0, 1.25, 1.5)),
}
"""Scheduler -> its settings in the paper's study."""
TRACES = {
    "azure2023_conv": ("llm-traces/azure2023_conv.parquet", 16_000),
    "azure2023_code": ("llm-traces/azure2023_code.parquet", 32_000),
}
"""Real logs: the file within the data folder, and the slots of the cache that they are served with."""
ENGINE = ("fifo", "past-future:rho=0.05", "peak-with-cap")


def _over_seeds(text: str, part: str, workload: Any, **more: Any) -> dict[str, Any]:
    return {"text": text, "unit": ("seed",), "where": {"part": part, "workload": workload}, **more}


_ALL = list(DISTRIBUTIONS)
_SLA = {"published": "goodput 2 to 3 times that of the others under heavy load", "fixed": "one step-time model"}

CLAIMS = (
    Claim(
        "oracle-is-safe",
        "With true lengths the peak is never wrong: the oracle neither evicts nor outgrows the cache.",
        "violations",
        kind="exact",
        treatment={"part": "packing", "method": "oracle"},
    ),
    Claim(
        id="packs-as-the-oracle",
        metric="steps",
        rule="noninferior",
        d=0.10,
        relative=True,
        treatment={"method": OURS},
        control={"method": "oracle"},
        published="within a few per cent of the theoretical optimum",
        **_over_seeds("Past-Future serves a queue within 10 % of the oracle's decode steps.", "packing", _ALL),
    ),
    Claim(
        id="few-evictions",
        metric="evictions",
        treatment={"method": OURS},
        control=10.0,
        published="few",
        **_over_seeds("In doing so Past-Future evicts fewer than 10 times per 100 requests.", "packing", _ALL),
    ),
    Claim(
        id="aggressive-evicts",
        metric="evictions",
        d=20.0,
        treatment={"method": OURS},
        control={"method": "aggressive:watermark=0.99"},
        published="tens of evictions per 100 requests",
        **_over_seeds(
            "On decode-heavy work a watermark of 0.99 evicts at least 20 times more per 100 requests.",
            "packing",
            "distribution-1",
        ),
    ),
    Claim(
        id="conservative-idles",
        metric="steps",
        d=0.2,
        relative=True,
        treatment={"method": OURS},
        control={"method": "conservative:overcommit=1.0"},
        published="about 1.5 times the steps, at 55 to 75 % utilisation",
        **_over_seeds(
            "Past-Future needs at least 20 % fewer steps than reserving for the longest output.", "packing", _ALL
        ),
    ),
    Claim(
        id="watermark-close-when-stationary",
        metric="steps",
        rule="tie",
        d=0.05,
        relative=True,
        boundary=True,
        treatment={"method": OURS},
        control={"method": "aggressive:watermark=0.9"},
        **_over_seeds(
            "On stationary work (distributions 1 and 2) a watermark of 0.90 packs as well, to 5 % of the steps.",
            "packing",
            ["distribution-1", "distribution-2"],
        ),
    ),
    Claim(
        id="shift-misleads",
        metric="transient",
        rule="noninferior",
        d=1.0,
        boundary=True,
        treatment={"method": "aggressive:watermark=0.9"},
        control={"method": OURS},
        **_over_seeds(
            "When outputs become long, the old window misleads: until it has turned over, a watermark of 0.90 does "
            "not evict more than Past-Future.",
            "packing",
            "shifted",
        ),
    ),
    *(
        Claim(
            id=f"beats-conservative-{overcommit}",
            metric="goodput_share",
            d=0.05,
            treatment={"method": OURS},
            control={"method": f"conservative:overcommit={overcommit}"},
            **_over_seeds(
                f"One Past-Future setting has more goodput over loads and workloads than conservative admission at "
                f"{float(overcommit):.2f} of the capacity, by 5 points of the oracle's.",
                "service",
                _ALL,
                **_SLA,
            ),
        )
        for overcommit in ("1.0", "1.25", "1.5")
    ),
    Claim(
        id="half-more-than-the-worst",
        metric="goodput_area",
        d=0.5,
        relative=True,
        treatment={"method": OURS},
        control={"method": "conservative:overcommit=1.0"},
        **_over_seeds(
            "On distributions 1 and 2 Past-Future has at least 1.5 times the goodput of the worst rival.",
            "service",
            ["distribution-1", "distribution-2"],
            **_SLA,
        ),
    ),
    *(
        Claim(
            id=f"against-aggressive-{watermark}",
            metric="goodput_share",
            d=0.0,
            treatment={"method": OURS},
            control={"method": f"aggressive:watermark={watermark}"},
            **_over_seeds(
                f"It has more goodput over loads and workloads than a watermark of {float(watermark):.2f}.",
                "service",
                _ALL,
                **_SLA,
            ),
        )
        for watermark in ("0.99", "0.95", "0.9")
    ),
    *(
        Claim(
            id=f"tuned-against-{rival}",
            metric="goodput_share",
            d=d,
            treatment={"method": "past-future, tuned"},
            control={"method": f"{rival}, tuned"},
            **_over_seeds(
                f"Each in its best setting over all workloads, Past-Future has more goodput than {rival} admission"
                f"{', by 5 points' if d else ''}.",
                "service",
                _ALL,
                fixed="one step-time model; settings chosen on one other seed",
            ),
        )
        for rival, d in (("aggressive", 0.0), ("conservative", 0.05))
    ),
    *(
        Claim(
            id=f"patient-{rival.replace(':', '-').replace('=', '-')}",
            metric="patient_share",
            d=0.0,
            treatment={"method": OURS},
            control={"method": rival},
            text=f"Where users wait a minute for the first token, so that evictions count and not queues, it has "
            f"more goodput over loads and workloads than {rival} (added after a first run).",
            unit=("seed",),
            where={"part": "service", "workload": _ALL, "patience": 60.0},
            fixed="one step-time model",
        )
        for rival in (*FAMILIES["aggressive"], "conservative:overcommit=1.5")
    ),
    Claim(
        id="against-the-mean",
        metric="goodput_share",
        d=0.0,
        treatment={"method": OURS},
        control={"method": "peak-with-mean"},
        **_over_seeds(
            "Drawing lengths has more goodput than taking the mean of history for each.",
            "service",
            _ALL,
            fixed="one step-time model",
        ),
    ),
    *(
        Claim(
            id=f"real-log-{trace.rpartition('_')[2]}",
            text=f"On a real log of prompts that are long beside answers ({trace}), a watermark of 0.95 serves as "
            "much within limits, to a point.",
            metric="good_share",
            kind="log",
            rule="noninferior",
            d=0.01,
            unit=("factor", "block"),
            boundary=True,
            treatment={"method": "aggressive:watermark=0.95"},
            control={"method": OURS},
            where={"part": "log", "workload": trace, "cap_factor": 1},
            fixed="one hour of one service, one step-time model",
        )
        for trace in TRACES
    ),
    *(
        Claim(
            id=f"windows-alike-{trace.rpartition('_')[2]}",
            text=f"Output lengths of adjacent windows of 1000 requests are alike (cosine above 0.9) on {trace}.",
            metric="similarity",
            kind="log",
            unit=("block",),
            treatment={"part": "windows", "workload": trace},
            control=0.9,
            published="stated for chat, code and service traces",
            fixed="one hour of one service",
        )
        for trace in TRACES
    ),
    Claim(
        "engine-evicts-less",
        "Inside transformers' continuous batching, with lengths that nobody foresees, Past-Future evicts less than "
        "the engine's own rule.",
        "engine_evictions",
        d=1.0,
        unit=("seed",),
        treatment={"method": ENGINE[1]},
        control={"method": "fifo"},
        where={"part": "engine", "lengths": "hidden"},
        fixed="one small model, on a CPU",
    ),
    Claim(
        "engine-no-slower",
        "And it serves all requests in no more time, to 5 %.",
        "wall",
        rule="noninferior",
        d=0.05,
        relative=True,
        unit=("seed",),
        treatment={"method": ENGINE[1]},
        control={"method": "fifo"},
        where={"part": "engine-time", "lengths": "hidden"},
        fixed="one small model, on a CPU",
    ),
    Claim(
        "engine-caps-suffice",
        "Where every answer is as long as its cap, a peak predicted from the caps never evicts.",
        "engine_evictions",
        kind="exact",
        treatment={"part": "engine", "lengths": "caps", "method": "peak-with-cap"},
    ),
    Claim(
        "engine-same-answers",
        "The answers are the same under every scheduler (greedy, float64).",
        "differing",
        kind="exact",
        treatment={"part": "engine"},
    ),
)
