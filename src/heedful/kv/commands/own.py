"""Policies on anybody's model and prompts, against given answers, else against the full cache."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heedful.kv.base import Size, resolve
from heedful.kv.baselines import Clairvoyant, Full
from heedful.kv.cache import Usage
from heedful.kv.commands.loading import Text
from heedful.kv.commands.options import LONG_PROMPT, Contender, contenders, unsized
from heedful.kv.commands.page import Table, paired_difference, with_interval
from heedful.kv.evaluate import faithfulness, reference
from heedful.lab.errors import LabError

DEFAULT_POLICIES = "h2o,h2o+window,lazy-eviction,raas,tova,streaming-llm,local,random"
"""Besides the full cache."""


@dataclass(frozen=True)
class Answered:
    """One prompt under one contender.

    Attributes:
        scores: ``exact`` and ``contains``, or ``kl``, ``agreement``, ``divergence`` and ``diverged``.
        usage: slots and bytes of the free run.
        tokens_per_s: of the free run's decoding; NaN if it made one token.
    """

    scores: dict[str, float]
    usage: Usage
    tokens_per_s: float


def check_specs(specs: Sequence[str]) -> None:
    """Raises LabError for a policy that is unknown, or needs to know what only the embedded tasks say."""
    for spec in specs:
        if isinstance(unsized(spec), Clairvoyant):
            raise LabError(f"policy {spec!r} needs to know what will be needed: only the embedded tasks say that")


def field_for(
    specs: Sequence[str] | None, sizes: Sequence[Size], texts: Sequence[Text], notice: Callable[[str], None]
) -> tuple[Contender, ...]:
    """The contenders, able to work with every prompt.

    With ``specs`` being None the default ones, of which those that cannot work with a budget are left out; ``notice``
    is told. Raises LabError for one that was asked for and cannot.
    """
    shortest = min(texts, key=lambda text: len(text.tokens))
    chosen = DEFAULT_POLICIES.split(",") if specs is None else specs
    where = f"the prompt in line {shortest.prompt.line}"
    left_out = notice if specs is None else None
    return contenders(chosen, sizes, len(shortest.tokens), where, resolved=False, left_out=left_out)


def run(
    model: Any,
    tokenizer: Any,
    field: Sequence[Contender],
    texts: Sequence[Text],
    max_new_tokens: int,
    progress: Callable[[int, int, float | None], None],
) -> list[list[Answered]]:
    """Every contender on every prompt, one at a time: ``[contender][prompt]``.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        field: the contenders.
        texts: the prompts.
        max_new_tokens: tokens of an answer, at most.
        progress: told how many runs are done, of how many, and the estimated seconds that are left.
    """
    warnings.filterwarnings("ignore", message=LONG_PROMPT)
    stop = stop_tokens(model, tokenizer)
    answers: list[list[Answered]] = [[] for _ in field]
    began, done, total = time.monotonic(), 0, len(field) * len(texts)
    for text in texts:
        prompt = text.tokens.to(model.device)
        expected = None if text.prompt.answer is not None else reference(model, prompt, max_new_tokens, stop)
        for contender, mine in zip(field, answers, strict=True):
            if expected is None:
                mine.append(_answer(model, tokenizer, contender, text, max_new_tokens, stop))
            else:
                faith = faithfulness(model, contender.policy, expected, stop)
                diverged = float(faith.tokens != tuple(expected.tokens.tolist()))
                scores = {
                    "kl": faith.kl,
                    "agreement": faith.agreement,
                    "divergence": float(faith.divergence),
                    "diverged": diverged,
                }
                mine.append(Answered(scores, faith.usage, faith.tokens_per_s))
            done += 1
            progress(done, total, (time.monotonic() - began) * (total - done) / done)
    return answers


def stop_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The token ids that end an answer: the model's own, else the tokenizer's."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    return () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)


class _Clock:
    """A streamer that notes when tokens arrive; the first call brings the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is shown, so nothing is left to show."""

    @property
    def tokens_per_s(self) -> float:
        generated = self.times[1:]
        return (len(generated) - 1) / (generated[-1] - generated[0]) if len(generated) > 1 else float("nan")


@torch.inference_mode()
def _answer(
    model: Any, tokenizer: Any, contender: Contender, text: Text, max_new_tokens: int, stop: Sequence[int]
) -> Answered:
    clock = _Clock()
    prompt = text.tokens.to(model.device)[None]
    room = prompt.shape[1] + max_new_tokens if isinstance(contender.policy, Full) else None
    with contender.policy.on(model, room) as cache:
        produced = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=list(stop) or None,
            pad_token_id=stop[0] if stop else 0,
            streamer=clock,
        )
        usage = cache.usage()
    answer = text.prompt.answer
    assert answer is not None
    said = normalised(tokenizer.decode(produced[0, prompt.shape[1] :], skip_special_tokens=True))
    wanted = normalised(answer)
    scores = {"exact": float(said == wanted), "contains": float(wanted in said)}
    return Answered(scores, usage, clock.tokens_per_s)


def normalised(text: str) -> str:
    """An answer as it is compared: outer white space stripped, inner made single blanks, case folded.

    >>> normalised("  Forty\\n Two ")
    'forty two'
    """
    return " ".join(text.split()).casefold()


def table(
    field: Sequence[Contender],
    texts: Sequence[Text],
    answers: Sequence[Sequence[Answered]],
    max_new_tokens: int,
) -> Table:
    """What came out, with how it was measured."""
    lengths = [len(text.tokens) for text in texts]
    about = (
        f"{len(texts)} prompts of {min(lengths)} to {max(lengths)} tokens, up to {max_new_tokens} new ones; "
        "in [] the 95 % interval over prompts. Budgets: slots per layer and KV head, or a share of each "
        "prompt. Slots: averages over layers, KV heads, prompts. KiB: allocated for one prompt. tokens/s: of "
        "decoding. A policy that decides in decoding only holds a long prompt whole, for some steps or "
        "for good."
    )
    if "exact" in answers[0][0].scores:
        return Table(
            "Own prompts with answers",
            "exact: % of greedy answers equal to the given one; contains: % that contain it; both after "
            f"outer white space is stripped, inner made single blanks, and case folded. {about}",
            rows(field, texts, answers),
            ("policy", "decides"),
            {
                "exact": ("exact %", 100, 1, ""),
                "contains": ("contains %", 100, 1, ""),
                "contains_difference": ("contains vs full", 100, 1, "+"),
            },
            "contains",
        )
    return Table(
        "Own prompts without answers",
        "KL(full || policy) and agreement of the most likely token, per step: fed the full cache's own "
        "greedy continuation. diverges: % of prompts whose free greedy continuation differs from the full "
        f"cache's; first at: the first step that differs, or the number of steps if none does. {about}",
        rows(field, texts, answers),
        ("policy", "decides"),
        {
            "kl": ("KL nats", 1, 3, ""),
            "agreement": ("agreement %", 100, 1, ""),
            "diverged": ("diverges %", 100, 1, ""),
            "divergence": ("first at", 1, 1, ""),
        },
        "kl",
    )


def rows(
    field: Sequence[Contender], texts: Sequence[Text], answers: Sequence[Sequence[Answered]]
) -> list[dict[str, Any]]:
    """A row per contender, with 95 % intervals over prompts."""
    lengths = [len(text.tokens) for text in texts]
    found = []
    for contender, mine in zip(field, answers, strict=True):
        asked = contender.asked
        row: dict[str, Any] = {
            "policy": contender.spec,
            "decides": _decides(contender),
            "budget": contender.budget,
            "budget_slots": None if asked is None else float(np.mean([resolve(asked, n) for n in lengths])),
            "slots": _mean(np.mean(a.usage.slots) for a in mine),
            "peak_slots": _mean(np.mean(a.usage.peak_slots) for a in mine),
            "bytes": _mean(sum(a.usage.nbytes) for a in mine),
            "peak_bytes": _mean(sum(a.usage.peak_nbytes) for a in mine),
        }
        for name in mine[0].scores:
            values = [a.scores[name] for a in mine]
            row |= with_interval(name, values, binary=name in ("exact", "contains", "diverged"))
            if name in ("exact", "contains"):
                row |= paired_difference(f"{name}_difference", values, [a.scores[name] for a in answers[0]])
        speeds = [a.tokens_per_s for a in mine if np.isfinite(a.tokens_per_s)]
        row["tokens_per_s"] = _mean(speeds) if speeds else None
        row["prompts"] = len(mine)
        found.append(row)
    return found


def _decides(contender: Contender) -> str:
    if isinstance(contender.policy, Full):
        return "never"
    return "prompt, decoding" if contender.policy.evicts_prompt else "decoding"


def _mean(values: Any) -> float:
    return float(np.mean([float(value) for value in values]))
