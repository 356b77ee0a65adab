"""The documentation: a short README, a site with strict links, a notebook that runs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_trunks  # noqa: F401  (registers `tiny`)
from tests.processes import PROJECT

SMALLER = (
    '"guidance.backbone": "resnet18",',
    '"guidance.backbone": "tiny", "denoiser.encoder": "tiny", "model.stem": "small",',
)
"""What the notebook has, and what compiles faster."""


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


def run(source: str, names: dict[str, object]) -> object:
    """Run a cell; the value of its last line, where that is an expression, as a notebook shows."""
    *lines, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        exec(source, names)
        return None
    exec(compile(ast.Module(lines, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.whole
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    cells = json.loads((PROJECT / "docs/notebook.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            shown.append(run(source.replace(*SMALLER), names))
    assert shown[:2] == [
        ["grade0", "grade1", "grade2", "grade3"],
        ("grade0", "grade1", "grade2", "grade3"),
    ]
    assert "accuracy 0." in capsys.readouterr().out
    assert shown[-1] == (Path("report.html"), True)
    assert (tmp_path / "report.html").exists()
