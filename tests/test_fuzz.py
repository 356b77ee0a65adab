"""A few hundred files from strangers; `scripts/fuzz` goes on with it for as long as is wanted."""

from __future__ import annotations

import pytest

hypothesis = pytest.importorskip("hypothesis")
pytest.importorskip("pydicom")

from tests import fuzzing  # noqa: E402

TARGETS = fuzzing.targets()


@pytest.mark.parametrize("name", TARGETS)
def test_a_strangers_file_is_read_or_refused_in_one_line(name):
    target = TARGETS[name]

    @hypothesis.settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(target.contents)
    def read(content: bytes) -> None:
        fuzzing.run(target, content)

    read()


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_damaged_there_was_valid_before(name):
    target = TARGETS[name]
    assert {fuzzing.run(target, content) for content in target.valid} == {"accepted"}
