"""The page: two forms, no scripts, no stored uploads.

Uploads are kept in memory, or in an unnamed temporary file of the multipart parser, for the time of
the request. The page loads nothing from other servers. Who is let in, and with how much, is
`guard.py`'s; one image is decoded and classified at a time (`turns.py`).
"""

from __future__ import annotations

import logging
import socket
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from diffmic_jax.data.files import table_text
from diffmic_jax.data.images import EXTENSIONS
from diffmic_jax.errors import InputError
from diffmic_jax.inference.calibration import COVERAGE
from diffmic_jax.inference.classify import table
from diffmic_jax.inference.load import Model, load
from diffmic_jax.report import gallery, page
from diffmic_jax.report.collect import predicted
from diffmic_jax.serve.connections import MOST, Connection
from diffmic_jax.serve.guard import Access, Guard, Limits, is_loopback, new_token
from diffmic_jax.serve.images import ImageClassifier
from diffmic_jax.serve.turns import Turns

MAX_FILES = 200
"""Of a batch."""
LONGEST_NAME = 200
"""Characters of a file's name that are kept, its last ones."""
EXPLANATION = (
    "Classes: {classes}. The prediction is the mean of {samples} samples; their range is a measure "
    "of the sampler's noise alone. An image of any other kind is classified too, and wrongly."
)
UNFAMILIAR = (
    "This does not look like the images that the classifier was trained on: do not rely on what "
    "follows."
)


def make_app(
    model: Model,
    hosts: tuple[str, ...],
    *,
    token: str = "",
    coverage: float = COVERAGE,
    limits: Limits | None = None,
) -> ASGIApp:
    """The application.

    Args:
      model: the classifier.
      hosts: host names of requests that are accepted; `*` for all.
      token: that a request has to know; empty for none.
      coverage: of the prediction sets, 0..1.
      limits: of what is taken in.
    """
    turns = Turns(ImageClassifier(model))

    async def home(request: Request) -> Response:
        return _respond(model)

    async def image(request: Request) -> Response:
        ((name, data),) = await _files(request, 1)
        content = await turns.take(request, partial(_card, name=name, data=data, coverage=coverage))
        return _respond(model, content)

    async def batch(request: Request) -> Response:
        header: list[str] = []
        rows: list[list[str]] = []
        for name, data in await _files(request, MAX_FILES):
            header, row = await turns.take(request, partial(_row, name=name, data=data))
            rows.append(row)
        headers = {"Content-Disposition": 'attachment; filename="predictions.csv"'}
        return PlainTextResponse(table_text(header, rows), headers=headers, media_type="text/csv")

    async def refuse(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        return _respond(model, page.paragraph(f"Not classified: {reason}", "warning"), status)

    app = Starlette(
        routes=[
            Route("/", home),
            Route("/image", image, methods=["POST"]),
            Route("/batch", batch, methods=["POST"]),
        ],
        exception_handlers={InputError: refuse, HTTPException: refuse},
        lifespan=turns.compiling,
    )
    return Guard(app, Access(hosts=hosts, token=token), limits)


async def _files(request: Request, most: int) -> list[tuple[str, bytes]]:
    """Names and contents of what was uploaded."""
    async with request.form(max_files=most, max_fields=0) as form:
        files = [each for each in form.getlist("file") if isinstance(each, UploadFile)]
        found = [((file.filename or "")[-LONGEST_NAME:], await file.read()) for file in files]
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


def _row(classifier: ImageClassifier, name: str, data: bytes) -> tuple[list[str], list[str]]:
    """Header and row of an image in the table of a batch, as `predict` writes it."""
    header, (row,) = table(classifier.model, [name], classifier.classify(data, name))
    return header, row


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
    return HTMLResponse(document, status)


def serve(
    workdir: Path, host: str, port: int, coverage: float, *, allow_remote: bool = False
) -> None:
    """Serve the classifier of a workdir until interrupted.

    Args:
      workdir: of a run.
      host: address to listen at.
      port: likewise.
      coverage: of the prediction sets, 0..1.
      allow_remote: the address may be one that other machines reach; then a token is asked for.

    Raises:
      InputError: the folder holds no checkpoint, or the address is not free or needs
        `allow_remote`.
    """
    local = is_loopback(host)
    if not (local or allow_remote):
        raise InputError(
            f"--host={host}: other machines can reach this address; add --allow_remote, and give "
            "the token that is printed then to those who may use the page"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=MOST)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host={host} --port={port}: cannot be listened at ({error}); choose another"
        ) from error
    name = f"[{host}]" if ":" in host else host
    # The names of a machine that others reach are not known here.
    hosts = ("localhost", "127.0.0.1", "[::1]", name) if local else ("*",)
    token = "" if local else new_token()
    with listener:
        app = make_app(load(workdir), hosts, token=token, coverage=coverage)
        query = f"/?token={token}" if token else ""
        print(f"http://{name}:{listener.getsockname()[1]}{query} (Ctrl-C ends it)", flush=True)
        # Its warnings would let a caller write the log.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        config = uvicorn.Config(app, http=Connection, ws="none", log_level="error")
        uvicorn.Server(config).run([listener])
