"""A real engine, measured: transformers' continuous batching of a small model on random weights, with a small cache."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from heedful.serving.admission import Options
from heedful.serving.transformers_engine import scheduled

VOCABULARY = 128
CAP = 128
"""What every request asks for at most, if lengths are hidden."""
ENGINE: dict[str, Any] = {
    "page_size": 16, "max_batch_tokens": 128, "max_requests_per_batch": 32, "use_cuda_graph": False,
    "use_async_batching": False, "auto_switch_to_flash": False,
}  # fmt: skip
NEVER = -1


@dataclass(frozen=True)
class Work:
    """Requests that come all at once.

    Attributes:
        prompts: token ids, 8 to 60 each.
        outputs: tokens of the answers, 5 to 120 each.
        caps: what the scheduler is told: the outputs themselves, or the same for all.
        end: the token that ends an answer; -1 if none does.
    """

    prompts: list[list[int]]
    outputs: list[int]
    caps: list[int]
    end: int


def work(requests: int, seed: int, hidden: bool) -> Work:
    """Requests whose output lengths are their caps; or hidden, where the prompt's last token tells the model alone."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(1, VOCABULARY, rng.integers(8, 61)).tolist() for _ in range(requests)]
    outputs = rng.integers(5, 121, requests).tolist()
    if not hidden:
        return Work(prompts, outputs, outputs, NEVER)
    for prompt, output in zip(prompts, outputs):
        prompt[-1] = output
    return Work(prompts, outputs, [CAP] * requests, 0)


def model(hidden: bool, size: int = 64, layers: int = 2, dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    """A Llama with random weights; or, for hidden lengths, one that counts down to 0 from its last token.

    To count down, the row of the output layer for a token is the embedding of the next larger one, which outweighs
    what the layers add.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=size, intermediate_size=2 * size, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        initializer_range=0.02 if hidden else 0.2,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    made.to(dtype=dtype)
    made.set_attn_implementation("sdpa")
    if hidden:
        with torch.no_grad():
            embedding = made.model.embed_tokens.weight.normal_(generator=torch.Generator().manual_seed(1))
            made.lm_head.weight.copy_(embedding.roll(-1, dims=0))
    return made


def engine_study(
    spec: str,
    seed: int,
    *,
    requests: int = 120,
    hidden: bool = False,
    num_blocks: int = 40,
    window: int = 40,
    interval: int = 1,
) -> dict[str, Any]:
    """Serves requests that come all at once, greedily and in float64, and counts.

    Args:
        spec: the scheduler, or ``"fifo"`` for the engine's own rule.
        seed: of the requests, and of the scheduler's random choices.
        requests: how many.
        hidden: whether answers end at a token that no scheduler foresees, and all may have 128 tokens; else their caps
            are their lengths.
        num_blocks: blocks of 16 tokens that the cache has.
        window: earlier output lengths that are remembered; half of them are the largest cap at first.
        interval: steps between two decisions.

    Returns:
        a dictionary: ``evictions``, ``recomputed_tokens``, ``prefilled_tokens``, ``delivered_tokens``, ``steps`` and
        ``decisions`` count; ``answers`` is a digest of all answers; ``margin`` is the least difference between the two
        best logits over all tokens that were chosen; ``seconds`` is the wall time, a timing.
    """
    llama, asked = model(hidden), work(requests, seed, hidden)
    options = Options(window=window, longest=max(asked.caps), interval=interval, seed=seed)
    greedy = GenerationConfig(max_new_tokens=CAP, eos_token_id=asked.end, do_sample=False)
    with scheduled(llama, spec, options, greedy, num_blocks=num_blocks, **ENGINE) as engine:
        begun = time.perf_counter()
        answers = engine.generate(asked.prompts, asked.caps)
        seconds = time.perf_counter() - begun
        stats = engine.stats
    if [len(answer) for answer in answers] != asked.outputs:
        raise RuntimeError("the engine's answers have not the lengths that they should have")
    return {
        "evictions": stats.evictions,
        "recomputed_tokens": stats.recomputed,
        "prefilled_tokens": stats.prefilled,
        "delivered_tokens": stats.delivered,
        "steps": stats.steps,
        "decisions": stats.decisions,
        "answers": hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:16],
        "margin": _margin(llama, asked.prompts, answers),
        "seconds": seconds,
    }


@torch.no_grad()
def _margin(llama: LlamaForCausalLM, prompts: list[list[int]], answers: list[list[int]]) -> float:
    """The least difference between the two best logits, by forward passes without a cache."""
    least = float("inf")
    for prompt, answer in zip(prompts, answers):
        logits = llama(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        best = logits.topk(2).values
        least = min(least, float((best[:, 0] - best[:, 1]).min()))
    return least
