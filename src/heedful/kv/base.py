"""The room's one protocol: what an eviction policy is, and what it is shown.

A :class:`Policy` is an immutable description. Everything that changes during a generation lives in the cache, as
one :class:`~heedful.kv.slots.Slots` per layer. The cache calls a policy at three moments:

* :meth:`Policy.prompted` after a layer has attended to several new tokens at once (the prompt; a chunk of it; a
  later question on the same cache),
* :meth:`Policy.passed` after all layers have done so,
* :meth:`Policy.decoded` after a layer has attended to one new token.

Before several new tokens attend, :meth:`Policy.visible` may hide entries from them. In each of the three the policy
may read the layer's entries and what attention they received, update its own fields, which stay aligned with the
entries, and say which entries stay. Six published systems need:

===============  =======================  =========================  ============================================
system           sees                     fields per entry           decides
===============  =======================  =========================  ============================================
H2O              column sums; step sums   mass, steps alive          best ``keep`` per head, per prompt and step
LazyEviction     step rows                last, recurrence           best ``keep`` per head, every W steps
CAKE             last W rows; step rows   indicator                  shrinks earlier layers too, one shared budget
DefensiveKV      last W rows, o_proj      score                      one top-k over the heads of a layer, or of all
LookaheadKV      rows of probe queries    none                       after the last layer, in ``passed``
Attention-Gate   the layer's input        none                       any subset of the entries; no budget
===============  =======================  =========================  ============================================
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from heedful.kv.attention import Seen
    from heedful.kv.cache import EvictingCache
    from heedful.kv.slots import Slots


@dataclass(frozen=True)
class Share:
    """A size given as a share of the prompt's length; resolved to ``floor(value x length)`` slots, per sequence.

    Raises ValueError unless ``value`` is a number >= 0. A share above 1 leaves room beyond the prompt; it warns that
    nothing of the prompt will be evicted.
    """

    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise ValueError(f"share={self.value}: must be a number >= 0")
        if self.value > 1:
            warnings.warn(f"share={self.value} exceeds 1: nothing of the prompt will be evicted", stacklevel=3)

    def __str__(self) -> str:
        return f"{self.value:.0%}"


Size = int | Share
"""A number of slots per layer and KV head, or a share of the prompt's length."""


def check_size(name: str, size: Size, least: int = 1) -> None:
    """Raises ValueError, naming the parameter, unless ``size`` is a Share or an integer >= ``least``."""
    if not isinstance(size, Share):
        check_count(name, size, least)


def check_count(name: str, count: int, least: int = 1) -> None:
    """Raises ValueError, naming the parameter, unless ``count`` is an integer >= ``least``."""
    if isinstance(count, bool) or not isinstance(count, int):
        raise ValueError(f"{name}={count!r}: must be a whole number")
    if count < least:
        raise ValueError(f"{name}={count}: must be at least {least}")


def resolve(size: Size, prompt: int | Tensor) -> int | Tensor:
    """Slots for a prompt of that many real tokens: an int, or one per sequence, ``[batch]`` int64."""
    if isinstance(size, int):
        return size
    if isinstance(prompt, int):
        return math.floor(size.value * prompt + 1e-9)
    return torch.floor(prompt.double() * size.value + 1e-9).long()


@dataclass(frozen=True)
class Reads:
    """What a policy needs to see of attention; scores that nobody asked for are not computed.

    Attributes:
        prompt: of calls with several new tokens: nothing, ``"sums"`` (column sums), ``"last"`` (the last ``window``
            rows) or ``"rows"`` (all rows: memory grows with the square of the prompt).
        step: whether the row of each decode step is needed.
        window: number of last rows for ``"last"``.
        hidden: whether ``Slots.hidden``, the attention module's input, is needed.
        queries: whether ``Seen.queries`` are needed.
        inputs: whether ``EvictingCache.inputs``, what the model was given, is needed in ``passed``.
        outputs: whether entries are judged by their values and the layer's output projection; such a policy cannot be
            replayed on attention rows alone.
    """

    prompt: Literal["nothing", "sums", "last", "rows"] = "nothing"
    step: bool = False
    window: int = 1
    hidden: bool = False
    queries: bool = False
    inputs: bool = False
    outputs: bool = False


@dataclass(frozen=True)
class Policy:
    """An eviction policy: an immutable description, usable by any number of generations at once.

    A subclass sets ``name``, says what it reads, and fills in the hooks. Use it through
    :meth:`cache_for` or :meth:`on`.
    """

    name: ClassVar[str]
    """The policy's name on the command line; classes without one are not listed."""
    fields: ClassVar[Mapping[str, torch.dtype]] = {}
    """Tensors kept per entry, created as zero; read and written as ``slots["name"]``."""
    evicts: ClassVar[bool] = True
    """False for a policy that keeps everything; only such a cache can take tokens back (assisted decoding)."""
    evicts_prompt: ClassVar[bool] = True
    """False for methods that never shrink a cache before decoding begins."""

    @property
    def reads(self) -> Reads:
        """What the policy needs to see."""
        return Reads()

    @property
    def headroom(self) -> int:
        """Entries held beyond the budget between two decisions, at most."""
        return 1

    @property
    def per_query_head(self) -> bool:
        """Whether entries are stored, and evicted, per query head instead of per KV head (memory x group)."""
        return False

    def bound(self, slots: Slots) -> int | None:
        """Columns that a layer will never need more of, if that is known."""
        return None

    def attach(self, model: Any) -> None:
        """Called when a cache is made for a model: raises ValueError, in one line, if the policy cannot serve it."""

    def begin(self, layers: int) -> Any:
        """State of one generation that is not per entry (an allocation over layers, say); kept as ``cache.state``."""
        return None

    def prompted(self, slots: Slots, seen: Seen) -> None:
        """One layer has attended to several new tokens. ``slots.fresh`` tells the first such call of a generation."""

    def visible(self, slots: Slots) -> Tensor | None:
        """bool ``[batch, heads, n]``, asked before several new tokens attend: which entries tokens other than their own
        may see; ``[batch, heads, q, n]`` where that depends on the token; None for all. A policy that hides entries is
        shown no attention of that call.
        """
        return None

    def passed(self, cache: EvictingCache) -> None:
        """All layers have attended to several new tokens. :meth:`EvictingCache.probe` may be used here."""

    def decoded(self, slots: Slots, seen: Seen) -> None:
        """One layer has attended to one new token."""

    def reordered(self, slots: Slots, index: Tensor) -> None:
        """Batch item i of a layer has become the former item ``index[i]`` (beam search); its entries and fields have
        followed, and what :meth:`begin` made has to where it is kept per sequence.
        """

    def cache_for(self, model: Any, capacity: int | None = None) -> EvictingCache:
        """A cache for one generation of an unmodified Hugging Face model: pass it as ``past_key_values``.

        Switches the model's attention to ours, which leaves every other cache's results as they are.

        Args:
            model: the model.
            capacity: entries per head to preallocate, where it is known how many there will be; None grows as needed.

        Raises ValueError for a model that is not supported, in one line that says why.
        """
        from heedful.kv.cache import EvictingCache

        return EvictingCache(self, model, capacity)

    def on(self, model: Any, capacity: int | None = None) -> Any:
        """A context manager that yields :meth:`cache_for` and restores the model's attention at the end."""
        from heedful.kv.cache import restored

        return restored(self, model, capacity)


@dataclass(frozen=True)
class Sized(Policy):
    """A policy with a budget.

    Args:
        budget: entries kept per layer and KV head, on average, everything counted (sinks and recent entries included).
    """

    budget: Size = Share(1.0)

    def __post_init__(self) -> None:
        check_size("budget", self.budget)
        if isinstance(self.budget, Share) and self.budget.value == 0:
            raise ValueError("budget=0%: must be a share above 0")
        if isinstance(self.budget, int) and self.least > self.budget:
            raise ValueError(f"budget={self.budget}: {self.name} needs at least {self.least} slots")

    @property
    def least(self) -> int:
        """The smallest budget, in slots, that the method can work with."""
        return 1

    def room(self, slots: Slots) -> int | Tensor:
        """The budget in slots: an int, or one per sequence, ``[batch]`` int64."""
        return resolve(self.budget, slots.prompt_length)

    def check_room(self, keep: int | Tensor) -> None:
        """Raises ValueError if a share of this prompt is less than the method can work with."""
        if isinstance(self.budget, Share):
            least = int(keep if isinstance(keep, int) else keep.min())
            if least < self.least:
                raise ValueError(
                    f"budget={self.budget} of this prompt is {least} slots: {self.name} needs at least {self.least}"
                )


@dataclass(frozen=True)
class Budgeted(Sized):
    """A policy that keeps the best ``budget`` entries of each layer and head by a score, in decoding too.

    Most published methods for decoding are this: fill in :meth:`observe` and :meth:`score`.

    Args:
        budget: entries kept per layer and KV head, everything counted (sinks and recent entries included).
        window: decide every ``window`` decode steps; between two decisions up to ``window`` entries more are held.
            1 decides at every step; larger values are the method's ``+window`` form.
    """

    ties: ClassVar[Literal["older", "newer"]] = "newer"
    """Which of two entries with the same score is kept."""

    window: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("window", self.window)

    @property
    def headroom(self) -> int:
        return self.window

    def bound(self, slots: Slots) -> int | None:
        room = self.room(slots)
        return room + self.headroom if isinstance(room, int) else None

    def protected(self, slots: Slots) -> Tensor | None:
        """bool ``[batch, heads, n]``: entries that must stay, or None. They count in the budget."""
        return None

    def observe(self, slots: Slots, seen: Seen) -> None:
        """Updates the policy's fields from what was seen; called on every call, before any decision."""

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        """``[batch, heads, n]``, float: the largest stay."""
        raise NotImplementedError

    def due(self, slots: Slots) -> bool:
        """Whether a decode step ends in a decision."""
        return self.window == 1 or slots.steps % self.window == 0

    def prompted(self, slots: Slots, seen: Seen) -> None:
        self.observe(slots, seen)
        if self.evicts_prompt:
            self.decide(slots, seen)

    def decoded(self, slots: Slots, seen: Seen) -> None:
        self.observe(slots, seen)
        if self.due(slots):
            self.decide(slots, seen)

    def decide(self, slots: Slots, seen: Seen) -> None:
        """Shrinks the layer to the budget if it exceeds it."""
        keep = self.room(slots)
        if slots.exceeds(keep):
            self.check_room(keep)
            slots.keep_best(self.score(slots, seen), keep, self.protected(slots), self.ties)
