"""The report of the tiny run, read back: its numbers are those of `metrics.json`."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from diffmic_jax.cli import main as cli
from diffmic_jax.data.dataset import open_dataset
from diffmic_jax.evaluation.metrics import INTERVALS
from diffmic_jax.inference.ensemble import Ensemble
from diffmic_jax.inference.load import load
from diffmic_jax.report import build
from diffmic_jax.report.figures import LARGEST
from diffmic_jax.report.sections import TITLES
from tests import tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A copy of the trained run with its report."""
    copy = shutil.copytree(trained, tmp_path_factory.mktemp("report") / "run")
    assert cli.main(["report", f"--workdir={copy}"]) == 0
    return copy


@pytest.fixture(scope="module")
def text(workdir: Path) -> str:
    return (workdir / "report.html").read_text()


@pytest.fixture(scope="module")
def scores(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "eval/test/metrics.json").read_text())


class Tables(HTMLParser):
    """The cells of every table that has an id, and whether the tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.name = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "table":
            self.name = dict(attrs).get("id") or ""
            self.found[self.name] = []
        if tag == "tr":
            self.found[self.name].append([])
        if tag in ("td", "th"):
            self.found[self.name][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & {*self.open}:
            self.found[self.name][-1][-1] += data


@pytest.fixture(scope="module")
def tables(text: str) -> dict[str, list[list[str]]]:
    parser = Tables()
    parser.feed(text)
    assert not parser.open
    return parser.found


def shown(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (" ({:.3f} to {:.3f})".format(*interval) if interval else "")


def test_the_page_needs_nothing_from_elsewhere(text):
    assert len(text) < 5e6
    assert "<script" not in text
    links = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', text)
    assert links
    assert all((a or b).startswith(("#", "data:")) for a, b in links)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert {target for a, b in links if (target := (a or b)).startswith("#")} <= {
        f"#{name}" for name in ids
    }


def test_the_headline_is_that_of_the_metrics(tables, scores):
    rows = {row[0]: row[1:] for row in tables["headline"][1:]}
    # These classes have no order.
    known = {name: title for name, title in TITLES.items() if scores[name] is not None}
    assert len(rows) == len(known) == len(TITLES) - 2
    for name, title in known.items():
        for cell, part in zip(rows[title], (scores, scores["guidance"]), strict=False):
            assert cell == shown(part[name], part["ci95"][name])
        difference = float(rows[title][2].split()[0])
        assert difference == pytest.approx(scores[name] - scores["guidance"][name], abs=6e-4)


def test_the_confusion_matrix_is_that_of_the_metrics(tables, scores):
    header, *rows = tables["confusion"]
    assert header[1:] == list(tiny.CLASSES)
    assert [[int(cell) for cell in row[1:]] for row in rows] == scores["confusion"]


def test_the_classes_are_those_of_the_metrics(tables, scores):
    for name, row in zip(tiny.CLASSES, tables["class-table"][1:], strict=True):
        values = scores["per_class"][name] | scores["operating_points"][name]
        assert row[:2] == [name, str(values["support"])]
        assert row[2:] == [shown(values[m], scores["ci95_per_class"][name][m]) for m in INTERVALS]


def find(text: str, figure: str, part: str) -> ElementTree.Element:
    """The group of that id in a figure."""
    start = text.rindex("<svg", 0, text.index(f'id="{figure}-'))
    svg = ElementTree.fromstring(text[start : text.index("</svg>", start) + 6])
    (found,) = (each for each in svg.iter() if each.get("id") == f"{figure}-{part}")
    return found


def points(element: ElementTree.Element) -> np.ndarray:
    """[N, 2] corners of the path in a group, in page coordinates."""
    path = element if element.tag == "path" else next(element.iter("path"))
    return np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d", "")), float)


def in_axes(xy: np.ndarray, frame: np.ndarray, low: float, high: float) -> np.ndarray:
    """Page coordinates to those of the axes, whose limits are at the frame."""
    (left, top), (right, bottom) = frame.min(axis=0), frame.max(axis=0)
    scaled = (xy - [left, bottom]) / [right - left, top - bottom]
    return low + (high - low) * scaled


@pytest.mark.parametrize("who", ["diffusion", "guidance"])
def test_roc_curves_enclose_the_aurocs(text, scores, who):
    part = scores if who == "diffusion" else scores["guidance"]
    for c, name in enumerate(tiny.CLASSES):
        frame = points(find(text, f"roc-{c}", "roc-frame"))
        curve = in_axes(points(find(text, f"roc-{c}", who)), frame, -0.02, 1.02)
        area = np.trapezoid(curve[:, 1], curve[:, 0])
        assert area == pytest.approx(part["per_class"][name]["auroc"], abs=1e-4)


@pytest.mark.parametrize("who", ["diffusion", "guidance"])
def test_decision_curves_are_the_net_benefits(text, scores, who):
    part = scores if who == "diffusion" else scores["guidance"]
    for c, name in enumerate(tiny.CLASSES):
        rate = part["per_class"][name]["support"] / scores["n"]
        frame, curve = (points(find(text, f"decisions-{c}", each)) for each in ("frame", who))
        x, y = in_axes(curve, frame, 0, 1).T
        x, y = LARGEST * x, rate * (1.2 * y - 0.15)
        found = part["net_benefit"][name].items()
        inside = {float(t): each["model"] for t, each in found if each["model"] > -0.15 * rate}
        assert inside
        for threshold, benefit in inside.items():
            assert y[np.abs(x - threshold).argmin()] == pytest.approx(benefit, abs=1e-3)


@pytest.mark.parametrize("who", ["diffusion", "calibrated", "guidance"])
def test_reliability_diagrams_add_up_to_the_ece(text, scores, who):
    part = scores if who == "diffusion" else scores[who]
    figure = f"reliability-{who}"
    marks = in_axes(
        points(find(text, figure, "points")), points(find(text, figure, "ax-frame")), 0, 1
    )
    frame = points(find(text, figure, "below-frame"))
    bars = [in_axes(points(find(text, figure, f"bar-{k}")), frame, 0, 1) for k in range(15)]
    shares = np.array([np.ptp(bar[:, 1]) for bar in bars])
    assert shares.sum() == pytest.approx(1, abs=1e-4)
    gaps = np.abs(marks[:, 1] - marks[:, 0])
    assert shares[shares > 1e-6] @ gaps == pytest.approx(part["ece"], abs=1e-4)


def test_calibration_and_sets_are_reported(text, scores):
    found = scores["calibrated"]
    assert f"The temperature {found['temperature']:.3f} was fitted" in text
    assert f"contain the true class in {found['conformal']['coverage']:.1%}" in text


def test_every_section_has_something_to_show(text):
    for name in ("training", "mistakes", "gallery", "embeddings"):
        section = text[text.index(f'<section id="{name}"') :].split("</section>")[0]
        assert "<svg" in section, name
    assert text.count('<article class="case">') > len(tiny.CLASSES)
    # An image, its gray copy, its saliency and two regions each.
    assert text.count("data:image/") == 5 * text.count('<article class="case">')


def test_the_audit_is_kept(workdir, tables):
    found = json.loads((workdir / "audit.json").read_text())
    assert tables["audit-counts"][-1] == ["images", "24", "6", "9"]
    assert found["n_by_split"] == {"train": 24, "validation": 6, "test": 9}


def test_the_verdict_comes_first_and_explains_the_guidance(text, scores):
    verdict = text[text.index('<div class="verdict">') : text.index("<nav>")]
    assert f"The diffusion is right in {scores['accuracy']:.1%} of {tiny.TEST} images" in verdict
    assert text.index("guidance alone") == text.index("guidance alone (the network that gives")
    assert "the best shortcut, " in verdict and "Its probabilities " in verdict
    assert "<h1>tiny</h1>" in text and "v1 on the test part" in text


def test_shortcuts_stand_beside_the_model(tables, workdir):
    found = json.loads((workdir / "audit.json").read_text())["baselines"]
    header, accuracy, *_ = tables["headline"]
    assert header[4:] == ["trees on 32 px", "tree on metadata", "largest class"]
    shown_ = [found[name]["accuracy"] for name in ("pixels", "metadata", "majority")]
    assert accuracy[4:] == [shown(value) for value in shown_]


def test_the_legend_comes_before_the_first_saliency(text):
    assert text.index('class="scale"') < text.index('aria-label="saliency"')
    assert text.count('class="scale"') == 1


def test_settings_are_folded(text):
    assert "<details><summary>All settings" in text


def test_without_an_audit_the_report_says_so_and_a_later_one_makes_it(
    workdir, tmp_path, monkeypatch
):
    own = tmp_path / "run"
    shutil.copytree(workdir, own)
    (own / "audit.json").unlink()
    model = load(own)

    def report(audits: bool) -> str:
        out = tmp_path / "report.html"
        build.write_report(model, open_dataset(model.config), out, audits=audits)
        return out.read_text()

    with monkeypatch.context() as patch:
        patch.setattr(build, "audit", lambda source: pytest.fail("audited"))
        short = report(audits=False)
    assert "were not read again" in short and "trees on 32 px" not in short
    assert not (own / "audit.json").exists()
    for audits in (True, False):  # one that is there is shown anyway
        whole = report(audits)
        assert "were not read again" not in whole and "trees on 32 px" in whole
    assert (own / "audit.json").read_text() == (workdir / "audit.json").read_text()


def test_an_audit_of_an_earlier_version_is_made_anew(workdir):
    path = workdir / "audit.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps({"n": 1}))
    model = load(workdir)
    assert build._audit(model, open_dataset(model.config), True) == before
    assert json.loads(path.read_text()) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("audit.json", '"n_by_split"', '"x"'),
        ("eval/test/metrics.json", '"operating_points"', '"x"'),
        ("eval/test/metrics.json", '"blue"', '"x"'),
        ("eval/test/uncertainty.csv", "guidance_", "x_"),
        ("eval/test/predictions.csv", "sample_std", "x"),
        ("metrics.csv", "phase", "x"),
        ("split.csv", "group", "x"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(workdir, tmp_path, capsys, name, old, new):
    copy = shutil.copytree(workdir, tmp_path / "run")
    assert old in (copy / name).read_text()
    (copy / name).write_text((copy / name).read_text().replace(old, new))
    assert cli.main(["report", f"--workdir={copy}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and Path(name).parts[0] in line


def test_a_split_that_is_not_there_is_named(workdir, capsys):
    assert cli.main(["report", f"--workdir={workdir}", "--split=test_clean"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == "error: the data has no test_clean split; it has train, validation, test"


def test_a_report_without_resamples_is_written(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "run")
    model = load(copy)
    config = model.config.changed({"eval.bootstrap": 0})
    none = dataclasses.replace(model, config=config)
    build.write_report(none, open_dataset(config), tmp_path / "report.html")
    assert '<div class="verdict">' in (tmp_path / "report.html").read_text()


def test_what_is_shown_of_several_networks_says_of_which_it_is(workdir, tmp_path):
    model = load(workdir)
    both = Ensemble.of([model, model], workdir)
    build.write_report(both, open_dataset(model.config), tmp_path / "report.html", audits=False)
    text = (tmp_path / "report.html").read_text()
    assert "Of the first of the 2 networks that answer together" in text
    assert "Drawn is what the first of the networks looks at" in text
    assert "The answer: mean of 2 networks (2 of v1)" in text
    samples = 2 * model.method.sampling.total_samples
    assert f"the mean of {samples} samples" in text
