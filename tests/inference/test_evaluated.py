"""Results are shown as those of the checkpoint and the sampling that they are of, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from diffmic_jax.cli import main as cli
from diffmic_jax.data.dataset import open_dataset
from diffmic_jax.errors import InputError
from diffmic_jax.inference.evaluated import difference, is_current, read_scores
from diffmic_jax.inference.load import load
from diffmic_jax.report.build import write_report
from diffmic_jax.report.checklist import write_checklist
from diffmic_jax.report.info import describe
from tests import tiny

SCORES = Path("eval/test/metrics.json")


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of a trained run."""
    return shutil.copytree(trained, tmp_path / "run")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_evaluation_says_of_what_it_is(trained):
    model, scores = load(trained), read(trained / SCORES)
    assert scores["step"] == model.step == tiny.TOTAL
    assert scores["state_sha256"] == model.fingerprint and len(model.fingerprint) == 64
    assert scores["sampling"]["num_steps"] == 3
    assert not difference(model, scores)


def test_another_sampling_leaves_the_runs_own_results_as_they_are(run, capsys):
    before = files(run / "eval") | {run / "MODEL_CARD.md": (run / "MODEL_CARD.md").read_bytes()}
    before[run / "calibration.json"] = (run / "calibration.json").read_bytes()
    flags = ["--num_samples=1", "--num_steps=2"]
    assert cli.main(["evaluate", f"--workdir={run}", *flags]) == 0
    own = run / "sampling/num_steps=2,num_samples=1"
    assert f"written to {own / 'eval/test'}" in capsys.readouterr().out
    found = read(own / SCORES)
    assert (found["sampling"]["num_steps"], found["sampling"]["num_samples"]) == (2, 1)
    assert "mean of 1 sample of 2 ancestral steps" in (own / "MODEL_CARD.md").read_text()
    assert {path: path.read_bytes() for path in before} == before


def spoil(run: Path, **changes: object) -> dict:
    scores = read(run / SCORES) | {"accuracy": 0.123456} | changes
    (run / SCORES).write_text(json.dumps(scores))
    return scores


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"step": 4}, "of step 4, not 9"),
        ({"state_sha256": "0" * 64}, "of another training's step 9"),
    ],
)
def test_results_of_another_checkpoint_are_shown_nowhere(run, changes, what):
    spoil(run, **changes)
    model = load(run)
    assert not is_current(model, "test")
    assert describe(model)["test_not_shown"] == what
    assert "test_accuracy" not in describe(model)
    assert "0.123" not in write_checklist(model).read_text()
    assert cli.main(["evaluate", f"--workdir={run}", "--split=validation"]) == 0
    text = (run / "MODEL_CARD.md").read_text()
    assert "0.123" not in text
    assert f"Not shown: test, which is {what}." in text


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", "[" * 100_000),
        *({"n": "9"}, {"accuracy": "<b>"}, {"ci95": [[1]]}, {"ci95": {"accuracy": [0, "1"]}}),
        *({"step": None}, {"sampling": 3}, {"sampling": {"flips": {}}}, {"guidance": 0.5}),
        *({"per_class": {"blue": {"support": 3}}}, {"referral": {"share": 0.2}}, {"n": True}),
    ],
)
def test_scores_that_are_none_are_refused_in_one_line(trained, tmp_path, text):
    path = tmp_path / "metrics.json"
    if isinstance(text, dict):
        text = json.dumps(read(trained / SCORES) | text)
    path.write_text(text)
    with pytest.raises(InputError, match=r"metrics.json: [^\n]*$"):
        read_scores(path)


def test_results_of_another_sampling_are_shown_nowhere(run):
    sampling = read(run / SCORES)["sampling"] | {"num_steps": 100}
    spoil(run, sampling=sampling)
    found = describe(load(run))
    assert found["test_not_shown"] == "of another sampling (num_steps 100, not 3)"
    assert "test_accuracy" not in found


def test_a_report_evaluates_what_is_of_another_checkpoint_again(run, tiny_data):
    right = read(run / SCORES)
    spoil(run, step=4)
    model = load(run)
    write_report(model, open_dataset(model.config), run / "report.html")
    assert read(run / SCORES) == right


def test_results_of_an_earlier_version_say_nothing_and_are_shown(run):
    scores = read(run / SCORES)
    for name in ("step", "state_sha256", "sampling"):
        del scores[name]
    (run / SCORES).write_text(json.dumps(scores))
    assert describe(load(run))["test_accuracy"] == scores["accuracy"]
