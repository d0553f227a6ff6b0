"""Symmetric matrices in 4 x 4 blocks, and sums of four numbers at a time.

Of a symmetric d x d matrix the lower triangle is kept as blocks of 4 x 4, row of blocks by row of blocks, each block
column by column, with rows and columns of zeros up to a multiple of four. Blocks on the diagonal are kept halved: with
L for what is kept, the matrix is ``L + L^T`` there as everywhere, and all blocks are treated alike.

A column of a block is four numbers, one vector register. A compiler makes little of loops as short as those over a row
of such a matrix, so what is done with a block is written in its instructions; processors without vectors get four
scalar ones in their place. Arrays are float64 of one axis; ``at`` and the like are where the four, or the block, begin.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numpy.typing import NDArray

SIDE = 4
BLOCK = SIDE * SIDE

_FOUR = ir.VectorType(ir.DoubleType(), SIDE)
_FLAGS = ("contract",)
"""A product and the sum that it goes into may be rounded once."""


_instructions: Any = intrinsic
"""Its declared type counts the compiler's own first argument among those of a call."""


def padded(features: int) -> int:
    """``features``, up to a multiple of four."""
    return -(-features // SIDE) * SIDE


@numba.njit(cache=True, nogil=True, inline="always")
def corner(j):  # type: ignore[no-untyped-def]
    """Where half of the matrix's element ``[j, j]`` is kept."""
    row = j // SIDE
    return row * (row + 3) // 2 * BLOCK + j % SIDE * (SIDE + 1)


def diagonal(features: int, value: float) -> NDArray[np.float64]:
    """``value I`` in blocks, float64 ``[16 n (n + 1) / 2]`` with n = ceil(features / 4)."""
    n = padded(features) // SIDE
    kept = np.zeros(BLOCK * n * (n + 1) // 2)
    kept[[corner(j) for j in range(features)]] = value / 2.0
    return kept


@numba.njit(cache=True, nogil=True)
def square(kept, features):  # type: ignore[no-untyped-def]
    """The matrix itself, float64 ``[d, d]``."""
    matrix, at = np.empty((features, features)), 0
    for row in range(0, features, SIDE):
        for column in range(0, row + 1, SIDE):
            for j in range(column, min(column + SIDE, features)):
                for i in range(row, min(row + SIDE, features)):
                    a = kept[at + (j - column) * SIDE + i - row]
                    if row == column:
                        a += kept[at + (i - row) * SIDE + j - column]
                    matrix[i, j] = matrix[j, i] = a
            at += BLOCK
    return matrix


def _checked(*arrays: Any) -> None:
    """Refuses to compile for anything but float64 arrays of one axis without gaps: nothing checks where fours are."""
    for array in arrays:
        if not (isinstance(array, types.Array) and (array.dtype, array.ndim, array.layout) == (types.float64, 1, "C")):
            raise TypingError(f"{array}: must be a contiguous float64 array of one axis")


class _Emit:
    """Writes instructions on fours into a function that is being compiled."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self.arguments = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]

    def _place(self, data: Any, at: Any, further: int) -> Any:
        place = self.builder.gep(data, [self.builder.add(at, at.type(further))])
        return self.builder.bitcast(place, _FOUR.as_pointer())

    def load(self, data: Any, at: Any, further: int = 0) -> Any:
        return self.builder.load(self._place(data, at, further), align=8)

    def store(self, four: Any, data: Any, at: Any, further: int = 0) -> None:
        self.builder.store(four, self._place(data, at, further), align=8)

    def mixed(self, a: Any, b: Any, order: list[int]) -> Any:
        """The elements ``order`` of the eight numbers of a and b."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), SIDE), order))

    def repeated(self, four: Any, k: int) -> Any:
        """Element k, four times."""
        return self.mixed(four, four, [k] * SIDE)

    def four_of(self, number: Any) -> Any:
        """A number, four times."""
        return self.repeated(
            self.builder.insert_element(ir.Constant(_FOUR, ir.Undefined), number, ir.IntType(32)(0)), 0
        )

    def times(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=_FLAGS)

    def plus(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FLAGS)

    def total(self, rows: list[Any]) -> Any:
        """The sums of the numbers of each of four fours."""
        even, odd = [0, 2, 4, 6], [1, 3, 5, 7]
        while len(rows) > 1:
            pairs = zip(rows[::2], rows[1::2], strict=True)
            rows = [self.plus(self.mixed(a, b, even), self.mixed(a, b, odd)) for a, b in pairs]
        return rows[0]


@_instructions
def dot4(typing: Any, x: Any, i: Any, y: Any, j: Any) -> Any:
    """``x[i : i + 4] @ y[j : j + 4]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = _Emit(context, builder, signature, arguments)
        x, i, y, j = emit.arguments
        products = emit.times(emit.load(x, i), emit.load(y, j))
        a, b, c, d = (builder.extract_element(products, ir.IntType(32)(k)) for k in range(SIDE))
        return emit.plus(emit.plus(a, b), emit.plus(c, d))

    _checked(x, y)
    return types.float64(x, types.intp, y, types.intp), generate


@_instructions
def multiply(typing: Any, kept: Any, at: Any, x: Any, row: Any, column: Any, out: Any) -> Any:
    """What a block B at ``row``, ``column`` adds to the matrix times x: ``out[row :] += B x[column :]`` and
    ``out[column :] += B^T x[row :]``, four numbers of each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = _Emit(context, builder, signature, arguments)
        kept, at, x, row, column, out = emit.arguments
        below, above = emit.load(x, row), emit.load(x, column)
        columns = [emit.load(kept, at, k * SIDE) for k in range(SIDE)]
        first, second, third, fourth = (emit.times(b, emit.repeated(above, k)) for k, b in enumerate(columns))
        sums = emit.plus(emit.plus(first, second), emit.plus(third, fourth))
        emit.store(emit.plus(emit.load(out, row), sums), out, row)
        sums = emit.total([emit.times(b, below) for b in columns])
        emit.store(emit.plus(emit.load(out, column), sums), out, column)
        return context.get_dummy_value()

    _checked(kept, x, out)
    return types.void(kept, types.intp, x, types.intp, types.intp, out), generate


@_instructions
def add_outer(typing: Any, kept: Any, at: Any, x: Any, row: Any, column: Any, factor: Any) -> Any:
    """``B += factor x[row : row + 4] x[column : column + 4]^T`` for a block B."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = _Emit(context, builder, signature, arguments)
        kept, at, x, row, column, factor = emit.arguments
        left, right = emit.times(emit.load(x, row), emit.four_of(factor)), emit.load(x, column)
        for k in range(SIDE):
            four = emit.plus(emit.load(kept, at, k * SIDE), emit.times(left, emit.repeated(right, k)))
            emit.store(four, kept, at, k * SIDE)
        return context.get_dummy_value()

    _checked(kept, x)
    return types.void(kept, types.intp, x, types.intp, types.intp, types.float64), generate
