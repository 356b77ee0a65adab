from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from diffmic_jax.data.archives import open_prepared
from diffmic_jax.errors import InputError
from diffmic_jax.extras import install_command, requires

pytestmark = pytest.mark.whole

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def test_the_message_names_a_group_that_exists():
    assert {"report", "serve", "tfds", "dicom", "torch"} <= set(PROJECT["optional-dependencies"])
    assert install_command("serve") == "pip install 'diffmic_jax[serve]'"


def test_what_is_missing_is_told_with_the_command_that_installs_it():
    with (
        pytest.raises(InputError, match=r"^a needs nowhere; install it with pip .*\[torch\]'$"),
        requires("torch", "a"),
    ):
        import nowhere  # noqa: F401


def test_a_fault_of_this_package_is_not_taken_for_a_missing_one():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), requires("torch", "a"):
        import diffmic_jax.no_such_module  # noqa: F401


def run_without(packages: list[str], code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which some packages cannot be imported."""
    absent = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
    command = [sys.executable, "-c", absent + code, *argv]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("package", "extra", "argv"),
    [
        ("tensorflow_datasets", "tfds", ["prepare", "ham10000", "--manual_dir=m", "--data_dir=d"]),
        ("matplotlib", "report", ["fit", "photos"]),
        ("sklearn", "report", ["audit", "photos"]),
        ("matplotlib", "report", ["study", "s.py", "--workdir=w"]),
        ("uvicorn", "serve", ["serve", "--workdir=w"]),
    ],
)
def test_a_command_without_its_extra_ends_in_one_line(package, extra, argv):
    code = "from diffmic_jax.cli.main import main; sys.exit(main())"
    done = run_without([package], code, *argv)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line == f"error: {argv[0]} needs {package}; install it with {install_command(extra)}"


def test_only_the_modules_of_an_extra_need_it():
    absent = ["matplotlib", "sklearn", "threadpoolctl", "starlette", "uvicorn", "python_multipart"]
    absent += ["tensorflow_datasets", "importlib_resources", "pydicom", "torch"]
    code = """
import importlib, pkgutil
import diffmic_jax
for module in pkgutil.walk_packages(diffmic_jax.__path__, "diffmic_jax."):
    try:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name)
"""
    done = run_without(absent, code)
    assert done.returncode == 0, done.stderr
    needing = {line.split()[0].removeprefix("diffmic_jax.") for line in done.stdout.splitlines()}
    whole = {name for name in needing if name.startswith(("report.", "serve."))}
    of_extras = {"data.audit", "data.builders", "data.shortcuts", "study.tables"}
    assert needing - whole == of_extras
    assert "serve.app" in needing
    assert "report.build" in needing and "report.checklist" not in needing


def test_prepared_data_without_its_extra_are_named(tmp_path, monkeypatch):
    facts = {"records": {"train": [["a.png", 0, ""]]}, "multi_label": False, "authors": {}}
    (tmp_path / "metadata.json").write_text(json.dumps(facts | {"class_names": ["x", "y"]}))
    layout = open_prepared(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError) as caught:
        layout.read(layout.parts["train"][0])
    assert str(caught.value) == (
        f"{tmp_path}: a prepared data set needs tensorflow_datasets; "
        f"install it with {install_command('tfds')}"
    )
