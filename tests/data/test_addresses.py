"""Addresses: what is read as the plain name of one object, and what an allowed folder lets in."""

from pathlib import Path

import pytest

from app.data.addresses import address_of, folders_of, plain, require_allowed
from app.errors import ConfigurationError, Forbidden, Invalid

WRONG = {
    "no protocol": ("data/x.csv", "must begin with one of s3://, gs://, file://"),
    "another protocol": ("http://169.254.169.254/latest", "must begin with one of"),
    "memory": ("memory://x", "must begin with one of"),
    "a chain": ("zip://x.csv::s3://data/x.zip", "must begin with one of"),
    "a chain at the end": ("s3://data/x.zip::zip", "'::'"),
    "upper case": ("S3://data/x", "must begin with one of"),
    "a user": ("s3://key:secret@data/x", "no bucket"),
    "a port": ("s3://data:80/x", "no bucket"),
    "no bucket": ("s3:///x", "is empty"),
    "up": ("s3://data/in/../out/x", "`..`"),
    "here": ("s3://data/./x", "`.`"),
    "nothing between slashes": ("s3://data//x", "is empty"),
    "an encoded step": ("s3://data/in/%2e%2e/x", "'%2e'"),
    "an encoded slash": ("file:///data/in%2Fx", "'%2F'"),
    "a version": ("s3://data/x?versionId=1", "'?'"),
    "a fragment": ("s3://data/x#1", "'#'"),
    "a glob": ("s3://data/*.csv", "'*'"),
    "a set": ("s3://data/[ab]", "'['"),
    "a backslash": ("file:///data/in\\..\\x", "'\\\\'"),
    "a line break": ("s3://data/x\n", "'\\n'"),
    "another host": ("file://host/data", "must name a file of the service's machine"),
    "a relative file": ("file://data/x", "must name a file of the service's machine"),
    "only a protocol": ("file:///", "is empty"),
    "too long": (f"s3://data/{'x' * 2048}", "longer than 2048"),
}


@pytest.mark.parametrize(("url", "words"), WRONG.values(), ids=WRONG)
def test_what_is_not_plainly_one_name_is_refused(url: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        address_of(url)
    assert words in caught.value.errors[0].detail
    assert caught.value.errors[0].pointer == "/url"


@pytest.mark.parametrize("url", ["s3://data/in/x y.csv", "gs://data/été.ndjson", "file:///data/100%.csv"])
def test_names_stand_as_they_are(url: str) -> None:
    assert str(address_of(url)) == url


@pytest.mark.parametrize(
    ("folder", "url", "is_allowed"),
    [
        ("s3://bk/data", "s3://bk/data/x", True),
        ("s3://bk/data/", "s3://bk/data/deep/er/x", True),
        ("s3://bk", "s3://bk/x", True),
        ("s3://bk/data", "s3://bk/data-secret/x", False),
        ("s3://bk/data", "s3://bk/data", False),
        ("s3://bk/data", "s3://bk/x", False),
        ("s3://bk", "s3://bk-secret/x", False),
        ("s3://bk/data", "gs://bk/data/x", False),
        ("file:///b/data", "s3://bk/data/x", False),
    ],
)
def test_an_object_must_lie_inside_of_an_allowed_folder(folder: str, url: str, is_allowed: bool) -> None:
    folders = folders_of([folder, "s3://other"])
    if is_allowed:
        require_allowed(address_of(url), folders)
        return
    with pytest.raises(Forbidden, match=r"outside of what TWOFOLD_STORAGE_PREFIXES allows"):
        require_allowed(address_of(url), folders)


def test_a_link_that_leads_out_of_the_folder_is_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("s")
    (tmp_path / "in" / "x").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "own").write_text("o")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "own")
    folders = folders_of([f"file://{tmp_path}/in"])

    require_allowed(address_of(f"file://{tmp_path}/in/link"), folders)
    for name in ("x", "up/secret", "up/new"):
        with pytest.raises(Forbidden):
            require_allowed(address_of(f"file://{tmp_path}/in/{name}"), folders)


def test_nothing_is_allowed_unless_it_is_said() -> None:
    with pytest.raises(Forbidden, match="which is nothing"):
        require_allowed(address_of("s3://data/x"), folders_of([]))


def test_a_wrong_folder_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match=r"TWOFOLD_STORAGE_PREFIXES: 's3://data/\*' holds '\*'"):
        folders_of(["s3://data/*"])


def test_a_folder_has_one_name_however_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "real" / "own").mkdir(parents=True)
    (tmp_path / "allowed").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "link").symlink_to(tmp_path / "real" / "own")
    folders = folders_of([f"file://{tmp_path}/allowed"])

    def name(path: str) -> str:
        return str(plain(address_of(f"file://{tmp_path}/allowed{path}"), folders)).removeprefix(
            f"file://{tmp_path}"
        )

    assert [name(path) for path in ("", "/own", "/link", "/link/new")] == [
        "/allowed",
        "/allowed/own",
        "/allowed/own",
        "/allowed/own/new",
    ]
    assert plain(address_of("s3://bucket/link"), folders) == address_of("s3://bucket/link")
