"""The numbers of README.md and of the results are those of the tables in docs/results."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from functools import cache

import pytest

from diffmic_jax.study.differences import mean_and_interval, paired
from tests.processes import PROJECT

DOCS = PROJECT / "docs"
PAGES = (DOCS / "results.md", DOCS / "results/log.md")
TEXT = "\n".join(page.read_text() for page in PAGES)
COLUMNS = {
    "accuracy": "accuracy",
    "macro-F1": "f1_macro",
    "balanced accuracy": "balanced_accuracy",
    "NLL": "nll",
    "ECE": "ece",
    "AUROC": "auroc_macro",
}
NUMBER = re.compile(r"[+-]?\d*\.\d+")
WORDS = re.compile(rf"{'|'.join(map(re.escape, COLUMNS))}|Accuracy|(?<![\w.])\d?\.\d{{2,3}}\b")
"""Metrics and their values in a sentence."""
GENERATED = re.compile(r"<!-- (?:means|differences|across) .*?<!-- end -->", re.S)
"""Tables that scripts/write_results.py writes; tests/test_results_docs.py looks at these."""


@cache
def read(name: str) -> list[dict[str, str]]:
    with (DOCS / "results" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def of_seeds(name: str, metric: str) -> dict[str, list[float]]:
    """The metric of each row of a study on its test part, one number for each seed."""
    found: dict[str, list[float]] = {}
    for line in read(name):
        if line.get("split", "test") == "test" and line.get(metric):
            found.setdefault(line["row"], []).append(float(line[metric]))
    return found


@cache
def said(name: str, metric: str, kind: str) -> list[float]:
    """What a table may say of a metric: `values` of seeds, `means` or `gaps`, with their ends."""
    rows = of_seeds(name, metric) if not name.endswith("-comparisons.csv") else {}
    lines = [line for line in read(name) if line.get("metric", metric) == metric]
    found: list[float | None] = []
    if kind == "values":
        found = [value for values in rows.values() for value in values]
    elif kind == "means":
        for mean, interval in map(mean_and_interval, rows.values()):
            found += [mean, *(interval or ())]
        ends = (f"ci95.{metric}.{end}" for end in ("low", "high"))
        found += [float(line[end]) for line, end in itertools.product(lines, ends) if line.get(end)]
    else:
        for first, second in itertools.permutations(rows.values(), 2):
            if len(first) == len(second) > 1:
                gap = paired(first, second)
                found += [gap["difference"], *(gap["ci95"] or ())]
        for line, key in itertools.product(lines, ("difference", "ci95.low", "ci95.high")):
            found += [float(line[key])] if line.get(key) else []
    return [value for value in found if value is not None]


def cells(section: str) -> Iterator[tuple[str, str, str]]:
    """Metric, text, and kind of what it says, of those cells of a section that are of a metric."""
    heading: list[str] = []
    for line in section.splitlines():
        if not line.startswith("|"):
            heading = []
            continue
        words = [word.strip() for word in line.strip("|").split("|")]
        if not heading:
            heading = words
            continue
        for name, word in zip(heading, words, strict=True):
            seeds = name.startswith("seeds ")
            metric = COLUMNS.get("accuracy" if seeds else name)
            if metric and NUMBER.search(word):
                yield metric, word, "values" if seeds else "gaps" if word[0] in "+-" else "means"


def sections() -> list[tuple[str, list[str]]]:
    """The sections of the results that name their tables, and these."""
    parts = re.split(r"^##+ ", GENERATED.sub("", TEXT), flags=re.M)
    named = [(part, sorted(set(re.findall(r"\]\(([\w-]+\.csv)\)", part)))) for part in parts]
    return [(part, files) for part, files in named if files]


SECTIONS = sections()


def sentences(page: str) -> Iterator[tuple[str, str]]:
    """Metric and number of each number in the text of a page, by the last metric named before it.

    What stands in brackets is another's table, and said to be.
    """
    text = re.sub(r"```.*?```|\([^()]*own table[^()]*\)", "", GENERATED.sub("", page), flags=re.S)
    for block in re.split(r"\n\n|^- ", text, flags=re.M):
        lines = " ".join(line for line in block.splitlines() if not line.startswith("|"))
        metric = ""
        for word in WORDS.findall(lines):
            if word[0].isalpha():
                metric = COLUMNS[word if word in COLUMNS else word.lower()]
            else:
                assert metric, f"{word} of which metric? {lines[:80]}"
                yield metric, word


def test_the_numbers_of_sentences_are_in_some_table():
    pages = (PROJECT / "README.md", DOCS / "results.md")
    found = [each for page in pages for each in sentences(page.read_text())]
    assert len(found) > 6
    tables = [path.name for path in (DOCS / "results").glob("*.csv")]
    for metric, word in found:
        values = [
            v for name in tables for kind in ("values", "means") for v in said(name, metric, kind)
        ]
        error = 0.5001 * 10.0 ** -len(word.partition(".")[2])
        assert any(abs(value - float(word)) <= error for value in values), (metric, word)


def test_the_results_name_every_table():
    named = {file for _, files in SECTIONS for file in files}
    generated = re.findall(r"<!-- (means|differences) (\S+):", TEXT)
    named |= {f"{name}{'' if kind == 'means' else '-comparisons'}.csv" for kind, name in generated}
    for names in re.findall(r"<!-- across \S+: (.+) -->", TEXT):
        named |= {f"{name}-comparisons.csv" for name in names.split()}
    assert named == {path.name for path in (DOCS / "results").glob("*.csv")}


@pytest.mark.parametrize("number", range(len(SECTIONS)))
def test_the_numbers_of_a_section_are_in_its_tables(number):
    section, files = SECTIONS[number]
    looked_at = 0
    for metric, text, kind in cells(section):
        values = [value for name in files for value in said(name, metric, kind)]
        for word in NUMBER.findall(text):
            error = 0.5001 * 10.0 ** -len(word.partition(".")[2])
            looked_at += 1
            assert any(abs(value - float(word)) <= error for value in values), (
                f"{section.splitlines()[0]}: no row has {metric} {word} of {text!r}"
            )
    assert looked_at > 10


def test_the_numbers_of_the_readme_are_means_of_their_rows():
    page = (PROJECT / "README.md").read_text()
    rows = dict(re.findall(r"^\| (.+?) \|[^|]*\| \**(\.\d{3})\** \|", page, re.M))
    means = {
        row: mean_and_interval(values)[0]
        for row, values in of_seeds("plus-ham10000.csv", "accuracy").items()
    }
    wanted = {
        "DiffMIC, mean of 8 samples": "v1-samples",
        "DiffMIC-v2": "v2",
        "ours, one step": "plus",
        "guidance alone": "guidance",
    }
    assert rows == {name: f"{means[row]:.3f}".lstrip("0") for name, row in wanted.items()}
