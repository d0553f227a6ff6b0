"""Where an answer stops: at the first of the strings that its request names."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Looks for strings in a text that comes piece by piece, and holds back what may be the beginning of one.

    The text ends before the string that is complete first; of two that are complete with the same character, before
    the longer one. So it contains none of them, and does not depend on how it was cut into pieces.

    Args:
        strings: what to look for, none of them empty; with none, everything passes.

    Attributes:
        found: whether the text has come to its end.

    >>> stop = StopStrings(["END", "\\n\\n"])
    >>> [stop.feed(piece) for piece in ("one E", "NE", "N", "Dtwo")], stop.found
    (['one ', 'EN', '', ''], True)
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """What may be told now that this piece has come; nothing once the text has ended."""
        if self.found:
            return ""
        text = self._held + piece
        ends = [(at + len(string), at) for string in self._strings if (at := text.find(string)) >= 0]
        if ends:
            self.found = True
            cut = min(ends)[1]
        else:
            cut = min((_beginning(text, string) for string in self._strings), default=len(text))
        self._held = "" if self.found else text[cut:]
        return text[:cut]

    def rest(self) -> str:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held


def _beginning(text: str, string: str) -> int:
    """Where the longest end of the text begins that the string begins with; the text's length if there is none."""
    at = text.find(string[0], max(len(text) - len(string) + 1, 0))
    while at >= 0 and not string.startswith(text[at:]):
        at = text.find(string[0], at + 1)
    return len(text) if at < 0 else at
