"""The documentation: a short README, a site with strict links, a notebook that runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.processes import PROJECT


def test_the_readme_fits_on_a_screen_or_two():
    text = (PROJECT / "README.md").read_text()
    assert len(text.split()) < 450
    for link in re.findall(r"\]\((?!https:)([^)#]+)", text):
        assert (PROJECT / link).exists(), link


def test_the_site_builds_with_strict_links(tmp_path):
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", f"--site-dir={tmp_path}"]
    own = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    process = subprocess.run(command, cwd=PROJECT, env=own, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    page = (tmp_path / "reference/index.html").read_text()
    assert "Train on a data set, evaluate on its test part" in page
    assert not re.search(r'(src|href)="https?://(fonts|cdn|unpkg)', page)


def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat, nbclient = map(pytest.importorskip, ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(shutil.copy(PROJECT / "docs/notebook.ipynb", tmp_path), 4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), *sys.path]))
    done = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert (tmp_path / "report.html").exists()
    (last,) = done.cells[-1].outputs[-1:]
    assert "report.html" in last["data"]["text/plain"]
    assert "True" in last["data"]["text/plain"]
