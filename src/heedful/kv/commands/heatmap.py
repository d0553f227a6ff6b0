"""What policies keep of one prompt, as a picture: position against layer and head, a panel per policy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from heedful.kv.commands.kept import Kept, Seen
from heedful.lab.declare import Figure

MARKS = 30_000
"""Cells that a picture is drawn with at most; positions, and if need be heads, are put together to stay below."""
WIDTH = 900
KEPT, FOUND, LOST = "kept", "needed and kept", "needed but dropped"
COLOURS = {KEPT: "#5b9bc8", FOUND: "#f08c00", LOST: "#d6285f"}


def figure(seen: Seen, kept: Sequence[Kept]) -> Figure:
    """The picture, with a row per policy, layer and head behind it."""
    import altair as alt

    width, merged = _grain(len(seen.tokens), kept)
    places = pl.DataFrame(list(_places(seen, width)))
    cells = pl.DataFrame([cell for each in kept for cell in _cells(seen, each, width, merged)])
    heads = max(len(held) for each in kept for held in each.layers.values())
    rows = len(kept[0].layers) * (1 if merged else heads)
    height = max(2, min(9, 150 // rows)) * rows
    what = [("policy:N", "policy"), ("layer:O", "layer"), *([] if merged else [("head:O", "KV head")])]
    where = [("place:N", "position"), ("text:N", "token" if width == 1 else "tokens"), ("state:N", "state")]
    share = [] if width == 1 and not merged else [("share:Q", "share kept")]
    chart = (
        alt.Chart(cells)
        .transform_flatten(["at", "share"])
        .transform_lookup(lookup="at", from_=alt.LookupData(places, "at", ["to", "place", "text"]))
        .mark_rect(clip=True)
        .encode(
            x=alt.X(
                "at:Q",
                title="position in the prompt",
                scale=alt.Scale(domain=[0, len(seen.tokens)], nice=False, zero=False),
                axis=alt.Axis(grid=True, gridOpacity=0.35, tickMinStep=1),
            ),
            x2="to:Q",
            y=alt.Y("layer:O", title="layer", scale=alt.Scale(paddingInner=0.16), axis=_axis(kept, height)),
            color=alt.Color(
                "state:N",
                title=None,
                scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
                legend=alt.Legend(orient="top", symbolType="square", symbolSize=110, labelLimit=400),
            ),
            opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.08, 1]), legend=None),
            tooltip=[alt.Tooltip(field, title=title) for field, title in (*what, *where, *share)],
        )
        .properties(width=WIDTH, height=height)
        .add_params(alt.selection_interval(bind="scales", encodings=["x"]))
    )
    if not merged:
        chart = chart.encode(yOffset=alt.YOffset("head:O"))
    chart = chart.facet(
        facet=alt.Facet(
            "policy:N",
            title=None,
            sort=[heading(each, seen) for each in kept],
            header=alt.Header(labelAnchor="start", labelFontWeight="bold", labelPadding=4, labelLimit=WIDTH),
        ),
        columns=1,
        spacing=12,
    )
    return Figure(
        "What is kept of one prompt",
        chart,
        table(seen, kept),
        f"Each panel is a policy; in each, a line is a KV head of a layer, from the first layer at the top, and a mark "
        f"is {'a token' if width == 1 else f'{width} tokens'} of the prompt that it keeps"
        f"{', the darker the more of them' if width > 1 or merged else ''}. {needs(seen)}"
        "Point at a mark to read it; drag and scroll to look closer.",
    )


def heading(kept: Kept, seen: Seen) -> str:
    """A panel's heading: the policy, what it holds, and how much of what the answer is made of.

    >>> from heedful.kv import Share
    >>> from heedful.kv.commands.options import contenders
    >>> (_, contender) = contenders(["h2o"], [Share(0.5)], 4)
    >>> heading(Kept(contender, {0: np.array([[True, False, True, False]])}), Seen(("a", "b", "c", "d"), (1, 2)))
    'h2o: 2 slots (50%), 50 % of what is needed'
    """
    budget = f" ({kept.contender.budget})" if "%" in kept.contender.budget else ""
    needed = f", {100 * kept.share_of(seen.needed):.0f} % of what is needed" if seen.needed else ""
    return f"{kept.contender.spec}: {kept.mean:.4g} slots{budget}{needed}"


def needs(seen: Seen) -> str:
    """What needed tokens are, as a sentence; empty where none are known.

    >>> needs(Seen(("a", "b", "c"), (0, 2)))
    'Needed is what the answer is made of: a (0), c (2). '
    """
    if not seen.needed:
        return ""
    words = ", ".join(f"{seen.tokens[i]} ({i})" for i in seen.needed[:8])
    return f"Needed is what the answer is made of: {words}{', …' if len(seen.needed) > 8 else ''}. "


def table(seen: Seen, kept: Sequence[Kept]) -> pl.DataFrame:
    """A row per policy, layer and head: how much it keeps, and which positions, as ranges."""
    return pl.DataFrame(
        [
            {
                "policy": each.contender.spec,
                "budget": each.contender.budget,
                "layer": layer,
                "head": head,
                "slots": int(line.sum()),
                "needed": int(line[list(seen.needed)].sum()) if seen.needed else None,
                "positions": ranges(np.flatnonzero(line)),
            }
            for each in kept
            for layer, held in each.layers.items()
            for head, line in enumerate(held)
        ],
        schema_overrides={"needed": pl.Int64},
    )


def ranges(positions: np.ndarray) -> str:
    """Ascending positions as text.

    >>> ranges(np.array([0, 1, 2, 5, 7, 8]))
    '0-2 5 7-8'
    """
    runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1) if len(positions) else []
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _grain(length: int, kept: Sequence[Kept]) -> tuple[int, bool]:
    """How many positions are put together, and whether the heads of a layer are."""
    if sum(int(held.sum()) for each in kept for held in each.layers.values()) <= MARKS:
        return 1, False
    rows = sum(len(held) for each in kept for held in each.layers.values())
    merged = 64 * rows > MARKS
    if merged:
        rows = sum(len(each.layers) for each in kept)
    return math.ceil(length * rows / MARKS), merged


def _places(seen: Seen, width: int) -> Iterator[dict[str, Any]]:
    """Each place on the axis: where it ends, and what is written there."""
    blank = "" if any(token[:1].isspace() for token in seen.tokens) else " "
    for at in range(0, len(seen.tokens), width):
        to = min(at + width, len(seen.tokens))
        text = blank.join(seen.tokens[at:to]).replace("\n", "⏎")
        place = f"{at}" if width == 1 else f"{at} to {to - 1}"
        yield {"at": at, "to": to, "place": place, "text": text if len(text) <= 80 else f"{text[:79]}…"}


def _cells(seen: Seen, kept: Kept, width: int, merged: bool) -> Iterator[dict[str, Any]]:
    """A row per layer, head and state: the places that are in that state, and how much of each is kept."""
    length = len(seen.tokens)
    starts = np.arange(0, length, width)
    needed = np.zeros(length)
    needed[list(seen.needed)] = 1
    asked: np.ndarray = np.add.reduceat(needed, starts) > 0
    for layer, held in kept.layers.items():
        sizes = np.diff([*starts, length])
        share: np.ndarray = np.add.reduceat(held.astype(float), starts, axis=1) / sizes
        found: np.ndarray = np.add.reduceat(held * needed, starts, axis=1) > 0
        if merged:
            share, found = share.mean(axis=0, keepdims=True), found.max(axis=0, keepdims=True)
        for head, (line, has) in enumerate(zip(share, found)):
            states: dict[str, np.ndarray] = {KEPT: (line > 0) & ~asked, FOUND: has, LOST: asked & ~has}
            for state, chosen in states.items():
                if chosen.any():
                    shown = np.ones(chosen.sum()) if state == LOST else line[chosen]
                    yield {
                        "policy": heading(kept, seen),
                        "layer": layer,
                        "head": head,
                        "state": state,
                        "at": starts[chosen].tolist(),
                        "share": [round(float(x), 3) for x in shown],
                    }


def _axis(kept: Sequence[Kept], height: int) -> Any:
    """Layers, named as densely as the height allows."""
    import altair as alt

    layers = list(kept[0].layers)
    step = math.ceil(15 * len(layers) / height)
    return alt.Axis(values=layers[::step], ticks=False, domain=False, labelPadding=6, titleAngle=-90)
