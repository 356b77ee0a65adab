from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffmic_jax import api
from diffmic_jax.cli import main as cli
from diffmic_jax.errors import InputError, Interrupted
from diffmic_jax.evaluation.compare import read_rows
from diffmic_jax.inference import exported
from diffmic_jax.inference.evaluated import PROVENANCE
from diffmic_jax.method.build import build
from diffmic_jax.method.task import Task
from diffmic_jax.study import definition
from diffmic_jax.study import differences as study_differences
from diffmic_jax.study import runs as study_runs
from diffmic_jax.study import tables as study_tables
from diffmic_jax.study.definition import Row, Study
from diffmic_jax.study.runs import Outcome, Runs
from tests import tiny
from tests.helpers import whole_scores

pytestmark = pytest.mark.whole

STUDY = """
from diffmic_jax.study.definition import Row, Study
from studies import table2

CONFIG = "{config}"


def get_study(variant="all"):
    rows = (
        Row("basic", CONFIG + ":classifier"),
        Row("v1", CONFIG + ":v1"),
        Row("C1", CONFIG + ":v1", table2.C1 | dict([("guidance.backbone", "tiny"),
            ("guidance.checkpoint", "{{basic}}")])),
        Row("broken", CONFIG + ":v1", dict([("data.root", "/no/such/folder")])),
        Row("guidance", of="v1", guidance=True),
        Row("samples", of="v1", sampling=dict(num_samples=3)),
        Row("basic-b", CONFIG + ":classifier", seed_shift=100),
        Row("pair", members=("basic", "basic-b")),
    )
    return Study("A study", rows, seeds=(0, 1) if variant == "all" else (0,))
"""
CONFIG = """
from functools import partial
from pathlib import Path

from tests import tiny


def get_config(recipe="v1"):
    return tiny.make_config(Path("{root}"), recipe, guidance__warmup_epochs=0, train__epochs=1)
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory, tiny_data) -> str:
    """A study file of tiny runs."""
    folder = tmp_path_factory.mktemp("specs")
    (folder / "config.py").write_text(CONFIG.format(root=tiny_data))
    (folder / "study.py").write_text(STUDY.format(config=folder / "config.py"))
    return f"{folder}/study.py:one"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, spec) -> Path:
    """The folder of the study, run once with the command; one run of it cannot work."""
    folder = tmp_path_factory.mktemp("study") / "w"
    assert cli.main(["study", spec, "--num_processes=1", f"--workdir={folder}"]) == 1
    return folder


def read_csv(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "study.csv").open(newline="") as file:
        return {f"{row['row']}-{row['seed']}": row for row in csv.DictReader(file)}


def test_every_number_is_that_of_a_metrics_json(finished):
    rows = read_csv(finished)
    assert list(rows) == [
        "basic-0",
        "v1-0",
        "C1-0",
        "broken-0",
        "guidance-0",
        "samples-0",
        "basic-b-0",
        "pair-0",
    ]
    for name, row in rows.items():
        if name == "broken-0":
            assert row["status"].startswith("failed: ")
            assert "/no/such/folder" in row["status"]
            continue
        assert row["status"] == "done"
        scores = json.loads((finished / row["metrics"]).read_text())
        scores = scores["guidance"] if name == "guidance-0" else scores
        for metric in study_runs.METRICS:
            group, _, of = metric.rpartition(".")
            value = (scores[group] or {}).get(of, "") if group else scores[metric]
            assert row.get(metric, "") == str("" if value is None else value), (name, metric)
    assert rows["guidance-0"]["metrics"] == rows["v1-0"]["metrics"]
    config = json.loads((finished / "runs/v1-0/config.json").read_text())
    assert config["sampling"]["num_samples"] != 3
    assert rows["samples-0"]["nll"] != rows["v1-0"]["nll"]


def test_a_row_of_several_runs_has_the_mean_of_their_predictions(finished):
    first, second, both = (
        read_rows(finished / f"runs/{place}/predictions.csv")
        for place in ("basic-0/eval/test", "basic-b-0/eval/test", "pair-0")
    )
    seeds = [
        json.loads((finished / f"runs/{name}/config.json").read_text())["seed"]
        for name in ("basic-0", "basic-b-0")
    ]
    assert seeds == [0, 100]
    for rows in zip(first, second, both, strict=True):
        assert len({row["id"] for row in rows}) == 1
        for name in tiny.CLASSES:
            a, b, mean = (float(row[f"prob_{name}"]) for row in rows)
            assert mean == pytest.approx((a + b) / 2, abs=1e-5)
    rows = read_csv(finished)
    costs = [float(rows[f"{name}-0"]["train_cpu_seconds"]) for name in ("basic", "basic-b", "pair")]
    assert costs[2] == pytest.approx(costs[0] + costs[1], rel=1e-3)
    scores = json.loads((finished / "runs/pair-0/metrics.json").read_text())
    assert scores["calibrated"]["temperature"] > 0
    assert not (finished / "runs/basic-0/calibration.json").samefile(
        finished / "runs/pair-0/calibration.json"
    )


def test_the_table_of_a_study_has_every_scalar_of_every_run(finished):
    for name, row in read_csv(finished).items():
        if row["status"] != "done":
            assert row["accuracy"] == ""
            continue
        scores = json.loads((finished / row["metrics"]).read_text())
        scores = scores["guidance"] if name == "guidance-0" else scores
        wanted = {path: value for path, value in leaves(scores) if value is not None}
        some = {"n", "ci95.nll.low", "per_class.red.f1", "operating_points.red.sensitivity_at_0.90"}
        assert some < {*wanted}
        assert ("guidance.ci95.accuracy.high" in wanted) == (name != "guidance-0")
        numbers = {path: float(row[path]) for path in wanted}
        assert numbers == wanted  # to the last digit
        facts = {"row", "seed", "split", "status", "seconds", "metrics"}
        if name != "guidance-0":  # which is measured with its run
            facts |= {"train_cpu_seconds", "predict_cpu_seconds"}
        assert {path for path, cell in row.items() if cell} == {*wanted, *facts}


def leaves(scores: dict[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Name and value of what is a score, but no confusion matrix and no interval of a class."""
    for name, value in scores.items():
        if name in PROVENANCE:
            continue
        if isinstance(value, dict) and name != "ci95_per_class":
            yield from leaves(value, f"{above}{name}.")
        elif isinstance(value, list) and name != "confusion":
            low, high = value
            yield from ((f"{above}{name}.low", low), (f"{above}{name}.high", high))
        elif not isinstance(value, (dict, list)):
            yield above + name, value


def test_what_is_undefined_in_every_run_has_no_column(tmp_path):
    scores = {"confusion": [[1]], "b": {"x": None, "y": 0.1}, "a": 1 / 3, "ci95": {"a": [0.1, 0.2]}}
    flat = study_tables.scalars(scores | {"guidance": {"a": 2}, "z": None})
    assert flat == {
        **{"a": 1 / 3, "z": None, "b.x": None, "b.y": 0.1},
        **{"ci95.a.low": 0.1, "ci95.a.high": 0.2, "guidance.a": 2},
    }
    assert [*flat][:2] == ["a", "z"]  # numbers of the whole first, the guidance last
    assert [*flat][-1] == "guidance.a"
    (tmp_path / "metrics.json").write_text(json.dumps(whole_scores(scores)))
    found = [
        Outcome(row="v1", seed=seed, status=status, folder=tmp_path, workdir=tmp_path)
        for seed, status in enumerate(("done", "waiting"))
    ]
    study_tables.write_results(Study("Holes", (Row("v1", "c.py"),)), tmp_path, found)
    rows = read_csv(tmp_path)
    assert rows["v1-0"]["a"] == "0.3333333333333333"
    assert rows["v1-1"]["a"] == ""
    assert "b.y" in rows["v1-0"]
    assert "b.x" not in rows["v1-0"]


def test_differences_have_a_table_of_their_own(finished):
    with (finished / "comparisons.csv").open(newline="") as file:
        rows = {(row["row"], row["metric"]): row for row in csv.DictReader(file)}
    assert {row for row, _ in rows} == {"v1", "C1", "guidance", "samples", "pair"}
    ours, first = (read_csv(finished)[f"{name}-0"] for name in ("guidance", "basic"))
    found = rows["guidance", "nll"]
    assert (found["minus"], found["seeds"]) == ("basic", "0")
    gap = float(ours["nll"]) - float(first["nll"])  # of predictions with six digits
    assert float(found["difference"]) == pytest.approx(gap, abs=1e-4)
    low, high = (float(found[f"ci95_images.{end}"]) for end in ("low", "high"))
    assert low <= float(found["difference"]) <= high
    assert 0 <= float(found["p_images"]) <= float(found["p_holm"]) <= 1
    assert (found["p"], found["ci95.low"]) == ("", "")  # of a single seed
    assert rows["pair", "calibrated.nll"]["ci95_images.low"]


@pytest.mark.parametrize("name", ["basic", "C1"])
def test_every_command_takes_a_run_without_diffusion_or_without_guidance(
    finished, tiny_data, tmp_path, name
):
    run = tmp_path / "run"
    shutil.copytree(finished / f"runs/{name}-0", run)
    for command in (
        ["report", f"--workdir={run}"],
        ["predict", f"--workdir={run}", f"--images={tiny_data}/test", f"--out={tmp_path}/p.csv"],
        ["export", f"--workdir={run}", f"--out={tmp_path}/p.stablehlo"],
        ["info", f"--workdir={run}"],
        ["compare", str(run), str(finished / "runs/v1-0")],
    ):
        assert cli.main(command) == 0, command
    ours, theirs = (
        np.array([*tiny.read_predictions(folder).values()])
        for folder in (run / "eval/test", finished / f"runs/{name}-0/eval/test")
    )
    np.testing.assert_array_equal(ours, theirs)
    classifier = exported.load(tmp_path / "p.stablehlo")
    images = np.stack(
        [np.asarray(Image.open(p)) for p in sorted((tiny_data / "test").rglob("*.png"))]
    )
    answer = classifier(images[:, 2:34])["probabilities"]
    np.testing.assert_allclose(answer, ours, atol=1e-4)


def test_a_run_starts_with_the_guidance_of_another_row(finished):
    ours, theirs = (
        json.loads((finished / f"runs/{name}-0/eval/test/metrics.json").read_text())["guidance"]
        for name in ("C1", "basic")
    )
    assert ours["nll"] == pytest.approx(theirs["nll"], rel=1e-5)


def test_the_tables_list_missing_runs(finished):
    text = (finished / "study.md").read_text()
    assert "| basic | 1 of 1 |" in text
    assert "| broken | 0 of 1 | - |" in text
    assert "Not in the tables: broken, seed 0: failed: " in text
    against_basic = [line for line in text.splitlines() if line.startswith("| guidance | ")][-1]
    assert re.search(r"\| [+-]0\.\d+ \([+-]0\.\d+ to [+-]0\.\d+\) \| [01]\.\d+ \|", against_basic)
    page = (finished / "study.html").read_text()
    assert page.count("<svg") == 2
    assert "broken, seed 0: failed" in page


def noted(ran: list[str], config: object, workdir: Path, minutes: object) -> SimpleNamespace:
    """A training that only leaves its name."""
    ran.append(workdir.name)
    return SimpleNamespace(cpu_seconds=None, metrics={})


def test_finished_runs_are_not_run_again_but_failed_ones_are(finished, spec, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "w")  # which the configuration of C1 names
    again: list[str] = []
    monkeypatch.setattr(api, "train", partial(noted, again))
    monkeypatch.setattr(api, "evaluate", lambda *args, **more: again.append("evaluated"))
    argv = ["study", spec, "--num_processes=1", f"--workdir={tmp_path / 'w'}"]
    assert cli.main([*argv, "--set=eval.batch_size=3"]) == 0
    assert again == ["broken-0"]


def test_an_evaluation_is_repeated_if_its_sampling_changes(finished, spec):
    found = definition.load_study(spec)
    others, samples = found.rows[:5], found.row("samples")
    changed = dataclasses.replace(samples, sampling={"num_samples": 5})
    done = []
    for row in (samples, changed):
        runs = Runs(dataclasses.replace(found, rows=(*others, row)), finished)
        done.append(runs.is_done(row, 0))
    assert done == [True, False]


def test_an_evaluation_has_the_changes_of_the_command_line(spec, tmp_path):
    found = definition.load_study(spec).with_changes({"eval.bootstrap": 9, "eval.batch_size": 2})
    config = definition.make_configs(found, tmp_path)["samples", 0]
    assert (config.eval.bootstrap, config.eval.batch_size) == (9, 2)
    assert config.sampling.num_samples == 3


def test_some_rows_are_run_in_the_studys_order(spec, tmp_path, monkeypatch):
    ran: list[str] = []
    monkeypatch.setattr(api, "train", partial(noted, ran))
    monkeypatch.setattr(Runs, "_fingerprint", lambda self, row, seed: "")
    argv = ["study", spec, "--num_processes=1", f"--workdir={tmp_path}", "--rows=C1,basic"]
    assert cli.main(argv) == 0
    assert ran == ["basic-0", "C1-0"]


def test_a_study_that_is_stopped_stops_at_once(spec, tmp_path, monkeypatch, capsys):
    def stop(config, workdir, minutes):
        raise Interrupted("stopped after step 3 of 9 and saved")

    monkeypatch.setattr(api, "train", stop)
    assert cli.main(["study", spec, "--num_processes=1", f"--workdir={tmp_path}"]) == 75
    assert "run the same command again" in capsys.readouterr().err


def runs_of(spec: str, folder: Path, ran: list[str], monkeypatch, **changes: object) -> Runs:
    """Those of the rows basic and C1, which needs it, where a training only leaves its files."""

    def train(config, workdir, minutes):
        (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        (workdir / "weights").write_text(f"{workdir.name} {config.train.max_steps}")
        write_scores(workdir / "eval/test", [[1]])
        return noted(ran, config, workdir, minutes)

    monkeypatch.setattr(api, "train", train)
    weights = folder / "runs/basic-0/weights"
    monkeypatch.setattr(Runs, "_fingerprint", lambda self, row, seed: weights.read_text())
    wanted = definition.load_study(spec).with_rows(["basic", "C1"])
    return Runs(wanted.with_changes({f"train.{k}": v for k, v in changes.items()}), folder)


def test_a_run_that_is_lengthened_and_stopped_is_not_done(spec, tmp_path, monkeypatch):
    """Though its earlier results are still there."""
    ran: list[str] = []
    short = runs_of(spec, tmp_path, ran, monkeypatch, max_steps=2)
    basic = short.study.rows[0]
    short.attempt(basic, 0)
    assert short.is_done(basic, 0)
    longer = runs_of(spec, tmp_path, ran, monkeypatch)
    assert not longer.is_done(basic, 0)

    def stop(config, workdir, minutes):
        raise Interrupted("stopped after step 3 of 9 and saved")

    monkeypatch.setattr(api, "train", stop)
    with pytest.raises(Interrupted):
        longer.attempt(basic, 0)
    assert (tmp_path / "runs/basic-0/eval/test/metrics.json").exists()
    for runs in (short, longer):
        assert not Runs(runs.study, tmp_path).is_done(basic, 0)


def test_a_row_waits_for_the_rows_that_it_needs(spec, tmp_path, monkeypatch):
    ran: list[str] = []
    runs = runs_of(spec, tmp_path, ran, monkeypatch)
    basic, c1 = runs.study.rows
    runs.attempt(c1, 0)
    assert runs.failures == {("C1", 0): "row basic, which it needs, is not done"}
    for row in (basic, c1):
        runs.attempt(row, 0)
    assert (ran, runs.failures) == (["basic-0", "C1-0"], {})


def test_a_row_does_not_go_on_if_the_run_it_started_from_has_changed(spec, tmp_path, monkeypatch):
    ran: list[str] = []
    runs = runs_of(spec, tmp_path, ran, monkeypatch, max_steps=2)
    for row in runs.study.rows:
        runs.attempt(row, 0)
    longer = runs_of(spec, tmp_path, ran, monkeypatch)
    for row in longer.study.rows:
        assert not longer.is_done(row, 0)
        longer.attempt(row, 0)
    reason = longer.failures.pop(("C1", 0))
    assert reason == (
        f"{tmp_path}/runs/C1-0 started from another run of basic; remove it to train it again"
    )
    shutil.rmtree(tmp_path / "runs/C1-0")
    longer.attempt(longer.study.rows[1], 0)
    assert longer.failures == {}
    assert ran == ["basic-0", "C1-0", "basic-0", "C1-0"]


def test_a_run_is_recorded_with_the_checkpoint_that_it_started_from(finished, spec):
    runs = Runs(definition.load_study(spec), finished)
    basic, *_ = runs.study.rows
    record = json.loads((finished / study_runs.RECORD).read_text())
    assert record["C1-0"]["started_from"] == {"basic": runs._fingerprint(basic, 0)}
    assert record["basic-0"]["started_from"] == {}
    assert runs._fingerprint(basic, 0) != runs._fingerprint(runs.study.row("v1"), 0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--set=train.epchs=3"],
            "config.train.epchs: there is no such field; did you mean train.epochs?",
        ),
        (["--set=train.epochs=many"], "config.train.epochs='many'"),
        (["--set=train.epochs"], "is not FIELD=VALUE"),
        (["--set=guidance.checkpoint={v3}"], "config.guidance.checkpoint='{v3}'"),
        (["--seeds=a"], "no list of seeds"),
        (["--rows=v1,v3"], "has no row 'v3'; it has basic, v1"),
        (["--rows=basic,guidance"], "row guidance needs the row v1 too"),
        (["--rows=C1"], "row C1 needs the row basic too"),
        (["--seeds=0,0"], "seeds (0, 0) repeat one"),
        (["--set=seed=7"], "row basic: seed is no change; give the study its seeds"),
        (["--set=train={'epochs': 3}"], "config.train is a group of fields; give one of them"),
        (
            ["--set=train.epochs=None"],
            "row basic: config.train.epochs=None is of the wrong type; give int",
        ),
        (["--set=guidance.loss=no"], "row basic: config.guidance.loss='no' is unknown"),
    ],
)
def test_nothing_runs_where_a_change_cannot_work(spec, tmp_path, capsys, argv, message):
    assert cli.main(["study", spec, "--num_processes=1", f"--workdir={tmp_path / 'w'}", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "has no rows"),
        ((Row("a b", "c.py"),), "is not unique, or not of letters"),
        ((Row("a", "c.py"), Row("a", "c.py")), "is not unique, or not of letters"),
        ((Row("a", of="b", guidance=True),), "no row 'b' is trained"),
        ((Row("a"),), "give config, perhaps with"),
        ((Row("a", "c.py"), Row("b", of="a")), "give config, perhaps with"),
        ((Row("a", "c.py"), Row("b", "c.py", of="a", guidance=True)), "give config, perhaps with"),
        ((Row("a", "c.py", guidance=True),), "give config, perhaps with"),
        ((Row("a", "c.py", sampling={"num_samples": 3}),), "give config, perhaps with"),
        (
            (Row("a", "c.py"), Row("b", changes={"seed": 1}, of="a", guidance=True)),
            "give config, perhaps with",
        ),
        (
            (Row("b", of="a", sampling={"num_samples": 3}), Row("a", "c.py")),
            "b needs the row a, which has to",
        ),
        ((Row("b", "c.py", {"x": "{a}"}), Row("a", "c.py")), "b needs the row a, which has to"),
        (
            (Row("a", "c.py"), Row("b", of="a", guidance=True), Row("c", "c.py", {"x": "{b}"})),
            "row c: no row 'b' is trained",
        ),
        (Row("a", "c.py"), "rows is a tuple of Row"),
        ((Row("a", "c.py", (("x", 1),)),), "are dictionaries"),
    ],
)
def test_rows_that_cannot_be_run_are_refused(rows, message):
    with pytest.raises(InputError, match=message):
        Study("title", rows)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"num_smaples": 3}, "config.sampling.num_smaples: there is no such field"),
        ({"num_samples": "3"}, "config.sampling.num_samples='3'"),
        ({"num_steps": 5000}, "config.sampling.num_steps=5000 is out of range"),
    ],
)
def test_a_sampling_that_cannot_work_is_refused_before_anything_runs(
    spec, tmp_path, sampling, message
):
    found = definition.load_study(spec)
    rows = (*found.rows[:4], Row("samples", of="v1", sampling=sampling))
    with pytest.raises(InputError, match=f"study row samples: {message}"):
        Runs(dataclasses.replace(found, rows=rows), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_study(): return Stduy()", "NameError: name 'Stduy' is not defined"),
        ("def get_study(): return []", "get_study returns no Study"),
        (
            "from diffmic_jax.study.definition import *\n"
            "def get_study(): return Study('a', (Row('a', 'c.py'),), seeds=3)",
            "seeds one of whole",
        ),
    ],
)
def test_a_mistake_in_a_study_file_is_reported_in_a_line(tmp_path, capsys, text, message):
    (tmp_path / "mine.py").write_text(text)
    argv = ["study", f"{tmp_path}/mine.py", "--num_processes=1", f"--workdir={tmp_path}/w"]
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_an_interval_over_seeds_ends_where_the_metric_does():
    runs = [SimpleNamespace(values={"accuracy": x, "nll": x - 0.9}) for x in (0.9, 1.0)]
    assert study_tables._interval(runs, "accuracy")[1] == (pytest.approx(0.315, abs=1e-3), 1)
    assert study_tables._interval(runs, "nll")[1] == (0, pytest.approx(0.685, abs=1e-3))


def test_the_mean_of_seeds_has_students_interval():
    values = [0.70, 0.74, 0.78]
    mean, interval = study_differences.mean_and_interval(values)
    half = 4.302653 * 0.04 / np.sqrt(3)
    assert mean == pytest.approx(0.74)
    assert interval == pytest.approx((0.74 - half, 0.74 + half))
    assert study_differences.mean_and_interval([0.5]) == (0.5, None)


def test_differences_are_paired_by_seed():
    first = np.array([0.5, 0.6, 0.7])
    found = study_differences.paired(first, first + [0.01, 0.02, 0.03])
    half = 4.302653 * 0.01 / np.sqrt(3)
    assert found["difference"] == pytest.approx(0.02)
    assert found["ci95"] == pytest.approx((0.02 - half, 0.02 + half))
    assert found["p"] == pytest.approx(0.0742, abs=1e-4)
    assert study_differences.paired([0.5, 0.6], [0.5, 0.6])["p"] is None
    # One image of 234 more for every seed: the same difference, up to rounding.
    gaps = np.array([100, 120, 143]) / 234, np.array([101, 121, 144]) / 234
    assert np.ptp(gaps[1] - gaps[0]) > 0
    assert study_differences.paired(*gaps)["p"] is None


def test_p_is_corrected_for_the_number_of_rows():
    """Of three rows the smallest p counts three times, the next twice, and none less than those."""
    gaps = {
        (row, "nll"): {"p": p, "p_images": images}
        for row, p, images in (
            ("a", 0.04, 0.5),
            ("b", 0.01, 0.5),
            ("c", None, 0.021),  # of one seed
            ("d", None, None),
        )
    }
    gaps["a", "ece"] = {"p": 0.04, "p_images": None}
    found = study_differences._corrected(gaps)
    assert {key: gap["p_holm"] for key, gap in found.items()} == {
        ("a", "nll"): pytest.approx(0.042),
        ("b", "nll"): pytest.approx(0.03),
        ("c", "nll"): pytest.approx(0.042),
        ("d", "nll"): None,
        ("a", "ece"): pytest.approx(0.04),
    }


def write_scores(folder: Path, confusion: list[list[int]]) -> None:
    counts = np.array(confusion)
    accuracy = float(counts.trace() / counts.sum())
    scores = dict.fromkeys(study_runs.METRICS, accuracy) | {"confusion": confusion, "ci95": {}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(whole_scores(scores)))


def outcome(row: str, folder: Path, workdir: Path, **more: Any) -> Outcome:
    """A finished run of seed 0."""
    return Outcome(row=row, seed=0, status="done", folder=folder, workdir=workdir, **more)


def test_leaked_images_are_those_outside_of_the_clean_part(tmp_path):
    run = tmp_path / "runs/v1-0/eval"
    write_scores(run / "test", [[16, 4], [2, 8]])
    write_scores(run / "test_clean", [[10, 4], [2, 4]])
    values, _ = study_runs._measured(run / "test", run / "test_clean", guidance=False)
    found = [outcome("v1", run / "test", run, values=values, clean=run / "test_clean")]
    wanted = Study("Leaks", (Row("v1", "c.py"),), compared=False)
    text = study_tables.write_tables(wanted, tmp_path, found)
    # Six leaked images of one class and four of the other; clean recalls are 10/14 and 4/6.
    assert "| v1 | 1.000 | 0.700 | 0.695 | +0.305 |" in text
    with (tmp_path / "study.csv").open(newline="") as file:
        lines = [*csv.DictReader(file)]
    assert [(line["split"], line["accuracy"]) for line in lines] == [
        ("test", "0.8"),
        ("test_clean", "0.7"),
    ]
    assert [line["accuracy_leaked"] for line in lines] == ["1.0", ""]


def test_classes_that_the_clean_part_lacks_cannot_be_matched(tmp_path):
    write_scores(tmp_path / "test", [[16, 4], [2, 8]])
    write_scores(tmp_path / "test_clean", [[10, 4], [0, 0]])
    values, _ = study_runs._measured(tmp_path / "test", tmp_path / "test_clean", guidance=False)
    assert values[study_runs.LEAKED] == pytest.approx(14 / 16)
    assert study_runs.CLEAN_MATCHED not in values


def test_a_single_seed_is_compared_by_group(finished, tmp_path):
    """Where all images are of one group, every resample is the same."""
    with (finished / "runs/v1-0/split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"group": "all"} for row in rows)
    wanted = Study("Groups", (Row("basic", "c.py"), Row("v1", "c.py")))
    found = []
    for row in wanted.rows:
        results = finished / f"runs/{row.name}-0/eval/test"
        values, _ = study_runs._measured(results, tmp_path / "none", guidance=False)
        found.append(outcome(row.name, results, tmp_path, values=values))
    [_, v1] = study_tables._against_first(wanted, study_differences.gaps_of(wanted, found))
    gap, low, high = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", v1[1]).groups()
    assert gap == low == high


def test_rows_with_other_test_images_are_not_compared(finished, tmp_path, caplog):
    shutil.copytree(finished / "runs/basic-0/eval/test", tmp_path / "other")
    lines = (tmp_path / "other/predictions.csv").read_text().splitlines(keepends=True)
    (tmp_path / "other/predictions.csv").write_text("".join(lines[:-1]))
    wanted = Study("Others", (Row("a", "c.py"), Row("b", "c.py")))
    scores = dict.fromkeys(study_runs.METRICS, 0.5)
    found = [
        outcome(name, folder, finished, values=scores)
        for name, folder in (("a", finished / "runs/basic-0/eval/test"), ("b", tmp_path / "other"))
    ]
    gaps = study_tables._against_first(wanted, study_differences.gaps_of(wanted, found))
    assert gaps == gaps[:1]
    assert "b is not compared: " in caplog.text


ALL = ("smoke", "busi", "ham10000", "full")
SETS = ("smoke", "ham10000", "busi", "eyepacs", "chestxray14", "retinamnist")
STUDIES = {
    "table1_pmg2000": ALL,
    "table1_ham_aptos": (*ALL, "aptos"),
    "table2": ALL,
    "recipes": ALL,
    "steps": ALL,
    "v2_ablation": ALL,
    "seeds": ALL,
    "protocols": ("smoke", "ham10000", "full"),
    "plus": ALL,
    "strong": SETS,
    "equal_cost": (*SETS, "phantom"),
}


@pytest.mark.parametrize(
    ("name", "variant"), [(name, each) for name, variants in STUDIES.items() for each in variants]
)
def test_every_configuration_of_every_study_can_be_built(name, variant, tmp_path):
    project = Path(__file__).parents[2]
    task = Task(class_names=("a", "b", "c"))
    wanted = definition.load_study(f"{project}/studies/{name}.py:{variant}")
    configs = definition.make_configs(wanted, tmp_path)
    assert {row for row, _ in configs} == {row.name for row in wanted.rows if not row.guidance}
    for config in [config for (_, seed), config in configs.items() if seed == 0]:
        method = build(config, task)
        assert method.sampling.num_samples == config.sampling.num_samples
        assert (method.denoiser is None) == (not config.denoiser.encoder)
