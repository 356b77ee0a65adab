"""The server of the page: what it answers to. Its HTML is `markup.py`'s.

Uploads are kept in memory, or in an unnamed temporary file of the multipart parser, for the time of
the request. The page loads nothing from other servers. Who is let in, and with how much, is
`guard.py`'s; one image is decoded and classified at a time (`turns.py`).
"""

from __future__ import annotations

import logging
import socket
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from diffmic_jax.data.files import defused, table_text
from diffmic_jax.errors import InputError
from diffmic_jax.inference.calibration import COVERAGE
from diffmic_jax.inference.classify import table
from diffmic_jax.inference.load import Model, load
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.method.task import SEPARATOR
from diffmic_jax.report import page
from diffmic_jax.report.cases import Original
from diffmic_jax.report.collect import Predicted, predicted
from diffmic_jax.serve.connections import MOST, Connection
from diffmic_jax.serve.guard import Access, Guard, Limits, is_loopback, new_token
from diffmic_jax.serve.images import ImageClassifier
from diffmic_jax.serve.markup import FILES, About, answer, document, static
from diffmic_jax.serve.turns import Turns

MAX_FILES = 200
"""Of a batch."""
LONGEST_NAME = 200
"""Characters of a file's name that are kept, its last ones."""


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
    turns, about = Turns(ImageClassifier(model)), About(model, coverage)
    document(about)  # what is wrong with the workdir is told now, not to every caller

    def respond(content: str = "", status: int = 200) -> Response:
        return HTMLResponse(document(about, content), status)

    async def home(request: Request) -> Response:
        return respond()

    async def image(request: Request) -> Response:
        ((name, data),) = await _files(request, 1)
        brief = "brief" in request.query_params
        look = partial(_brief if brief else _close, about=about, name=name, data=data)
        found = await turns.take(request, look)
        return JSONResponse(found) if _wants_json(request) else respond(found.get("html", ""))

    async def batch(request: Request) -> Response:
        header: list[str] = []
        rows: list[list[str]] = []
        for name, data in await _files(request, MAX_FILES):
            header, row = await turns.take(request, partial(_row, name=name, data=data))
            rows.append(row)
        return _download(table_text(header, rows), "predictions.csv")

    async def refuse(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        if _wants_json(request):
            return JSONResponse({"error": reason}, status)
        return respond(page.paragraph(f"Not classified: {reason}", "warning"), status)

    app = Starlette(
        routes=[
            Route("/", home),
            *(Route(f"/{name}", _own_file) for name in FILES),
            Route("/image", image, methods=["POST"]),
            Route("/batch", batch, methods=["POST"]),
        ],
        exception_handlers={InputError: refuse, HTTPException: refuse},
        lifespan=turns.compiling,
    )
    return Guard(app, Access(hosts=hosts, token=token), limits)


async def _own_file(request: Request) -> Response:
    name = request.url.path.removeprefix("/")
    return Response(static(name), media_type=FILES[name])


def _download(table: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return PlainTextResponse(table, headers=headers, media_type="text/csv")


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


async def _files(request: Request, most: int) -> list[tuple[str, bytes]]:
    """Names and contents of what was uploaded."""
    async with request.form(max_files=most, max_fields=0) as form:
        files = [each for each in form.getlist("file") if isinstance(each, UploadFile)]
        found = [((file.filename or "")[-LONGEST_NAME:], await file.read()) for file in files]
    found = [(name, data) for name, data in found if name]
    if not found:
        raise InputError("no file; choose an image first")
    return found


def _brief(classifier: ImageClassifier, about: About, name: str, data: bytes) -> dict[str, Any]:
    """What a tile shows of an image, and its row of the table."""
    outputs, original = classifier.classify(data, name)
    return _facts(about, name, outputs, original)


def _close(classifier: ImageClassifier, about: About, name: str, data: bytes) -> dict[str, Any]:
    """The same, and everything else about the image as `html`."""
    outputs, case, original = classifier.explain(data, name)
    facts, shown = _facts(about, name, outputs, original), _predicted(about, name, outputs)
    return facts | {"html": answer(about, shown, case, original, facts["familiar"])}


def _facts(about: About, name: str, outputs: Outputs, original: Original) -> dict[str, Any]:
    """Answer, probability, row of the table and thumbnail, as JSON."""
    model, shown = about.model, _predicted(about, name, outputs)
    header, (row,) = table(model, [name], outputs)
    familiar = None
    if model.detector:
        familiar = bool(model.detector.is_familiar(outputs.features)[0])
    return {
        "answer": shown.prediction[0].replace(SEPARATOR, ", ") or "none",
        "sure": float(row[header.index("confidence")]),
        "familiar": familiar,
        "header": header,
        "row": [defused(cell) for cell in row],
        "thumbnail": page.picture(original.thumbnail()),
    }


def _predicted(about: About, name: str, outputs: Outputs) -> Predicted:
    fitted = about.model.calibrations.diffusion
    return predicted([name], outputs, about.model.task, fitted, about.coverage)


def _row(classifier: ImageClassifier, name: str, data: bytes) -> tuple[list[str], list[str]]:
    """Header and row of an image in the table of a batch, as `predict` writes it."""
    outputs, _ = classifier.classify(data, name)
    header, (row,) = table(classifier.model, [name], outputs)
    return header, row


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
