"""SpecKV keeps what a draft of the answer attends to; a smaller model writes the draft.

Galim et al., "Draft-based Approximate Inference for LLMs", ICLR 2026, arXiv 2506.08373. The smaller model reads the
prompt and goes on for m tokens; they run through the large model behind the prompt. With A_i the attention row of the
i-th of them, an entry's score is

    s[j] = (1/m) sum over i of A_i[j],   j < n

averaged over the query heads of a group, then max-pooled. The draft's own entries are never stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoModelForCausalLM

from heedful.kv.base import Reads, check_count
from heedful.kv.cache import EvictingCache
from heedful.kv.foresight import Foresight, attention_of, before_end, embedded


@dataclass(frozen=True)
class SpecKV(Foresight):
    """A draft written by a smaller model; the same number of entries for every head.

    Args:
        budget: entries kept per layer and KV head of the prompt, everything counted.
        reduction: over the query heads of a group: ``"mean"`` or ``"max"``.
        pooling: along the prompt: ``"max"`` or ``"avg"``.
        kernel: entries that are pooled, odd; 1 for no pooling.
        keep_first: first tokens of the prompt that always stay.
        keep_last: last tokens of the prompt that always stay.
        drafter: the smaller model, with the large one's vocabulary: a Hugging Face causal language model, or its
            folder.
        draft: tokens of the draft, at most; it ends where the text does.

    A cache for a model raises ValueError if there is no drafter or its vocabulary is another one; reading a prompt of
    embeddings raises it too, for the drafter reads tokens.
    """

    name: ClassVar[str] = "speckv"

    drafter: Any = ""
    draft: int = 8

    def __post_init__(self) -> None:
        check_count("draft", self.draft)
        super().__post_init__()

    @property
    def reads(self) -> Reads:
        return Reads(inputs=True)

    def attach(self, model: Any) -> None:
        mine, its = (x.config.get_text_config(decoder=True).vocab_size for x in (model, self.model()))
        if mine != its:
            raise ValueError(f"drafter: its vocabulary has {its} tokens, the model's {mine}")

    def model(self) -> Any:
        """The drafter. Raises ValueError if there is none."""
        if not isinstance(self.drafter, str | Path):
            return self.drafter
        if not self.drafter or not Path(self.drafter).is_dir():
            raise ValueError(f"drafter={str(self.drafter)!r}: {self.name} needs a smaller model, or its folder")
        return _loaded(str(self.drafter))

    def foreseen(self, cache: EvictingCache) -> dict[int, Tensor]:
        tokens, drafter = cache.inputs, self.model()
        assert tokens is not None
        if tokens.is_floating_point():
            raise ValueError(f"{self.name}: the prompt was given as embeddings, which the drafter cannot read")
        real = (cache.slots(cache.evicting[0]).position[:, 0] >= 0).to(drafter.device)
        out = drafter.generate(
            tokens.to(drafter.device), attention_mask=real.long(), max_new_tokens=self.draft, do_sample=False
        )
        written = out[:, tokens.shape[1] :].to(tokens.device)
        return attention_of(cache, embedded(cache.model, written), before_end(drafter, written))


@lru_cache(maxsize=2)
def _loaded(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()
