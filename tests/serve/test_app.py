"""The page over HTTP and in a real browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
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
from tests.browsers import chromium

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("python_multipart")

from diffmic_jax.serve.app import make_app  # noqa: E402
from diffmic_jax.serve.guard import Limits  # noqa: E402
from diffmic_jax.serve.markup import About  # noqa: E402

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
    # The script is a file of this server, and none stands in the page.
    assert re.findall(r"<script[^>]*>(.*?)</script>", text) == [""]
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:,", "/page.css", "/page.js"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        with urllib.request.urlopen(f"{url}/{name}") as answer:
            assert answer.headers["Content-Type"].startswith(kind)
            assert not re.search(r"https?:|@import|url\(", answer.read().decode())


def test_an_image_gets_the_prediction_of_predict(url, image, trained, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(image, tmp_path / "images")
    tiny.classify_folder(load(trained), tmp_path / "images", tmp_path / "predictions.csv")
    (expected,) = tiny.read_predictions(tmp_path).values()
    status, text = post(f"{url}/image", [(image.name, image.read_bytes())])
    assert status == 200
    assert image.name in text
    predicted = tiny.CLASSES[expected.index(max(expected))]
    assert f"Most probable: {predicted} ({max(expected):.0%}); right in " in text
    assert f"<b>{max(expected):.2f}</b>" in text
    assert "prediction set" in text
    assert text.count("data:image/") == 4  # the image, its saliency, two regions


def as_json(url: str, image: Path, query: str = "") -> dict:
    ask = {"Accept": "application/json"}
    return json.loads(post(f"{url}/image{query}", [(image.name, image.read_bytes())], ask)[1])


def test_the_script_gets_the_row_of_predict_and_a_thumbnail(url, image):
    close, brief = as_json(url, image), as_json(url, image, "?brief=1")
    text = post(f"{url}/batch", [(image.name, image.read_bytes())])[1]
    assert [brief["header"], brief["row"]] == list(csv.reader(io.StringIO(text)))
    assert brief["answer"] == brief["row"][1]
    assert brief["sure"] == float(brief["row"][brief["header"].index("confidence")])
    assert brief["thumbnail"].startswith("data:image/")
    html = close.pop("html")
    assert close == brief and f'aria-label="{image.name}"' in html


def test_the_table_that_the_script_saves_runs_nothing_in_a_spreadsheet(url, image, tmp_path):
    formula = shutil.copy(image, tmp_path / "=1+1.png")
    assert as_json(url, formula, "?brief=1")["row"][0] == "'=1+1.png"


def test_an_evaluation_of_something_else_is_not_shown_and_a_damaged_one_is_told(
    trained, tmp_path, capsys
):
    copy = shutil.copytree(trained, tmp_path / "run")
    path = copy / "eval/test/metrics.json"
    scores = json.loads(path.read_text())
    model = load(copy)
    assert "right in" in About(model, 0.9).record
    path.write_text(json.dumps(scores | {"step": 4}))
    assert "it has no evaluation" in About(model, 0.9).record
    path.write_text("{}")
    assert cli.main(["serve", f"--workdir={copy}", "--port=18234"]) == 2
    assert "metrics.json: not what evaluate writes" in capsys.readouterr().err


def test_the_script_gets_the_reason_of_a_refusal(url, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    assert as_json(url, tmp_path / "a.png")["error"].startswith("a.png: cannot be read (")


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
    with chromium() as running:
        yield running


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(url, browser, image, tmp_path, width):
    page = browser.new_page(viewport={"width": width, "height": 844})
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(url)
    page.set_input_files("#file", image)
    answer = page.locator(".answer")
    assert "Most probable: " in answer.inner_text()
    assert page.evaluate("document.activeElement.textContent") == image.name
    # What lies over the image is shown when asked for.
    for name in ("boxes", "heat"):
        layer = page.locator(f".{name}")
        assert layer.evaluate("e => getComputedStyle(e).visibility") == "hidden"
        page.check(f".show-{name}")
        assert layer.evaluate("e => getComputedStyle(e).visibility") == "visible"
    # Images and styles are shown although the policy forbids all that is not named.
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not messages

    (tmp_path / "notes.png").write_text("not an image")
    page.set_input_files("#file", tmp_path / "notes.png")
    warning = page.locator("#answer .warning").inner_text()
    assert warning.startswith("Not classified: notes.png: cannot be read")
    page.close()


def test_many_images_become_tiles_that_can_be_sorted_and_saved(url, browser, tiny_data, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 844})
    page.goto(url)
    files = sorted((tiny_data / "test").rglob("*.png"))[:4]
    (tmp_path / "notes.png").write_text("not an image")
    page.set_input_files("#file", [*files, tmp_path / "notes.png"])
    page.get_by_text("4 images classified, 1 not.").wait_for()
    tiles = page.locator("#tiles button")
    assert [name.rpartition("\n")[2] for name in tiles.all_inner_texts()][:4] == [
        path.name for path in files
    ]
    page.select_option("#sort", "unsure")
    shares = re.findall(r"(\d+)%", " ".join(tiles.all_inner_texts()))
    assert sorted(map(int, shares)) == list(map(int, shares)) and len(shares) == 4
    tiles.last.press("Enter")  # with the keyboard alone
    assert page.locator(".answer h2").inner_text() in {path.name for path in files}
    with page.expect_download() as saved:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    status, text = post(f"{url}/batch", [(path.name, path.read_bytes()) for path in files])
    assert rows == list(csv.DictReader(io.StringIO(text)))
    page.close()


def test_a_file_that_is_dropped_is_classified(url, browser, image):
    page = browser.new_page()
    page.goto(url)
    data = base64.b64encode(image.read_bytes()).decode()
    moved = page.evaluate_handle(
        """async ([name, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const moved = new DataTransfer();
          moved.items.add(new File([bytes], name, { type: "image/png" }));
          return moved;
        }""",
        [image.name, data],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": moved})
    assert page.locator(".answer h2").inner_text() == image.name
    page.close()
