"""Studies and rows that cannot be run, and the configurations of all that come with the project."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from diffmic_jax.cli import main as cli
from diffmic_jax.errors import InputError
from diffmic_jax.method.build import build
from diffmic_jax.method.task import Task
from diffmic_jax.study import definition
from diffmic_jax.study.definition import Row, Study
from diffmic_jax.study.runs import Runs

pytestmark = pytest.mark.whole


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
        (
            (Row("a", "c.py"), Row("b", members=("a",), sampling={"num_samples": 3})),
            "give config, perhaps with",
        ),
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


def test_the_row_to_compare_with_has_to_be_one_of_the_rows():
    rows = tuple(Row(name, "c.py") for name in "abc")
    with pytest.raises(InputError, match="has no row 'd' to compare the others with"):
        Study("title", rows, against="d")
    study = Study("title", rows, against="b")
    assert study.rival.name == "b"
    assert study.with_rows("bc").rival.name == "b"
    assert study.with_rows("ac").rival.name == "a"


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
