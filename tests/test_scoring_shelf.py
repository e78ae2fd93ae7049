"""Where calibrations are found, and what is done with files that are none."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from reviewmill.errors import OutputError, SettingsError
from reviewmill.models.catalog import builtin_catalog
from reviewmill.scoring import Bound, Calibration
from reviewmill.scoring.shelf import AUTO, NONE, builtin, check_named, choose, find, load, save, stored
from reviewmill.scoring.stack import TextPart
from reviewmill.settings import DEFAULT_MODEL
from reviewmill.tasks import CompactWire, load_task, render

BOUND = Bound(model="m", task="t", prompt="p")


def made(
    positive: float = 0.5, *, bound: Bound = BOUND, created: str = "2026-01-01", text: bool = False
) -> Calibration:
    part = TextPart(("positive", "negative"), np.array([3, 9], dtype=np.int32), np.ones((2, 2), dtype=np.float32))
    return Calibration(
        task="sentiment",
        model="small",
        labels=("positive", "negative"),
        temperature=2.0,
        bias={"positive": positive, "negative": -positive},
        bound_to=bound,
        method="stack" if text else "vector",
        fitted_on=({"name": "mine.csv", "rows": 60},),  # type: ignore[arg-type]
        created=created,
        text=part if text else None,
    )


@pytest.mark.parametrize("text", [False, True])
def test_what_is_written_is_read_back_and_does_the_same(tmp_path, text) -> None:
    one = made(text=text)
    path = save(one, tmp_path / "new" / "mine")
    assert path.suffix == (".npz" if text else ".json")
    again = load(path)
    assert again == one
    assert again.id == one.id
    logprobs = {"positive": -0.3, "negative": -1.35}
    assert again.apply(logprobs, "真香") == one.apply(logprobs, "真香")
    assert list(tmp_path.joinpath("new").iterdir()) == [path]


def test_the_youngest_that_matches_is_used(tmp_path) -> None:
    for number, created in enumerate(("2026-01-02", "2026-01-03", "2026-01-01")):
        save(made(number / 10, created=created), tmp_path / f"c{number}")
    save(made(0.9, bound=BOUND.model_copy(update={"model": "other"}), created="2027"), tmp_path / "other")
    chosen = choose(AUTO, BOUND, "sentiment", tmp_path)
    assert chosen.calibration is not None
    assert chosen.calibration.bias["positive"] == 0.1
    assert chosen.notes == ()
    assert choose(NONE, BOUND, "sentiment", tmp_path).calibration is None


def test_one_that_does_not_match_is_told_and_not_used(tmp_path) -> None:
    save(made(), tmp_path / "mine")
    changed = BOUND.model_copy(update={"task": "changed"})
    chosen = choose(AUTO, changed, "sentiment", tmp_path)
    assert chosen.calibration is None
    assert len(chosen.notes) == 1
    assert made().id in chosen.notes[0]
    assert "the task has changed" in chosen.notes[0]
    # another task's is nobody's business
    assert choose(AUTO, changed, "emotion", tmp_path).notes == ()


@pytest.mark.parametrize("by", ["path", "name", "file", "id"])
def test_one_that_is_named_is_found_and_must_match(tmp_path, by) -> None:
    one = made()
    path = save(one, tmp_path / "mine")
    name = {"path": str(path), "name": "mine", "file": "mine.json", "id": one.id}[by]
    assert choose(name, BOUND, "sentiment", tmp_path).calibration == one
    check_named(name, "t", tmp_path)
    for field, said in (("model", "another file"), ("task", "changed since"), ("prompt", "keywords")):
        with pytest.raises(SettingsError, match=said) as refused:
            choose(name, BOUND.model_copy(update={field: "x"}), "sentiment", tmp_path)
        assert "reviewmill calibrate" in (refused.value.hint or "")
    with pytest.raises(SettingsError, match="changed since"):
        check_named(name, "other", tmp_path)


def test_one_that_is_not_there(tmp_path) -> None:
    with pytest.raises(SettingsError, match="no calibration 'nothing'"):
        find("nothing", tmp_path / "missing")
    assert list(stored(tmp_path / "missing")) == []


def pickled() -> bytes:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise SystemExit('a pickle was run')",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.json", b""),
        ("list.json", b"[]"),
        ("deep.json", b"[" * 100_000),
        ("binary.json", b"\xff\xfe\x00"),
        ("cold.json", json.dumps(made().model_dump(mode="json") | {"temperature": 0}).encode()),
        ("nan.json", json.dumps(made().model_dump(mode="json") | {"temperature": float("nan")}).encode()),
        ("future.json", json.dumps(made().model_dump(mode="json") | {"format": 2}).encode()),
        ("more.json", json.dumps(made().model_dump(mode="json") | {"bias": {"positive": 0}}).encode()),
        ("empty.npz", b""),
        ("text.npz", b"PK\x03\x04 no archive"),
        ("bare.npz", archive(other=b"")),
        ("pickle.npz", archive(calibration=pickled())),
        ("pickle.json", pickle.dumps({"a": 1})),
    ],
)
def test_a_damaged_file_is_an_error_and_runs_nothing(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    for look in (lambda: load(tmp_path / name), lambda: choose(AUTO, BOUND, "sentiment", tmp_path)):
        with pytest.raises(SettingsError, match="cannot be read as a calibration") as refused:
            look()
        assert name in refused.value.message
        assert "Delete it" in (refused.value.hint or "")


def test_an_archive_that_unpacks_to_more_than_it_may_is_refused(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("calibration.npy", bytes(80 * 1024**2))
    with pytest.raises(SettingsError, match="too large"):
        load(tmp_path / "bomb.npz")


def test_weights_of_other_features_are_refused(tmp_path, monkeypatch) -> None:
    path = save(made(text=True), tmp_path / "mine")
    monkeypatch.setattr("reviewmill.scoring.stack.FEATURES", "others")
    with pytest.raises(SettingsError, match="n-grams"):
        load(path)


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save(made(), tmp_path / "file" / "mine")


def test_the_shipped_ones_are_sound() -> None:
    shipped = builtin()
    assert len({each.id for each in shipped}) == len(shipped)
    assert len({each.bound_to for each in shipped}) == len(shipped)


def test_the_shipped_one_is_for_the_shipped_task() -> None:
    """Fails when the built-in task's words change: then benchmarks/calibration.py must fit it anew."""
    task = load_task("sentiment")
    prompt = render(task, CompactWire(task, keywords=True), keywords=True)
    fitting = [each for each in builtin() if each.bound_to.prompt == prompt.id]
    assert len(fitting) == 1
    (shipped,) = fitting
    assert shipped.bound_to.task == task.asked_hash
    known = {file.sha256 for model in builtin_catalog().models for file in model.files if model.name == DEFAULT_MODEL}
    assert shipped.bound_to.model in {f"gguf:{sha256}" for sha256 in known}
    assert set(shipped.labels) == set(task.label_names)
    assert all(set(file.labels) == set(task.label_names) for file in shipped.fitted_on)
    assert shipped.before is not None
    assert shipped.after is not None
    assert shipped.after.ece < shipped.before.ece
    assert shipped.after.nll < shipped.before.nll
