"""Policies on anybody's model and prompts, against given answers, else against the full cache."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from heedful.kv.base import Size, resolve
from heedful.kv.baselines import Clairvoyant, Full
from heedful.kv.cache import Usage
from heedful.kv.commands.loading import Text
from heedful.kv.commands.options import LONG_PROMPT, Contender, Protocol, contenders, decides_once, unsized
from heedful.kv.commands.page import Table, paired_difference, with_interval
from heedful.kv.commands.playing import shares
from heedful.kv.faithfulness import Reference, faithfulness, greedy, reading, reference
from heedful.kv.oracle import Oracle
from heedful.kv.shared_prompt import SharedPrompt
from heedful.lab.errors import LabError

DEFAULT_POLICIES = (
    "snapkv,pyramidkv,adakv,ada-criticalkv,defensivekv,layer-defensivekv,cake,lookaheadkv,"
    "h2o,h2o+window,lazy-eviction,raas,tova,streaming-llm,local,random"
)
"""Besides the full cache."""
DECIDED: dict[Protocol, str] = {
    "aware": "",
    "agnostic": "Policies decide when the context has been read, before the question. ",
    "reask": "Policies decide when the context and the first question have been read; the answer is to the second. ",
}


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


def check_specs(specs: Sequence[str], answered: bool) -> None:
    """Raises LabError for a policy that is unknown, or needs to know what nobody says.

    Args:
        specs: the policies.
        answered: whether the prompts have answers.
    """
    for spec in specs:
        policy = unsized(spec)
        if isinstance(policy, Clairvoyant):
            raise LabError(f"policy {spec!r} needs to know what will be needed: only the embedded tasks say that")
        if isinstance(policy, Oracle) and not answered:
            raise LabError(f"policy {spec!r} needs to know the answers: give one for every prompt")


def field_for(
    specs: Sequence[str], sizes: Sequence[Size], texts: Sequence[Text], left_out: Callable[[str], None] | None
) -> tuple[Contender, ...]:
    """The contenders, able to work with every prompt.

    ``left_out`` is told of those that cannot work with a budget. Raises LabError for one that cannot if it is None.
    """
    shortest = min(texts, key=lambda text: text.parts[0])
    where = f"the {'prompt' if len(shortest.parts) == 1 else 'first part'} in line {shortest.prompt.line}"
    return contenders(specs, sizes, shortest.parts[0], where, resolved=False, left_out=left_out)


@torch.inference_mode()
def run(
    model: Any,
    tokenizer: Any,
    field: Sequence[Contender],
    texts: Sequence[Text],
    max_new_tokens: int,
    progress: Callable[[int, int, float | None], None],
) -> list[list[Answered]]:
    """Every contender on every prompt, one at a time: ``[contender][prompt]``.

    What several policies decide about when it has been read is read once.

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
    before = model.config._attn_implementation
    window = max((c.policy.reads.window for c in field if _shares(c)), default=None)
    for text in texts:
        prompt = text.tokens.to(model.device)
        shared = None
        if window is not None:
            shared = SharedPrompt(model, prompt[None, : text.parts[0]], window=window, sums=False)
        expected = None
        if text.answer is None:
            expected = reference(model, prompt, max_new_tokens, stop, text.parts)
        for contender, mine in zip(field, answers, strict=True):
            once = shared if _shares(contender) else None
            if expected is None:
                mine.append(_answer(model, tokenizer, contender, text, max_new_tokens, stop, once))
            else:
                mine.append(_compare(model, contender, text, expected, stop, once))
            done += 1
            progress(done, total, (time.monotonic() - began) * (total - done) / done)
    model.set_attn_implementation(before)
    return answers


def _shares(contender: Contender) -> bool:
    """Whether a policy is given a prompt that was read for others; sums of a long one would cost all its rows."""
    return shares(contender.policy) and contender.policy.reads.prompt != "sums"


def stop_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The token ids that end an answer: the model's own, else the tokenizer's."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    return () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)


def _answer(
    model: Any,
    tokenizer: Any,
    contender: Contender,
    text: Text,
    max_new_tokens: int,
    stop: Sequence[int],
    shared: SharedPrompt | None,
) -> Answered:
    """The greedy answer, against the given one."""
    assert text.prompt.answer is not None
    policy = contender.policy
    if isinstance(policy, Oracle):
        policy = replace(policy, answers=(tuple(text.coming.tolist()),))
    prompt = text.tokens.to(model.device)
    room = len(prompt) + max_new_tokens
    with reading(model, policy, prompt, room, text.parts, shared) as (cache, logits):
        tokens, _, speed = greedy(model, cache, logits, max_new_tokens, stop)
        usage = cache.usage()
    said = normalised(tokenizer.decode(tokens, skip_special_tokens=True))
    wanted = normalised(text.prompt.answer)
    return Answered({"exact": float(said == wanted), "contains": float(wanted in said)}, usage, speed)


def _compare(
    model: Any,
    contender: Contender,
    text: Text,
    expected: Reference,
    stop: Sequence[int],
    shared: SharedPrompt | None,
) -> Answered:
    """How the policy's continuation differs from the full cache's."""
    faith = faithfulness(model, contender.policy, expected, stop, text.parts, shared)
    scores = {
        "kl": faith.kl,
        "agreement": faith.agreement,
        "divergence": float(faith.divergence),
        "diverged": float(faith.tokens != tuple(expected.tokens.tolist())),
    }
    return Answered(scores, faith.usage, faith.tokens_per_s)


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
    protocol: Protocol = "aware",
) -> Table:
    """What came out, with how it was measured."""
    lengths = [len(text.tokens) for text in texts]
    about = (
        f"{DECIDED[protocol]}{len(texts)} prompts of {min(lengths)} to {max(lengths)} tokens, up to {max_new_tokens} "
        "new ones; in [] the 95 % interval over prompts. Budgets: slots per layer and KV head, or a share of each "
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
    lengths = [text.parts[0] for text in texts]
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
    if decides_once(contender.policy):
        return "prompt"
    return "prompt, decoding" if contender.policy.evicts_prompt else "decoding"


def _mean(values: Any) -> float:
    return float(np.mean([float(value) for value in values]))
