"""``heedful kv show``: what is kept, in characters, as JSON and as a picture, and how it refuses."""

import json

import numpy as np
import pytest
import torch

from heedful import models
from heedful.cli import main
from heedful.kv import Share
from heedful.kv.commands import embedded, heatmap, kept, options, picture
from heedful.kv.policies import make
from heedful.lab.report.comparisons import read_comparisons
from heedful.lab.report.parts import spec_of

MINI = ("--model", "task-mini-1", "--length", 64)
SPECS = ["snapkv", "cake", "h2o", "tova", "streaming-llm", "clairvoyant", "oracle", "full"]


@pytest.fixture
def show(capsys, tmp_path, monkeypatch):
    """``show(*words)``: exit status, standard output and standard error, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in ("kv", "show", *words)])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def model():
    return models.load("task-mini-1")[0]


def item_of(task="mk1", protocol="aware"):
    work = embedded.Work(task, 64, "prompt", protocol)
    return work, embedded.drawn(work, 0, 1)[0]


def field_of(specs, size=24, length=64):
    chosen = options.contenders(specs, [size], length, window=embedded.WINDOW)
    return [contender for contender in chosen if contender.spec in specs]


@pytest.fixture(scope="module")
def seen_and_kept(model):
    work, item = item_of()
    return kept.of_item(model, work, item, field_of(SPECS))


def test_what_is_shown_is_what_a_cache_of_the_policy_holds(model, seen_and_kept):
    _, item = item_of()
    prompt = torch.from_numpy(item.tokens[: item.prompt_length])[None]
    for each in seen_and_kept[1]:
        spec = each.contender.spec
        if spec in ("clairvoyant", "oracle"):
            continue
        options_ = {"observation_window": 16} if spec in ("snapkv", "cake") else {}
        with torch.inference_mode(), make(spec, 24, **options_).on(model) as cache:
            model(prompt, past_key_values=cache, use_cache=True)
            for layer in cache.evicting:
                for head, position in enumerate(cache.slots(layer).position[0].tolist()):
                    assert np.flatnonzero(each.layers[layer][head]).tolist() == sorted(p for p in position if p >= 0)


def test_counts_and_shares_are_those_of_the_positions(seen_and_kept):
    seen, found = seen_and_kept
    by = {each.contender.spec: each for each in found}
    assert by["snapkv"].mean == by["cake"].mean == by["h2o"].mean == 24
    assert by["full"].mean == len(seen.tokens) and by["full"].share_of(seen.needed) == 1
    assert by["clairvoyant"].share_of(seen.needed) == 1
    assert by["h2o"].counts == {layer: [24, 24] for layer in range(3)}
    assert len({count for line in by["cake"].counts.values() for count in line}) > 1
    assert np.isnan(by["h2o"].share_of(()))


def test_needed_are_the_positions_of_the_answer_that_counts(model):
    work, item = item_of()
    seen, _ = kept.of_item(model, work, item, [])
    answer = item.tokens[item.scored].tolist()
    assert [item.tokens[i] for i in seen.needed] == answer
    assert [seen.tokens[i] for i in seen.needed] == models.tasks.decode(answer).split()
    work, item = item_of(protocol="reask")
    seen, _ = kept.of_item(model, work, item, [])
    assert [item.tokens[i] for i in seen.needed] == item.tokens[item.scored].tolist()[2:]
    work, item = item_of(protocol="agnostic")
    seen, found = kept.of_item(model, work, item, field_of(["snapkv"]))
    assert len(seen.tokens) == item.spans[0][2] == found[0].layers[0].shape[1]
    assert "<q>" not in seen.tokens


def test_a_line_of_the_picture_has_its_tokens_and_its_count(seen_and_kept):
    seen, found = seen_and_kept
    (each,) = [one for one in found if one.contender.spec == "h2o"]
    lines = [line.plain.rstrip() for line in picture.draw(seen, [each], 110)]
    assert lines[0] == "h2o" and lines[1].startswith("24 slots, ")
    assert lines[2].split() == ["0", "20", "40", "60"]
    for row, (layer, head) in enumerate((layer, head) for layer in range(3) for head in range(2)):
        line = lines[3 + row]
        assert line[:6] == (f"  {layer} ┌ " if head == 0 else "    └ ")
        cells, count = line[6:].split()
        held = each.layers[layer][head]
        assert int(count) == held.sum()
        marks = {True: "█", False: "·"}
        expected = [marks[bool(x)] for x in held]
        for place in seen.needed:
            expected[place] = "◆" if held[place] else "◇"
        assert cells == "".join(expected)
    assert lines[10] == "A line is a KV head: its layer, what it keeps, how many. A column is a token."


def test_blocks_stand_side_by_side_and_within_the_width(seen_and_kept):
    seen, found = seen_and_kept
    for width in (50, 110, 200):
        lines = list(picture.draw(seen, found, width))
        assert all(line.cell_len <= width for line in lines[:-3]), width
        first = [line.plain.count("┌") for line in lines if "┌" in line.plain]
        assert first == [{50: 1, 110: 2, 200: 4}[width]] * (3 * {50: 8, 110: 4, 200: 2}[width])
    assert sum(each.contender.spec in lines[0].plain for each in found) == 4


def test_a_column_of_several_tokens_is_as_dense_as_they_are(seen_and_kept):
    contender = seen_and_kept[1][0].contender
    held = np.zeros((1, 200), dtype=bool)
    held[0, :4] = held[0, 8:10] = held[0, 13] = True
    seen = kept.Seen(tuple("x" * 200), (30, 13))
    block = list(picture.draw(seen, [kept.Kept(contender, {0: held})], 62))
    cells = block[3].plain[6:].split()[0]
    assert len(cells) == 50 and cells[:4] == "█·▒◆" and cells[7] == "◇" and set(cells[8:]) == {"·"}
    assert "A column is 4 tokens" in block[5].plain


def test_many_heads_become_one_line_a_layer(seen_and_kept):
    contender = seen_and_kept[1][0].contender
    held = np.ones((40, 30), dtype=bool)
    held[:20, 3] = False
    each = kept.Kept(contender, dict.fromkeys(range(4), held))
    lines = [line.plain.rstrip() for line in picture.draw(kept.Seen(tuple("x" * 30)), [each], 110)]
    assert lines[3] == "  0 ╶ ███▒██████████████████████████" + "   30"
    assert "the mean head of a layer" in lines[-2]


def test_the_picture_holds_every_kept_token_once(seen_and_kept):
    seen, found = seen_and_kept
    figure = heatmap.figure(seen, found)
    spec = spec_of(figure.chart)
    named = spec["datasets"].values()
    cells, places = (next(rows for rows in named if key in rows[0]) for key in ("state", "text"))
    for each in found:
        mine = [cell for cell in cells if cell["policy"] == heatmap.heading(each, seen)]
        for layer, held in each.layers.items():
            for head, line in enumerate(held):
                drawn = {
                    cell["state"]: set(cell["at"]) for cell in mine if (cell["layer"], cell["head"]) == (layer, head)
                }
                stored, needed = set(np.flatnonzero(line).tolist()), set(seen.needed)
                states = zip(heatmap.COLOURS, (stored - needed, stored & needed, needed - stored))
                assert drawn == {state: places for state, places in states if places}
    assert [place["text"] for place in places] == list(seen.tokens)
    assert spec["facet"]["sort"] == [heatmap.heading(each, seen) for each in found]
    rows = figure.table.filter(policy="h2o")
    assert rows["slots"].to_list() == [24] * 6 and rows["needed"].max() <= len(seen.needed)
    assert rows["positions"][0] == heatmap.ranges(np.flatnonzero(found[3].layers[0][0]))


def test_a_picture_of_much_stays_small(seen_and_kept):
    contender = seen_and_kept[1][0].contender
    rng = np.random.default_rng(0)
    for layers, heads, merged in ((8, 8, False), (16, 32, True)):
        each = kept.Kept(contender, {layer: rng.random((heads, 1200)) < 0.4 for layer in range(layers)})
        figure = heatmap.figure(kept.Seen(tuple(f" {i}" for i in range(1200)), (7, 1199)), [each])
        spec = spec_of(figure.chart)
        cells = next(rows for rows in spec["datasets"].values() if "state" in rows[0])
        assert sum(len(cell["at"]) for cell in cells) <= heatmap.MARKS
        assert {cell["head"] for cell in cells} == set(range(1 if merged else heads))
        places = next(rows for rows in spec["datasets"].values() if "text" in rows[0])
        drawn = sum(sum(cell["share"]) for cell in cells if cell["state"] != heatmap.LOST)
        assert drawn / (layers * (1 if merged else heads) * len(places)) == pytest.approx(0.4, abs=0.01)
        assert figure.table.height == layers * heads


def test_printed_stored_and_published(show, tmp_path):
    words = ("--policy", "snapkv,h2o", "--budget", "50%", *MINI)
    status, out, err = show(*words)
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0].split() == ["snapkv", "h2o"]
    assert lines[-1].startswith("report: ")
    (stored,), problems = read_comparisons(tmp_path / "runs")
    assert problems == []
    assert stored.title == "What is kept of one item of niah1"
    assert stored.command == "heedful kv show " + " ".join(map(str, words))
    assert list(stored.tables) == ["What is kept, by layer and head"]
    assert stored.figures[0][2]["facet"]["field"] == "policy"
    assert (tmp_path / "site" / "comparisons" / f"kv-{stored.id}.html").is_file()


def test_json_has_the_positions(show):
    status, out, _ = show("--policy", "cake,streaming-llm", "--budget", 20, *MINI, "--json")
    assert status == 0
    data = json.loads(out)
    assert len(data["tokens"]) == 61 and data["tokens"][data["needed"][0]].startswith("V")
    cake, streaming = data["kept"]
    assert (cake["policy"], cake["budget_slots"], cake["slots"]) == ("cake", 20, 20)
    assert sum(head["slots"] for layer in cake["layers"].values() for head in layer) == 6 * 20
    assert streaming["layers"]["0"][0]["positions"] == [0, 1, 2, 3, *range(45, 61)]


def test_a_prompt_of_ones_own_as_text_and_as_a_file(show, tmp_path):
    text = "<bos> " + " ".join(f"K{i}" for i in range(30))
    (tmp_path / "p.txt").write_text(text)
    found = []
    for prompt in (text, "p.txt"):
        words = ("--model", "task-mini-1", "--policy", "snapkv:observation_window=4", "--budget", "50%")
        status, out, err = show(*words, "--prompt", prompt, "--json")
        assert (status, err) == (0, "")
        found.append({key: value for key, value in json.loads(out).items() if key != "report"})
    assert found[0] == found[1]
    assert found[0]["needed"] == [] and found[0]["kept"][0]["needed_share"] is None
    assert found[0]["kept"][0]["slots"] == 15 and found[0]["tokens"][:2] == ["<bos>", "K0"]


def test_a_comparison_shows_what_was_kept_at_its_middle_budget(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "kv", "--model", "task-mini-1", "--workers", "1", "--length", "64", "--items", "2"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--tasks", "niah1", "--policies", "h2o,snapkv", "--budgets", "20,24,30"])
    assert end.value.code == 0
    (stored,), _ = read_comparisons(tmp_path / "runs")
    title, caption, spec, table = stored.figures[-1]
    assert title == "What is kept of one item of niah1" and "Needed is what the answer is made of" in caption
    assert [line.partition(":")[0] for line in spec["facet"]["sort"]] == ["h2o", "snapkv"]
    assert table["slots"].to_list() == [24] * 12


REFUSED = {
    "unknown policy": (("--policy", "snapk"), "unknown policy 'snapk'; did you mean 'snapkv'?"),
    "never shrinks": (("--policy", "raas"), "policy 'raas' never shrinks a prompt"),
    "no policy": (("--policy", ","), "--policy is empty"),
    "empty prompt": (("--prompt", ""), "--prompt is empty"),
    "two budgets": (("--budget", "10%,20%"), "--budget '10%,20%': give one budget"),
    "bad budget": (("--budget", "2.5"), "--budget '2.5': a budget is a share"),
    "budget below the least": (("--budget", "8"), "policy 'snapkv': budget=8: snapkv needs at least 17 slots"),
    "missing parts": (("--policy", "attention-gate"), "policy 'attention-gate': "),
    "unknown task": (("--task", "nia1"), "unknown task 'nia1'; did you mean 'niah1'?"),
    "short prompt": (("--task", "recall"), "task 'recall' has a short prompt"),
    "unknown protocol": (("--protocol", "blind"), "--protocol 'blind'"),
    "another model": (("--model", "byte-1"), "without --prompt only shipped task models can be shown (task-"),
    "option for prompts": (("--dtype", "float16"), "--dtype is for a prompt of your own; add --prompt"),
    "option for tasks": (("--prompt", "K1 K2", "--seed", 3), "--seed is for embedded tasks; leave it out beside"),
    "no such file": (("--prompt", "nowhere.txt"), "--prompt nowhere.txt: No such file or directory"),
    "a folder": (("--prompt", "./"), "--prompt ./: Is a directory"),
    "clairvoyant": (("--prompt", "K1 K2", "--policy", "clairvoyant"), "only the embedded tasks say that"),
    "oracle": (("--prompt", "K1 K2", "--policy", "oracle"), "'oracle' needs to know the answers"),
    "unwritable": (("--out", "/proc/nothing"), "cannot write to /proc/nothing"),
}


@pytest.mark.parametrize(("words", "part"), REFUSED.values(), ids=REFUSED)
def test_bad_usage_is_one_line(show, words, part):
    status, out, err = show("--model", "task-mini-1", *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and part in err


def test_files_that_are_no_text_are_refused(show, tmp_path):
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n")
    for name, part in (("latin.txt", "not UTF-8 text"), ("empty.txt", "is empty")):
        status, _, err = show("--model", "task-mini-1", "--prompt", name)
        assert (status, err) == (2, f"error: --prompt {name}: {part}\n")


def test_a_share_is_one_of_the_items_length():
    (contender,) = field_of(["h2o"], Share(0.5), 64)
    assert contender.slots == 32
