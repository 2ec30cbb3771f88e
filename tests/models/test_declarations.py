"""models.toml: what it may say, and the one line for everything else."""

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.models.declarations import Declaration, read_declarations

ENTRY = '[[model]]\nname = "a"\nversion = "1"\nclass = "m:C"\n'


def write(directory: Path, text: str) -> Path:
    path = directory / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_version_named_like_trained_ones_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[[model]]\nname = "a"\nversion = "t12"\nclass = "m:C"\n')
    with pytest.raises(ConfigurationError, match="'t12' is of a form that trained versions have"):
        read_declarations(path)


def test_an_entry_with_every_key(tmp_path: Path) -> None:
    text = ENTRY + (
        'artifact = "w.bin"\noptions = { k = 3 }\ndefault = true\nconcurrency = 4\n'
        'warmup = [{ text = "a" }]\npreload = true\n'
    )

    assert read_declarations(write(tmp_path, text)) == (
        Declaration(
            name="a",
            version="1",
            class_path="m:C",
            artifact="w.bin",
            options={"k": 3},
            default=True,
            concurrency=4,
            warmup=[{"text": "a"}],
            preload=True,
        ),
    )


def test_which_version_is_the_default_makes_no_other_model(tmp_path: Path) -> None:
    text = ENTRY + "default = true\n" + ENTRY.replace('"1"', '"2"')
    one, _ = read_declarations(write(tmp_path, text))
    text = ENTRY + ENTRY.replace('"1"', '"2"') + "default = true\n"
    same, _ = read_declarations(write(tmp_path, text))

    assert (one.default, same.default) == (True, False)
    assert one == same


def test_an_adapter_stands_for_its_class(tmp_path: Path) -> None:
    (declaration,) = read_declarations(write(tmp_path, ENTRY.replace('class = "m:C"', 'adapter = "onnx"')))

    assert declaration.class_path == "app.models.adapters.onnx:Onnx"


def test_the_only_version_is_the_default_and_other_keys_are_optional(tmp_path: Path) -> None:
    (declaration,) = read_declarations(write(tmp_path, ENTRY))

    assert declaration.default
    assert (declaration.artifact, declaration.options, declaration.concurrency) == (None, {}, 1)


def test_versions_keep_the_order_of_the_file_and_one_is_the_default(tmp_path: Path) -> None:
    text = ENTRY + ENTRY.replace('"a"', '"b"') + ENTRY.replace('"1"', '"2"') + "default = true\n"

    declared = read_declarations(write(tmp_path, text))

    assert [(d.name, d.version, d.default) for d in declared] == [
        ("a", "1", False),
        ("b", "1", True),
        ("a", "2", True),
    ]


def test_the_shipped_file_declares_sentiment_alone() -> None:
    (declaration,) = read_declarations(Path(__file__).parents[2] / "models.toml")

    assert (declaration.name, declaration.version, declaration.default) == ("sentiment", "1", True)


SECOND = ENTRY.replace('"1"', '"2"')


@pytest.mark.parametrize(
    ("text", "place", "advice"),
    [
        ("[[model]", "models.toml: is not TOML", "line 1"),
        (ENTRY + f"options = {{ x = {'1' * 5000} }}", "models.toml: is not TOML", "limit"),
        (ENTRY + f"options = {{ x = {'[' * 5000}", "models.toml: is not TOML", "recursion"),
        ("", "models.toml: declares no model", "add a [[model]] entry"),
        ("model = []", "models.toml: declares no model", "add a [[model]] entry"),
        ('[model]\nname = "a"', "`model` is not a list", "[[model]]"),
        ("model = 3", "`model` is not a list", "[[model]]"),
        (ENTRY + '[service]\nname = "x"', "'service'", "only [[model]] entries"),
        (ENTRY.replace('name = "a"\n', ""), "number 1: has no name", 'add name = "…"'),
        (ENTRY.replace('version = "1"\n', ""), "number 1 ('a'): has no version", 'add version = "…"'),
        (
            ENTRY.replace('class = "m:C"\n', ""),
            "number 1 ('a'): has no class and no adapter",
            'add class = "',
        ),
        (ENTRY + 'adapter = "onnx"\n', "has both class and adapter", "keep one"),
        (ENTRY.replace("class", "adapter"), "adapter 'm:C' is unknown", "known are joblib, skops, onnx"),
        (ENTRY.replace('"1"', "1"), "version is 1", "put it in quotes"),
        (ENTRY.replace('"a"', '"Senti ment"'), "name 'Senti ment'", "a-z"),
        (ENTRY.replace('"a"', f'"{"a" * 64}"'), "is no name", "1 to 63"),
        (ENTRY.replace('"1"', '"-1"'), "version '-1'", "first"),
        (ENTRY + "optoins = {}\n", "unknown key 'optoins'", "did you mean 'options'?"),
        (ENTRY + 'weights = "w"\n', "unknown key 'weights'", "known are name, version"),
        (ENTRY + 'artifact = "w"\nsha256 = "00"\n', "sha256 '00' is no digest", "64 hex digits"),
        (ENTRY + f'sha256 = "{"0" * 64}"\n', "has sha256 but no artifact", 'add artifact = "…"'),
        (ENTRY.replace("m:C", "m.C"), "class 'm.C'", "write 'package.module:Class'"),
        (ENTRY.replace("m:C", "m:"), "class 'm:'", "write 'package.module:Class'"),
        (ENTRY.replace("m:C", "./m.py:C"), "class './m.py:C'", "write 'package.module:Class'"),
        (ENTRY + 'artifact = "ftp://b/w"\n', "artifact 'ftp://b/w' has an unknown protocol", "s3://"),
        (ENTRY + 'artifact = "http://h/w"\n', "artifact comes over http", "use https, or add sha256"),
        (ENTRY + 'artifact = "file://w"\n', "artifact 'file://w' is no path", "of this machine"),
        (ENTRY + 'artifact = ""\n', "artifact ''", "of this machine"),
        (ENTRY + "options = 3\n", "options is 3", "write options = {"),
        (ENTRY + 'options = { artifact = "x" }\n', "options holds 'artifact'", 'artifact = "…"'),
        (ENTRY + 'default = "yes"\n', "default is 'yes'", "default = true"),
        (ENTRY + "preload = 1\n", "preload is 1", "preload = true"),
        (ENTRY + 'warmup = ["a"]\n', "warmup is ['a'], not a list of items", "[{ key = value }]"),
        (ENTRY + "concurrency = 0\n", "concurrency is 0", "1 or more"),
        (ENTRY + "cache = 1\n", "cache is 1", "write cache = true"),
        (ENTRY + 'cache = true\nartifact = "w.bin"\n', "an artifact that may change", "pin it with sha256"),
        (ENTRY + "cache = true\ncache_max_items = 0\n", "cache_max_items is 0", "1 or more"),
        (ENTRY + "cache_max_items = 9\n", "no cache", "add cache = true"),
        (ENTRY + "concurrency = true\n", "concurrency is True", "1 or more"),
        (ENTRY + ENTRY, "'a' declares version '1' twice", "change one"),
        (ENTRY + SECOND, "versions 1, 2 and no default", "add default = true to one"),
        (ENTRY + "default = true\n" + SECOND + "default = true\n", "versions 1, 2", "keep it on one"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, place: str, advice: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(ConfigurationError) as caught:
        read_declarations(path)

    line = str(caught.value)
    assert line.startswith(str(path))
    assert place in line
    assert advice in line
    assert "\n" not in line


def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TWOFOLD_MODELS_FILE"):
        read_declarations(tmp_path / "absent.toml")


def test_a_directory_and_a_file_that_is_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'[[model]]\nname = "\xe9"')

    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_declarations(tmp_path)
    with pytest.raises(ConfigurationError, match="UTF-8"):
        read_declarations(tmp_path / "latin.toml")
