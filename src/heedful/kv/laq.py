"""LAQ keeps what a short draft of the answer attends to; the model writes the draft from a cache that SnapKV has cut.

Wang et al., "Lookahead Q-Cache: Achieving More Consistent KV Cache Eviction via Pseudo Query", EMNLP 2025,
arXiv 2505.20334. With q_i the query of the i-th of m drafted tokens and K the keys of the whole prompt,

    s[j] = (1/m) sum over i of softmax(q_i K^T / sqrt(d))[j]

averaged over the query heads of a group, then max-pooled. The draft's own entries are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from heedful.kv.attention import Seen, wide
from heedful.kv.base import Policy, Reads, Size, check_count, check_size
from heedful.kv.cache import EvictingCache
from heedful.kv.foresight import Foresight, Turn, before_end, greedy, mean_row
from heedful.kv.prefill import best_of_all
from heedful.kv.slots import Slots
from heedful.kv.snapkv import SnapKV


@dataclass
class _Plan(Turn):
    """Which entries the draft is written from, by layer."""

    chosen: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Drafting(Policy):
    """Keeps everything and notes the queries of every step, by layer."""

    evicts: ClassVar[bool] = False

    @property
    def reads(self) -> Reads:
        return Reads(queries=True)

    def begin(self, layers: int) -> dict[int, list[Tensor]]:
        return {}

    def decoded(self, slots: Slots, seen: Seen) -> None:
        assert seen.queries is not None
        slots.state.setdefault(slots.layer, []).append(seen.queries)


@dataclass(frozen=True)
class LAQ(Foresight):
    """A draft written by the model itself; the same number of entries for every head.

    Args:
        budget: entries kept per layer and KV head of the prompt, everything counted.
        reduction: over the query heads of a group: ``"mean"`` or ``"max"``.
        pooling: along the prompt: ``"max"`` or ``"avg"``.
        kernel: entries that are pooled, odd; 1 for no pooling.
        keep_first: first tokens of the prompt that always stay.
        keep_last: last tokens of the prompt that always stay.
        draft: tokens of the draft, at most; it ends where the text does.
        draft_budget: entries that the draft is written from; None: as many as are kept in the end.
        observation_window: last tokens of the prompt by which SnapKV chooses those entries.

    Raises ValueError if the draft's entries do not exceed the observation window, or a parameter is out of its range.
    """

    name: ClassVar[str] = "laq"

    draft: int = 8
    draft_budget: Size | None = None
    observation_window: int = 8

    def __post_init__(self) -> None:
        check_count("draft", self.draft)
        check_count("observation_window", self.observation_window)
        if self.draft_budget is not None:
            check_size("draft_budget", self.draft_budget)
            if isinstance(self.draft_budget, int) and self.draft_budget <= self.observation_window:
                raise ValueError(
                    f"draft_budget={self.draft_budget}: must exceed observation_window={self.observation_window}"
                )
        super().__post_init__()

    @property
    def least(self) -> int:
        own = self.observation_window + 1 if self.draft_budget is None else 1
        return max(own, super().least)

    @property
    def reads(self) -> Reads:
        return Reads(prompt="last", window=self.observation_window, inputs=True)

    def attach(self, model: Any) -> None:
        config = model.config.get_text_config(decoder=True)
        if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
            raise ValueError(f"{self.name}: writes a draft, which needs a model whose layers all attend to everything")

    def begin(self, layers: int) -> _Plan:
        return _Plan()

    @property
    def chooser(self) -> SnapKV:
        """What chooses the entries that the draft is written from."""
        size = self.budget if self.draft_budget is None else self.draft_budget
        return SnapKV(size, self.observation_window, self.kernel, self.pooling)

    def prompted(self, slots: Slots, seen: Seen) -> None:
        super().prompted(slots, seen)
        room = self.room(slots)
        if slots.fresh and slots.exceeds(room):
            self.check_room(room)
            slots.state.chosen[slots.layer] = self._chosen(slots, seen)

    def _chosen(self, slots: Slots, seen: Seen) -> Tensor:
        """bool ``[batch, heads, n]``: SnapKV's choice without the last token, which is fed once more."""
        chooser = self.chooser
        room = chooser.room(slots)
        chooser.check_room(room)
        score = chooser.score(slots, seen).masked_fill(chooser.observed(slots), torch.inf)
        score = score.masked_fill((slots.position < 0) | slots.recent(1), -torch.inf)
        keep = torch.as_tensor(room, device=score.device).expand(slots.batch).repeat_interleave(slots.heads) - 1
        return best_of_all([score.flatten(0, 1)[:, None]], keep)[0].view_as(score)

    def foreseen(self, cache: EvictingCache) -> dict[int, Tensor]:
        plan: _Plan = cache.state
        draft = cache.heir(_Drafting(), plan.chosen)
        plan.chosen = {}
        counted = self._draft(cache, draft)
        found = {}
        for layer in cache.evicting:
            slots = cache.slots(layer)
            queries = torch.cat(draft.state[layer][1:] or draft.state[layer], dim=3)
            logits = queries.flatten(2, 3) @ slots.keys.transpose(2, 3)
            if (valid := slots.valid()) is not None:
                logits = logits.masked_fill(~valid[:, :, None], -torch.inf)
            rows = torch.softmax(logits, dim=-1, dtype=wide(logits.dtype)).unflatten(2, queries.shape[2:4])
            found[layer] = mean_row(rows, counted)
        return found

    def _draft(self, cache: EvictingCache, draft: EvictingCache) -> Tensor:
        """Writes the draft; bool ``[batch, m]``: which of the fed tokens belong to it.

        The prompt's last token is fed once more, for the logits of the first: inside the call that reads the prompt
        there are none yet.
        """
        model, inputs = cache.model, cache.inputs
        assert inputs is not None
        for layer in draft.evicting:
            draft.slots(layer).drop_newest(1)
        length = draft.slots(draft.evicting[0]).length
        position = torch.as_tensor(length, device=inputs.device).expand(len(inputs))[:, None]
        feed = {"inputs_embeds" if inputs.is_floating_point() else "input_ids": inputs[:, -1:]}
        logits = model(**feed, position_ids=position, past_key_values=draft, use_cache=True).logits[:, -1]
        tokens = greedy(model, draft, logits, self.draft + 1)
        return before_end(model, tokens)[:, : max(1, tokens.shape[1] - 1)]
