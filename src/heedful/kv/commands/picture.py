"""What policies keep of one prompt, in characters: a block per policy, a line per KV head, side by side."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from rich.console import Console
from rich.text import Text

from heedful.kv.commands.heatmap import heading, needs
from heedful.kv.commands.kept import Kept, Seen

WIDTH = 110
"""Characters of a line where there is no terminal."""
NARROWEST = 46
"""Characters of a block; as many blocks stand side by side as fit."""
GAP = 3
SIDES = 6, 6
"""Characters of a block to the left and right of its tokens: the layer, and the number of slots."""
LINES = 96
"""KV heads of which each gets a line of its own; where there are more, a line is a layer."""
SHADES = "·░▒▓█"
FOUND, LOST = "◆", "◇"
STYLES = {
    "·": "bright_black", "░": "blue", "▒": "blue", "▓": "bright_blue", "█": "bright_blue",
    FOUND: "bold yellow", LOST: "bold magenta",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """How tokens are put into columns.

    Attributes:
        per: tokens in a column.
        needed: ``[tokens]``: 1 where the answer is made of the token, else 0.
    """

    per: int
    needed: np.ndarray

    @property
    def columns(self) -> int:
        """Columns of a block."""
        return math.ceil(len(self.needed) / self.per)

    def binned(self, values: np.ndarray) -> np.ndarray:
        """Means over the tokens of each column, ``[columns]``, of ``[tokens]``."""
        starts = np.arange(0, len(values), self.per)
        found: np.ndarray = np.add.reduceat(values, starts) / np.diff([*starts, len(values)])
        return found


def show(seen: Seen, kept: Sequence[Kept]) -> None:
    """Prints the picture: in colour on a terminal, plain elsewhere."""
    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    lines = list(draw(seen, kept, width))
    if sys.stdout.isatty():
        terminal = Console(highlight=False)
        for line in lines:
            terminal.print(line, soft_wrap=True)
    else:
        for line in lines:
            print(line.plain.rstrip())


def draw(seen: Seen, kept: Sequence[Kept], width: int) -> Iterator[Text]:
    """The lines of the picture.

    Args:
        seen: the prompt.
        kept: what each policy keeps of it.
        width: characters of a line.
    """
    beside = max(1, min(len(kept), (width + GAP) // (NARROWEST + GAP)))
    room = max(16, (width - GAP * (beside - 1)) // beside - sum(SIDES))
    needed = np.zeros(len(seen.tokens))
    needed[list(seen.needed)] = 1
    grid = Grid(math.ceil(len(seen.tokens) / room), needed)
    blocks = [list(_block(seen, each, grid)) for each in kept]
    for start in range(0, len(blocks), beside):
        for row in zip_longest(*blocks[start : start + beside]):
            lines = [line or Text() for line in row]
            for line in lines:
                line.pad_right(grid.columns + sum(SIDES) - line.cell_len)
            yield Text(" " * GAP).join(lines)
        yield Text()
    yield from _legend(seen, kept, grid)
    yield Text()


def _block(seen: Seen, kept: Kept, grid: Grid) -> Iterator[Text]:
    wide = grid.columns + sum(SIDES)
    yield Text(kept.contender.spec, "bold")
    about = heading(kept, seen).removeprefix(f"{kept.contender.spec}: ")
    yield Text(about if len(about) <= wide else f"{about[: wide - 1]}…")
    yield _ruler(grid)
    whole = sum(len(held) for held in kept.layers.values()) > LINES
    for layer, held in kept.layers.items():
        lines = held.mean(axis=0, keepdims=True) if whole else held.astype(float)
        for head, line in enumerate(lines):
            edge = "╶" if len(lines) == 1 else "┌" if head == 0 else "└" if head == len(lines) - 1 else "│"
            name = f"{layer:>{SIDES[0] - 3}} " if head == 0 else " " * (SIDES[0] - 2)
            yield Text.assemble(name, f"{edge} ", _cells(line, grid), f"{line.sum():>{SIDES[1] - 1}.0f} ")


def _cells(line: np.ndarray, grid: Grid) -> Text:
    """A shade for every column; a sign of its own where the answer is made of it."""
    text = Text()
    for share, needed, found in zip(grid.binned(line), grid.binned(grid.needed), grid.binned(grid.needed * line)):
        sign = SHADES[math.ceil(share * (len(SHADES) - 1) - 1e-9)]
        if needed:
            sign = FOUND if found else LOST
        text.append(sign, STYLES[sign])
    return text


def _ruler(grid: Grid) -> Text:
    """Positions, above the columns where they are."""
    length = len(grid.needed)
    step = next(size for power in range(12) for size in (10**power, 2 * 10**power, 5 * 10**power) if size >= length / 5)
    marks = [" "] * (grid.columns + SIDES[1])
    for position in range(0, length, step):
        at, label = position // grid.per, str(position)
        marks[at : at + len(label)] = label
    return Text(" " * SIDES[0] + "".join(marks[: grid.columns + SIDES[1]]), "bright_black")


def _legend(seen: Seen, kept: Sequence[Kept], grid: Grid) -> Iterator[Text]:
    column = "a token" if grid.per == 1 else f"{grid.per} tokens, the denser the more of them are kept"
    line = "a KV head" if all(sum(map(len, k.layers.values())) <= LINES for k in kept) else "the mean head of a layer"
    yield Text(f"A line is {line}: its layer, what it keeps, how many. A column is {column}.")
    if seen.needed:
        signs = Text.assemble((FOUND, STYLES[FOUND]), " needed and kept, ", (LOST, STYLES[LOST]))
        yield signs.append(f" needed but dropped. {needs(seen)}")
