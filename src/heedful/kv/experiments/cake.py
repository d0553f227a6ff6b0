"""CAKE: how much of one cache should each layer get, and can prefill get there without ever holding all of it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heedful.kv.experiments import MODEL, PREFILL_RUNTIME
from heedful.lab import Cell, Claim, Experiment, Figure, Metric, Paper, Row, Scale, Tuning

if TYPE_CHECKING:
    import polars as pl

    from heedful.lab import Context

LENGTH = 512
WINDOW = 16
KNOWN = ("niah1", "mk1", "mk3", "mq", "vt", "marked")
"""Tasks that claims about quality are decided on."""
LATE = "niah1@agnostic"
RIVALS = ("snapkv", "pyramidkv", "h2o", "tova", "streaming-llm", "random")
ABLATIONS = (
    "cake:gamma=0",
    "cake:split=uniform",
    "cake:split=dispersion",
    "cake:split=shift",
    "cake:split=shuffled",
    "cake:rounding=reference",
)
TUNABLE = ("cake", "snapkv", "pyramidkv", "h2o")
"""Methods with something to tune; each gets the same number of settings."""
SMALL = tuple(slots / LENGTH for slots in (20, 24, 32))
LARGE = 128 / LENGTH


def grids(params: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    settings = {
        "cake": [f"tau1={a},tau2={b}" for a in (0.4, 1.0, 2.0) for b in (0.4, 1.0, 2.0)],
        "snapkv": [
            *(f"kernel={n}" for n in (1, 3, 5, 7, 9)),
            *(f"kernel={n},pooling=max" for n in (3, 5, 7, 9)),
        ],
        "pyramidkv": [f"beta={b},kernel={n}" for b in (2, 5, 20) for n in (1, 5, 9)],
        "h2o": [
            *(f"recent={n}" for n in (2, 4, 8, 12, 16)),
            *(f"recent={n},statistic=mean" for n in (4, 8, 12, 16)),
        ],
    }
    return {method: [{"setting": text} for text in texts[: params["settings"]]] for method, texts in settings.items()}


def tuning_cells(params: Mapping[str, Any], method: str, setting: Mapping[str, Any]) -> Iterator[Cell]:
    for task in params["tuning_tasks"]:
        yield Cell.of(
            part="tuning",
            split="calibration",
            task=task,
            candidate=method,
            setting=setting["setting"],
            seed=0,
            chunk=0,
        )


def cells(params: Mapping[str, Any], tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
    for seed in params["seeds"]:
        for chunk in range(params["chunks"]):
            for task in params["tasks"]:
                yield Cell.of(part="quality", task=task, seed=seed, chunk=chunk)
            yield Cell.of(part="late", task=LATE, seed=seed, chunk=chunk)
            for task in params["tuning_tasks"]:
                yield Cell.of(part="oracle", task=task, seed=seed, chunk=chunk)
        for task in params["tasks"]:
            yield Cell.of(part="layers", task=task, seed=seed, chunk=0)
        for context in params["prompts"]:
            yield Cell.of(part="memory", context=context, seed=seed)
        for context in params["contexts"]:
            for contender in ("full", "snapkv", "cake"):
                yield Cell.of(exclusive=True, part="speed", contender=contender, context=context, seed=seed)


def measure(cell: Cell, ctx: Context) -> Iterator[Row]:
    from heedful.kv.experiments import _cake

    yield from _cake.PARTS[cell["part"]](cell, ctx)


def figures(rows: pl.DataFrame) -> Sequence[Figure]:
    from heedful.kv.experiments import _cake_figures

    return _cake_figures.figures(rows)


def _digests(params: Mapping[str, Any]) -> dict[str, str]:
    from heedful import models

    return {MODEL: models.digest(MODEL)}


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

experiment = Experiment(
    slug="cake",
    room="kv",
    title="CAKE",
    question="Given one cache budget for all layers, how much should each layer get, and how can prefill reach that "
    "split without ever holding the full cache?",
    summary="Shares one pool of entries over the layers by how spread and how shifting their attention is.",
    paper=Paper(
        title="CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences",
        authors="Qin, Cao, Lin, Hu, Fan, Cheng, Lin, Li",
        year=2025,
        arxiv="2503.12491",
        venue="ICLR 2025",
    ),
    metrics=(
        Metric("accuracy", "1", "higher", "Share of items whose whole answer the model predicts right."),
        Metric("token_accuracy", "1", "higher", "Share of an item's scored tokens predicted right."),
        Metric("slots", "1", "neither", "Entries per layer and KV head at the end, mean over layers."),
        Metric("cv", "1", "neither", "Coefficient of variation of the preference P over the layers of one prompt."),
        Metric("preference", "1", "neither", "A layer's share of the sum of P, mean over items."),
        Metric("layer_slots", "1", "neither", "A layer's entries per KV head at 32 slots, window included, mean."),
        Metric(
            "peak_entries",
            "1",
            "lower",
            "The most entries per KV head that all layers together held at one time while the prompt was read.",
        ),
        Metric("peak_bytes", "bytes", "lower", "The most bytes that all layers together had allocated at one time."),
        Metric(
            "over_bound",
            "1",
            "lower",
            "Entries by which the cascade's peak exceeds pool + layers + windows + one whole layer; 0 if it does not.",
        ),
        Metric(
            "differing",
            "1",
            "lower",
            "Entries that the cascade and one decision at the end do not both keep, over all layers and heads.",
        ),
        Metric("tokens_per_s", "tokens/s", "higher", "Decoded tokens per second, one thread.", timing=True),
        Metric("cache_bytes", "bytes", "lower", "Bytes allocated for the cache while decoding."),
    ),
    dimensions=("item", "layer", "method", "share"),
    scales={
        "smoke": Scale(
            {
                "seeds": [0],
                "length": LENGTH,
                "chunks": 1,
                "items": 2,
                "batch": 2,
                "tasks": ["niah1", "vt"],
                "budgets": [24],
                "tuned_budget": 24,
                "settings": 2,
                "tuning_tasks": ["niah1"],
                "calibration_items": 1,
                "oracle_step": 24,
                "prompts": [256],
                "memory_budget": 64,
                "contexts": [512],
                "speed_share": 0.0625,
                "speed_steps": 2,
            },
            limit_s=120,
            repeats=1,
            leaves_out="Everything but a check that it runs: two tasks, one budget, two items.",
        ),
        "small": Scale(
            {
                "seeds": [0, 1, 2],
                "length": LENGTH,
                "chunks": 1,
                "items": 32,
                "batch": 16,
                "tasks": [*KNOWN, "mv", "mk2"],
                "budgets": [20, 24, 32, 48, 64, 128],
                "tuned_budget": 24,
                "settings": 9,
                "tuning_tasks": ["mk3", "mq", "vt", "marked"],
                "calibration_items": 24,
                "oracle_step": 8,
                "prompts": [512, 1024, 2048, 4096, 8192],
                "memory_budget": 256,
                "contexts": [8192],
                "speed_share": 0.032,
                "speed_steps": 12,
            },
            limit_s=600,
            repeats=3,
            leaves_out="Language models of billions of parameters, LongBench and NeedleBench; contexts beyond 512 "
            "tokens for quality and beyond 8192 for memory and speed; decode latency on a GPU with FlashAttention; cwe "
            "and fwe, which the model does not know; a model that only its early layers matter to; combination with "
            "a quantised cache; 96 items a task instead of 600; tau beyond 0.4, 1 and 2.",
        ),
        "full": Scale(
            {
                "seeds": list(range(10)),
                "length": LENGTH,
                "chunks": 2,
                "items": 50,
                "batch": 25,
                "tasks": [*KNOWN, "mv", "mk2"],
                "budgets": [20, 24, 32, 48, 64, 128],
                "tuned_budget": 24,
                "settings": 9,
                "tuning_tasks": list(KNOWN),
                "calibration_items": 64,
                "oracle_step": 8,
                "prompts": [512, 1024, 2048, 4096, 8192, 16384],
                "memory_budget": 256,
                "contexts": [8192, 32768, 65536],
                "speed_share": 0.032,
                "speed_steps": 32,
            },
            limit_s=3600,
            leaves_out="Language models of billions of parameters, LongBench and NeedleBench; contexts beyond 512 "
            "tokens for quality; cwe and fwe; combination with a quantised cache.",
        ),
    },
    cells=cells,
    measure=measure,
    figures=figures,
    tuning=Tuning(grids, tuning_cells, "accuracy"),
    inputs=_digests,
    modules=(
        *PREFILL_RUNTIME,
        "heedful.kv.cake",
        "heedful.kv.experiments._cake",
        "heedful.kv.h2o",
        "heedful.kv.layer_budgets",
        "heedful.kv.pyramidkv",
        "heedful.kv.snapkv",
        "heedful.kv.streaming_llm",
        "heedful.kv.tova",
    ),
    claims=(
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
    ),
    example=f"""\
from heedful import models
from heedful.kv import CAKE

model, tokenizer = models.load("{MODEL}")
policy = CAKE(budget=12, observation_window=4)
cache = policy.cache_for(model)
inputs = tokenizer("<bos> F1 F2 F3 ; K3 V1 V9 ; F4 F5 F6 F7 ; K7 V2 V5 ; F8 F9 <q> K3 <a>", return_tensors="pt")
model.generate(**inputs, past_key_values=cache, max_new_tokens=2, do_sample=False)
print(cache.usage().slots)
""",
)
