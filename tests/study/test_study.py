from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax import api
from diffmic_jax.cli import main as cli
from diffmic_jax.evaluation.compare import read_rows
from diffmic_jax.inference import exported
from diffmic_jax.inference.evaluated import PROVENANCE
from diffmic_jax.study import definition
from diffmic_jax.study import differences as study_differences
from diffmic_jax.study import runs as study_runs
from diffmic_jax.study import tables as study_tables
from diffmic_jax.study.definition import Row, Study
from diffmic_jax.study.runs import Outcome, Runs
from tests import tiny
from tests.helpers import whole_scores
from tests.study.specs import noted, outcome

pytestmark = pytest.mark.whole


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
        facts = {"row", "seed", "split", "status", "metrics"}
        if name != "guidance-0":  # which is measured with its run
            facts |= {"seconds", "train_cpu_seconds", "predict_cpu_seconds"}
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


def test_a_run_is_recorded_with_the_checkpoint_that_it_started_from(finished, spec):
    runs = Runs(definition.load_study(spec), finished)
    basic, *_ = runs.study.rows
    record = json.loads((finished / study_runs.RECORD).read_text())
    assert record["C1-0"]["started_from"] == {"basic": runs._fingerprint(basic, 0)}
    assert record["basic-0"]["started_from"] == {}
    assert runs._fingerprint(basic, 0) != runs._fingerprint(runs.study.row("v1"), 0)


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
    [_, v1] = study_tables._differences(wanted, study_differences.gaps_of(wanted, found))
    gap, low, high = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", v1[1]).groups()
    assert gap == low == high


def test_rows_are_compared_with_the_one_that_the_study_names(finished):
    rows = Row("basic", "c.py"), Row("v1", "c.py")
    found = []
    for row in rows:
        results = finished / f"runs/{row.name}-0/eval/test"
        values, _ = study_runs._measured(results, finished / "none", guidance=False)
        workdir = finished / f"runs/{row.name}-0"
        found.append(outcome(row.name, results, workdir, values=values))
    ahead, back = (
        study_differences.gaps_of(Study("Both ways", rows, against=name), found)
        for name in ("", "v1")
    )
    assert {row for row, _ in ahead} == {"v1"}
    assert {row for row, _ in back} == {"basic"}
    for (_, metric), gap in ahead.items():
        assert back["basic", metric]["difference"] == -gap["difference"]
    assert study_differences.gaps_of(Study("Not at all", rows, against=None), found) == {}


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
    gaps = study_tables._differences(wanted, study_differences.gaps_of(wanted, found))
    assert gaps == gaps[:1]
    assert "b is not compared: " in caplog.text
