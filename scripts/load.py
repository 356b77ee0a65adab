"""Many mixed requests to a page: see `scripts/load`."""

from __future__ import annotations

import argparse
import http.client
import io
import random
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

MARK = "a-mark-that-no-file-holds"
Kind = tuple[str, bytes, dict[str, str]]
"""Path, body and further headers of a request."""


def main() -> None:
    """Serve, send, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=50)
    parser.add_argument("--port", type=int, default=18765)
    args = parser.parse_args()
    command = [sys.executable, "-m", "diffmic_jax", "serve", f"--workdir={args.workdir}"]
    with subprocess.Popen([*command, f"--port={args.port}"], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if not server.stdout.readline():  # it listens, and compiles; or has said why not
                sys.exit(server.wait())
            run(args, server.pid)
        finally:
            server.terminate()


def run(args: argparse.Namespace, pid: int) -> None:
    """Send all requests and print what came of them."""
    every = kinds(args.port)
    start = time.monotonic()
    names = [random.Random(i).choice(list(every)) for i in range(args.requests)]
    first = [send(args.port, every["good image"]) for _ in range(20)]
    before = memory(pid)
    with ThreadPoolExecutor(args.threads) as pool:
        statuses = list(pool.map(lambda name: send(args.port, every[name]), names))
    time.sleep(2)
    after = memory(pid)
    for name in every:
        got = Counter(s for n, s in zip(names, statuses, strict=True) if n == name)
        counts = ", ".join(f"{count} x {status}" for status, count in got.most_common())
        print(f"{name:24}{counts}")
    print(f"{len(names)} requests, {args.threads} at once, {time.monotonic() - start:.0f} s")
    print(f"resident MiB: {before[0]:.0f} before, {after[0]:.0f} after, {after[1]:.0f} at most")
    print(f"the page still answers: {send(args.port, every['good image'])}, as before: {first[0]}")


def memory(pid: int) -> tuple[float, float]:
    """MiB that are resident, and that were at most."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"(\w+):\s+(\d+) kB", text))
    return int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024


def kinds(port: int) -> dict[str, Kind]:
    """The requests, by name."""
    rng = np.random.default_rng(0)
    good = picture(rng.integers(0, 256, (64, 64, 3), np.uint8))
    large = picture(rng.integers(0, 256, (1500, 1500, 3), np.uint8))
    bomb = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(bomb, "PNG")
    body = form([("a.png", good)])
    names = [
        ("<script>alert(1)</script>.png", good),
        ("../../x\r\n.png", good),
        ("\xe9" * 500, good),
    ]
    return {
        "good image": ("/image", body, {}),
        "good batch": ("/batch", form([(f"{i}.png", good) for i in range(5)]), {}),
        "large image": ("/image", form([("a.png", large)]), {}),
        "text as image": ("/image", form([("a.png", b"only text")]), {}),
        "cut image": ("/image", form([("a.png", good[: len(good) // 2])]), {}),
        "10,000 x 10,000 px": ("/image", form([("a.png", bomb.getvalue())]), {}),
        "hostile names": ("/batch", form(names), {}),
        "no file": ("/image", form([("", b"")]), {}),
        "no form": ("/image", bytes(1000), {}),
        "300 files": ("/batch", form([(f"{i}.png", b"x") for i in range(300)]), {}),
        "foreign origin": ("/image", body, {"Origin": "http://evil.example"}),
        "foreign site": ("/image", body, {"Sec-Fetch-Site": "cross-site"}),
        "foreign host": ("/image", body, {"Host": f"evil.example:{port}"}),
        "body of 1 TB": ("/image", body, {"Content-Length": str(10**12)}),
    }


def picture(pixels: np.ndarray) -> bytes:
    """As PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def form(files: list[tuple[str, bytes]]) -> bytes:
    """A body with files."""
    head = f'--{MARK}\r\nContent-Disposition: form-data; name="file"; filename="'
    parts = [f'{head}{name}"\r\n\r\n'.encode() + data + b"\r\n" for name, data in files]
    return b"".join(parts) + f"--{MARK}--\r\n".encode()


def send(port: int, kind: Kind) -> int | str:
    """The status of a response, or what went wrong."""
    path, body, headers = kind
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        own = {"Content-Type": f"multipart/form-data; boundary={MARK}"}
        connection.request("POST", path, body, own | headers)
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


if __name__ == "__main__":
    main()
