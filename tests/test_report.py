"""Summaries of runs and the report page."""

import base64
import html.parser
import json

import pandas as pd
import pytest
from matplotlib.figure import Figure

import experiments.report
from experiments import pages, registry, summary
from experiments.command import run_command
from experiments.summary import Summary
from symjax.errors import InputError
from symjax.ops import files
from symjax.tables import over_networks

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def plant(folder, experiment="stitch", seconds=100.0, **others):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "penalties.png").write_bytes(PNG)
    table = pd.DataFrame({"relu1": ["1.0 ± 0.1", "2|3"], "relu2": [0.25, None]}, index=["full", "rank1"])
    values = {"title": "a < b", "conclusion": f"found by {experiment}", "tables": {"caption of it": table}}
    values |= {"figures": ("penalties", "gone"), "command": f"python -m experiments.{experiment} --seeds '3,'"}
    values |= {"experiment": experiment, "seconds": seconds, "versions": {"device": "cpu", "jax": "0.10"}} | others
    summary.write(Summary(folder, **values))
    return folder


def test_a_summary_is_read_as_written_and_time_adds_up(tmp_path):
    first = summary.read(plant(tmp_path))
    assert first.folder == tmp_path and first.figures == ("penalties", "gone") and first.seconds == 100
    table = first.tables["caption of it"]
    assert table.loc["full"].tolist() == ["1.0 ± 0.1", 0.25] and pd.isna(table.relu2["rank1"])
    plant(tmp_path, seconds=5.0, conclusion="more")
    again = summary.read(tmp_path)
    assert again.seconds == 105 and again.conclusion == "more"
    text = again.text()
    assert text.index("a < b") < text.index("caption of it") < text.index("more") < text.index(str(tmp_path))


@pytest.mark.parametrize("content", ["{}", "[]", '{"title": 3}', "{", json.dumps({"tables": {"a": {}}})])
def test_a_broken_summary_is_an_error_and_is_replaced(tmp_path, content):
    (tmp_path / summary.SUMMARY).write_text(content)
    with pytest.raises(InputError, match=r"summary\.json"):
        summary.read(tmp_path)
    assert summary.read(plant(tmp_path)).seconds == 100


class Reader(html.parser.HTMLParser):
    """Collect text and pictures, and check that every tag is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.pictures = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        elif tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def report(*words):
    run_command(experiments.report.main, experiments.report.Settings, [str(word) for word in words])


def test_the_page_holds_every_run(tmp_path, capsys):
    plant(tmp_path / "runs" / "deep" / "b", "zoo")
    plant(tmp_path / "runs" / "a", "stitch", seconds=7200.0)
    plant(tmp_path / "runs" / "c", "mine")
    (plant(tmp_path / "runs" / "d") / summary.SUMMARY).write_text("{")
    out = tmp_path / "page"
    report("--runs", tmp_path / "runs", "--out", out)
    output = capsys.readouterr()
    assert output.out.index("found by zoo") < output.out.index("found by stitch") < output.out.index("found by mine")
    assert "left out" in output.err and "3 runs" in output.out

    page = Reader((out / "report.html").read_text())
    text = " ".join(page.texts)
    assert not page.open and len(page.pictures) == 3
    assert base64.b64decode(page.pictures[0].removeprefix("data:image/png;base64,")) == PNG
    for words in ("a < b", "found by stitch", "1.0 ± 0.1", "Caption of it", "--seeds '3,'", "2.0 h", "gone.png"):
        assert words in text
    assert all(caption in text for caption in registry.find("stitch").published) and "62" in text
    assert "this run does not say on which data it is" in text

    lines = (out / "report.md").read_text().splitlines()
    assert lines.count("| full | 1.0 ± 0.1 | 0.25 |") == 3 and lines.count("| rank1 | 2\\|3 |  |") == 3
    link = next(line for line in lines if line.startswith("![penalties]")).partition("<")[2].rstrip(">)")
    assert (out / link).read_bytes() == PNG


def test_published_figures_of_another_data_set_say_so(tmp_path, capsys):
    for name, config in (("a", {"zoo": {"dataset": "digits"}}), ("b", {"zoo": {"dataset": "cifar10"}})):
        files.write_json(plant(tmp_path / name) / files.CONFIG, {"kind": "stitch", "config": config})
    config = {"kind": "zoo", "config": {"dataset": "/some/where/mine.npz"}}
    files.write_json(plant(tmp_path / "c", "zoo") / files.CONFIG, config)
    report("--runs", tmp_path, "--out", tmp_path / "page")
    page = (tmp_path / "page" / "report.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("Published")]
    assert [("on mine:" in line, "on digits:" in line, "Published: " in line) for line in lines] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_a_published_figure_of_no_data_stands_beside_ours(tmp_path):
    measured = {"lack of homogeneity": pd.DataFrame({"xi(l) / l": ["0.126754"]}, index=["GELU"])}
    files.write_json(
        plant(tmp_path / "a", "symmetry", tables=measured) / files.CONFIG,
        {"kind": "symmetry", "config": {"zoo": {"dataset": "digits"}}},
    )
    report("--runs", tmp_path, "--out", tmp_path / "page")
    lines = (tmp_path / "page" / "report.md").read_text().splitlines()
    (published,) = (i for i, line in enumerate(lines) if line.startswith("Published"))
    assert "homogeneity" in lines[published] and "CIFAR-10" not in lines[published]
    assert lines.index("| GELU | 0.126754 |") < published < lines.index("| GELU | 0.1267 |")


def test_numbers_of_one_network_are_over_none():
    assert over_networks(1) == "of one network" == over_networks(1, "mean")
    assert over_networks(3) == "mean ± deviation over 3 networks"
    assert over_networks(2, "mean") == "mean over 2 networks"


@pytest.mark.figures
def test_pictures_have_the_size_they_have_on_paper(tmp_path):
    figure = Figure(figsize=(4, 1))
    figure.savefig(tmp_path / "a.png", dpi=200)
    (tmp_path / "b.png").write_bytes(PNG)  # which says nothing of that
    page = pages.html("t", [pages.Section("s", "x", figures=(tmp_path / "a.png", tmp_path / "b.png"))])
    assert page.count("<img ") == 2 and page.count(" width=") == 1 and ' width="384" src' in page
    assert pages.display_width((tmp_path / "a.png").read_bytes()[:-200]) == 384 and pages.display_width(b"") is None


def test_nothing_to_report_is_one_line(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit) as stop:
            report("--runs", folder, "--out", tmp_path / "page")
        assert stop.value.code == 2 and "runs: " in capsys.readouterr().err


def test_a_page_needs_a_folder(tmp_path, capsys):
    plant(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        report("--runs", tmp_path, "--out", tmp_path / "file")
    assert stop.value.code == 2 and "out: " in capsys.readouterr().err


def test_places_are_distinct_and_published_tables_are_drawn():
    known = {name: experiment for name in registry.files() if (experiment := registry.find(name))}
    order = "zoo stitch crossval lasso rotate dissect symmetry rebasin align dynamics recurrent freeze memorize classes"
    order += " coefficients project toys bias width clusters compare resi"
    assert sorted(known, key=lambda name: known[name].place) == order.split()
    assert len({experiment.place for experiment in known.values()}) == len(known)
    tables = [{c: t.to_frame() for c, t in experiment.published.items()} for experiment in known.values()]
    page = pages.html("t", [pages.Section("s", "x", reference_tables=of_one) for of_one in tables])
    assert "0.6208" in page and "8.3" in page


@pytest.mark.parametrize("seconds,said", [(3.4, "3 s"), (59, "59 s"), (90, "1.5 min"), (5400, "1.5 h")])
def test_durations(seconds, said):
    assert pages.duration(seconds) == said
