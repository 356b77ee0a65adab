"""One image at a time: all cores work on it, and memory holds one picture decoded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from diffmic_jax.serve.images import ImageClassifier

T = TypeVar("T")


class Turns:
    """A classifier that requests take turns at, in the order in which they ask."""

    def __init__(self, classifier: ImageClassifier) -> None:
        """Nothing is compiled yet."""
        self._classifier = classifier
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def compiling(self, app: Starlette) -> AsyncIterator[None]:
        """Compile from the start of the server on, while it takes its first requests."""
        task = asyncio.create_task(self._compile())
        await asyncio.sleep(0)  # it has the first turn
        yield
        await task

    async def _compile(self) -> None:
        async with self._turn:
            await run_in_threadpool(self._classifier.compile)

    async def take(self, request: Request, work: Callable[[ImageClassifier], T]) -> T:
        """Do something with the classifier once it is free.

        Raises:
          HTTPException: the caller has gone away meanwhile.
          InputError: as `work` does.
        """
        async with self._turn:
            if await request.is_disconnected():
                raise HTTPException(499, "the caller has gone")
            return await run_in_threadpool(work, self._classifier)
