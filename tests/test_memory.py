"""Freed memory is used again, in processes of their own: the setting is for a whole one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PAGES = """
import resource, threading
from diffmic_jax import memory
memory.keep_freed()
def use():
    bytearray(b"x") * 200_000_000
def run():
    thread = threading.Thread(target=use)  # as JAX's are, not the main one
    thread.start()
    thread.join()
run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Pages that are new to the process when 200 MB are used for the second time."""


def pages(**settings: str) -> int:
    kept = {name: x for name, x in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", PAGES], env=kept | settings, capture_output=True, check=True
    )
    return int(found.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_not_asked_for_again():
    assert pages() < 5_000


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_what_the_user_has_set_stays():
    assert pages(MALLOC_ARENA_MAX="8") > 20_000
