"""Stores: one contract for all of them, S3 and a folder here, and what each way of going wrong is called."""

import errno
import hashlib
import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.data import objects
from app.data.addresses import Address
from app.data.objects import ObjectChanged, ObjectUnavailable, Storage, StoreAway
from app.errors import Forbidden, Invalid, TooLarge
from tests.serving import in_a_thread

BODY = bytes(range(256)) * 40


class Store:
    """A storage of one folder, and a look at what is in it past that storage."""

    def __init__(
        self, url: str, read: Callable[[str], bytes | None], write: Callable[[str, bytes], object]
    ) -> None:
        self.url = url
        self.storage = Storage.of([url])
        self.read_past = read
        self.write_past = write

    def address(self, name: str = "x") -> Address:
        return self.storage.object(f"{self.url}/{name}")


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        folder = tmp_path / "data"
        folder.mkdir()
        return Store(
            f"file://{folder}",
            lambda name: (folder / name).read_bytes() if (folder / name).exists() else None,
            lambda name, body: (folder / name).write_bytes(body),
        )
    bucket = request.getfixturevalue("make_bucket")("objects")

    def read(name: str) -> bytes | None:
        found = [each.get()["Body"].read() for each in bucket.objects.filter(Prefix=f"data/{name}")]
        return found[0] if found else None

    return Store(
        "s3://objects/data", read, lambda name, body: bucket.put_object(Key=f"data/{name}", Body=body)
    )


@pytest.mark.parametrize("as_file", [False, True])
def test_what_is_written_is_there_and_measured(store: Store, tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "source").write_bytes(BODY)

    written = store.storage.write(store.address("deep/er/x y"), tmp_path / "source" if as_file else BODY)

    assert store.read_past("deep/er/x y") == BODY
    assert (written.name, written.n_bytes) == ("x y", len(BODY))
    assert written.sha256 == hashlib.sha256(BODY).hexdigest()
    store.storage.write(store.address("deep/er/x y"), b"new")
    assert store.read_past("deep/er/x y") == b"new"


def test_any_part_of_it_can_be_read(store: Store) -> None:
    store.write_past("x", BODY)

    assert store.storage.find(store.address()).n_bytes == len(BODY)
    for start, stop in ((0, 1), (100, 5000), (len(BODY) - 1, len(BODY))):
        assert store.storage.read(store.address(), start, stop) == BODY[start:stop]
    assert b"".join(store.storage.blocks(store.address(), len(BODY))) == BODY


def test_an_object_that_became_shorter_has_changed(store: Store) -> None:
    store.write_past("x", BODY[:100])
    for start, stop in ((50, 200), (500, 600)):
        with pytest.raises(ObjectChanged):
            store.storage.read(store.address(), start, stop)


def test_an_object_that_is_replaced_while_it_is_read_has_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "BLOCK_BYTES", 100)
    store.write_past("x", b"a" * 300)
    with pytest.raises(ObjectChanged, match="changed while it was read"):  # noqa: PT012 — in the middle of it
        for place, _block in enumerate(store.storage.blocks(store.address(), 1000)):
            if place == 1:
                store.storage.write(store.address(), b"b" * 300)


def test_an_object_over_the_limit_is_not_read(store: Store) -> None:
    store.write_past("x", BODY)
    with pytest.raises(TooLarge, match=f"larger than {len(BODY) - 1:,} bytes"):
        next(store.storage.blocks(store.address(), len(BODY) - 1))


def test_what_is_not_there_is_unavailable_and_a_folder_is_no_object(store: Store) -> None:
    store.storage.write(store.address("folder/x"), BODY)
    for name in ("none", "folder", "folder/x/y"):
        with pytest.raises(ObjectUnavailable, match="does not exist, or is no object"):
            store.storage.find(store.address(name))
    with pytest.raises(ObjectUnavailable):
        store.storage.read(store.address("none"), 0, 1)


def test_a_file_that_no_disk_can_have_is_unavailable_for_good(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path / "round")
    storage = Storage.of([f"file://{tmp_path}"])

    for name in ("x" * 300, "round"):
        with pytest.raises(ObjectUnavailable, match="does not exist, or is no object"):
            storage.find(storage.object(f"file://{tmp_path}/{name}"))


def test_the_name_of_what_is_gone_does_not_tell_of_its_range(store: Store) -> None:
    with pytest.raises(ObjectUnavailable, match="does not exist"):
        store.storage.read(store.address("orange-416.ndjson"), 0, 1)


@pytest.mark.parametrize(
    ("code", "expected"), [(416, ObjectChanged), (403, StoreAway), (500, StoreAway), (None, StoreAway)]
)
def test_google_says_by_a_code_that_an_object_became_shorter(
    code: int | None, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class HttpError(Exception):
        """That of gcsfs, which is not installed."""

        def __init__(self, code: int | None) -> None:
            super().__init__("orange.ndjson: the range")
            self.code = code

    class Files:
        def cat_file(self, *_: Any, **__: Any) -> bytes:
            raise HttpError(code)

    monkeypatch.setattr(objects, "_filesystems", {("gs", os.getpid()): Files()})
    storage = Storage.of(["gs://data"])

    with pytest.raises(expected):
        storage.read(storage.object("gs://data/orange.ndjson"), 0, 1)


def test_a_file_that_cannot_be_read_is_tried_again_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage.of([f"file://{tmp_path}"])

    def fail(path: str, *_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(objects, "read_file", fail)
    with pytest.raises(StoreAway, match=r"Input/output error$"):
        storage.read(storage.object(f"file://{tmp_path}/orange.ndjson"), 0, 1)


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_a_file_that_became_something_else_is_no_object_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    storage = Storage.of([f"file://{tmp_path}"])
    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX) as listening:
        {"pipe": os.mkfifo, "socket": lambda path: listening.bind(str(path)), "folder": os.mkdir}[kind](path)

        with pytest.raises(ObjectUnavailable, match="does not exist, or is no object"):
            storage.read(storage.object(f"file://{path}"), 0, 10)


def test_what_the_reading_process_does_not_allow_is_not_touched(store: Store) -> None:
    address = store.address()
    store.write_past("x", BODY)
    elsewhere = Storage.of(["s3://objects/other", "file:///other"])
    for touch in (
        lambda: elsewhere.find(address),
        lambda: elsewhere.read(address, 0, 1),
        lambda: elsewhere.write(address, b""),
    ):
        with pytest.raises(Forbidden):
            touch()
    assert store.read_past("x") == BODY


def test_what_a_client_gets_to_upload_may_be_put_there_by_anyone(store: Store) -> None:
    if store.url.startswith("file"):
        with pytest.raises(Invalid, match="file:// has no presigned uploads"):
            store.storage.presign(store.address(), 60, "/folder")
        return
    url = urlsplit(store.storage.presign(store.address("up"), 60, "/folder"))
    connection = http.client.HTTPConnection(url.netloc)

    connection.request("PUT", f"{url.path}?{url.query}", BODY)

    assert connection.getresponse().status == 200
    connection.close()
    assert store.read_past("up") == BODY


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage.of([f"file://{tmp_path}"])

    def fail(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "in /secret")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreAway, match=r"does not answer as it should: No space left on device$"):
        storage.write(storage.object(f"file://{tmp_path}/x"), BODY)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_writes_is_unavailable_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage.of([f"file://{tmp_path}"])

    def fail(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(objects, "write_file", fail)
    with pytest.raises(ObjectUnavailable, match="x cannot be written: Read-only file system"):
        storage.write(storage.object(f"file://{tmp_path}/x"), BODY)


def test_a_bucket_that_is_not_there_is_unavailable(make_bucket: Callable[[str], Any]) -> None:
    make_bucket("objects")
    storage = Storage.of(["s3://nothing/data"])
    with pytest.raises(ObjectUnavailable, match="does not exist"):
        storage.write(storage.object("s3://nothing/data/x"), BODY)


def test_a_store_without_its_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage.of(["gs://data"])
    with pytest.raises(
        ObjectUnavailable, match=r"needs the extra 'gcs' on the server: pip install 'twofold\[gcs\]'"
    ):
        storage.find(storage.object("gs://data/x"))


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server of these requests."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with in_a_thread(server):
        yield f"http://127.0.0.1:{server.server_port}"


class Hostile(BaseHTTPRequestHandler):
    """Sends everybody elsewhere, and notes who followed."""

    followed: list[str]

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        if self.path.startswith("/inside"):
            self.followed.append(self.path)
        self.send_response(302)
        self.send_header("Location", f"http://{self.headers['Host']}/inside{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    Hostile.followed = []
    with serving(Hostile) as url:
        _point_at(url, monkeypatch)
        yield Hostile.followed


def _point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_filesystems", {})
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


def test_no_redirect_is_followed(hostile: list[str]) -> None:
    storage = Storage.of(["s3://data"])
    with pytest.raises((StoreAway, ObjectUnavailable)):
        storage.read(storage.object("s3://data/x"), 0, 10)
    assert hostile == []


class Failing(BaseHTTPRequestHandler):
    """Fails, if need be after a silence, and notes what it was asked."""

    asked: list[str]
    may_answer: threading.Event

    def do_HEAD(self) -> None:
        self.asked.append(self.command)
        self.may_answer.wait()
        self.send_response(500)
        self.send_header("Content-Length", "0")
        with suppress(ConnectionError):
            self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize("is_silent", [True, False])
def test_what_fails_is_repeated_once(is_silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "SILENCE_SECONDS", 0.5)
    Failing.asked, Failing.may_answer = [], threading.Event()
    if not is_silent:
        Failing.may_answer.set()
    storage = Storage.of(["s3://data"])
    address = storage.object("s3://data/x")
    with serving(Failing) as url:
        _point_at(url, monkeypatch)
        with pytest.raises(StoreAway):
            storage.find(address)
        with pytest.raises(StoreAway):
            storage.read(address, 0, 10)
        Failing.may_answer.set()
    assert Failing.asked == ["HEAD", "HEAD", "GET", "GET"]


def test_a_store_that_does_not_answer_is_away_and_its_host_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _point_at("http://127.0.0.1:9", monkeypatch)
    storage = Storage.of(["s3://data"])
    with pytest.raises(StoreAway) as caught:
        storage.read(storage.object("s3://data/x"), 0, 10)
    assert "127.0.0.1" not in caught.value.detail
    assert caught.value.headers == {"Retry-After": "10"}
