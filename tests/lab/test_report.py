"""The site says what was measured, in words that are escaped, from files that need no network."""

import csv
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import altair as alt
import polars as pl
import pytest

from heedful.lab import Figure, discover
from heedful.lab.discover import Catalog, Problem
from heedful.lab.errors import LabError
from heedful.lab.report import write_comparison
from heedful.lab.report.site import write_site

VOID = {"meta", "link", "input", "br", "line", "rect", "circle"}


class Page(HTMLParser):
    """A page's table rows as lists of cell texts, its links and scripts, and the content of inline JSON."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text()
        self.rows, self.addresses, self.specs, self.open, self.text = [], [], [], [], ""
        self.feed(self.source)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("script", "link", "img"):
            self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "script" and attributes.get("type") == "application/json":
            self.specs.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1][-1] = " ".join(self.rows[-1][-1].split())
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            if data.strip():
                self.specs[-1] += data
            return
        self.text += data
        if {"td", "th"} & set(self.open) and "title" not in self.open:
            self.rows[-1][-1] += data.replace("\xa0", " ")


@pytest.fixture
def coin(toy_room):
    return discover.catalog().find("coin")


@pytest.fixture
def runs(toy_runs, tmp_path):
    """A copy of the toy room's runs, to be tampered with."""
    return shutil.copytree(toy_runs, tmp_path / "runs")


def meta_of(runs):
    (path,) = runs.glob("coin/smoke/*/meta.json")
    return path


def change_meta(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pages(catalog, runs, site, slug="coin"):
    written = write_site(catalog, runs, site)
    return Page(site / "index.html"), Page(site / f"systems/{slug}.html"), written


def test_index_has_one_row_per_claim(coin, runs, tmp_path):
    index, _, written = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert (written.systems, written.measured, written.problems) == (1, 1, ())
    system = index.rows[1][0]
    for words in ("The biased coin", "toy", "win <more often> than", "A. Gambler (1654)", "On Coins & Dice"):
        assert words in system
    biased, fair, dice = index.rows[2:]
    assert biased[0] == "Wins more often on a biased coin"
    assert re.fullmatch(r"\+0\.\d+ \[\+0\.\d+, \+0\.\d+\]", biased[1])
    assert biased[2:] == ["0.30", "holds"]
    assert fair[0] == "Does not win on a fair coin boundary" and fair[3] == "holds"
    assert dice[1:] == ["–", "–", "not measured"]


def test_index_states_the_verdicts_without_javascript_or_colour(coin, runs, tmp_path):
    index, _, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert re.search(r"<b>2</b><span class=\"verdict holds\">holds</span>", index.source)
    assert "hidden" not in index.source


def test_system_page_states_rule_unit_and_what_was_not_varied(coin, runs, tmp_path):
    _, page, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    verdict, claim, effect, units, paper = page.rows[1]
    assert (verdict, units, paper) == ("holds", "4", "0.30")
    assert "better than that of method=random by more than 0.1 where bias=0.8" in claim
    assert "t interval over 4 values of seed" in claim
    assert claim.endswith("Not varied: one bias.")
    assert effect.startswith("+0.")
    assert "Not measured: there are no dice." in page.rows[3][1]


def test_system_page_says_how_to_reproduce(coin, runs, tmp_path):
    _, page, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    meta = json.loads(meta_of(runs).read_text())
    assert "<pre>heedful run coin --scale smoke</pre>" in page.source
    for words in (
        meta["run_id"], meta["machine"]["processor"], f"polars {pl.__version__}", "1 worker, 16 cells",
        "seeds=4", "most of the seeds", meta["values_sha256"], "share of calls that were right",
    ):  # fmt: skip
        assert words in page.text


def test_command_repeats_changed_parameters(coin, runs, tmp_path):
    change_meta(meta_of(runs), params={"seeds": 5}, device="cuda")
    _, page, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert "heedful run coin --scale smoke --set seeds=5 --device cuda" in page.text
    assert "changed parameters: not as the scale declares them: seeds=5" in page.text


def test_chart_carries_its_data_and_its_table(coin, runs, tmp_path):
    _, page, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    spec = json.loads(page.specs[0])
    (data,) = spec["datasets"].values()
    shown = [row for row in page.rows if row[0] in ("majority", "random")]
    assert [(row["method"], f"{row['bias']:g}") for row in data] == [tuple(row[:2]) for row in shown]
    with (tmp_path / "site/data/coin/figure-0.csv").open() as file:
        stored = list(csv.DictReader(file))
    assert [float(row["score"]) for row in stored] == [row["score"] for row in data]
    assert len(stored) == 4
    assert 'href="../data/coin/figure-0.csv"' in page.source


def test_single_chart_is_as_wide_as_the_page_and_large_data_is_kept(coin, tmp_path, runs):
    table = pl.DataFrame({"x": range(6000), "y": range(6000)})
    chart = alt.Chart(table).mark_line().encode(x="x", y="y")
    wide = dataclasses.replace(coin, figures=lambda rows: [Figure("Long", chart, table)])
    _, page, _ = pages(Catalog((wide,)), runs, tmp_path / "site")
    spec = json.loads(page.specs[0])
    assert spec["width"] == "container"
    assert len(next(iter(spec["datasets"].values()))) == 6000
    assert "The first 500 of 6000 rows." in page.text


def test_nothing_is_loaded_from_a_network(coin, runs, tmp_path):
    site = tmp_path / "site"
    write_comparison(runs, "toy", "Sides", "heedful compare toy", {"T": pl.DataFrame({"a": [1]})})
    write_site(Catalog((coin,)), runs, site)
    for path in site.rglob("*.html"):
        page = Page(path)
        assert page.addresses
        for address in page.addresses:
            assert (path.parent / address).resolve().is_relative_to(site.resolve())
            assert (path.parent / address).is_file()
    style = (site / "assets/style.css").read_text()
    assert "url(" not in style and "@import" not in style
    script = (site / "assets/site.js").read_text()
    assert "http" not in script and "fetch(" not in script
    assert "window.vegaEmbed" in (site / "assets/vega.js").read_text()


def test_everything_declared_is_escaped(coin, runs, tmp_path):
    evil = "<script>alert(1)</script>"
    table = pl.DataFrame({"name": [evil], "score": [1.0]})
    chart = alt.Chart(table).mark_bar().encode(x="name", y="score")
    experiment = dataclasses.replace(
        coin,
        **dict.fromkeys(("title", "question", "summary", "example"), evil),
        figures=lambda rows: [Figure(evil, chart, table, evil)],
        claims=tuple(dataclasses.replace(claim, text=evil, published=evil, fixed=evil) for claim in coin.claims),
    )
    write_comparison(runs, "toy", evil, evil, {evil: table}, [Figure(evil, chart, table)], facts={evil: evil})
    site = tmp_path / "site"
    index, page, _ = pages(Catalog((experiment,), (Problem(evil, evil),)), runs, site)
    (comparison,) = (site / "comparisons").glob("*.html")
    for source in (index.source, page.source, comparison.read_text()):
        assert evil not in source
        assert "&lt;script&gt;" in source
    assert json.loads(page.specs[0])["datasets"]
    assert evil in index.text


def test_system_that_was_never_run_is_not_measured(coin, tmp_path):
    index, page, written = pages(Catalog((coin,)), tmp_path / "nothing", tmp_path / "site")
    assert (written.systems, written.measured) == (1, 0)
    assert "not measured" in index.rows[1][0]
    assert [row[3] for row in index.rows[2:]] == ["not measured"] * 3
    assert "<pre>heedful run coin</pre>" in page.source
    assert not (tmp_path / "site/assets/vega.js").exists()


def test_fresh_complete_run_bears_no_stale_or_partial_mark(coin, runs, tmp_path):
    index, _, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert "stale" not in index.text and "partial" not in index.text
    assert "measured at scale smoke" in index.source


def test_run_of_other_source_is_marked_stale(coin, runs, tmp_path):
    meta = json.loads(meta_of(runs).read_text())
    sources = meta["sources"] | {"toy_room/__init__.py": "0" * 64}
    change_meta(meta_of(runs), run_id="0" * 16, sources=sources)
    index, page, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert "stale" in index.rows[1][0]
    assert "what it was measured with has changed since (toy_room/__init__.py)" in page.text
    assert index.rows[2][3] == "holds"


def test_unfinished_run_is_marked_partial(coin, runs, tmp_path):
    change_meta(meta_of(runs), complete=False, verdicts=[], cells={"total": 16, "done": 9, "failed": 2})
    index, page, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert "partial" in index.rows[1][0]
    assert "9 of 16 cells are measured, 2 failed" in page.text
    assert index.rows[2][3] == "not measured"


def test_run_killed_before_its_first_count_is_partial(coin, runs, tmp_path):
    change_meta(meta_of(runs), complete=False, verdicts=[], cells={}, finished=None, values_sha256="")
    _, page, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert "partial: it has not ended" in page.text


def test_newest_complete_run_at_the_largest_scale_speaks(coin, runs, tmp_path):
    original = meta_of(runs)
    for scale, run_id, complete, finished, seeds in [
        ("small", "a" * 16, True, "2030-01-01T00:00:00+00:00", 12),
        ("small", "b" * 16, True, "2031-01-01T00:00:00+00:00", 12),
        ("small", "c" * 16, False, "2032-01-01T00:00:00+00:00", 12),
        ("small", "d" * 16, True, "2033-01-01T00:00:00+00:00", 2),
    ]:
        folder = shutil.copytree(original.parent, runs / "coin" / scale / run_id)
        changes = {"scale": scale, "run_id": run_id, "complete": complete, "finished": finished}
        change_meta(folder / "meta.json", **changes, params={"seeds": seeds})
    _, page, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert f"<dd>{'b' * 16}</dd>" in page.source
    others = [row for row in page.rows if row[0] in ("small", "smoke")]
    assert [row[1] for row in others] == ["a" * 16, "d" * 16, original.parent.name, "c" * 16]
    assert others[-1][3] == "partial, stale"


def test_damaged_meta_is_reported_and_hides_nothing(coin, runs, tmp_path):
    damaged = runs / "coin/small/0000"
    damaged.mkdir(parents=True)
    (damaged / "meta.json").write_text("{")
    index, _, written = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert len(written.problems) == 1 and str(damaged) in written.problems[0]
    assert index.rows[2][3] == "holds"
    assert str(damaged) in index.text


def test_meta_of_another_make_is_reported_and_hides_nothing(coin, runs, tmp_path):
    foreign = runs / "coin/small/0000"
    foreign.mkdir(parents=True)
    (foreign / "meta.json").write_text(json.dumps({"scale": "small", "complete": True}))
    index, _, written = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert "says nothing about cells, commit, device" in written.problems[0]
    assert index.rows[2][3] == "holds"


def test_tuned_settings_are_printed(coin, runs, tmp_path):
    change_meta(meta_of(runs), tuned={"majority": {"window": 8, "alpha": 0.5}})
    _, page, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert ["majority", "window=8, alpha=0.5"] in page.rows


def test_figures_that_fail_leave_the_verdicts(coin, runs, tmp_path):
    broken = dataclasses.replace(coin, figures=lambda rows: rows["no such column"])
    _, page, written = pages(Catalog((broken,)), runs, tmp_path / "site")
    assert page.rows[1][0] == "holds"
    assert written.problems[0].startswith("the charts of coin cannot be drawn: ColumnNotFoundError")


def test_problems_of_discovery_are_shown(coin, runs, tmp_path):
    index, _, written = pages(Catalog((coin,), (Problem("other.thing", "no luck"),)), runs, tmp_path / "site")
    assert written.problems == ("other.thing: no luck",)
    assert "other.thing: no luck" in index.text


def test_comparison_gets_a_page(coin, runs, tmp_path):
    table = pl.DataFrame({"policy": ["h2o", "tova"], "accuracy": [0.5, 0.25]})
    chart = alt.Chart(table).mark_bar().encode(x="policy", y="accuracy")
    command = "heedful compare toy --model 'a b'"
    figures = [Figure("Accuracy", chart, table, "Higher is better.")]
    folder = write_comparison(runs, "toy", "Two policies", command, {"All": table}, figures, facts={"model": "m1"})
    assert folder.parent == runs / "compare" / "toy"
    index, _, written = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert written.comparisons == 1
    page = Page(tmp_path / f"site/comparisons/toy-{folder.name}.html")
    assert [row for row in page.rows if row[0] == "tova"] == [["tova", "0.25"]] * 2
    assert command in page.text and "m1" in page.text and "Higher is better." in page.text
    assert json.loads(page.specs[0])["encoding"]["x"]["field"] == "policy"
    assert index.rows[-1][:2] == ["Two policies", "toy"]
    stored = pl.read_csv(tmp_path / f"site/data/toy-{folder.name}/table-0.csv")
    assert stored.equals(table)


def test_what_was_not_measured_stands_folded_below_the_comparisons(coin, runs, tmp_path):
    other = dataclasses.replace(coin, slug="other", title="Another coin")
    write_comparison(runs, "toy", "Two policies", "heedful compare toy", {"All": pl.DataFrame({"a": [1]})})
    index, _, written = pages(Catalog((other, coin)), runs, tmp_path / "site")
    assert (written.systems, written.measured, written.comparisons) == (2, 1, 1)
    in_order = (">The biased coin<", ">Two policies<", "<details", ">Another coin<")
    places = [index.source.index(part) for part in in_order]
    assert places == sorted(places)
    assert '<details class="unmeasured">' in index.source and "Not measured here (1)" in index.text
    assert index.source.count('class="wide index"') == 2
    nothing, _, _ = pages(Catalog((other, coin)), tmp_path / "nothing", tmp_path / "site")
    assert '<details class="unmeasured" open>' in nothing.source and nothing.source.count('class="wide index"') == 1
    alone, _, _ = pages(Catalog((coin,)), runs, tmp_path / "site")
    assert "<details" not in alone.source


def test_comparison_is_stored_whole_or_not_at_all(tmp_path):
    table = pl.DataFrame({"a": [1]})
    with pytest.raises(AttributeError):
        write_comparison(tmp_path, "toy", "T", "c", {"T": table}, [Figure("F", "not a chart", table)])
    assert list((tmp_path / "compare/toy").iterdir()) == []


def test_damaged_comparison_is_reported_and_hides_nothing(coin, tmp_path):
    table = pl.DataFrame({"a": [1]})
    bad = write_comparison(tmp_path / "runs", "toy", "Bad", "c", {"T": table})
    good = write_comparison(tmp_path / "runs", "toy", "Good", "c", {"T": table})
    (bad / "0.parquet").write_bytes(b"torn")
    written = write_site(Catalog((coin,)), tmp_path / "runs", tmp_path / "site")
    assert written.comparisons == 1
    assert str(bad) in written.problems[0]
    assert (tmp_path / f"site/comparisons/toy-{good.name}.html").exists()


def test_site_is_replaced_whole(coin, runs, tmp_path):
    site = tmp_path / "site"
    write_site(Catalog((coin,)), runs, site)
    other = dataclasses.replace(coin, slug="other")
    write_site(Catalog((other,)), runs, site)
    assert [path.name for path in (site / "systems").iterdir()] == ["other.html"]
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "site"}


def test_failure_leaves_the_old_site(coin, runs, tmp_path):
    site = tmp_path / "site"
    write_site(Catalog((coin,)), runs, site)
    before = (site / "index.html").read_text()
    with pytest.raises(TypeError):
        write_site(Catalog((dataclasses.replace(coin, metrics=None),)), runs, site)
    assert (site / "index.html").read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "site"}


def test_folder_that_is_no_site_is_not_replaced(coin, runs, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(LabError, match="exists and is not a report"):
        write_site(Catalog((coin,)), runs, precious)
    assert (precious / "thesis.txt").read_text() == "years of work"
