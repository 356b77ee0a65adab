from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax import api, fitting
from diffmic_jax.data import sources
from diffmic_jax.errors import InputError, Interrupted
from diffmic_jax.inference.evaluated import PROVENANCE
from diffmic_jax.inference.load import load
from diffmic_jax.method.task import SCALARS
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.workdir import check_workdir
from tests import tiny
from tests.refusal import refused
from tests.training.test_loop import before_step, press_ctrl_c

pytestmark = pytest.mark.whole

# A whole run.


def test_a_run_leaves_the_files_of_the_contract(trained):
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "metrics.csv",
        "eval/test/metrics.json",
        "eval/test/predictions.csv",
        "eval/test/uncertainty.csv",
        "calibration.json",
    } <= files
    assert any(file.startswith("tensorboard/events.out.tfevents.") for file in files)
    assert (trained / "checkpoints" / str(tiny.TOTAL)).is_dir()
    assert not [file for file in files if file.endswith((".part", ".tmp"))]


def test_the_configuration_is_stored_whole(trained, tiny_data):
    stored = json.loads((trained / "config.json").read_text())
    assert stored["data"]["root"] == str(tiny_data)
    assert stored["sampling"]["start"] == "full"
    assert stored["denoiser"]["conditioning"] == "dual"


def test_the_metrics_have_the_keys_of_the_contract(trained):
    scores = json.loads((trained / "eval/test/metrics.json").read_text())
    keys = {"n", *SCALARS, "per_class", "confusion", "ci95"}
    keys |= {"operating_points", "ci95_per_class", "referral", "calibrated", "classes_in_mean"}
    keys |= {"net_benefit"}
    assert set(scores) == keys | {"guidance", "unfamiliar", *PROVENANCE}
    assert set(scores["guidance"]) == keys
    assert set(scores["per_class"]) == set(tiny.CLASSES)
    assert np.sum(scores["confusion"]) == scores["n"] == tiny.TEST
    low, high = scores["ci95"]["accuracy"]
    assert 0 <= low <= scores["accuracy"] <= high <= 1


def test_the_log_covers_both_phases(trained):
    with (trained / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["warmup", *["joint"] * 4]
    assert [bool(row["loss"]) for row in rows] == [False, True, True, True, True]
    assert all(row["guidance_loss"] for row in rows)
    # Once per epoch of the joint phase.
    assert [row["step"] for row in rows if row["val_accuracy"]] == ["6", "9"]


def test_evaluating_again_gives_the_same_bytes(trained, tiny_data):
    files = [*(trained / "eval/test").iterdir()]
    names = {"metrics.json", "predictions.csv", "uncertainty.csv", "groups.csv"}
    assert {file.name for file in files} == names
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    api.evaluate(tiny.make_config(tiny_data), trained)
    assert [file.read_bytes() for file in files] == before


def test_averaged_parameters_are_kept_beside_and_used(tmp_path, tiny_data, trained):
    changes = {"train__ema": True, "train__dtype": "bfloat16", "train__max_steps": 3}
    config = tiny.make_config(tiny_data, "v1_public", **changes, guidance__warmup_epochs=0)
    tiny.open_run(config, tmp_path).train(lambda state: {"accuracy": 0.0})
    state = tiny.latest_state(config, tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    model = load(tmp_path)
    assert model.method.name == "v1_public"
    average = {"params": state.ema_params, "batch_stats": state.ema_batch_stats}
    jax.tree.map(np.testing.assert_array_equal, model.variables, average)
    differ = [
        np.any(a != b)
        for a, b in zip(*map(jax.tree.leaves, (state.params, state.ema_params)), strict=True)
    ]
    assert np.mean(differ) > 0.9
    assert tiny.latest_state(tiny.make_config(tiny_data), trained).ema_params == {}


# Whose workdir it is.


@pytest.mark.parametrize("run", [api.train, api.evaluate])
def test_a_workdir_of_another_configuration_is_refused(tiny_data, trained, capsys, run):
    before = (trained / "config.json").read_bytes()
    line = refused(tiny.make_config(tiny_data, train__learning_rate=0.5), trained, capsys, run)
    assert line == (
        f"{trained} belongs to a run with config.train.learning_rate=0.001, not 0.5; "
        "choose another --workdir or give the same values"
    )
    assert (trained / "config.json").read_bytes() == before


def test_another_sampling_is_evaluated_elsewhere(tmp_path, tiny_data, trained, capsys):
    config = tiny.make_config(tiny_data, sampling__start="truncated")
    line = refused(config, trained, capsys, api.evaluate)
    assert f"{trained} belongs to a run with config.sampling.start='full', not 'truncated'" in line
    before = sorted(trained.rglob("*"))
    found = api.evaluate_ensemble(config, [trained], tmp_path)
    assert sorted(trained.rglob("*")) == before
    assert found.metrics["calibrated"]["nll"] > 0
    assert found.metrics["sampling"]["start"] == "truncated"
    ours, theirs = (tiny.read_predictions(each) for each in (tmp_path, trained / "eval/test"))
    assert list(ours) == list(theirs) == found.ids
    assert ours != theirs


def test_a_checkpoint_of_another_configuration_is_refused_by_itself(
    tmp_path, tiny_data, trained, capsys
):
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    changes = {"train__learning_rate": 0.5, "denoiser__feature_dim": 32, "train__log_every": 3}
    line = refused(tiny.make_config(tiny_data, **changes), tmp_path, capsys)
    assert line == (
        f"{tmp_path}/checkpoints/9 belongs to a run with config.denoiser.feature_dim=16, not 32; "
        "config.train.learning_rate=0.001, not 0.5; choose another --workdir or give the same "
        "values"
    )


def test_a_workdir_whose_configuration_is_damaged_is_refused(tmp_path, tiny_data, capsys):
    (tmp_path / "config.json").write_text("{")
    line = refused(tiny.make_config(tiny_data), tmp_path, capsys)
    assert line.startswith(f"{tmp_path / 'config.json'}: not JSON")


def test_fields_of_places_and_intervals_may_change(tiny_data, trained):
    changes = {"train__log_every": 7, "eval__batch_size": 3, "checkpoint__every_steps": 1}
    check_workdir(trained, tiny.make_config(tiny_data, **changes))


@pytest.fixture
def earlier(tmp_path, trained) -> Path:
    """The workdir of a version in which a field had another name."""
    shutil.copytree(trained, tmp_path / "earlier")
    path = tmp_path / "earlier" / "config.json"
    stored = json.loads(path.read_text())
    stored["guidance"]["width"] = stored["model"].pop("width")
    path.write_text(json.dumps(stored))
    with Checkpoints(trained, "accuracy", read_only=True) as checkpoints:
        meta = checkpoints.meta(tiny.TOTAL) | {"config": stored, "config_sha256": ""}
    state = tiny.latest_state(load(trained).config, trained)
    shutil.rmtree(tmp_path / "earlier/checkpoints")
    with Checkpoints(tmp_path / "earlier", "accuracy") as checkpoints:
        checkpoints.save(tiny.TOTAL, state, meta)
    return tmp_path / "earlier"


OF_EARLIER = (
    ": config.guidance.width is now config.model.width; the run is of another version of "
    "diffmic_jax: use that one, or train anew"
)


@pytest.mark.parametrize("run", [api.train, api.evaluate])
def test_a_run_of_an_earlier_version_does_not_go_on(earlier, tiny_data, capsys, run):
    line = refused(tiny.make_config(tiny_data), earlier, capsys, run)
    assert line == f"{earlier}{OF_EARLIER}"
    (earlier / "config.json").unlink()
    line = refused(tiny.make_config(tiny_data), earlier, capsys, run)
    assert line.startswith(str(earlier))
    assert line.endswith(OF_EARLIER)


def test_a_run_of_an_earlier_version_is_not_loaded(earlier):
    with pytest.raises(InputError) as error:
        load(earlier)
    assert str(error.value) == f"{earlier}{OF_EARLIER}"


def test_other_classes_than_those_trained_on_are_refused(tmp_path, trained):
    data = tiny.write_data(tmp_path / "data")
    for part in ("train", "validation", "test"):
        (data / part / "red").rename(data / part / "amber")
    with pytest.raises(InputError, match="was trained on the classes blue,green,red, not amber,bl"):
        api.Classifier(load(trained)).evaluate(folder=tmp_path / "out", root=data)


@pytest.mark.parametrize("made", [False, True])
def test_a_workdir_without_a_checkpoint_cannot_be_evaluated(tmp_path, tiny_data, capsys, made):
    if made:
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    line = refused(tiny.make_config(tiny_data), tmp_path / "run", capsys, api.evaluate)
    assert "checkpoint; train there first" in line
    assert (tmp_path / "run").exists() == made


# The split.


def test_the_split_is_written_and_can_be_given_back(trained, tiny_data):
    with (trained / "split.csv").open(newline="") as file:
        parts = [row["split"] for row in csv.DictReader(file)]
    assert [parts.count(part) for part in ("train", "validation", "test")] == [24, 6, 9]
    config = tiny.make_config(tiny_data, data__split=str(trained / "split.csv"))
    ours, theirs = (
        sources.open_source(each.data).splits for each in (config, tiny.make_config(tiny_data))
    )
    assert ours == theirs


@pytest.mark.parametrize("run", [api.train, api.evaluate])
def test_a_run_does_not_go_on_over_another_split(tmp_path, trained, capsys, run):
    data, workdir = tiny.write_data(tmp_path / "data"), tmp_path / "run"
    shutil.copytree(trained, workdir)
    shutil.move(data / "test/red/red_00.png", data / "train/red/moved.png")
    line = refused(tiny.make_config(data), workdir, capsys, run)
    assert line.startswith(f"{workdir}/split.csv: the data or its split has changed since")


def test_a_metric_that_does_not_exist_is_named(tmp_path, tiny_data, capsys):
    line = refused(tiny.make_config(tiny_data, checkpoint__metric="acc"), tmp_path / "run", capsys)
    assert line.startswith("config.checkpoint.metric='acc' is unknown; choose one of accuracy, ")


def test_the_phantom_needs_no_root(tmp_path):
    config = tiny.make_config(tmp_path / "nowhere", data__name="phantom")
    source = sources.open_source(config.data)
    assert isinstance(source, sources.Source)
    assert source.task.num_classes == 4


def test_a_run_goes_on_without_the_run_that_its_guidance_started_with(
    tmp_path, tiny_data, trained, monkeypatch
):
    other = shutil.copytree(trained, tmp_path / "other")
    changes = {"guidance__checkpoint": str(other), "guidance__warmup_epochs": 0}
    config = tiny.make_config(tiny_data, **changes, train__max_steps=2)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        before_step(patch, [1], press_ctrl_c)
        fitting.train(config, tmp_path / "run")
    shutil.rmtree(other)
    fitting.train(config, tmp_path / "run")
    assert tiny.latest_state(config, tmp_path / "run").step == 2
    with pytest.raises(InputError, match="other holds no checkpoint"):
        fitting.train(config, tmp_path / "fresh")
