"""The page over HTTP and in a real browser."""

from __future__ import annotations

import csv
import io
import os
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diffmic_jax.cli import main as cli
from diffmic_jax.inference.load import load
from tests import tiny

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("python_multipart")

from diffmic_jax.serve.app import make_app  # noqa: E402
from diffmic_jax.serve.guard import Limits  # noqa: E402

LIMIT = 300_000
"""Bytes of a request."""


@pytest.fixture(scope="module")
def url(trained: Path) -> Iterator[str]:
    """Address of the page of the trained run, served in a thread."""
    app = make_app(load(trained), ("127.0.0.1",), limits=Limits(body=LIMIT))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def image(tiny_data: Path) -> Path:
    return sorted((tiny_data / "test/red").glob("*.png"))[0]


def post(
    url: str, files: list[tuple[str, bytes]], headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Upload files as a form does; status and text of the response."""
    mark = uuid.uuid4().hex
    body = b"".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    body += f"--{mark}--\r\n".encode()
    request = urllib.request.Request(url, body, kind | (headers or {}))
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_page_has_its_warning_and_loads_nothing_from_elsewhere(url):
    with urllib.request.urlopen(url) as answer:
        text, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "not for diagnosis" in text
    assert "<script" not in text
    assert policy.startswith("default-src 'none'")


def test_an_image_gets_the_prediction_of_predict(url, image, trained, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(image, tmp_path / "images")
    tiny.classify_folder(load(trained), tmp_path / "images", tmp_path / "predictions.csv")
    (expected,) = tiny.read_predictions(tmp_path).values()
    status, text = post(f"{url}/image", [(image.name, image.read_bytes())])
    assert status == 200
    assert image.name in text
    predicted = tiny.CLASSES[expected.index(max(expected))]
    assert f"predicted <b>{predicted}</b>" in text
    assert f"<b>{max(expected):.2f}</b>" in text
    assert "prediction set" in text
    assert text.count("data:image/") == 5


def test_a_batch_becomes_the_table_of_predict(url, tiny_data):
    files = [(path.name, path.read_bytes()) for path in sorted((tiny_data / "test").rglob("*.png"))]
    status, text = post(f"{url}/batch", files)
    assert status == 200
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["id"] for row in rows] == [name for name, _ in files]
    for row in rows:
        assert sum(float(row[f"prob_{name}"]) for name in tiny.CLASSES) == pytest.approx(
            1, abs=1e-4
        )


@pytest.mark.parametrize(
    ("name", "data", "status", "message"),
    [
        ("a.png", b"only text", 400, "a.png: cannot be read ("),
        ("<b>.png", b"only text", 400, "&lt;b&gt;.png: cannot be read ("),
        ("a.png", b"", 400, "a.png: cannot be read ("),
        ("", b"", 400, "no file; choose an image first"),
        ("a.png", bytes(LIMIT), 413, "more than 0 MB; send less"),
    ],
)
@pytest.mark.parametrize("form", ["image", "batch"])
def test_a_file_that_cannot_be_used_is_refused_with_a_reason(
    url, form, name, data, status, message
):
    found, text = post(f"{url}/{form}", [(name, data)])
    assert (found, message in text) == (status, True)
    assert "Traceback" not in text


def test_several_files_for_one_image_are_refused(url, image):
    status, text = post(f"{url}/image", [(image.name, image.read_bytes())] * 2)
    assert status == 400
    assert "Too many files" in text


def test_another_name_of_this_machine_is_refused(url, image):
    status, text = post(f"{url}/image", [(image.name, b"")], {"Host": "elsewhere.example"})
    assert (status, text) == (400, "Invalid host header")


def test_fifty_requests_at_once_get_the_same_page_and_leave_no_file(
    url, image, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = image.read_bytes()
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: post(f"{url}/image", [("a.png", data)]), range(50)))
    assert set(found) == {found[0]}
    assert found[0][0] == 200
    assert not list(tmp_path.iterdir())


def test_an_address_that_is_taken_is_named(trained, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", f"--workdir={trained}", f"--port={port}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: --host=127.0.0.1 --port={port}: cannot be listened at")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("needs a Chromium")
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(url, browser, image, tmp_path, width):
    page = browser.new_page(viewport={"width": width, "height": 844})
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(url)
    page.set_input_files("form[action='/image'] input", image)
    page.click("form[action='/image'] button")
    card = page.locator(".case")
    assert image.name in card.inner_text()
    assert "predicted" in card.inner_text()
    # Images and styles are shown although the policy forbids all that is not named.
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not messages

    (tmp_path / "notes.png").write_text("not an image")
    page.set_input_files("form[action='/image'] input", tmp_path / "notes.png")
    page.click("form[action='/image'] button")
    warning = page.locator("main .warning").inner_text()
    assert warning.startswith("Not classified: notes.png: cannot be read")
    page.close()
