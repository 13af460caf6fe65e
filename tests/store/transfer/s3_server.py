"""A server of S3 for tests: a process of its own (moto)."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket, reached as a user would reach one."""
    for name, value in (("ENDPOINT_URL", server), ("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"),
                        ("DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("TOKENMIX_CACHE", str(tmp_path / "cache"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # it knows the server of another module
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.mkdir("maps")
    yield "s3://maps"
    fs.invalidate_cache()
    fs.rm("maps", recursive=True)
