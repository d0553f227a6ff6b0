"""The 228 tokens of the task world and the eight operators, which live in the weights alone.

Ids 0-11 are the specials, 12-107 the names K0-K95, 108-123 the values V0-V15, 124-131 the operators O0-O7,
132-227 the filler words F0-F95. The models' embedding has :data:`EMBEDDING_ROWS` rows; the rest is unused.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

SPECIALS: tuple[str, ...] = (
    "<pad>", "<bos>", "<eos>", "<cot>", "<fin>", "<q>", "<a>", "<m>", ";", ">", "<", "^",
)  # fmt: skip
PAD, BOS, EOS, COT, FIN, QUESTION, ANSWER, MARK, SEMICOLON, DOWN, UP, LINK = range(12)

NAMES, VALUES, OPERATORS, FILLERS = 96, 16, 8, 96
FIRST_NAME = len(SPECIALS)
FIRST_VALUE = FIRST_NAME + NAMES
FIRST_OPERATOR = FIRST_VALUE + VALUES
FIRST_FILLER = FIRST_OPERATOR + OPERATORS
SIZE = FIRST_FILLER + FILLERS
EMBEDDING_ROWS = 256

WORDS: tuple[str, ...] = (
    *SPECIALS,
    *(f"K{i}" for i in range(NAMES)),
    *(f"V{i}" for i in range(VALUES)),
    *(f"O{i}" for i in range(OPERATORS)),
    *(f"F{i}" for i in range(FILLERS)),
)
"""The readable form of every token, by id."""

PERMUTATIONS: NDArray[np.int64] = np.stack(
    [np.random.default_rng(20_481 + o).permutation(VALUES) for o in range(OPERATORS)]
)
"""int64 [8, 16]: operator o maps value v to ``PERMUTATIONS[o, v]``."""

_APPLIED: list[list[int]] = (PERMUTATIONS + FIRST_VALUE).tolist()


def apply(operator: int, value: int) -> int:
    """The value token that ``operator`` (a token id) makes of ``value`` (a token id)."""
    return _APPLIED[operator - FIRST_OPERATOR][value - FIRST_VALUE]


def add(left: int, right: int) -> int:
    """The value token of the sum modulo 16 of two value tokens."""
    return (left + right - 2 * FIRST_VALUE) % VALUES + FIRST_VALUE


def is_name(token: int) -> bool:
    """Whether ``token`` is one of K0-K95."""
    return FIRST_NAME <= token < FIRST_VALUE


def is_value(token: int) -> bool:
    """Whether ``token`` is one of V0-V15."""
    return FIRST_VALUE <= token < FIRST_OPERATOR


def is_operator(token: int) -> bool:
    """Whether ``token`` is one of O0-O7."""
    return FIRST_OPERATOR <= token < FIRST_FILLER


def decode(tokens: Iterable[int] | NDArray[np.integer]) -> str:
    """Readable text of token ids, words apart by one blank; the tokenizer encodes it back to the same ids.

    Raises:
        ValueError: an id outside [0, 228).

    >>> decode([1, 12, 108, 124])
    '<bos> K0 V0 O0'
    """
    ids = [int(token) for token in tokens]
    for token in ids:
        if not 0 <= token < SIZE:
            raise ValueError(f"token id {token} is outside [0, {SIZE})")
    return " ".join(WORDS[token] for token in ids)
