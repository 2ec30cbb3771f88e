"""Google's store behind the contract of all stores: `make test-gcs`, which installs gcsfs and an emulator first.

Its name keeps it out of `make test`: with Google's clients, gRPC among them, come 30 packages that nobody else needs.
"""

import http.client
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator.server import create_server

from app.data import objects
from app.data.objects import ObjectUnavailable, Storage, StoreAway
from tests.data import test_objects
from tests.data.test_objects import BODY, Store
from tests.ports import free_port

test_what_is_written_is_there_and_measured = test_objects.test_what_is_written_is_there_and_measured
test_any_part_of_it_can_be_read = test_objects.test_any_part_of_it_can_be_read
test_an_object_that_became_shorter_has_changed = test_objects.test_an_object_that_became_shorter_has_changed
test_an_object_that_is_replaced_while_it_is_read_has_changed = (
    test_objects.test_an_object_that_is_replaced_while_it_is_read_has_changed
)
test_an_object_over_the_limit_is_not_read = test_objects.test_an_object_over_the_limit_is_not_read
test_what_is_not_there_is_unavailable_and_a_folder_is_no_object = (
    test_objects.test_what_is_not_there_is_unavailable_and_a_folder_is_no_object
)
test_what_the_reading_process_does_not_allow_is_not_touched = (
    test_objects.test_what_the_reading_process_does_not_allow_is_not_touched
)
test_what_a_client_gets_to_upload_may_be_put_there_by_anyone = (
    test_objects.test_what_a_client_gets_to_upload_may_be_put_there_by_anyone
)


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """The address of a Google Cloud Storage with a bucket `objects`."""
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="objects")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


class Tokens(BaseHTTPRequestHandler):
    """Where Google changes what an account signed for a token."""

    def do_POST(self) -> None:
        body = json.dumps({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def tokens() -> Iterator[str]:
    with test_objects.serving(Tokens) as url:
        yield f"{url}/token"


@pytest.fixture
def store(emulator: str, tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The bucket as the service sees it, which has the key of a service account."""
    account = {
        "type": "service_account",
        "client_email": "twofold@example.iam.gserviceaccount.com",
        "private_key": _private_key(),
        "token_uri": tokens,
        "project_id": "example",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    for name, value in {
        "STORAGE_EMULATOR_HOST": emulator,
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "account.json"),
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which asks by gRPC, and the emulator speaks none
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "_filesystems", {})
    host = urlsplit(emulator).netloc

    def read(name: str) -> bytes | None:
        status, body = _ask(
            host, "GET", f"/storage/v1/b/objects/o/{quote(f'data/{name}', safe='')}?alt=media"
        )
        return body if status == 200 else None

    def write(name: str, body: bytes) -> None:
        path = f"/upload/storage/v1/b/objects/o?uploadType=media&name={quote(f'data/{name}', safe='')}"
        assert _ask(host, "POST", path, body)[0] == 200

    return Store("gs://objects/data", read, write)


def _ask(host: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host)
    connection.request(method, path, body, {"Content-Type": "application/octet-stream"})
    response = connection.getresponse()
    answered = response.status, response.read()
    connection.close()
    return answered


def _private_key() -> str:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def test_a_bucket_that_is_not_there_is_unavailable(store: Store) -> None:
    storage = Storage.of(["gs://nothing/data"])
    with pytest.raises(ObjectUnavailable, match="does not exist"):
        storage.find(storage.object("gs://nothing/data/x"))


def test_an_upload_is_signed_by_the_account_for_so_long(store: Store) -> None:
    """Which the emulator does not look at."""
    query = parse_qs(urlsplit(store.storage.presign(store.address(), 60, "/folder")).query)

    assert (query["X-Goog-Algorithm"], query["X-Goog-Expires"]) == (["GOOG4-RSA-SHA256"], ["60"])
    assert query["X-Goog-Credential"][0].startswith("twofold@example.iam.gserviceaccount.com/")
    assert len(bytes.fromhex(query["X-Goog-Signature"][0])) == 256


def test_credentials_without_a_key_cannot_sign(store: Store, tmp_path: Path) -> None:
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    (tmp_path / "account.json").write_text(json.dumps(user))
    with pytest.raises(ObjectUnavailable, match="GOOGLE_APPLICATION_CREDENTIALS"):
        store.storage.presign(store.address(), 60, "/folder")


def test_a_store_that_does_not_answer_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(StoreAway) as caught:
        store.storage.write(store.address(), BODY)
    assert "127.0.0.1" not in caught.value.detail
