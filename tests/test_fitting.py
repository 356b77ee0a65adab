"""From a folder to a classifier: plan, members, choice, and going on after a stop."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import diffmic_jax
from diffmic_jax import api, fitting
from diffmic_jax.cli import main as cli
from diffmic_jax.data.dataset import open_dataset
from diffmic_jax.errors import InputError, Interrupted
from diffmic_jax.evaluation.run import predict_part
from diffmic_jax.inference.calibration import Calibration, Calibrations, tempered
from diffmic_jax.inference.card import model_card
from diffmic_jax.inference.ensemble import Ensemble, Members, keep_members, read_members
from diffmic_jax.inference.load import load
from diffmic_jax.planning import budget
from diffmic_jax.planning import plan as plans
from diffmic_jax.planning.budget import Cost
from diffmic_jax.planning.rules import Machine
from diffmic_jax.report import page, planned
from diffmic_jax.report.checklist import checklist
from diffmic_jax.training.run import TrainingRun
from tests import tiny

pytestmark = pytest.mark.whole

CHANGES = {
    **{name: tiny.TINY[name] for name in tiny.TINY if not name.startswith(("denoiser", "train"))},
    "data.image_size": 32,
    "guidance.pretrained": "",
    "train.batch_size": 4,
    "data.folds": 2,
}


COST = Cost(start=0, warmup=0, epoch=1, save=0, end=0)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """A machine that is not timed, and trainings of one epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "_pace", lambda *args: None)
        patch.setattr(fitting, "EPOCHS", 1)
        patch.setattr(budget, "machine", lambda source: Machine(devices="a test", seconds=0.01))
        patch.setattr(budget, "measure", lambda run: COST)
        yield


@pytest.fixture(scope="module")
def fitted(tiny_data, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("fit") / "run"
    diffmic_jax.fit(tiny_data, minutes=90, workdir=workdir, changes=CHANGES)
    return workdir


def test_a_fit_leaves_a_plan_two_members_and_their_mean(fitted, tiny_data):
    plan = json.loads((fitted / "plan.json").read_text())
    assert plan["data"]["images"]["test"] == tiny.TEST
    assert {each["field"] for each in plan["decisions"]} >= {"checkpoint.metric", "data.folds"}
    names = [each["name"] for each in plan["candidates"]]
    assert names == [*fitting.CANDIDATES]
    (chosen,) = [each["name"] for each in plan["candidates"] if each["chosen"]]
    best = min(plan["candidates"], key=lambda each: each["nll"])["name"]
    said = (
        f"{chosen} has the lowest NLL and"
        if chosen == best
        else f"{best} has the lowest NLL; {chosen}"
    )
    assert f"{said} answers" in plan["choice"]
    assert all(0 < each["nll"] < 5 and 0 <= each["accuracy"] <= 1 for each in plan["candidates"])
    members = read_members(fitted)
    assert members is not None
    networks = chosen.split(" and ")
    below = ["" if name == "classifier" else name for name in networks]
    assert members.names == tuple(
        (Path(fold) / name).as_posix() for fold in (".", "folds/1") for name in below
    )
    assert members.tempering.diffusion is not None
    model = load(fitted)
    assert len(model.members) == 2 * len(networks)
    assert model.members[0].method is model.members[len(networks)].method  # compiled once
    scores = json.loads((fitted / "eval/test/metrics.json").read_text())
    assert scores["n"] == tiny.TEST
    assert model.calibrations.diffusion is not None
    # Together they have held out every image that is not for the test.
    held = [{*row} for row in map(held_out_images, (fitted, fitted / "folds/1"))]
    assert not held[0] & held[1]
    assert len(held[0] | held[1]) == tiny.TRAIN + tiny.VALIDATION


def test_the_report_of_a_fit_has_each_decision_with_its_reason(fitted, tiny_data):
    plan = plans.read(fitted)
    assert plan is not None
    html = planned.section(plan)
    for each in plan.decisions:
        assert page.text(each.reason) in html
        assert f'<td data-title="field">{each.field}</td>' in html
    row = '<td data-title="">accuracy</td>'
    start = html.index(row)
    shown = html[start : html.index("</tr>", start)]
    for each in plan.candidates:
        assert f">{each['accuracy']:.3f}</td>" in shown
    assert html.count("(answers)</th>") == 1
    unchosen = dataclasses.replace(plan, candidates=(), choice="")
    assert "candidates" not in planned.section(unchosen)


def held_out_images(workdir: Path) -> list[str]:
    rows = (workdir / "split.csv").read_text().splitlines()
    return [row for row in rows if row.endswith(",validation")]


def test_the_answer_is_the_mean_of_the_members_everywhere(fitted, tiny_data, tmp_path):
    image = next((tiny_data / "test").rglob("*.png"))
    found = diffmic_jax.load(fitted).predict(image)
    model = load(fitted)
    each = [api.Classifier(member).predict(image) for member in model.members]
    assert model.tempering.diffusion is not None
    mean = tempered(model.tempering.diffusion, np.mean([one.probabilities for one in each], axis=0))
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)
    file = diffmic_jax.load(fitted).export(tmp_path / "model.stablehlo")
    exported = diffmic_jax.load(file).predict(image)
    np.testing.assert_allclose(exported.probabilities, mean, atol=1e-5)


def test_with_another_sampling_there_is_no_temperature(fitted, caplog):
    own = load(fitted)
    flips = "none" if own.config.sampling.flips != "none" else "horizontal"
    same, other = (load(fitted, {"sampling.flips": name}) for name in (None, flips))
    assert same.tempering == own.tempering and any(own.tempering)
    assert not any(other.tempering)
    assert "its temperature is of predictions with the sampling of the fit" in caplog.text


def test_the_temperature_is_that_of_the_samples_too(fitted):
    model = load(fitted)
    own, plain = model.tempering.diffusion, Ensemble.of(model.members, fitted)
    assert own is not None and own.temperature != 1
    part = open_dataset(model.config).examples["test"]
    found, without = predict_part(model, part), predict_part(plain, part)
    np.testing.assert_allclose(found.samples, tempered(own, without.samples), atol=1e-6)
    np.testing.assert_allclose(found.std, found.samples.std(axis=1), atol=1e-6)


def test_the_card_and_the_checklist_tell_of_all_networks(fitted):
    model = load(fitted)
    count, temperature = len(model.members), model.tempering.diffusion
    assert temperature is not None
    for text in (model_card(model), checklist(model)):
        assert f"mean of {count} networks (" in text
        assert "each of 2 parts of the images is held out by some of them" in text
        assert f"temperature {temperature.temperature:.3g}" in text


def test_the_held_out_part_is_answered_by_those_that_have_not_seen_it(fitted, tmp_path):
    workdir = shutil.copytree(fitted, tmp_path / "run")
    found = diffmic_jax.load(workdir).evaluate("validation").outputs.probabilities
    model = load(workdir)
    part = open_dataset(model.config).examples["validation"]
    own = predict_part(model.by_fold[0], part).probabilities
    np.testing.assert_allclose(found, own, atol=1e-6)
    assert np.abs(predict_part(model, part).probabilities - own).max() > 1e-4


def test_a_finished_fit_is_only_evaluated_and_another_plan_is_refused(
    fitted, tiny_data, tmp_path, monkeypatch
):
    workdir = shutil.copytree(fitted, tmp_path / "run")
    before = (workdir / "eval/test/predictions.csv").read_bytes()
    shutil.rmtree(workdir / "eval")
    monkeypatch.setattr(fitting, "train", None)
    diffmic_jax.fit(tiny_data, minutes=90, workdir=workdir, changes=CHANGES)
    assert (workdir / "eval/test/predictions.csv").read_bytes() == before
    with pytest.raises(InputError, match="was planned with minutes 90, not 60"):
        diffmic_jax.fit(tiny_data, minutes=60, workdir=workdir, changes=CHANGES)
    with pytest.raises(InputError, match="was planned with fields"):
        diffmic_jax.fit(tiny_data, minutes=90, workdir=workdir, changes=CHANGES | {"seed": 1})


def test_a_fit_that_was_stopped_ends_like_one_that_was_not(
    fitted, tiny_data, tmp_path, monkeypatch
):
    real, calls = fitting.train, []

    def train(*args, **spare):
        calls.append(args)
        if len(calls) == 5:  # the second member's classifier
            raise Interrupted("stopped")
        return real(*args, **spare)

    workdir = tmp_path / "run"
    monkeypatch.setattr(fitting, "train", train)
    with pytest.raises(Interrupted):
        diffmic_jax.fit(tiny_data, minutes=90, workdir=workdir, changes=CHANGES)
    diffmic_jax.fit(tiny_data, minutes=90, workdir=workdir, changes=CHANGES)
    for name in ("eval/test/predictions.csv", "members.json", "calibration.json"):
        assert (workdir / name).read_bytes() == (fitted / name).read_bytes()


def test_a_classifier_that_would_not_see_every_image_has_the_time_of_the_diffusion(
    tiny_data, tmp_path, monkeypatch, caplog
):
    slow = dataclasses.replace(COST, epoch=45 * 60)
    monkeypatch.setattr(budget, "measure", lambda run: slow)
    workdir, changes = tmp_path / "run", {**CHANGES, "data.folds": 0}
    with caplog.at_level("INFO", "diffmic_jax"):
        diffmic_jax.fit(tiny_data, minutes=45, workdir=workdir, changes=changes)
    assert "no diffusion: the classifier had its time" in caplog.text
    assert not (workdir / "diffusion").exists()
    found = budget.begun(workdir)
    assert found.extended
    plan = json.loads((workdir / "plan.json").read_text())
    names = [each["name"] for each in plan["candidates"]]
    assert names == ["classifier", "head", "classifier and head"]
    assert (workdir / "eval/test/predictions.csv").exists()
    # Gone on with, it has the same networks.
    (workdir / "members.json").unlink()
    before = (workdir / "eval/test/predictions.csv").read_bytes()
    diffmic_jax.fit(tiny_data, minutes=45, workdir=workdir, changes=changes)
    assert not (workdir / "diffusion").exists()
    assert (workdir / "eval/test/predictions.csv").read_bytes() == before
    # One program predicts for both, however they were trained.
    keep_members(workdir, Members((".", "head")))
    whole, last_layer = load(workdir).members
    assert whole.config.guidance.tune != last_layer.config.guidance.tune
    assert whole.method is last_layer.method


def test_epochs_that_are_given_are_the_most_of_the_classifier(
    tiny_data, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(fitting, "EPOCHS", 3)
    workdir, changes = tmp_path / "run", {**CHANGES, "data.folds": 0, "train.epochs": 2}
    with caplog.at_level("INFO", "diffmic_jax"):
        diffmic_jax.fit(tiny_data, minutes=45, workdir=workdir, changes=changes)
    epochs = {
        name: json.loads((workdir / name / "config.json").read_text())["train"]["epochs"]
        for name in ("", "head", "diffusion")
    }
    assert epochs == {"": 2, "head": 3, "diffusion": 3}
    # The features of this classifier are of no use to another run.
    assert "computes features" in caplog.text
    assert read_members(workdir) is not None


def test_the_features_of_a_diffusion_are_removed_when_it_is_trained(tiny_data, tmp_path):
    changes = {**CHANGES, "data.folds": 0, "data.cache_dir": str(tmp_path / "cache")}
    diffmic_jax.fit(tiny_data, minutes=45, workdir=tmp_path / "run", changes=changes)
    kept = [*(tmp_path / "cache/features").glob("*.npy")]
    assert len(kept) == 2  # the head's, on weights that other runs start with too
    assert (tmp_path / "run/diffusion/checkpoints").exists()


def test_a_diffusion_whose_features_take_all_its_minutes_is_left_out(
    tiny_data, tmp_path, monkeypatch, caplog
):
    def measure(run):
        slow = run.method.denoiser is not None
        return dataclasses.replace(COST, start=700 * slow, features=600.0 * slow)

    monkeypatch.setattr(budget, "measure", measure)
    workdir, changes = tmp_path / "run", {**CHANGES, "data.folds": 0}
    with caplog.at_level("INFO", "diffmic_jax"):
        diffmic_jax.fit(tiny_data, minutes=45, workdir=workdir, changes=changes)
    assert "no diffusion: " in caplog.text
    assert "the features of its images take about 10.0 minutes" in caplog.text
    assert not (workdir / "diffusion").exists()
    assert (workdir / "eval/test/metrics.json").exists()


def test_where_reading_has_taken_the_minutes_nothing_is_planned(tiny_data, tmp_path, monkeypatch):
    check = fitting._check_reading
    monkeypatch.setattr(fitting, "_check_reading", lambda _, minutes: check(2500.0, minutes))
    with pytest.raises(InputError, match="took 41.7 of 45 minutes: give the same command again"):
        diffmic_jax.fit(tiny_data, minutes=45, workdir=tmp_path / "run", changes=CHANGES)
    assert not (tmp_path / "run/plan.json").exists()


def test_the_simplest_candidate_answers_that_is_not_clearly_worse():
    noise = np.random.default_rng(0).normal(size=400)
    one = np.arange(400)
    losses = {"a": noise + 0.03, "b": noise * 0.5, "c": noise - 0.2}
    assert fitting.simplest(losses, one)[:2] == ("c", "c")  # .2 is far above an error of 0
    losses = {"a": np.abs(noise), "b": np.abs(noise[::-1]) - 0.02}
    name, best, error = fitting.simplest(losses, one)
    assert (name, best) == ("a", "b")
    gap = losses["a"] - losses["b"]
    np.testing.assert_allclose(error, gap.std() / 20, rtol=1e-6)
    # Ten copies of forty patients tell no more than forty images.
    tiled = {name: np.tile(loss[:40], 10) for name, loss in losses.items()}
    by_group = fitting.simplest(tiled, np.tile(np.arange(40), 10))[2]
    alone = fitting.simplest({name: loss[:40] for name, loss in losses.items()}, one[:40])[2]
    np.testing.assert_allclose(by_group, alone, rtol=1e-6)


def test_the_plan_alone_leaves_nothing(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", str(tiny_data), "--plan", "--minutes=5"]) == 0
    out = capsys.readouterr().out
    assert "24 train, 6 validation, 9 test; 3 classes (blue 10, green 10, red 10), one of" in out
    assert "several; 5 minutes on a test" in out
    assert "data.image_size = 64" in out
    assert not list(tmp_path.iterdir())
    assert cli.main(["fit", str(tiny_data), "--plan", "--config=default"]) == 2
    assert cli.main(["fit", str(tiny_data), "--plan", "--minutes=0"]) == 2
    assert cli.main(["fit", str(tmp_path / "absent")]) == 2


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("guidance.backbone=none", "config.guidance.backbone: trunk 'none' is unknown"),
        ("train.batch_size=1000", "does not fit the 24 training images; choose 1 to 24"),
    ],
)
def test_the_plan_refuses_what_the_fit_would(tiny_data, capsys, field, reason):
    assert cli.main(["fit", str(tiny_data), "--plan", "--minutes=5", f"--set={field}"]) == 2
    assert reason in capsys.readouterr().err


def test_the_members_of_a_workdir_lie_in_it(tmp_path):
    assert read_members(tmp_path) is None
    scaled = Calibration(temperature=0.5, uniform=0.1, multi_label=False)
    members = Members((".", "folds/1"), Calibrations(scaled, None))
    keep_members(tmp_path, members)
    assert read_members(tmp_path) == members
    for names in ((), ("../other",), ("/etc",)):
        keep_members(tmp_path, Members(names))
        with pytest.raises(InputError, match="members.json"):
            read_members(tmp_path)
    cold = '{"members": ["."], "diffusion": {"temperature": "0.5"}, "guidance": null}'
    for text in ("[]", cold, cold.replace("temperature", "t"), "[" * 100_000):
        (tmp_path / "members.json").write_text(text)
        with pytest.raises(InputError, match=r"members\.json: (damaged|not JSON|holds)"):
            read_members(tmp_path)


def test_an_exported_average_of_diffusions_has_the_noise_of_the_whole(fitted, tiny_data, tmp_path):
    workdir = shutil.copytree(fitted, tmp_path / "run")
    keep_members(workdir, Members(("diffusion", "folds/1/diffusion")))
    images = sorted((tiny_data / "test").rglob("*.png"))
    file = diffmic_jax.load(workdir).export(tmp_path / "model.stablehlo")
    found = diffmic_jax.load(file).predict(images)
    expected = diffmic_jax.load(workdir).predict(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(found.std, expected.std, atol=1e-5)
    samples = sum(each.method.sampling.total_samples for each in load(workdir).members)
    assert f"deviation of the {samples} samples" in Path(f"{file}.md").read_text()
