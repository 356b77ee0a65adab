"""The page itself: two forms, no scripts, nothing that stays behind.

Uploads are read within limits and live in memory or in a file that has no name (the multipart
parser's), and both go with the request. The page asks no other server for anything, and answers
only to the names of this machine that it was started for.
"""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffmic_jax.data.files import prediction_rows, table_text
from diffmic_jax.data.images import EXTENSIONS
from diffmic_jax.errors import InputError
from diffmic_jax.report import gallery, page
from diffmic_jax.serve.model import Model

MAX_FILES = 200
"""Of a batch."""
MAX_BYTES = 200_000_000
"""Of a request."""

_SAFE = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class LimitBody:
    """Refuses a request whose body is too large, whatever length it claims."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise HTTPException(413, f"more than {self._max_bytes / 1e6:.0f} MB; send less")
            return message

        await self._app(scope, counted, send)


def make_app(model: Model, hosts: tuple[str, ...], max_bytes: int = MAX_BYTES) -> Starlette:
    """The application.

    Args:
      model: what answers.
      hosts: names by which the page may be asked for.
      max_bytes: the largest request.
    """

    async def home(request: Request) -> Response:
        return _respond(model)

    async def image(request: Request) -> Response:
        (file,) = await _files(request, 1)

        def show() -> str:
            results, case = model.answer(file[1], file[0])
            return gallery.card("answer", results, 0, case, model.region_size, model.timesteps)

        return _respond(model, await run_in_threadpool(show))

    async def batch(request: Request) -> Response:
        files = await _files(request, MAX_FILES)
        text = await run_in_threadpool(_csv, model, files)
        headers = _SAFE | {"Content-Disposition": 'attachment; filename="predictions.csv"'}
        return PlainTextResponse(text, headers=headers, media_type="text/csv")

    async def refuse(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        said = error.detail if isinstance(error, HTTPException) else str(error)
        return _respond(model, page.paragraph(f"Not classified: {said}", "warning"), status)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/image", image, methods=["POST"]),
            Route("/batch", batch, methods=["POST"]),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
            Middleware(LimitBody, max_bytes=max_bytes),
        ],
        exception_handlers={InputError: refuse, HTTPException: refuse},
    )


async def _files(request: Request, most: int) -> list[tuple[str, bytes]]:
    """Names and contents of what was uploaded."""
    async with request.form(max_files=most, max_fields=0) as form:
        files = [each for each in form.getlist("file") if isinstance(each, UploadFile)]
        found = [(file.filename or "", await file.read()) for file in files]
    found = [(name, data) for name, data in found if name]
    if not found:
        raise InputError("no file; choose an image first")
    return found


def _csv(model: Model, files: list[tuple[str, bytes]]) -> str:
    """The table of a batch, as `predict` writes it; the first bad file refuses it."""
    rows = []
    header: list[str] = []
    for name, data in files:
        results, _ = model.answer(data, name)
        header, row = prediction_rows(
            [name],
            None,
            results.class_names,
            results.probabilities,
            results.spread,
            multi_label=results.multi_label,
            thresholds=model.thresholds,
        )
        rows += row
    return table_text(header, rows)


def _respond(model: Model, content: str = "", status: int = 200) -> HTMLResponse:
    accept = ",".join(sorted(EXTENSIONS))
    head = [
        page.paragraph(
            "Research software, not for diagnosis. Images are looked at in memory and not kept.",
            "warning",
        ),
        page.Raw(
            f'<form method="post" action="/image" enctype="multipart/form-data">'
            f'<p><label>One image <input type="file" name="file" accept="{accept}" required>'
            "</label> <button>Classify</button></p></form>\n"
            f'<form method="post" action="/batch" enctype="multipart/form-data">'
            f'<p><label>Many images <input type="file" name="file" accept="{accept}" multiple '
            "required></label> <button>Table (CSV)</button></p></form>\n"
        ),
        f'<main class="grid">{content}</main>',
        page.paragraph(
            f"Classes: {', '.join(model.classifier.class_names)}. The answer is the mean of "
            f"{model.classifier.recipe.sampling.num_samples} draws; their spread tells of the "
            "sampler's noise alone. An image of another kind gets an answer, too: a wrong one.",
            "note",
        ),
    ]
    document = page.document("Classify an image", head, [])
    return HTMLResponse(document, status, headers=_SAFE)


def serve(workdir: Path, host: str, port: int, coverage: float) -> None:
    """Serve the classifier of a workdir until interrupted.

    Raises:
      InputError: if the folder holds no checkpoint, or the address cannot be listened at.
    """
    try:
        listener = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host={host} --port={port}: cannot be listened at ({error}); choose another"
        ) from error
    with listener:
        # Who listens at every address cannot know all of its names.
        names = ("*",) if host in ("0.0.0.0", "::") else ("localhost", "127.0.0.1", host)
        app = make_app(Model(workdir, coverage), names)
        print(f"http://{host}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
