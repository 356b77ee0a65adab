from __future__ import annotations

import json

import pytest

from diffmic_jax.cli import main as cli
from tests import tiny


@pytest.mark.parametrize("verb", ["predict", "evaluate", "report", "serve", "info"])
def test_every_verb_has_a_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main([verb, "--help"])
    assert leaving.value.code == 0
    assert f"example: python -m diffmic_jax {verb} --workdir=" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["dance"], "invalid choice: 'dance'"),
        (["info"], "the following arguments are required: --workdir"),
        (["info", "--workdir=w", "--colour=red"], "unrecognized arguments: --colour=red"),
        (["predict", "--workdir=w"], "the following arguments are required: --images, --out"),
        (["evaluate", "--workdir=w", "--num_samples=0"], "'0' is not a whole number above 0"),
        (["evaluate", "--workdir=w", "--num_steps=x"], "'x' is not a whole number above 0"),
        (["evaluate", "--workdir=w", "--sampler=euler"], "invalid choice: 'euler'"),
        (["evaluate", "--workdir=w", "--coverage=90"], "'90' is not between 0 and 1"),
        (["evaluate", "--workdir=w", "--split=all"], "invalid choice: 'all'"),
    ],
)
def test_a_bad_argument_is_told_in_one_line(argv, message, capsys):
    assert cli.main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert line.endswith("--help")


@pytest.mark.parametrize("verb", ["predict", "evaluate", "report", "info"])
def test_a_workdir_without_a_run_is_named(verb, tmp_path, tiny_data, capsys):
    flags = {"predict": [f"--images={tiny_data}", f"--out={tmp_path / 'out.csv'}"]}
    status = cli.main([verb, f"--workdir={tmp_path / 'none'}", *flags.get(verb, [])])
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


def test_evaluate_draws_as_often_as_asked_and_writes_where_asked(tmp_path, trained, capsys):
    before = (trained / "eval/test/metrics.json").read_bytes()
    argv = ["evaluate", f"--workdir={trained}", "--num_samples=5", f"--out={tmp_path / 'five'}"]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert "guidance alone" in said
    assert f"written to {tmp_path / 'five'}" in said
    scores = json.loads((tmp_path / "five/metrics.json").read_text())
    assert scores["n"] == tiny.TEST
    ours, theirs = (tiny.read_predictions(f) for f in (tmp_path / "five", trained / "eval/test"))
    assert list(ours) == list(theirs)
    assert ours != theirs
    # It has no draws; another program only rounds otherwise.
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
