from __future__ import annotations

import pytest

from diffmic_jax import api
from diffmic_jax.cli import main as cli
from diffmic_jax.cli import train
from diffmic_jax.data.sources import open_source
from diffmic_jax.fields import RENAMED
from tests.processes import write_config

HAM = "--config=configs/ham10000.py:v2"


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a wrong command line prints; it has to exit with 2."""
    # More processes would have to be joined before JAX has run.
    assert train.main(["main.py", *argv, "--workdir=no/where", "--num_processes=1"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("train.epoch=1", "config.train.epoch: there is no such field; did you mean train.epochs?"),
        ("trian.epochs=1", "config.trian.epochs: there is no such field; did you mean train.epoch"),
        ("nothing=1", "config.nothing: there is no such field"),
        ("train.epochs.x=1", "config.train.epochs.x: there is no such field; did you mean train.e"),
        ("train=1", "config.train is a group of fields; give one of them, as config.train.batch_s"),
        ("data.class_names[0]=a", "config.data.class_names[0]: there is no such field"),
        ("train.epochs=a", "command line: flag --config.train.epochs=a: invalid literal for int()"),
        ("train.epochs=1.5", "command line: flag --config.train.epochs=1.5: invalid literal for "),
        ("train.epochs=None", "command line: flag --config.train.epochs=None: invalid literal fo"),
        ("train.learning_rate=None", "command line: flag --config.train.learning_rate=None: could"),
        ("guidance.frozen=maybe", "command line: flag --config.guidance.frozen=maybe: ('Non-bool"),
        ("sampling.clip=a", "config.sampling.clip=('a',) is of the wrong type; give a tuple"),
        ("denoiser.conditioning=x", "config.denoiser.conditioning='x' is unknown; choose one of f"),
        ("denoiser.conditioning=None", "config.denoiser.conditioning='None' is unknown; choose "),
        ("train.epochs=0", "config.train.epochs=0 is out of range; give at least 1"),
        ("seed=-1", "config.seed=-1 is out of range; give 0 to 4.29497e+09"),
    ],
)
def test_a_field_that_cannot_work_is_named(flag, message, capsys):
    assert refused(capsys, HAM, f"--config.{flag}").startswith(message)


def test_one_class_name_is_not_enough(capsys, tiny_data):
    data = tiny_data / "train"
    argv = ["--config=default", f"--config.data.root={data}", "--config.data.class_names=red"]
    message = "config.data.class_names=('red',): give two classes or more"
    assert message in refused(capsys, *argv)


@pytest.mark.parametrize("name", RENAMED)
def test_an_old_field_names_the_new_one(name, capsys):
    line = refused(capsys, HAM, f"--config.{name}=1")
    new = RENAMED[name]
    assert line == f"config.{name} " + (
        f"is now config.{new}" if new else "was removed; leave it out"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config is missing; try --config=quickstart"),
        (["--config.train.epochs=1"], "--config is missing; try --config=quickstart"),
        (["--config="], "--config has no value; try --config=quickstart"),
        (
            ["--config=configs/ham.py"],
            "--config=configs/ham.py: no such file; give one of your own",
        ),
        (
            ["--config=ham"],
            "--config=ham: no such file; give one of your own, or one of aptos2019, ",
        ),
        (["--config=busi:v9"], "recipe 'v9' is unknown; choose one of classifier, gmic, plus, "),
        (["--config=medmnist:v2"], "configs/medmnist.py:v2 is not one of pathmnist, "),
        (["--config=busi", "--colour=red"], "command line: Unknown command line flag 'colour'"),
        (["--config=busi", "--process_id=a"], "command line: flag --process_id=a: invalid literal"),
        (["--config=busi", "red"], "'red' is not a flag; flags start with --"),
        (["--config=busi", "--mode=dance"], "command line: flag --mode=dance"),
        (["--config=pyproject.toml"], "--config=pyproject.toml: cannot be used (SyntaxError: "),
        (
            ["--config=busi", "--config.sampling.num_steps=0"],
            "config.sampling.num_steps=0 does not go with config.denoiser.encoder='resnet18'",
        ),
        (
            ["--config=busi", "--config.data.root=nowhere"],
            "config.data.root='nowhere' is not there; download Dataset_BUSI.zip from https://",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(argv, message, capsys):
    assert refused(capsys, *argv).startswith(message)


FILES = {
    "fails": 'def get_config():\n    return {}["x"]',
    "lacks": "x = 1",
    "plain": 'def get_config():\n    return {"train": {}}',
    "open": """
from diffmic_jax import recipes
def get_config():
    config = recipes.config_dict("v1")
    with config.unlocked():
        config.train.epochs = None
    return config""",
    "old": """
from diffmic_jax import recipes
def get_config():
    config = recipes.config_dict("v1")
    with config.unlocked():
        config.guidance.width = 64
    return config""",
    "part": """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"seed": 0})""",
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "--config={}: cannot be used (KeyError: 'x')"),
        ("lacks", "--config={}: cannot be used (KeyError: 'get_config')"),
        ("plain", "--config={}: get_config returns no ConfigDict"),
        ("open", "config.train.epochs=None is of the wrong type; give int"),
        ("old", "--config={}: config.guidance.width is now config.model.width"),
        ("part", "--config={}: config.checkpoint.every_steps is missing"),
    ],
)
def test_a_configuration_file_that_cannot_work_is_one_line(tmp_path, name, message, capsys):
    path = tmp_path / f"{name}.py"
    path.write_text(FILES[name])
    assert refused(capsys, f"--config={path}") == message.format(path)


def test_help_shows_the_flags(capsys):
    assert train.main(["main.py", "--help"]) == 0
    shown = capsys.readouterr()
    assert "python main.py --config=configs/quickstart.py" in shown.out
    assert "--workdir" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(("recipe", "workdir"), [("", "mine"), (":v1_public", "mine-v1_public")])
def test_the_default_workdir_is_named_after_config_and_recipe(
    tmp_path, tiny_data, monkeypatch, capsys, recipe, workdir
):
    config = write_config(tmp_path / "mine.py", tiny_data)
    monkeypatch.chdir(tmp_path)
    flags = [f"--config={config}{recipe}", "--mode=evaluate", "--num_processes=1"]
    assert train.main(["main.py", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"error: runs/{workdir} holds no checkpoint")


@pytest.mark.parametrize(
    "argv",
    [
        ["--coordinator=localhost:1"],
        ["--num_processes=2", "--process_id=0"],
        ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
    ],
)
def test_flags_of_several_processes_belong_together(capsys, argv):
    assert train.main(["main.py", "--config=quickstart", "--workdir=no/where", *argv]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --coordinator=HOST:PORT, --num_processes=N and --process_id=0..N-1 belong together"
    )


def test_a_time_limit_saves_and_asks_for_a_restart(tmp_path, tiny_data, capsys):
    config = write_config(tmp_path / "mine.py", tiny_data)
    flags = [f"--config={config}:classifier", "--config.train.max_minutes=0.0001"]
    run = [f"--workdir={tmp_path / 'run'}", "--num_processes=1"]
    assert train.main(["main.py", *flags, *run]) == 75
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "stopped after step 1 of 9 and saved; run the same command again to go on"
    assert (tmp_path / "run/checkpoints/1").is_dir()


def test_flags_change_fields_of_every_kind_and_the_last_one_counts(
    tmp_path, tiny_data, monkeypatch
):
    write_config(tmp_path / "mine.py", tiny_data)
    flags = {
        "train.max_steps": "1",
        "train.learning_rate": "1e-4",
        "guidance.warmup_epochs": "0",
        "guidance.frozen": "true",
        "denoiser.gates": "ones",
        "sampling.sampler": "ddim",
        "sampling.clip": "-1.0,1.0",
        "data.class_names": "red,green,blue",
        "eval.bootstrap": "0",
    }
    argv = ["train", "--config", f"{tmp_path}/mine.py", "--config.train.max_steps=2"]
    argv += [f"--config.{name}={value}" for name, value in flags.items()]
    given = []
    monkeypatch.setattr(api, "train", lambda *args: given.append(args))
    for seed in (1, 2):  # in one process, each command line has its own values
        own = [f"--config.seed={seed}", "--workdir", f"{tmp_path}/{seed}", "--num_processes=1"]
        assert cli.main([*argv, *own]) == 0
        config, workdir, minutes = given.pop()
        assert (workdir, minutes) == (tmp_path / str(seed), None)
        assert (config.seed, config.recipe) == (seed, "v1")
        assert (config.train.max_steps, config.train.learning_rate) == (1, 1e-4)
        assert config.guidance.frozen is True
        assert (config.guidance.warmup_epochs, config.eval.bootstrap) == (0, 0)
        assert (config.denoiser.gates, config.sampling.sampler) == ("ones", "ddim")
        assert config.sampling.clip == (-1.0, 1.0)
        assert open_source(config.data).task.class_names == ("red", "green", "blue")
