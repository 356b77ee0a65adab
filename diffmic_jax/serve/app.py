"""The page: two forms, no scripts, no stored uploads.

Uploads are limited in size and kept in memory, or in an unnamed temporary file of the multipart
parser, for the time of the request. The page loads nothing from other servers, and the server
accepts requests only for the host names that it was started with.
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

from diffmic_jax.data.files import table_text
from diffmic_jax.data.images import EXTENSIONS
from diffmic_jax.errors import InputError
from diffmic_jax.inference.calibration import COVERAGE
from diffmic_jax.inference.classify import table
from diffmic_jax.inference.load import Model, load
from diffmic_jax.report import gallery, page
from diffmic_jax.report.collect import predicted
from diffmic_jax.serve.images import ImageClassifier

MAX_FILES = 200
"""Of a batch."""
MAX_BYTES = 200_000_000
"""Of a request."""
EXPLANATION = (
    "Classes: {classes}. The prediction is the mean of {samples} samples; their range is a measure "
    "of the sampler's noise alone. An image of any other kind is classified too, and wrongly."
)
UNFAMILIAR = (
    "This does not look like the images that the classifier was trained on: do not rely on what "
    "follows."
)

_SAFE = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class LimitBody:
    """Refuses a request whose body is too large, whatever length its header gives."""

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


def make_app(
    model: Model, hosts: tuple[str, ...], *, coverage: float = COVERAGE, max_bytes: int = MAX_BYTES
) -> Starlette:
    """The application.

    Args:
      model: the classifier.
      hosts: host names of requests that are accepted; `*` for all.
      coverage: of the prediction sets, 0..1.
      max_bytes: the largest request.
    """
    classifier = ImageClassifier(model)

    async def home(request: Request) -> Response:
        return _respond(model)

    async def image(request: Request) -> Response:
        ((name, data),) = await _files(request, 1)
        content = await run_in_threadpool(_card, classifier, name, data, coverage)
        return _respond(model, content)

    async def batch(request: Request) -> Response:
        files = await _files(request, MAX_FILES)
        text = await run_in_threadpool(_csv, classifier, files)
        headers = _SAFE | {"Content-Disposition": 'attachment; filename="predictions.csv"'}
        return PlainTextResponse(text, headers=headers, media_type="text/csv")

    async def refuse(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        return _respond(model, page.paragraph(f"Not classified: {reason}", "warning"), status)

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


def _card(classifier: ImageClassifier, name: str, data: bytes, coverage: float) -> str:
    """One image and everything about it."""
    outputs, case, original = classifier.explain(data, name)
    model = classifier.model
    fitted = model.calibrations.diffusion
    shown = predicted([name], outputs, model.task, fitted, coverage)
    strange = model.detector and not model.detector.is_familiar(outputs.features)[0]
    warning = page.paragraph(UNFAMILIAR, "warning") if strange else ""
    return warning + gallery.card("image", shown, 0, case, original)


def _csv(classifier: ImageClassifier, files: list[tuple[str, bytes]]) -> str:
    """The table of a batch, as `predict` writes it.

    Raises:
      InputError: for the first file that cannot be used.
    """
    model, rows = classifier.model, []
    header: list[str] = []
    for name, data in files:
        found = classifier.classify(data, name)
        header, row = table(model, [name], found)
        rows += row
    return table_text(header, rows)


def _respond(model: Model, content: str = "", status: int = 200) -> HTMLResponse:
    accept = ",".join(sorted(EXTENSIONS))
    head = [
        page.paragraph(
            "Research software, not for diagnosis. Images are not stored.",
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
            EXPLANATION.format(
                classes=", ".join(model.task.class_names),
                samples=model.method.sampling.total_samples,
            ),
            "note",
        ),
    ]
    document = page.document("Classify an image", head, [])
    return HTMLResponse(document, status, headers=_SAFE)


def serve(workdir: Path, host: str, port: int, coverage: float) -> None:
    """Serve the classifier of a workdir until interrupted.

    Raises:
      InputError: the folder holds no checkpoint, or the address is not free.
    """
    try:
        listener = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host={host} --port={port}: cannot be listened at ({error}); choose another"
        ) from error
    with listener:
        # At a wildcard address the host names of the machine are not known.
        names = ("*",) if host in ("0.0.0.0", "::") else ("localhost", "127.0.0.1", host)
        app = make_app(load(workdir), names, coverage=coverage)
        print(f"http://{host}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
