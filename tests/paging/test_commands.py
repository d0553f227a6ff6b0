"""``heedful compare paging``: what is measured, printed and stored, and how it refuses."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from heedful.cli import main
from heedful.lab.errors import LabError
from heedful.lab.report.comparisons import read_comparisons
from heedful.paging import LRU, LearnedBits, Mark0, Marker, Trace, errors, lfd, read_trace, true_bits
from heedful.paging.commands import measuring, options, page, predictions
from heedful.paging.commands.predictions import Split
from heedful.paging.work import zipf_with_scans


@pytest.fixture
def compare(capsys, tmp_path, monkeypatch):
    """``compare(*words)``: exit status, standard output and standard error, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main(["compare", "paging", *map(str, words)])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


@pytest.fixture
def trace_file(tmp_path):
    """A trace of 3000 requests, one id per line."""
    pages = zipf_with_scans(3000, 100, np.random.default_rng(0), length=50).pages
    path = tmp_path / "requests.txt"
    path.write_text("".join(f"{page}\n" for page in pages))
    return path


def measured(trace, algorithms, predictor, sizes, seeds=3, share=0.5):
    """The split, and its rows by algorithm, predictor and size."""
    split = Split.of(trace, share)
    field = options.field(algorithms, options.read_predictors(predictor))
    outcomes = measuring.run(split, options.read_sizes(sizes), field, seeds, lambda *_: None)
    rows = measuring.rows(outcomes, len(split.measured))
    return split, {(row["algorithm"], row["predictor"], row["size"]): row for row in rows}


TRACE = zipf_with_scans(6000, 200, np.random.default_rng(3), length=60)


def test_all_is_measured_on_the_second_half_with_caches_that_are_empty_at_first():
    _, rows = measured(TRACE, ["marker"], "learned", "30")
    second = Trace.of(TRACE.pages[3000:])
    expected = {
        "opt": lfd(second, 30).faults,
        "lru": LRU().run(second, 30).faults,
        "marker": np.mean([Marker().run(second, 30, seed=seed).faults for seed in range(3)]),
    }
    for algorithm, faults in expected.items():
        row = rows[algorithm, "", "30"]
        assert row["faults"] == pytest.approx(faults)
        assert row["miss_ratio"] == pytest.approx(faults / 3000)
        share = (expected["lru"] - faults) / (expected["lru"] - expected["opt"])
        assert row["gap_closed"] == pytest.approx(share)
        assert (row["told"], row["seeds"]) == ("none", 3 if algorithm == "marker" else 1)


def test_learned_bits_know_the_first_half_only():
    split, rows = measured(TRACE, ["mark0"], "learned", "30")
    first, second = Trace.of(TRACE.pages[:3000]), Trace.of(TRACE.pages[3000:])
    bits = LearnedBits("discard").fit(first, 30).predict(second, 30)
    row = rows["mark0", "learned", "30"]
    assert row["faults"] == pytest.approx(np.mean([Mark0().run(second, 30, bits, s).faults for s in range(3)]))
    zeros, ones = errors(second, 30, "discard", bits)
    assert (row["wrong_zeros"], row["wrong_ones"]) == (zeros / 3000, ones / 3000)
    assert len(split.before) == len(split.measured) == 3000


def test_oracle_bits_close_the_gap_and_none_of_them_is_wrong():
    _, rows = measured(TRACE, ["mark0", "flush-when-all-0s", "mark-and-predict"], "oracle", "10,30", seeds=2)
    for size in ("10", "30"):
        for algorithm in ("mark0", "flush-when-all-0s"):
            row = rows[algorithm, "oracle", size]
            assert row["faults"] == rows["opt", "", size]["faults"] and row["gap_closed"] == 1
            assert (row["wrong_zeros"], row["wrong_ones"], row["told"]) == (0, 0, "discard")
        assert rows["mark-and-predict", "oracle", size]["told"] == "phase"


def test_flips_are_drawn_anew_for_each_seed_and_on_one_side_only():
    _, rows = measured(TRACE, ["flush-when-all-0s"], "flip:p0=0,p1=0.5", "30", seeds=4)
    row = rows["flush-when-all-0s", "flip:p0=0,p1=0.5", "30"]
    assert row["seeds"] == 4 and row["wrong_ones"] == 0
    truth = true_bits(Split.of(TRACE, 0.5).measured, 30, "discard")
    assert row["wrong_zeros"] == pytest.approx(truth.mean() / 2, rel=0.1)


def test_intervals_hold_their_values_and_references_have_none():
    _, rows = measured(TRACE, ["fifo", "mark0"], "reuse-distance:c=2", "20%")
    for (algorithm, *_), row in rows.items():
        assert row["miss_ratio_low"] < row["miss_ratio"] < row["miss_ratio_high"]
        if algorithm in ("opt", "lru"):
            assert (row["gap_closed"], row["gap_closed_low"]) == (float(algorithm == "opt"), None)
        else:
            assert row["gap_closed_low"] < row["gap_closed"] < row["gap_closed_high"]


def test_intervals_cover_the_mean_over_traces():
    """On traces from one source the interval of one of them holds the mean of all, nineteen times in twenty."""
    ratios, intervals = [], []
    for number in range(24):
        trace = Trace.of(np.random.default_rng(number).zipf(1.3, 1500) % 300)
        _, rows = measured(trace, ["marker"], "learned", "20", seeds=2, share=0.0)
        row = rows["marker", "", "20"]
        ratios.append(row["miss_ratio"])
        intervals.append((row["miss_ratio_low"], row["miss_ratio_high"]))
    mean = np.mean(ratios)
    assert sum(low <= mean <= high for low, high in intervals) >= 20
    width = np.mean([high - low for low, high in intervals])
    assert width == pytest.approx(2 * 1.96 * np.std(ratios, ddof=1), rel=0.4)


def test_a_cache_for_every_page_faults_once_per_page_and_leaves_no_gap():
    split, rows = measured(TRACE, ["mark0", "mark0+lru", "random"], "learned", "100%,1000000000000")
    for row in rows.values():
        assert row["faults"] == split.measured.distinct and row["gap_closed"] is None
    assert {row["k"] for row in rows.values()} == {split.measured.distinct, 10**12}


def test_tiny_traces():
    for pages in ([1], [1, 1], [1, 2, 1, 3]):
        _, rows = measured(Trace.of(pages), ["marker"], "oracle", "1,3", share=0.0)
        assert rows["lru", "", "3"]["faults"] == len(set(pages))
        table = page.Table("t", "n", list(rows.values()))
        assert len(page.figures(table)) >= 1


def test_the_same_seeds_give_the_same_rows():
    first, second = (measured(TRACE, ["marker", "mark0"], "flip:p0=0.2,p1=0.2", "30")[1].values() for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert {**one, "requests_per_s": 0} == {**other, "requests_per_s": 0}


def test_the_field_has_references_first_and_each_told_algorithm_with_each_predictor():
    told = options.read_predictors("oracle,reuse-distance,noisy-next:sigma=0")
    field = options.field(["mark0", "lru", "blind-oracle"], told)
    assert [(c.spec, c.predictor and c.predictor.spec) for c in field] == [
        ("opt", None), ("lru", None), ("mark0", "oracle"), ("mark0", "reuse-distance"),
        ("blind-oracle", "noisy-next:sigma=0"),
    ]  # fmt: skip


def test_default_algorithms_that_nobody_tells_anything_are_left_out():
    bits, times = (
        {contender.spec for contender in options.field(None, options.read_predictors(told))}
        for told in ("learned", "noisy-next:sigma=1")
    )
    assert {"opt", "lru", "mark0", "mark-and-predict", "doubling:mark0+lru"} <= bits
    assert bits - times and all(options._algorithm(spec).told in ("discard", "phase") for spec in bits - times)
    assert times - bits == {"blind-oracle", "blind-oracle+lru", "predictive-marker"}


def test_times_without_noise_make_blind_oracle_the_optimum():
    _, rows = measured(TRACE, ["blind-oracle"], "noisy-next:sigma=0", "30")
    assert rows["blind-oracle", "noisy-next:sigma=0", "30"]["faults"] == rows["opt", "", "30"]["faults"]


def test_bits_from_files_for_all_requests_or_the_measured_ones(tmp_path):
    split = Split.of(TRACE, 0.5)
    bits = true_bits(split.measured, 30, "discard")
    (tmp_path / "half.txt").write_text("\n".join(map(str, bits)))
    pl.DataFrame({"time": range(6000), "bit": [0] * 3000 + bits.tolist()}).write_parquet(tmp_path / "all.parquet")
    phase = true_bits(split.measured, 30, "phase")
    pl.DataFrame({"bit": phase}).write_csv(tmp_path / "phase.csv")
    given = f"{tmp_path}/half.txt,{tmp_path}/all.parquet,{tmp_path}/phase.csv:kind=phase,oracle"
    _, rows = measured(TRACE, ["mark0", "mark-and-predict"], given, "30")
    for algorithm, files in {"mark0": ["half.txt", "all.parquet"], "mark-and-predict": ["phase.csv"]}.items():
        oracle = rows[algorithm, "oracle", "30"]["faults"]
        assert [rows[algorithm, name, "30"]["faults"] for name in files] == [oracle] * len(files)
    assert ("mark0", "phase.csv", "30") not in rows


def test_printed_stored_and_published(compare, tmp_path, trace_file):
    words = ("--trace", trace_file, "--k", "5,10%", "--algorithms", "marker,mark0+lru", "--seeds", "2")
    tenth = int(0.1 * read_trace(trace_file).part(1500, 3000).distinct)
    status, out, err = compare(*words)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("The last 50 % of requests.txt: 1,500 requests, ")
    header = "k algorithm told by wrong 0 / 1 % miss ratio % faults gap closed % M requests/s"
    assert lines[1].split() == header.split()
    assert [line.split()[:2] for line in lines[2:6]] == [["5", name] for name in ("opt", "lru", "marker", "mark0+lru")]
    assert lines[6].split()[:4] == ["10%", "=", str(tenth), "opt"] and "learned" in lines[5]
    assert "Learned predictors saw the first 50 % of the trace" in " ".join(lines)
    published = Path(lines[-1].partition("report: ")[2])
    assert published.parent == tmp_path / "site" / "comparisons"
    assert "Paging on requests.txt" in published.read_text()
    (stored,), problems = read_comparisons(tmp_path / "runs")
    assert problems == []
    assert stored.command == "heedful compare paging " + " ".join(map(str, words))
    assert stored.facts["seeds"] == "2" and "duration" in stored.facts
    (frame,) = stored.tables.values()
    assert frame["algorithm"].to_list() == 2 * ["opt", "lru", "marker", "mark0+lru"]
    assert frame["requests_per_s"].min() > 0
    assert [title for title, *_ in stored.figures] == [
        "Miss ratio over cache sizes", "Share of the gap closed over cache sizes",
    ]  # fmt: skip
    _, _, spec, behind = stored.figures[0]
    assert spec["facet"]["field"] == "told" and spec["facet"]["sort"] == ["told nothing", "told by learned"]
    assert behind["miss_ratio"].to_list() == frame["miss_ratio"].to_list()


def test_one_cache_size_is_drawn_as_dots(trace_file):
    _, rows = measured(TRACE, ["marker", "mark0"], "oracle", "30")
    first, second = page.figures(page.Table("t", "n", list(rows.values())))
    assert first.title == "Miss ratio, k = 30" and second.title == "Share of the gap closed, k = 30"
    assert first.chart.to_dict()["layer"][0]["encoding"]["y"]["sort"][:2] == ["opt", "mark0"]


def test_json_and_a_whole_trace(compare, trace_file):
    status, out, _ = compare("--trace", trace_file, "--k", "0.05", "--algorithms", "fifo", "--fit", "0", "--json")
    assert status == 0
    printed = json.loads(out)
    [(title, table)] = printed["tables"].items()
    assert title.startswith("requests.txt: 3,000 requests") and "whole trace" in table["note"]
    opt, lru, fifo = table["rows"]
    assert (opt["algorithm"], lru["gap_closed"], fifo["algorithm"]) == ("opt", 0, "fifo")
    assert opt["faults"] <= min(lru["faults"], fifo["faults"]) and Path(printed["report"]).is_file()


def test_object_sizes_are_ignored_and_that_is_said(compare, tmp_path):
    data = np.zeros(200, dtype=[("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
    data["id"], data["size"] = np.arange(200) % 7, np.arange(200)
    data.tofile(tmp_path / "w.oracleGeneral.bin")
    status, _, err = compare("--trace", "w.oracleGeneral.bin", "--k", "3", "--algorithms", "fifo")
    assert status == 0
    assert err == (
        "notice: sizes of objects in w.oracleGeneral.bin are ignored; every object is a page, whatever its size\n"
    )


REFUSED = {
    "no trace": (("--trace", "none.txt"), ("--trace none.txt: No such file",)),
    "no format": (("--trace", "none"), ("--trace none: its name does not say its format",)),
    "unknown format": (("--trace", "a.txt", "--format", "xml"), ("format='xml': must be one of",)),
    "no column": (("--trace", "a.csv", "--column", "b"), ("has no column 'b'; it has: page, time",)),
    "column alone": (("--column", "b"), ("--column is for your own trace; add --trace",)),
    "bad line": (("--trace", "bad.txt"), ("--trace bad.txt, line 2: 'x' is not an integer",)),
    "k 0": (("--k", "0"), ("--k '0'", "a whole number of pages from 1 on")),
    "negative k": (("--k", "10,-1"), ("--k '-1'",)),
    "k in words": (("--k", "many"), ("--k 'many'",)),
    "k above all": (("--k", "120%"), ("--k '120%'",)),
    "fractional k": (("--k", "2.5"), ("--k '2.5'",)),
    "empty k": (("--k", ","), ("--k is empty",)),
    "empty algorithms": (("--algorithms", ""), ("--algorithms is empty",)),
    "share of no page": (("--k", "0.001%"), ("--k '0.001%'", "different pages is no page at all")),
    "unknown algorithm": (("--algorithms", "lruu"), ("--algorithms", "'lruu'", "did you mean 'lru'?")),
    "unknown rule": (("--algorithms", "cheap:lru+fifo"), ("--algorithms", "unknown rule 'cheap'")),
    "told nothing": (
        ("--algorithms", "blind-oracle"), ("--algorithms 'blind-oracle'", "is told times", "add one of noisy-next"),
    ),
    "bits wanted": (
        ("--algorithms", "mark0", "--predictor", "noisy-next:sigma=1"), ("is told discard bits", "learned, reuse"),
    ),
    "unknown predictor": (
        ("--predictor", "lerned"), ("--predictor: predictor 'lerned'", "neither known nor a file", "'learned'"),
    ),
    "unknown parameter": (("--predictor", "reuse-distance:d=1"), ("no parameter 'd'; it has: c",)),
    "probability": (("--predictor", "flip:p0=2,p1=0"), ("--predictor", "p0=2.0: must lie in [0, 1]")),
    "not a number": (("--predictor", "reuse-distance:c=x"), ("--predictor", "'x'")),
    "not key=value": (("--predictor", "flip:0.5"), ("'0.5' is not key=value",)),
    "unknown model": (("--predictor", "learned:model=net"), ("model=net: must be boosting or logistic",)),
    "not bits": (("--predictor", "a.txt"), ("a.txt: prediction 2 is 5, not 0 or 1",)),
    "too few bits": (
        ("--trace", "a.txt", "--predictor", "bits.txt"), ("bits.txt: holds 3 predictions for 4 requests, 2",),
    ),
    "kind of a file": (("--predictor", "a.txt:kind=fuzzy"), ("one of discard, phase, next",)),
    "fit": (("--fit", "1.0"), ("--fit '1.0'", "below 1")),
    "nothing to learn from": (("--fit", "0"), ("--fit '0'", "nothing to learn from")),
    "seeds": (("--seeds", "0"), ("--seeds", "see 'heedful compare paging --help'")),
    "folder": (("--out", "a.txt"), ("cannot write to a.txt",)),
}  # fmt: skip


@pytest.mark.parametrize(("words", "parts"), REFUSED.values(), ids=REFUSED)
def test_bad_usage_is_one_line_before_any_work(compare, tmp_path, monkeypatch, words, parts):
    monkeypatch.setattr(measuring, "run", lambda *_: pytest.fail("worked"))
    for name, text in {
        "a.txt": "1\n5\n1\n0\n", "bad.txt": "1\nx\n", "a.csv": "page,time\n1,2\n", "bits.txt": "1\n0\n1\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    status, out, err = compare(*words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


def test_predictors_with_commas_inside():
    found = options.read_predictors("flip:p0=.1,p1=.2, learned:model=logistic,reuse-distance:c=3")
    assert [predictor.spec for predictor in found] == [
        "flip:p0=.1,p1=.2", "learned:model=logistic", "reuse-distance:c=3",
    ]  # fmt: skip
    assert found[0] == predictions.Flip("flip:p0=.1,p1=.2", 0.1, 0.2)


def test_shares_are_of_the_different_pages():
    (size,) = options.read_sizes("7%")
    assert size.pages(100) == 7
    with pytest.raises(LabError, match="no page at all"):
        size.pages(14)
