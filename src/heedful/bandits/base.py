"""The room's one protocol: a learner decides, and is told later, or never, how it went.

A :class:`Method` is an immutable description with parameters. Starting it makes a :class:`Learner`, which holds all
that changes. ``decide`` gives a decision, with a token and the exact probability with which it was drawn; ``update``
takes feedback by token, one or a sequence, in any order. What has been decided and not been told about is *pending*.

What a decision is and what feedback is differs between learners: each kind of learner has frozen dataclasses of its own
(:class:`~heedful.bandits.arms.Choice` and :class:`~heedful.bandits.arms.Reward` for one action and one number), of
which this protocol asks only what :class:`Decision` and :class:`Feedback` say.

Many seeds may advance together: all arrays of a state have a leading axis of ``lanes``, one lane per seed, 1 for a
learner on its own. Lanes share their tokens: one decision is a row of decisions, and feedback is a row as well. A lane
decides what a learner of its seed would, told the same.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import whole

Kept = tuple[Any, ...]
"""What a learner wants back with the feedback of a decision: numbers and arrays. All entries of a learner have the same
length, and one column has one dtype and one number of axes, so that they can be saved."""


class Decision(Protocol):
    """What every decision has beside what was decided."""

    @property
    def token(self) -> int:
        """By which feedback refers to it; 0, 1, 2, ... in the order of deciding."""

    @property
    def probability(self) -> Any:
        """The exact probability with which it was drawn, in (0, 1], 1 for deterministic rules; an array of them where
        several things were decided independently; NaN, and then not supported, where a random rule cannot say."""

    @property
    def supported(self) -> bool:
        """Whether the probability may be used to evaluate another policy on the log. False for deterministic rules,
        whose log says nothing about what they did not choose."""


class Feedback(Protocol):
    """What all feedback has beside what was observed."""

    @property
    def token(self) -> int:
        """Of the decision that it is about."""


class Counts(NamedTuple):
    """What has become of a learner's decisions: ``decided = pending + learned + expired``.

    Attributes:
        decided: decisions so far.
        pending: of those, still waiting for feedback.
        learned: those whose feedback has come.
        expired: those given up, because of ``max_pending`` or ``expire_after``.
        late: feedback that came for expired ones, and was ignored.
    """

    decided: int
    pending: int
    learned: int
    expired: int
    late: int


class Ledger:
    """Decisions that wait for feedback.

    Args:
        max_pending: at most so many wait; one more gives up the oldest. None: no limit.
        expire_after: a decision is given up when so many later ones have been made. None: never.

    Raises ValueError for limits that are not whole numbers of at least 1.
    """

    def __init__(self, max_pending: int | None = None, expire_after: int | None = None) -> None:
        self.max_pending = None if max_pending is None else whole("max_pending", max_pending)
        self.expire_after = None if expire_after is None else whole("expire_after", expire_after)
        self._limited = max_pending is not None or expire_after is not None
        self._waiting: dict[int, Kept] = {}
        self._next = self._oldest = self._expired = self._late = 0
        self._given_up = bytearray()  # a bit per token: expired, and its feedback has not come since

    @property
    def counts(self) -> Counts:
        """What has become of all decisions."""
        pending = len(self._waiting)
        return Counts(self._next, pending, self._next - pending - self._expired, self._expired, self._late)

    def issue(self, kept: Kept) -> int:
        """The token of a new decision; ``kept`` comes back with its feedback."""
        token = self._next
        self._waiting[token] = kept
        self._next = token + 1
        if self._limited:
            self._expire()
        return token

    def issue_all(self, several: Sequence[Kept]) -> range:
        """The consecutive tokens of new decisions."""
        first, self._next = self._next, self._next + len(several)
        tokens = range(first, self._next)
        self._waiting.update(zip(tokens, several))
        if self._limited:
            self._expire()
        return tokens

    def find(self, token: int) -> Kept | None:
        """What was kept for a decision; None if it has expired.

        Raises ValueError for a token that was never given out, or whose feedback has come already.
        """
        kept = self._waiting.get(token) if type(token) is int or isinstance(token, np.integer) else None
        if kept is None and not (self._was_issued(token) and self._has_expired(token)):
            why = "its feedback has come already" if self._was_issued(token) else "no such decision was made"
            raise ValueError(f"token={token!r}: {why}")
        return kept

    def close(self, token: int) -> None:
        """The feedback of a decision that :meth:`find` knows has come."""
        if self._waiting.pop(token, None) is None:
            self._given_up[token >> 3] &= ~(1 << (token & 7)) & 255
            self._late += 1

    def _was_issued(self, token: Any) -> bool:
        return (type(token) is int or isinstance(token, np.integer)) and bool(0 <= token < self._next)

    def _has_expired(self, token: int) -> bool:
        return token >> 3 < len(self._given_up) and bool(self._given_up[token >> 3] >> (token & 7) & 1)

    def _expire(self) -> None:
        """Gives up what is over the limits, oldest first. Tokens are consecutive, so that the oldest is found by
        counting up; asking a dict for its first key would walk over all that were deleted."""
        keep_from = 0 if self.expire_after is None else self._next - self.expire_after
        most = self._next if self.max_pending is None else self.max_pending
        while self._oldest < self._next and (self._oldest < keep_from or len(self._waiting) > most):
            token = self._oldest
            self._oldest += 1
            if self._waiting.pop(token, None) is not None:
                self._expired += 1
                self._given_up.extend(bytes(max(0, (token >> 3) + 1 - len(self._given_up))))
                self._given_up[token >> 3] |= 1 << (token & 7)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays; entries of different shapes are laid end to end."""
        width = len(next(iter(self._waiting.values()), ()))
        found: dict[str, NDArray[Any]] = {
            "tokens": np.array(list(self._waiting), dtype=np.int64),
            "numbers": np.array([self._next, self._oldest, self._expired, self._late, width], dtype=np.int64),
            "given_up": np.frombuffer(bytes(self._given_up), dtype=np.uint8),
        }
        for index, column in enumerate(zip(*self._waiting.values(), strict=True)):
            parts = [np.asarray(value) for value in column]
            found[f"shapes{index}"] = np.array([part.shape for part in parts], dtype=np.int64)
            found[f"values{index}"] = np.concatenate([part.ravel() for part in parts])
        return found

    def set_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Takes what :meth:`arrays` gave. Raises ValueError, and changes nothing, for what it cannot have given, and
        KeyError for what is missing."""
        tokens, numbers, given_up = (arrays[name] for name in ("tokens", "numbers", "given_up"))
        for name, array, dtype, shape in (
            ("tokens", tokens, np.int64, (len(tokens),) if tokens.ndim else ()), ("numbers", numbers, np.int64, (5,)),
            ("given_up", given_up, np.uint8, (given_up.size,)),
        ):  # fmt: skip
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name}: is {array.dtype} of shape {list(array.shape)}, not what is saved")
        following, oldest, expired, late, width = numbers.tolist()
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < following and len(set(tokens)) == len(tokens)):
            raise ValueError("tokens: are not those of decisions that were made")
        columns: list[list[Any]] = []
        for index in range(width):
            shapes, values = arrays[f"shapes{index}"], arrays[f"values{index}"]
            sizes = shapes.prod(axis=1, dtype=np.int64) if shapes.ndim == 2 else np.empty(0, dtype=np.int64)
            if len(sizes) != len(tokens) or values.shape != (sizes.sum(),):
                raise ValueError(f"values{index}: are not those of {len(tokens)} decisions")
            parts = [part.reshape(shape) for part, shape in zip(np.split(values, np.cumsum(sizes)[:-1]), shapes)]
            columns.append([part.copy() if part.ndim else part.item() for part in parts])
        rows: Iterable[Kept] = zip(*columns) if columns else [()] * len(tokens)
        self._next, self._oldest, self._expired, self._late = following, oldest, expired, late
        self._waiting, self._given_up = dict(zip(tokens.tolist(), rows)), bytearray(given_up.tobytes())


@dataclass(frozen=True)
class Method:
    """A decision method: an immutable description, from which any number of learners are started.

    Subclasses are frozen dataclasses whose fields are parameters with defaults, checked in ``__post_init__``; they have
    ``start(...)``, which returns a learner, and ``many(...)``, which returns one with a lane per seed.
    """

    name: ClassVar[str]
    """Its name on the command line; classes without one are not listed."""
    kind: ClassVar[str]
    """Methods of one kind are started, asked and told in the same way."""


F = TypeVar("F", bound=Feedback)


class Learner(Generic[F]):
    """A method at work: its state, and what waits for feedback.

    A kind of learner has a ``decide`` of its own, which ends in ``self.ledger.issue(kept)``, and fills in
    :meth:`check_feedback` and :meth:`learn`.

    Args:
        method: what it was started from.
        state: a named tuple of arrays, each with the leading axis of lanes, and of tuples of generators, a
            ``numpy.random.Generator`` per lane. Arrays change in place and keep their shape and dtype; a state with
            anything else gives and takes it as arrays by ``arrays()`` and ``set_arrays(arrays)`` of its own, which
            raises ValueError, and changes nothing, for what does not fit.
        lanes: how many seeds advance together.
        max_pending: at most so many decisions wait for feedback; None: no limit.
        expire_after: a decision is given up when so many later ones have been made; None: never.

    Raises ValueError for limits that are not whole numbers of at least 1.
    """

    def __init__(
        self, method: Method, state: Any, lanes: int = 1,
        max_pending: int | None = None, expire_after: int | None = None,
    ) -> None:  # fmt: skip
        self.method, self.state, self.lanes = method, state, lanes
        self.ledger = Ledger(max_pending, expire_after)

    def decide(self, *args: Any, **kwargs: Any) -> Any:
        """The next decision; what it is asked with depends on the kind of learner."""
        raise NotImplementedError

    def check_feedback(self, kept: Kept, feedback: F) -> None:
        """Raises ValueError, naming the field, for feedback that nothing can be learned from. Changes nothing."""
        raise NotImplementedError

    def learn(self, kept: Kept, feedback: F) -> None:
        """Learns from checked feedback; ``kept`` is what ``decide`` gave to the ledger."""
        raise NotImplementedError

    def update(self, feedback: F | Sequence[F]) -> None:
        """Learns from feedback, one or a list; for expired decisions it is counted and ignored.

        Raises ValueError, and learns from none of a list, for a token that was never given out or whose feedback has
        come already, and for feedback that is out of range.
        """
        if isinstance(feedback, list | tuple):
            self._update_all(feedback)
            return
        try:
            token = feedback.token  # type: ignore[union-attr]
        except AttributeError:
            raise ValueError(f"feedback={feedback!r}: must be feedback with a token, or a list of it") from None
        kept = self.ledger.find(token)
        if kept is not None:
            self.check_feedback(kept, feedback)  # type: ignore[arg-type]
        self.ledger.close(token)
        if kept is not None:
            self.learn(kept, feedback)  # type: ignore[arg-type]

    def _update_all(self, several: Sequence[F]) -> None:
        pairs, tokens = [], set()
        for feedback in several:
            if not hasattr(feedback, "token"):
                raise ValueError(f"feedback={feedback!r}: must be feedback with a token, or a list of it")
            kept = self.ledger.find(feedback.token)
            if feedback.token in tokens:
                raise ValueError(f"token={feedback.token!r}: is twice in the list")
            tokens.add(feedback.token)
            if kept is not None:
                self.check_feedback(kept, feedback)
                pairs.append((kept, feedback))
        for token in tokens:
            self.ledger.close(token)
        for kept, feedback in pairs:
            self.learn(kept, feedback)

    @property
    def counts(self) -> Counts:
        """What has become of all decisions."""
        return self.ledger.counts

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """The state as arrays to save."""
        found: dict[str, NDArray[Any]] = {}
        for name, part in self.state._asdict().items():
            if isinstance(part, np.ndarray):
                found[name] = part
            elif _are_generators(part):
                found[name] = np.array([json.dumps(rng.bit_generator.state) for rng in part])
        return found | (self.state.arrays() if hasattr(self.state, "arrays") else {})

    def set_state_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Takes what :meth:`state_arrays` gave. Raises ValueError, and changes nothing, if shapes or dtypes differ, and
        KeyError for what is missing."""
        drawn: list[tuple[np.random.Generator, Any]] = []
        for name, part in self.state._asdict().items():
            if _are_generators(part):
                if arrays[name].shape != (len(part),) or arrays[name].dtype.kind != "U":
                    raise ValueError(f"{name}: is not that of {len(part)} generators")
                drawn += [(rng, _state_of(rng, name, text)) for rng, text in zip(part, arrays[name])]
            elif isinstance(part, np.ndarray) and (arrays[name].shape, arrays[name].dtype) != (part.shape, part.dtype):
                kinds = [f"{each.dtype} of shape {list(each.shape)}" for each in (arrays[name], part)]
                raise ValueError(f"{name}: is {kinds[0]}, here {kinds[1]}")
        if hasattr(self.state, "set_arrays"):
            self.state.set_arrays(arrays)
        for name, part in self.state._asdict().items():
            if isinstance(part, np.ndarray):
                part[...] = arrays[name]
        for rng, state in drawn:
            rng.bit_generator.state = state

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state and what is pending to a file (numpy's npz, nothing pickled), whole or not at all."""
        parts = {f"state.{name}": array for name, array in self.state_arrays().items()}
        parts |= {f"ledger.{name}": array for name, array in self.ledger.arrays().items()}
        target = Path(path)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                np.savez(file, allow_pickle=False, about=np.array(self._about()), **parts)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes on from a saved file, in a learner that was started with the same parameters.

        Raises ValueError for a file that is no saved learner, or one of another method, shape or number of lanes;
        FileNotFoundError if there is none.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                parts = {name: file[name] for name in file.files}
            about = str(parts.pop("about"))
        except (FileNotFoundError, PermissionError):
            raise
        # TypeError: a .npy; NotImplementedError: bytes that speak of another kind of zip file
        except (ValueError, KeyError, EOFError, TypeError, NotImplementedError, OSError, zipfile.BadZipFile):
            raise ValueError(f"{path}: is not a saved learner") from None
        if about != self._about():
            raise ValueError(f"{path}: was saved by {about}, this is {self._about()}")
        ledger = Ledger(self.ledger.max_pending, self.ledger.expire_after)
        try:
            ledger.set_arrays({n.removeprefix("ledger."): a for n, a in parts.items() if n.startswith("ledger.")})
            self.set_state_arrays({n.removeprefix("state."): a for n, a in parts.items() if n.startswith("state.")})
        except KeyError as error:
            raise ValueError(f"{path}: lacks {error}; it was cut, or saved by another version") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self.ledger = ledger

    def _about(self) -> str:
        return f"{type(self).__name__} of {self.method!r} with {self.lanes} lanes"


def _are_generators(part: Any) -> bool:
    return isinstance(part, tuple) and all(isinstance(each, np.random.Generator) for each in part)


def _state_of(rng: np.random.Generator, name: str, text: str) -> Any:
    """A state that a generator of this kind can take. Raises ValueError for another text."""
    try:
        state = json.loads(text)
        type(rng.bit_generator)().state = state
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"{name}: is not the state of a generator") from None
    return state
