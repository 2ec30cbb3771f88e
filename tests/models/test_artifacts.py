"""Artifacts: where they come from, what is checked before a model sees them, and every way to have none."""

import errno
import hashlib
import importlib
import os
import pickle
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import ClientConnectionError
from botocore.exceptions import NoCredentialsError, ParamValidationError

from app.models.artifact_cache import bring, place
from app.models.artifacts import digest, shown
from app.models.served import ServedModel
from tests.models.specimens import Reader, Upper, declare

WEIGHTS = b"weights" * 10_000
PINNED = hashlib.sha256(WEIGHTS).hexdigest()


class Unpickler(Upper):
    artifact_runs_code = True

    def load(self, artifact: Path | None) -> None:
        assert artifact is not None
        pickle.loads(artifact.read_bytes())  # noqa: S301 — what is under test is whether it comes to this


class Server:
    """A folder over HTTP or HTTPS, which counts what it is asked for, and can stop half-way through a file."""

    def __init__(self, folder: Path, cert: trustme.LeafCert | None = None) -> None:
        self.requests: list[tuple[str, str]] = []
        self.sends_versions = True
        self.stalls = threading.Event()
        self.stalled = threading.Event()
        self.resumed = threading.Event()
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, *args: Any) -> None:
                outer.requests.append((self.command, self.path))

            def send_header(self, keyword: str, value: str) -> None:
                if outer.sends_versions or keyword != "Last-Modified":
                    super().send_header(keyword, value)

            def copyfile(self, source: Any, outputfile: Any) -> None:
                if outer.stalls.is_set():
                    outputfile.write(source.read(1000))
                    outputfile.flush()
                    outer.stalled.set()
                    outer.resumed.wait(60)
                with suppress(ConnectionError):  # the client was killed
                    super().copyfile(source, outputfile)

        self._httpd = ThreadingHTTPServer(
            ("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder))
        )
        self.url = f"http://127.0.0.1:{self._httpd.server_port}"
        if cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            cert.configure_cert(context)
            self._httpd.socket = context.wrap_socket(self._httpd.socket, server_side=True)
            self.url = f"https://localhost:{self._httpd.server_port}"
        self._thread = threading.Thread(target=self._httpd.serve_forever)
        self._thread.start()

    def downloads(self) -> int:
        return [method for method, _ in self.requests].count("GET")

    def close(self) -> None:
        self.resumed.set()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the servers serve: one file, and a pickle."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "w.bin").write_bytes(WEIGHTS)
    (folder / "model.joblib").write_bytes(pickle.dumps({"a": 1}))
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    server.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(folder: Path, authority: trustme.CA) -> Iterator[Server]:
    server = Server(folder, authority.issue_cert("localhost"))
    yield server
    server.close()


@pytest.fixture
def bucket(make_bucket: Callable[[str], Any]) -> Any:
    return make_bucket("weights")


def loaded(cls: type, cache: Path, artifact: str, sha256: str | None = None) -> ServedModel:
    model = ServedModel(declare(cls, artifact=artifact, sha256=sha256), cache)
    model.load()
    return model


def given(model: ServedModel) -> Path:
    assert model.state == "ready", model.reason
    path: Path = model._model.artifact  # type: ignore[union-attr]  # the specimen's own
    return path


# Local


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_local_artifact_is_read_where_it_is(tmp_path: Path, cache: Path, form: str) -> None:
    path = tmp_path / "my weights.bin"
    path.write_bytes(WEIGHTS)

    assert given(loaded(Reader, cache, form.format(path), PINNED)) == path
    assert not cache.exists()


def test_an_address_of_a_file_may_be_percent_encoded(folder: Path, cache: Path) -> None:
    assert given(loaded(Reader, cache, f"file://{folder}/%77.bin")) == folder / "w.bin"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_local_artifact_that_changed_is_refused(folder: Path, cache: Path, form: str) -> None:
    (folder / "w.bin").write_bytes(WEIGHTS[:-1])

    model = loaded(Reader, cache, form.format(folder / "w.bin"), PINNED)

    assert model.state == "failed"
    assert f"has sha256 {digest(folder / 'w.bin')}, but models.toml pins {PINNED}" in str(model.reason)


def test_a_folders_digest_is_what_the_shell_says(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("b", "a b", "B", "deep.txt", "deep/z", "deep/er/ü"):
        (folder / name).write_text(name)
    (tmp_path / "blob").write_text("linked")
    (folder / "link").symlink_to(tmp_path / "blob")
    command = "find -L . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"

    said = subprocess.run(["sh", "-c", command], cwd=folder, check=True, capture_output=True, text=True)

    assert digest(folder) == said.stdout.split()[0]
    (tmp_path / "blob").write_text("changed")
    assert digest(folder) != said.stdout.split()[0]


# Over HTTP


def test_a_remote_artifact_is_downloaded_once_and_kept_by_its_digest(server: Server, cache: Path) -> None:
    first = given(loaded(Reader, cache, f"{server.url}/w.bin", PINNED))
    server.close()
    second = given(loaded(Reader, cache, f"{server.url}/w.bin", PINNED))

    assert first == second == cache / "sha256" / PINNED / "w.bin"
    assert first.read_bytes() == WEIGHTS
    assert server.downloads() == 1


def test_without_a_pin_a_new_version_is_downloaded_and_no_other(
    server: Server, folder: Path, cache: Path
) -> None:
    address = f"{server.url}/w.bin"
    given(loaded(Reader, cache, address))
    given(loaded(Reader, cache, address))
    assert server.downloads() == 1

    (folder / "w.bin").write_bytes(b"new")
    os.utime(folder / "w.bin", (0, 0))

    assert given(loaded(Reader, cache, address)).read_bytes() == b"new"
    assert server.downloads() == 2


def test_without_a_pin_nothing_is_kept_from_a_server_that_tells_no_version(
    server: Server, folder: Path, cache: Path
) -> None:
    server.sends_versions = False
    given(loaded(Reader, cache, f"{server.url}/w.bin"))
    (folder / "w.bin").write_bytes(WEIGHTS[::-1])  # of the same size

    assert given(loaded(Reader, cache, f"{server.url}/w.bin")).read_bytes() == WEIGHTS[::-1]


def test_a_damaged_copy_in_the_cache_is_replaced(server: Server, cache: Path) -> None:
    path = given(loaded(Reader, cache, f"{server.url}/w.bin", PINNED))
    path.write_bytes(b"damaged")

    assert given(loaded(Reader, cache, f"{server.url}/w.bin", PINNED)).read_bytes() == WEIGHTS
    assert server.downloads() == 2


def test_a_new_address_with_the_old_pin_is_not_served_from_the_cache(
    server: Server, folder: Path, cache: Path
) -> None:
    (folder / "new.bin").write_bytes(b"new")
    given(loaded(Reader, cache, f"{server.url}/w.bin", PINNED))

    model = loaded(Reader, cache, f"{server.url}/new.bin", PINNED)

    assert f"has sha256 {digest(folder / 'new.bin')}, but models.toml pins {PINNED}" in str(model.reason)


def test_the_same_from_two_addresses_is_kept_once(server: Server, folder: Path, cache: Path) -> None:
    (folder / "copy.bin").write_bytes(WEIGHTS)

    first = given(loaded(Reader, cache, f"{server.url}/w.bin"))
    second = given(loaded(Reader, cache, f"{server.url}/copy.bin"))

    assert first == second
    assert list((cache / "incoming").iterdir()) == []


def test_what_is_wrong_with_a_remote_artifact_is_told(server: Server, cache: Path) -> None:
    absent = loaded(Reader, cache, f"{server.url}/absent.bin", PINNED)
    wrong = loaded(Reader, cache, f"{server.url}/w.bin", "0" * 64)
    server.close()
    away = loaded(Reader, cache, f"{server.url}/w.bin")

    assert (
        absent.reason == f"artifact {server.url}/absent.bin does not exist: correct artifact in models.toml"
    )
    assert [absent.state, wrong.state, away.state] == ["failed", "failed", "loading"]
    assert f"has sha256 {PINNED}, but models.toml pins {'0' * 64}" in str(wrong.reason)
    assert str(away.reason).startswith(
        f"artifact {server.url}/w.bin cannot be fetched: ClientConnectorError: "
    )
    assert list((cache / "sha256").iterdir()) == []


class Answered(Exception):
    """What an HTTP library raises of an answer, with its status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ClientConnectionError("no"), "loading"),
        (TimeoutError("no"), "loading"),
        (OSError(errno.EIO, "no"), "loading"),
        (Answered(503), "loading"),
        (Answered(429), "loading"),
        (Answered(400), "failed"),
        (OSError(errno.ENOSPC, "no"), "failed"),
        (NoCredentialsError(), "failed"),
        (ParamValidationError(report="no"), "failed"),
        (ValueError("no"), "failed"),
    ],
)
def test_what_may_pass_is_told_from_what_does_not(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, state: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("app.models.artifact_cache._files", fail)

    assert loaded(Reader, cache, "s3://weights/w.bin", PINNED).state == state


def test_what_comes_from_no_address_has_a_place_of_its_own(server: Server, cache: Path) -> None:
    fetched = given(loaded(Reader, cache, f"{server.url}/w.bin", PINNED))

    def write(target: Path) -> None:
        shutil.copyfile(fetched, target)

    brought = bring(PINNED, write, cache)

    assert brought == place(PINNED, cache) != fetched
    assert (digest(brought), digest(fetched)) == (PINNED, PINNED)


def test_what_did_not_come_whole_takes_no_room(cache: Path) -> None:
    def write(target: Path) -> None:
        target.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        bring(PINNED, write, cache)

    assert list((cache / "incoming").iterdir()) == []


def test_a_password_or_a_signature_is_shown_nowhere(server: Server, cache: Path) -> None:
    address = f"{server.url.replace('//', '//me:secret@')}/absent.bin?signature=secret"

    model = loaded(Reader, cache, address)
    server.close()
    away = loaded(Reader, cache, address)

    for reason in (model.reason, away.reason, shown(address)):
        assert "secret" not in str(reason)
        assert "/absent.bin" in str(reason)


def test_a_cache_that_cannot_be_written_is_told(server: Server, cache: Path) -> None:
    cache.write_text("a file where the folder should be")

    model = loaded(Reader, cache, f"{server.url}/w.bin")

    assert model.reason == f"TWOFOLD_ARTIFACT_CACHE {cache} cannot be written: Not a directory"


@pytest.mark.parametrize(
    ("cls", "name"), [(Unpickler, "w.bin"), (Reader, "model.joblib"), (Reader, "model.PT")]
)
def test_what_runs_code_is_not_fetched_without_a_pin(
    server: Server, cache: Path, cls: type, name: str
) -> None:
    model = loaded(cls, cache, f"{server.url}/{name}")

    assert "runs code when it is loaded" in str(model.reason)
    assert 'pin it with sha256 = "…"' in str(model.reason)
    assert server.requests == []


def test_what_runs_code_is_loaded_from_here_or_with_a_pin(server: Server, folder: Path, cache: Path) -> None:
    path = folder / "model.joblib"

    assert loaded(Unpickler, cache, str(path)).state == "ready"
    assert loaded(Unpickler, cache, f"{server.url}/model.joblib", digest(path)).state == "ready"
    path.write_bytes(pickle.dumps({"a": 2}))
    shutil.rmtree(cache)
    assert "models.toml pins" in str(loaded(Unpickler, cache, f"{server.url}/model.joblib", PINNED).reason)


LOAD = """
import sys
from pathlib import Path
from app.models.served import ServedModel
from tests.models.specimens import Reader, declare
address, cache, sha256 = sys.argv[1:]
model = ServedModel(declare(Reader, artifact=address, sha256=sha256 or None), Path(cache))
model.load()
print(model._model.artifact)
"""


def path_from(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=100)[0].splitlines()[-1]


def start_loading(address: str, cache: Path, sha256: str = "", **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, address, str(cache), sha256],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("sha256", [PINNED, ""])
def test_of_many_processes_over_https_one_downloads(
    tls_server: Server, authority: trustme.CA, cache: Path, tmp_path: Path, sha256: str
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    address, trusted = f"{tls_server.url}/w.bin", str(tmp_path / "ca.pem")

    processes = [start_loading(address, cache, sha256, SSL_CERT_FILE=trusted) for _ in range(6)]
    paths = {path_from(process) for process in processes}

    assert paths == {str(cache / "sha256" / PINNED / "w.bin")}
    assert [process.returncode for process in processes] == [0] * 6
    assert tls_server.downloads() == 1


def test_a_server_whose_certificate_nobody_vouches_for_is_refused(tls_server: Server, cache: Path) -> None:
    model = loaded(Reader, cache, f"{tls_server.url}/w.bin", PINNED)

    assert "certificate verify failed" in str(model.reason)
    assert tls_server.requests == []


def test_a_process_killed_while_it_downloads_leaves_the_way_free(server: Server, cache: Path) -> None:
    server.stalls.set()
    victim = start_loading(f"{server.url}/w.bin", cache, PINNED)
    assert server.stalled.wait(100)
    waiting = start_loading(f"{server.url}/w.bin", cache, PINNED)
    server.stalls.clear()

    victim.send_signal(signal.SIGKILL)
    victim.communicate()

    assert path_from(waiting) == str(cache / "sha256" / PINNED / "w.bin")
    assert list((cache / "incoming").iterdir()) == []


# From S3


def test_a_file_from_s3(bucket: Any, cache: Path) -> None:
    bucket.put_object(Key="deep/w.bin", Body=WEIGHTS)

    path = given(loaded(Reader, cache, "s3://weights/deep/w.bin", PINNED))

    assert path == cache / "sha256" / PINNED / "w.bin"
    assert path.read_bytes() == WEIGHTS


def test_a_folder_from_s3_with_and_without_a_pin(bucket: Any, cache: Path) -> None:
    contents = {"MLmodel": b"flavors: {}", "data/w.bin": WEIGHTS}
    for name, body in contents.items():
        bucket.put_object(Key=f"models/mine/{name}", Body=body)
    bucket.put_object(Key="models/mine/data/", Body=b"")  # what the console makes to show a folder
    bucket.put_object(Key="models/mine2/other", Body=b"")

    unpinned = given(loaded(Reader, cache, "s3://weights/models/mine"))
    pinned = given(loaded(Reader, cache, "s3://weights/models/mine/", digest(unpinned)))

    assert unpinned == pinned
    found = {str(path.relative_to(pinned)): path.read_bytes() for path in pinned.rglob("*") if path.is_file()}
    assert found == contents


def test_a_changed_object_is_a_new_version(bucket: Any, cache: Path) -> None:
    bucket.put_object(Key="w.bin", Body=b"old")
    given(loaded(Reader, cache, "s3://weights/w.bin"))
    bucket.put_object(Key="w.bin", Body=b"new")

    assert given(loaded(Reader, cache, "s3://weights/w.bin")).read_bytes() == b"new"


def test_an_object_cannot_leave_the_folder_it_is_kept_in(bucket: Any, cache: Path) -> None:
    bucket.put_object(Key="mine/w.bin", Body=WEIGHTS)
    bucket.put_object(Key="mine/../../../evil", Body=b"evil")

    model = loaded(Reader, cache, "s3://weights/mine")

    assert "which is no path inside it" in str(model.reason)


@pytest.mark.parametrize(
    "address", ["s3://weights/absent.bin", "s3://no-such-bucket/w.bin", "s3://weights/absent/"]
)
def test_what_is_not_on_s3_is_told(bucket: Any, cache: Path, address: str) -> None:
    model = loaded(Reader, cache, address, PINNED)

    assert model.reason == f"artifact {address} does not exist: correct artifact in models.toml"


def test_an_s3_that_cannot_be_reached_is_told(
    bucket: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    model = loaded(Reader, cache, "s3://weights/w.bin", PINNED)

    assert str(model.reason).startswith("artifact s3://weights/w.bin cannot be fetched: ")


@pytest.mark.parametrize(
    ("module", "address", "extra"),
    [("s3fs", "s3://b/w", "s3"), ("gcsfs", "gs://b/w", "gcs"), ("aiohttp", "https://h/w", "http")],
)
def test_a_missing_extra_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, module: str, address: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    imported_already = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(imported_already, address.partition(":")[0], raising=False)
    for name in [name for name in sys.modules if name.startswith("fsspec.implementations.http")]:
        monkeypatch.delitem(sys.modules, name)

    model = loaded(Reader, cache, address, PINNED)

    assert f"it needs the extra {extra!r}, which is not installed" in str(model.reason)
    assert f"pip install -e '.[{extra}]'" in str(model.reason)
