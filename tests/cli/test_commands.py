from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from diffmic_jax import configfile
from diffmic_jax.cli import main as cli
from diffmic_jax.data.layouts import PARTS
from diffmic_jax.data.recognise import data_fields
from diffmic_jax.data.sources import open_source
from diffmic_jax.inference import exported
from diffmic_jax.inference.load import load
from diffmic_jax.report.info import describe
from tests import tiny
from tests.processes import write_config

COMMANDS = (
    *("fit", "train", "prepare", "audit", "predict", "evaluate", "compare"),
    *("report", "serve", "convert", "export", "study", "info"),
)


def shown_help(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The text of --help; it has to exit with 0."""
    try:
        status = cli.main([*argv, "--help"])
    except SystemExit as leaving:
        status = leaving.code
    shown = capsys.readouterr()
    assert (status, shown.err) == (0, "")
    return shown.out


def test_the_help_lists_every_command(capsys):
    assert tuple(re.findall(r"^    (\w+)", shown_help(capsys), re.M)) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_with_an_example(name, capsys):
    assert f"example: diffmic {name} " in " ".join(shown_help(capsys, name).split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["info"], "--workdir missing"),
        (["fit"], "the following arguments are required: data"),
        (["info", "--workdir=w", "--colour=red"], "unrecognized arguments: --colour=red"),
        (
            ["predict", "--workdir=w"],
            "name the images: files, folders, patterns such as",
        ),
        (["evaluate", "--workdir=w", "--num_samples=0"], "'0' is not a whole number above 0"),
        (["evaluate", "--workdir=w", "--num_steps=x"], "'x' is not a whole number above 0"),
        (["evaluate", "--workdir=w", "--sampler=euler"], "invalid choice: 'euler'"),
        (["evaluate", "--workdir=w", "--coverage=90"], "'90' is not between 0 and 1"),
        (["evaluate", "--workdir=w", "--split=all"], "invalid choice: 'all'"),
    ],
)
def test_a_bad_argument_is_reported_in_one_line(argv, message, capsys):
    assert cli.main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert line.endswith("--help")


@pytest.mark.parametrize("name", ["predict", "evaluate", "report", "serve", "export", "info"])
def test_a_workdir_without_a_run_is_named(name, tmp_path, tiny_data, capsys):
    flags = {
        "predict": [f"--images={tiny_data}", f"--out={tmp_path / 'out.csv'}"],
        "export": [f"--out={tmp_path / 'out'}"],
    }
    status = cli.main([name, f"--workdir={tmp_path / 'none'}", *flags.get(name, [])])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert line.startswith(f"error: {tmp_path / 'none'} holds no checkpoint")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_images_is_named(made, tmp_path, trained, capsys):
    folder, out = tmp_path / "images", tmp_path / "out.csv"
    if made:
        folder.mkdir()
    status = cli.main(["predict", f"--workdir={trained}", f"--images={folder}", f"--out={out}"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert line.startswith(f"error: {folder}: no ")
    assert not out.exists()


def test_evaluate_takes_the_samples_and_the_folder_that_are_asked_for(tmp_path, trained, capsys):
    before = (trained / "eval/test/metrics.json").read_bytes()
    argv = ["evaluate", f"--workdir={trained}", "--num_samples=5", f"--out={tmp_path / 'five'}"]
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert "guidance alone" in shown
    assert f"written to {tmp_path / 'five'}" in shown
    scores = json.loads((tmp_path / "five/metrics.json").read_text())
    assert scores["n"] == tiny.TEST
    ours, theirs = (tiny.read_predictions(f) for f in (tmp_path / "five", trained / "eval/test"))
    assert list(ours) == list(theirs)
    assert ours != theirs
    # It has no samples; another program only rounds differently.
    alone, as_before = scores["guidance"], json.loads(before)["guidance"]
    assert alone["confusion"] == as_before["confusion"]
    assert alone["nll"] == pytest.approx(as_before["nll"], rel=1e-6)
    assert (trained / "eval/test/metrics.json").read_bytes() == before


def test_evaluate_finds_data_that_has_moved(tmp_path, trained):
    moved = tiny.write_data(tmp_path / "moved")
    argv = ["evaluate", f"--workdir={trained}", f"--root={moved}", f"--out={tmp_path / 'out'}"]
    assert cli.main(argv) == 0
    ours, theirs = (trained / "eval/test" / "metrics.json", tmp_path / "out" / "metrics.json")
    assert ours.read_bytes() == theirs.read_bytes()


def test_info_is_also_for_people(trained, capsys):
    assert cli.main(["info", f"--workdir={trained}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["classes", "blue,", "green,", "red"]
    assert [line.split()[0] for line in lines[1:4]] == ["recipe", "step", "image_size"]


def test_info_lists_the_trunks(capsys):
    assert cli.main(["info", "--trunks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert {"resnet18", "resnet50", "efficientsam_s"} <= set(rows)
    imagenet = ["0.485", "0.456", "0.406", "0.229", "0.224", "0.225"]
    timm = "vit_small_patch14_dinov2"
    assert rows["dinov2_vits14"] == ["518", "14", *imagenet, "bicubic", timm]
    assert cli.main(["info", "--trunks", "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(found) == [line.split()[0] for line in lines[1:]]
    assert found["efficientnet_lite0"]["mean"] == [127 / 255] * 3


def test_fit_trains_evaluates_and_reports(tmp_path, tiny_data, capsys):
    changes = tiny.make_config(tiny_data, "classifier").to_dict()
    write_config(tmp_path / "mine.py", tiny_data, train__max_steps=3)
    out = tmp_path / "run"
    flags = [f"--config={tmp_path}/mine.py:classifier", f"--out={out}", "--set=seed=3"]
    assert cli.main(["fit", str(tiny_data), *flags]) == 0
    assert f"report: {out}/report.html" in capsys.readouterr().out
    assert (out / "report.html").exists()
    assert exported.load(out / "classifier.stablehlo").class_names == tiny.CLASSES
    assert json.loads((out / "eval/test/metrics.json").read_text())["n"] == tiny.TEST
    stored = json.loads((out / "config.json").read_text())
    changes["train"]["max_steps"], changes["seed"] = 3, 3
    assert stored == changes


def test_audit_looks_at_the_split_of_training_and_names_every_bad_file(tmp_path, capsys):
    tiny.write_images(tmp_path / "photos", 10)
    for name in ("blue/x.png", "red/y.png"):
        (tmp_path / "photos" / name).write_text("no image")
    argv = ["audit", str(tmp_path / "photos"), f"--out={tmp_path}/audit.json"]
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    for name in ("blue/x.png", "red/y.png"):
        assert f"{name}: cannot be read" in out
    assert err.startswith("error: 2 images cannot be read, and training stops at them; replace")
    found = json.loads((tmp_path / "audit.json").read_text())
    config = configfile.load("default").changed(data_fields(tmp_path / "photos"))
    source = open_source(config.data)
    assert found["n_by_split"] == {part: len(source.splits[part]) for part in PARTS}
    assert found["n_by_split"]["validation"]

    flags = ["--on_bad_image=skip", "--validation_fraction=0", r"--group_regex=_(\d+)\."]
    assert cli.main([*argv, *flags, "--set=data.test_fraction=0.4"]) == 0
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["groups_known"] and not found["n_by_split"]["validation"]
    assert "40% for testing and 0% of the rest" in capsys.readouterr().out


def test_an_old_flag_names_the_new_one(capsys):
    assert cli.main(["audit", "images", "--train_list=a.pkl", "--test_list=b.pkl"]) == 2
    error = "error: --train_list is now --lists; see diffmic audit --help\n"
    assert capsys.readouterr().err == error


def test_predict_prints_a_table_and_what_it_left_out(tmp_path, trained, tiny_data, capsys):
    folder = tmp_path / "new"
    shutil.copytree(tiny_data / "test/red", folder)
    (folder / "notes.txt").write_text("")
    tiny.write_truncated_jpeg(folder / "half.jpg")
    argv = ["predict", str(folder), f"--workdir={trained}", "--on_bad_image=skip"]
    assert cli.main(argv) == 0
    out, error = capsys.readouterr()
    header, *lines = out.splitlines()
    assert header.split() == ["image", "prediction", "probabilities"]
    assert [line.split()[0] for line in lines] == ["red_00.png", "red_01.png", "red_02.png"]
    best = re.fullmatch(r"\S+ +(\w+) +\1 0\.\d{3}, \w+ 0\.\d{3}, \w+ 0\.\d{3}", lines[0])
    assert best and best[1] in tiny.CLASSES
    assert "half.jpg: cannot be read" in error
    assert "1 images skipped" in error
    assert error.endswith(
        "3 images classified; 1 files left out that are no images, by ending: 1 .txt\n"
    )


def test_predict_writes_json_with_the_values_of_its_csv(tmp_path, trained, tiny_data):
    files = [str(path) for path in sorted(tiny_data.glob("test/*/*_00.png"))]
    for out in ("out.csv", "out.json"):
        assert cli.main(["predict", *files, f"--workdir={trained}", f"--out={tmp_path / out}"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in found] == [row["id"] for row in rows] == files
    for ours, theirs in zip(found, rows, strict=True):
        assert list(ours) == list(theirs)
        assert {name: type(x)(theirs[name]) for name, x in ours.items()} == ours
        assert isinstance(ours["prob_red"], float)


def test_other_data_groups_and_cases_are_evaluated(trained, tiny_data, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    other = shutil.copytree(tiny_data / "test", tmp_path / "other")
    (other / "red").rename(other / "crimson")
    assert cli.main(["evaluate", f"--workdir={workdir}", f"--data_dir={other}"]) == 2
    assert "class 'crimson' is not one of the model's" in capsys.readouterr().err
    names = [path.relative_to(other).as_posix() for path in sorted(other.rglob("*.png"))]
    rows = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(names)]
    (tmp_path / "sites.csv").write_text("\n".join(["image,site", *rows]))
    flags = ["--class_map=crimson=red", "--attributes=site", f"--table={tmp_path}/sites.csv"]
    command = ["evaluate", f"--workdir={workdir}", f"--data_dir={other}", *flags, "--per_case"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "other, other data, checkpoint" in out or "images, other data, checkpoint" in out
    folder = workdir / "external/other"
    scores = json.loads((folder / "metrics.json").read_text())
    own = json.loads((workdir / "eval/test/metrics.json").read_text())
    assert (scores["n"], scores["nll"]) == (own["n"], pytest.approx(own["nll"], rel=1e-5))
    groups = json.loads((folder / "subgroups.json").read_text())["site"]["groups"]
    assert {name: part["n"] for name, part in groups.items()} == {"a": 5, "b": 4}
    assert json.loads((folder / "cases.json").read_text())["n"] == 9
    assert scores["data"] == str(other)
    assert "| external/other | diffusion | 9 |" in (workdir / "MODEL_CARD.md").read_text()
    assert "external/other_accuracy" in describe(load(workdir))
    assert cli.main(["evaluate", f"--workdir={workdir}", "--class_map=a=b"]) == 2
    assert cli.main(["evaluate", f"--workdir={workdir}", "--class_map=a"]) == 2


def test_other_data_never_replaces_results(trained, tiny_data, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    before = (workdir / "eval/test/metrics.json").read_bytes()
    command = ["evaluate", f"--workdir={workdir}"]
    for site in ("a", "b"):
        shutil.copytree(tiny_data / "test", tmp_path / site / "test")
    assert cli.main([*command, f"--data_dir={tmp_path}/a/test", "--coverage=0.7"]) == 0
    assert (workdir / "eval/test/metrics.json").read_bytes() == before
    found = workdir / "external/test/metrics.json"
    after = found.read_bytes()
    sets = json.loads(after)["calibrated"]
    assert sets is None or sets["conformal"]["target"] == 0.7
    # A part that is alone in a folder is what there is to test.
    assert cli.main([*command, f"--data_dir={tmp_path}/a"]) == 0
    assert json.loads((workdir / "external/a/metrics.json").read_text())["n"] == 9
    # Another hospital's folder of the same name.
    assert cli.main([*command, f"--data_dir={tmp_path}/b/test"]) == 2
    assert f"has the results of {tmp_path}/a/test; name another folder" in capsys.readouterr().err
    assert found.read_bytes() == after
    assert cli.main([*command, f"--data_dir={tmp_path}/b/test", f"--out={tmp_path}/out"]) == 0
    assert (tmp_path / "out/metrics.json").exists()
    for flags, message in (
        (["--split=test", f"--data_dir={tmp_path}/a"], "--root and --split are of the run's own"),
        (["--set=data.uncertain=zero"], "of other data; name --data_dir"),
    ):
        assert cli.main([*command, *flags]) == 2
        assert message in capsys.readouterr().err


def test_attributes_of_other_data_are_from_its_own_table(trained, tiny_data, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    other = shutil.copytree(tiny_data / "test", tmp_path / "other/images").parent
    names = [path.relative_to(other).as_posix() for path in sorted(other.rglob("*.png"))]
    rows = [f"{name},{Path(name).parts[1]},{'xy'[i % 2]}" for i, name in enumerate(names)]
    (other / "meta").mkdir()
    (other / "meta/labels.csv").write_text("\n".join(["image,label,site", *rows]))
    command = ["evaluate", f"--workdir={workdir}", f"--data_dir={other}"]
    assert cli.main([*command, "--labels=meta/labels.csv", "--attributes=age"]) == 2
    assert "no such column in" in capsys.readouterr().err
    assert cli.main([*command, "--labels=meta/labels.csv", "--attributes=site"]) == 0
    found = json.loads((workdir / "external/other/subgroups.json").read_text())["site"]["groups"]
    assert {name: part["n"] for name, part in found.items()} == {"x": 5, "y": 4}
    # Another table of the same folder is other data.
    shutil.copy(other / "meta/labels.csv", other / "meta/second.csv")
    assert cli.main([*command, "--labels=meta/second.csv"]) == 2
    assert "has the results of" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_found_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("a file")
    for command in ("predict new", "export"):
        for place in (tmp_path, tmp_path / "notes.txt/out.csv"):
            argv = [*command.split(), f"--workdir={tmp_path}/nowhere", f"--out={place}"]
            assert cli.main(argv) == 2
            assert f"{place}: cannot be written" in capsys.readouterr().err
