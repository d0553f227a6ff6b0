"""Fill the made parts of README.md and docs/*.md from the experiments and from what was measured.

    python docs/update.py [--runs runs] [--check]

A page holds blocks ``<!-- made: KIND SYSTEM -->`` ... ``<!-- end -->``; what stands between is written here, the
rest by hand. ``question``, ``example``, ``claims`` and ``metrics`` come from the experiment alone; ``measured``,
``verdicts``, ``headline``, ``line`` and ``picture`` from the newest complete run at scale small under --runs, and stay
as they are where there is none. With --check nothing is written, and the exit status is 1 if a block that needs no run
is out of date.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from heedful.lab import discover, results, text
from heedful.lab.declare import Experiment, Figure

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- made: (?P<kind>[a-z]+) (?P<name>\S+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)


def question(experiment: Experiment) -> str:
    return f"*{experiment.question}*\n\n{text.citation(experiment.paper)}\n"


def example(experiment: Experiment) -> str:
    return f"```python\n{experiment.example}```\n" if experiment.example else ""


def claims(experiment: Experiment) -> str:
    lines = []
    for claim in experiment.claims:
        kind = " *(boundary)*" if claim.boundary else ""
        rule = (claim.reason and f"not measured: {claim.reason}") or text.decision(
            claim, experiment.metric(claim.metric)
        )
        lines.append(f"- **{claim.id}**{kind}: {claim.text} — {rule}.")
    return "\n".join(lines) + "\n"


def metrics(experiment: Experiment) -> str:
    rows = [f"| `{m.name}` | {m.unit} | {m.better} | {m.meaning} |" for m in experiment.metrics]
    return "\n".join(["| metric | unit | better | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _newest(experiment: Experiment, runs: Path) -> tuple[Path, dict[str, Any]] | None:
    for folder in results.list_runs(runs):
        meta = results.meta(folder)
        if meta["slug"] == experiment.slug and meta["scale"] == "small" and meta["complete"]:
            return folder, meta
    return None


def _verdict_rows(experiment: Experiment, meta: dict[str, Any]) -> list[str]:
    found = {verdict["claim"]: verdict for verdict in meta["verdicts"]}
    rows = []
    for claim in experiment.claims:
        verdict = found.get(claim.id, {})
        effect = text.verdict_effect(
            claim, experiment.metric(claim.metric), verdict.get("effect"), verdict.get("low"), verdict.get("high")
        )
        boundary = " *(boundary)*" if claim.boundary else ""
        rows.append(
            f"| {claim.text}{boundary} | **{verdict.get('status', 'not measured')}** | {effect} | "
            f"{verdict.get('units') or ''} | {claim.published} |"
        )
    return rows


def verdicts(experiment: Experiment, meta: dict[str, Any]) -> str:
    head = ["| claim | verdict | effect [95 %] | units | the paper |", "|---|---|---|---|---|"]
    minutes = meta["seconds"] / 60
    machine = meta["machine"]
    where = machine.get("cpu") or machine.get("processor") or "this machine"
    fixed = sorted({claim.fixed for claim in experiment.claims if claim.fixed})
    foot = (
        f"\n`heedful run {experiment.slug}` at scale small: {minutes:.0f} minutes on {where}, "
        f"{meta['workers']} workers, {text.moment(meta['finished'])}; run {meta['run_id']}."
        f"{' Not varied: ' + '; '.join(fixed) + '.' if fixed else ''}\n"
    )
    return "\n".join([*head, *_verdict_rows(experiment, meta)]) + "\n" + foot


def headline(experiment: Experiment, meta: dict[str, Any]) -> str:
    """The paper's claims and the boundary claims, without the checks that the model knows its tasks."""
    found = {verdict["claim"]: verdict for verdict in meta["verdicts"]}
    rows = [f"| {experiment.title} | verdict | effect [95 %] |", "|---|---|---|"]
    for claim in experiment.claims:
        verdict = found.get(claim.id, {})
        if claim.id.startswith("knows-") or verdict.get("status", "not measured") == "not measured":
            continue
        effect = text.verdict_effect(
            claim, experiment.metric(claim.metric), verdict["effect"], verdict["low"], verdict["high"]
        )
        boundary = " *(boundary)*" if claim.boundary else ""
        rows.append(f"| {claim.text}{boundary} | **{verdict['status']}** | {effect} |")
    return "\n".join(rows) + "\n"


def line(experiment: Experiment, meta: dict[str, Any], page: Path) -> str:
    """One entry of a list: the question, and how many claims came out how, boundary claims included."""
    status = {verdict["claim"]: verdict["status"] for verdict in meta["verdicts"]}
    asked = [status.get(claim.id, "not measured") for claim in experiment.claims if not claim.id.startswith("knows-")]
    counts = [
        f"{asked.count(kind)} {word}"
        for kind, word in (("holds", "hold"), ("fails", "fail"), ("inconclusive", "inconclusive"))
        if kind in asked
    ]
    link = os.path.relpath(ROOT / "docs" / "systems" / f"{experiment.slug}.md", page.parent)
    tried = len(asked) - asked.count("not measured")
    return f"- **[{experiment.title}]({link})** {experiment.question} *Of {tried} claims {', '.join(counts)}.*\n"


def measured(experiment: Experiment, folder: Path, meta: dict[str, Any]) -> str:
    parts = [verdicts(experiment, meta)]
    for figure in _figures(experiment, folder):
        columns = figure.table.columns
        lines = [
            f"\n**{figure.title}.** {figure.caption}\n",
            "| " + " | ".join(columns) + " |",
            "|---" * len(columns) + "|",
        ]
        for row in figure.table.iter_rows():
            cells = [
                "" if value is None else text.number(value, 3) if isinstance(value, float) else str(value)
                for value in row
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines) + "\n")
    if meta["tuned"]:
        chosen = "; ".join(f"{method}: {text.settings(setting)}" for method, setting in meta["tuned"].items())
        parts.append(f"\nTuned settings: {chosen}.\n")
    return "".join(parts)


def _figures(experiment: Experiment, folder: Path) -> Sequence[Figure]:
    return experiment.figures(results.read(folder)) if experiment.figures else ()


def picture(experiment: Experiment, folder: Path, page: Path) -> str:
    import vl_convert

    drawn = _figures(experiment, folder)
    if not drawn:
        return ""
    figure = drawn[0]
    image = ROOT / "docs" / "img" / f"{experiment.slug}.svg"
    image.parent.mkdir(exist_ok=True)
    image.write_text(vl_convert.vegalite_to_svg(figure.chart.to_dict()))
    return f"![{figure.title}]({os.path.relpath(image, page.parent)})\n\n*{figure.title}. {figure.caption}*\n"


FIXED: dict[str, Callable[[Experiment], str]] = {
    "question": question, "example": example, "claims": claims, "metrics": metrics,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    catalog = discover.catalog()
    outdated = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        before = page.read_text()

        def fill(match: re.Match[str], page: Path = page) -> str:
            experiment, kind = catalog.find(match["name"]), match["kind"]
            if kind in FIXED:
                body = FIXED[kind](experiment)
            elif options.check or (newest := _newest(experiment, options.runs)) is None:
                body = match["body"]
            elif kind == "verdicts":
                body = verdicts(experiment, newest[1])
            elif kind == "line":
                body = line(experiment, newest[1], page)
            elif kind == "headline":
                body = headline(experiment, newest[1])
            elif kind == "picture":
                body = picture(experiment, newest[0], page)
            elif kind == "measured":
                body = measured(experiment, *newest)
            else:
                raise SystemExit(f"unknown kind of block {kind!r}")
            return f"{match[1]}{body}<!-- end -->"

        after = BLOCK.sub(fill, before)
        if after != before:
            outdated.append(page)
            if not options.check:
                page.write_text(after)
                print(f"updated {page.relative_to(ROOT)}")
    if options.check:
        for page in outdated:
            print(f"out of date: {page.relative_to(ROOT)}; run python docs/update.py", file=sys.stderr)
        return int(bool(outdated))
    return 0


if __name__ == "__main__":
    sys.exit(main())
