"""LazyEviction's measurements: calibration, live decoding, replay, recurrence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heedful.kv.evaluate import play
from heedful.kv.experiments import _work
from heedful.kv.experiments._lazy_eviction_claims import MAIN
from heedful.kv.experiments.lazy_eviction import MODEL
from heedful.kv.replay import belady, hits, record, recurrence, simulate
from heedful.lab import Cell, Context, Row


def _work_of(cell: Cell, ctx: Context) -> list[Any]:
    return _work.items(cell["task"], cell["seed"], ctx.params["items"], ctx.params["length"], cell["split"])


def _policy(cell: Cell, ctx: Context, work: Sequence[Any]) -> Any:
    """The policy of a cell; what its spec leaves open (alpha, the window of ``+window`` forms) is calibrated."""
    slots = round(cell["share"] * ctx.params["length"])
    spec, _, convention = cell["method"].partition("@")
    name, _, given = spec.partition(":")
    options = dict(pair.split("=") for pair in given.split(",") if pair)
    setting = str(ctx.tuned[cell["method"]]["setting"] if cell["tuned"] else cell["setting"])
    options |= dict(pair.split("=") for pair in setting.split(",") if pair)
    known = calibration(ctx)
    base, _, form = name.partition("+")
    if form or base == "lazy-eviction":
        options.setdefault("window", str(known["window"]))
    if base in ("lazy-eviction", "raas"):
        options.setdefault("alpha", str(known["alpha"]))
    if convention == "peak":
        slots -= int(options["window"])
    text = base + ":" + ",".join(f"{key}={value}" for key, value in options.items())
    return _work.policy_for(text if options else base, slots, work)


def calibration(ctx: Context) -> dict[str, Any]:
    """alpha and W from full-cache attention on calibration items, before any method is run.

    alpha: a head activates about three entries per step outside the last 16 tokens. W: the 80th percentile of the
    maximum recurrence interval at that alpha, kept within half of the smallest budget.
    """

    length = ctx.params["length"]
    smallest = min(share for shares in ctx.params["tasks"].values() for share in shares)
    largest = max(4, round(smallest * length) // 2 - 1)
    key = {"what": "alpha and window", "length": length, "largest": largest, "items": ctx.params["calibration_items"]}

    def build(folder: Path) -> None:
        (folder / "calibration.json").write_text(
            json.dumps(_calibrate(length, largest, ctx.params["calibration_items"], ctx.device))
        )

    return json.loads((ctx.artifact(key, build) / "calibration.json").read_text())


def _calibrate(length: int, largest: int, count: int, device: str) -> dict[str, Any]:
    alphas = (0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    active = np.zeros(len(alphas))
    recorded = []
    for item in _work.items(MAIN, 0, count, length, "calibration"):
        rows = record(_work.model(MODEL, device), torch.from_numpy(item.tokens[None]).to(device))
        recorded.append((rows, item.prompt_length))
        n = len(item.tokens)
        far = torch.ones(n, n, dtype=torch.bool).tril(-16)
        for index, alpha in enumerate(alphas):
            active[index] += np.mean(
                [float(((r.cpu() >= alpha) & far)[..., item.prompt_length :, :].sum(-1).float().mean()) for r in rows]
            )
    active /= count
    alpha = alphas[int(np.abs(np.log(np.maximum(active, 1e-9) / 3)).argmin())]
    intervals = np.concatenate([recurrence(rows, prompt, alpha).cpu().numpy().ravel() for rows, prompt in recorded])
    percentile = int(np.percentile(intervals[intervals > 0], 80))
    return {"alpha": alpha, "window": int(np.clip(percentile, 4, largest)), "p80": percentile}


def _live(cell: Cell, ctx: Context) -> Iterator[Row]:
    work = _work_of(cell, ctx)
    policy = "full" if cell["method"] == "full" else None
    chosen = _work.policy_for(policy, 0, work) if policy else _policy(cell, ctx, work)
    played = play(
        _work.model(MODEL, ctx.device),
        chosen,
        [_work.episode(item) for item in work],
        batch=ctx.params["batch"],
        device=ctx.device,
    )
    for index, (item, result) in enumerate(zip(work, played)):
        far = _far(item, ctx)
        yield {
            "item": 1000 * cell["seed"] + index,
            "accuracy": float(result.correct[item.scored].mean()),
            "far_accuracy": float(result.correct[far].mean()) if far.any() else None,
            "slots": float(np.mean(result.usage.slots)),
            "peak_slots": float(np.mean(result.usage.peak_slots)),
        }


def _far(item: Any, ctx: Context) -> Any:
    """bool ``[T]``: scored tokens whose operand was last mentioned more than ``far`` tokens ago."""
    return item.scored & (item.last_use >= 0) & (np.arange(len(item.tokens)) - item.last_use > ctx.params["far"])


def _replay(cell: Cell, ctx: Context) -> Iterator[Row]:
    work = _work_of(cell, ctx)[: ctx.params["replay_items"]]
    policy = _policy(cell, ctx, work)
    for index, item in enumerate(work):
        rows = record(_work.model(MODEL, ctx.device), torch.from_numpy(item.tokens[None]).to(ctx.device))
        far = _far(item, ctx)
        needs = {t: alternatives for t, alternatives in item.needs.items() if far[t]}
        chosen = policy if not callable(policy) else policy([index])
        met = hits(simulate(chosen, rows, item.prompt_length)[0], needs)
        room = chosen.budget + chosen.headroom - 1
        best = belady(len(item.tokens), item.prompt_length, room, needs)
        yield {
            "item": 1000 * cell["seed"] + index,
            "hit_rate": float(np.mean(list(met.values()))) if met else None,
            "belady_hit_rate": float(np.mean(list(best.values()))) if best else None,
        }


def _recurrence(cell: Cell, ctx: Context) -> Iterator[Row]:
    known = calibration(ctx)
    for index, item in enumerate(_work_of(cell, ctx)[: ctx.params["replay_items"]]):
        rows = record(_work.model(MODEL, ctx.device), torch.from_numpy(item.tokens[None]).to(ctx.device))
        old = len(item.tokens) - known["window"]
        interval = recurrence(rows, item.prompt_length, known["alpha"]).cpu().numpy()[..., :old]
        needed = [position for position in _work.uses(item) if position < old]
        yield {
            "item": 1000 * cell["seed"] + index,
            "recurring": float((interval > 1).mean()),
            "beyond_window": float((interval[..., needed] > known["window"]).mean()) if len(needed) else None,
            "interval_p80": float(np.percentile(interval[interval > 0], 80)) if (interval > 0).any() else None,
            "alpha": known["alpha"],
            "window": float(known["window"]),
        }


PARTS = {"live": _live, "replay": _replay, "recurrence": _recurrence}
