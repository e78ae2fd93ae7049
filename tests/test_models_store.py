"""The catalog, the models folder, and what a name or a path means."""

from __future__ import annotations

import hashlib
import json
import struct
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from reviewmill.cli.models import app
from reviewmill.errors import ChecksumError, ModelError
from reviewmill.models import (
    Catalog,
    builtin_catalog,
    list_models,
    load_catalog,
    model_path,
    remove,
    resolve,
    verify,
)
from reviewmill.models.gguf import read_header
from reviewmill.settings import DEFAULT_MODEL


def gguf(*pairs: tuple[str, int, bytes], tail: bytes = b"weights") -> bytes:
    """A GGUF file with these metadata: (key, type, encoded value)."""
    body = b"".join(string(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body + tail


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


HEADER = (
    ("general.architecture", 8, string("qwen2")),
    ("general.tags", 9, struct.pack("<IQ", 8, 2) + string("chat") + string("中文")),
    ("general.license", 8, string("mit")),
    ("qwen2.context_length", 4, struct.pack("<I", 4096)),
    ("tokenizer.ggml.model", 8, string("gpt2")),
)


@pytest.fixture
def tiny() -> Catalog:
    """A catalog of one model in two files: one with a checksum, one unverified."""
    digest = hashlib.sha256(b"one").hexdigest()
    return Catalog.model_validate(
        {
            "models": [
                {
                    "name": "tiny",
                    "family": "Tiny",
                    "parameters": 1,
                    "quantisation": "bf16",
                    "format": "safetensors",
                    "engine": "vllm",
                    "licence": {"name": "MIT", "url": "https://example.org"},
                    "context": {"native": 512},
                    "files": [
                        {"name": "a.safetensors", "size": 3, "sha256": digest, "evidence": "computed"},
                        {"name": "b.json"},
                    ],
                    "sources": [{"kind": "hf", "repo": "org/tiny"}],
                }
            ]
        }
    )


@pytest.fixture
def here(tmp_path):
    """A models folder that holds the model of `tiny`."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"one")
    (folder / "b.json").write_bytes(b"two")
    return tmp_path


def test_catalog_has_the_default_and_no_invented_checksum() -> None:
    catalog = builtin_catalog()
    default = catalog.get(DEFAULT_MODEL)
    assert default.bytes == 1_117_320_768
    assert [source.kind for source in default.sources] == ["local", "hf", "modelscope", "pypi"]
    for model in catalog.models:
        assert (model.engine == "embedded") == (model.format == "gguf")
        assert model.bytes, model.name
        for file in model.files:
            assert (file.size is not None) == (file.checksum is not None), file.name
    digests = [file.checksum for model in catalog.models for file in model.files if file.checksum]
    assert len(digests) == len(set(digests))


def test_catalog_states_each_licence() -> None:
    licences = {model.name: model.licence for model in builtin_catalog().models}
    assert licences["qwen2.5-3b-instruct-q4_k_m"].name == "qwen-research"
    assert licences["qwen2.5-7b-instruct"].name == "Apache-2.0"
    assert licences["llama-3-8b-instruct"].gated is True


def test_split_model_has_all_its_files() -> None:
    names = [file.name for file in builtin_catalog().get("qwen2.5-7b-instruct-q4_k_m").files]
    assert names == [f"qwen2.5-7b-instruct-q4_k_m-{n:05d}-of-00002.gguf" for n in (1, 2)]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('evidence = "computed"', 'sha257 = ""', "sha257"),
        (', evidence = "computed"', "", "evidence"),
        ("parameters = 1.54", "parameters = 0", "parameters"),
        ('name = "qwen2.5-0.5b-instruct-q4_k_m"', f'name = "{DEFAULT_MODEL}"', "stand twice"),
        ("[[model]]", "[[model", "not a catalog"),
    ],
)
def test_catalog_that_contradicts_itself_is_refused(tmp_path, old, new, told) -> None:
    text = resources.files("reviewmill.models").joinpath("catalog.toml").read_text("utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ModelError, match=told):
        load_catalog(path)


def test_unknown_name_suggests_the_nearest(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no model 'qwen2\.5-7b-instuct'") as caught:
        resolve("qwen2.5-7b-instuct", models_dir=tmp_path)
    assert "qwen2.5-7b-instruct" in caught.value.hint


def test_absent_model_says_how_to_get_it(tmp_path) -> None:
    for function in (resolve, verify, model_path):
        with pytest.raises(ModelError) as caught:
            function(DEFAULT_MODEL, models_dir=tmp_path)
        assert caught.value.hint == f"reviewmill models pull {DEFAULT_MODEL}"


def test_resolve_learns_an_unverified_file_and_refuses_a_change(here, tiny) -> None:
    model = resolve("tiny", models_dir=here, catalog=tiny)
    assert model.path == here / "tiny"
    listing = "".join(
        f"{hashlib.sha256(b).hexdigest()}  {n}\n" for n, b in (("a.safetensors", b"one"), ("b.json", b"two"))
    )
    assert model.sha256 == hashlib.sha256(listing.encode()).hexdigest()
    (here / "tiny" / "b.json").write_bytes(b"longer than before")
    with pytest.raises(ChecksumError, match=r"b\.json"):
        resolve("tiny", models_dir=here, catalog=tiny)
    assert not (here / "tiny" / "b.json").exists()
    with pytest.raises(ModelError, match="not complete"):
        resolve("tiny", models_dir=here, catalog=tiny)


def test_resolve_refuses_a_file_that_differs_from_the_catalog(here, tiny) -> None:
    (here / "tiny" / "a.safetensors").write_bytes(b"other")
    with pytest.raises(ChecksumError, match="the catalog says"):
        resolve("tiny", models_dir=here, catalog=tiny)
    assert not (here / "tiny" / "a.safetensors").exists()


def test_list_and_remove(here, tiny) -> None:
    assert [(each.state, each.bytes_on_disk) for each in list_models(here, catalog=tiny)] == [("here", 6)]
    (here / "tiny" / "b.json").unlink()
    assert list_models(here, catalog=tiny)[0].state == "partial"
    assert remove("tiny", models_dir=here, catalog=tiny) == 3
    assert list_models(here, catalog=tiny)[0].state == "absent"
    with pytest.raises(ModelError, match="Nothing of tiny"):
        remove("tiny", models_dir=here, catalog=tiny)


def test_damaged_memory_of_digests_is_an_error_that_says_what_to_do(here, tiny) -> None:
    (here / "digests.json").write_text("{")
    with pytest.raises(ModelError, match="damaged") as caught:
        resolve("tiny", models_dir=here, catalog=tiny)
    assert "Delete it" in caught.value.hint


def test_memory_of_digests_is_readable_by_other_users(here, tiny) -> None:
    resolve("tiny", models_dir=here, catalog=tiny)
    assert (here / "digests.json").stat().st_mode & 0o044 == 0o044


def test_path_of_any_gguf_file(tmp_path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf(*HEADER))
    model = resolve(str(path), models_dir=tmp_path / "m")
    assert (model.name, model.context, model.licence, model.family) == ("mine", 4096, "mit", "qwen2")
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    seen = json.loads((tmp_path / "m" / "digests.json").read_text())["seen"]
    assert seen[str(path)]["sha256"] == model.sha256
    path.write_bytes(gguf(*HEADER, tail=b"other weights"))
    assert resolve(str(path), models_dir=tmp_path / "m").sha256 != model.sha256
    assert path.exists()


def test_models_folder_that_cannot_be_written_only_costs_the_memory(tmp_path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf(*HEADER))
    (tmp_path / "file").write_text("a file where a folder should be")
    assert resolve(str(path), models_dir=tmp_path / "file").sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_file_with_a_catalog_models_bytes_is_that_model(tmp_path) -> None:
    data = gguf(*HEADER)
    entry = builtin_catalog().get(DEFAULT_MODEL).model_dump()
    entry["files"] = [
        {"name": "x.gguf", "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "evidence": "computed"}
    ]
    catalog = Catalog.model_validate({"models": [entry]})
    (tmp_path / "renamed.gguf").write_bytes(data)
    assert resolve(str(tmp_path / "renamed.gguf"), models_dir=tmp_path, catalog=catalog).name == DEFAULT_MODEL


def test_split_gguf_is_found_whole(tmp_path) -> None:
    paths = [tmp_path / f"big-{n:05d}-of-00002.gguf" for n in (1, 2)]
    paths[0].write_bytes(gguf(*HEADER))
    with pytest.raises(ModelError, match="00002-of-00002"):
        resolve(str(paths[0]), models_dir=tmp_path)
    paths[1].write_bytes(gguf())
    assert resolve(str(paths[0]), models_dir=tmp_path).paths == tuple(paths)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 a zip", b"GGUF\x03\x00", gguf(*HEADER)[:60], b"GGUF" + b"\xff" * 40]
)
def test_file_that_is_no_gguf_is_refused(tmp_path, data) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="not a GGUF file"):
        resolve(str(path), models_dir=tmp_path)


@given(
    st.dictionaries(st.text(min_size=1).filter(lambda key: not key.startswith("tokenizer.")), st.integers(0, 2**64 - 1))
)
def test_gguf_header_reads_back_what_was_written(tmp_path_factory, values) -> None:
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    path.write_bytes(gguf(*((key, 10, struct.pack("<Q", value)) for key, value in values.items())))
    assert read_header(path) == values


def test_missing_path_is_named(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no model file .*gone\.gguf"):
        resolve(str(tmp_path / "gone.gguf"), models_dir=tmp_path)


def test_command_line_lists_every_model_on_its_line(tmp_path) -> None:
    result = CliRunner().invoke(app, ["list", "--models-dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    for model in builtin_catalog().models:
        assert sum(line.split()[:1] == [model.name] for line in lines) == 1, model.name


def test_command_line_passes_errors_on(tmp_path) -> None:
    result = CliRunner().invoke(app, ["path", DEFAULT_MODEL, "--models-dir", str(tmp_path)])
    assert isinstance(result.exception, ModelError)
    result = CliRunner().invoke(app, ["pull", "nonsense", "--models-dir", str(tmp_path)])
    assert isinstance(result.exception, ModelError)
