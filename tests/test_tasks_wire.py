"""Answers on the wire: what is asked for, what enforces it and what reads it back agree."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.tasks import CompactWire, JsonWire, Parsed, Task, Wire, load_task
from reviewmill.tasks.task import MAX_KEYWORD_CHARS

LABEL_SETS = [
    ("positive", "neutral", "negative"),
    ("好", "好评", "差"),
    ("very good", "very", "good", "good."),
    ("a+b*", "[x]", "(y)", "^$", "a-b#c&d", "{"),
    ("réussi", "плохо", "👨‍👩‍👧", "سيئ"),
    ("无。", "无", "{}"),
]
WIRES: list[type[CompactWire | JsonWire]] = [CompactWire, JsonWire]
LegalAnswer = tuple[Task, bool, str, tuple[str, ...]]


def make_task(labels: tuple[str, ...], name: str = "sentiment", max_keywords: int = 5) -> Task:
    return Task.model_validate(
        {
            "name": name,
            "description": "d",
            "labels": [{"name": label, "definition": "x"} for label in labels],
            "max_keywords": max_keywords,
        }
    )


# A cleaned comment, where keywords come from, holds no control characters.
keyword = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="|,，"), min_size=1, max_size=MAX_KEYWORD_CHARS
).filter(lambda word: word == word.strip())


@st.composite
def answers(draw: st.DrawFn) -> LegalAnswer:
    """A task, whether it asks for keywords, and a legal answer."""
    labels = draw(st.sampled_from(LABEL_SETS))
    max_keywords = draw(st.integers(1, 10))
    keywords = draw(st.booleans())
    words = draw(st.lists(keyword, max_size=max_keywords)) if keywords else []
    name = draw(st.sampled_from(["sentiment", "情感"]))
    return make_task(labels, name, max_keywords), keywords, draw(st.sampled_from(labels)), tuple(words)


@pytest.mark.parametrize("form", WIRES)
@given(answers())
def test_every_legal_answer_reads_back_as_itself(form: type[CompactWire | JsonWire], answer: LegalAnswer) -> None:
    task, keywords, label, words = answer
    wire = form(task, keywords)
    text = wire.example(label, words)
    start = 0 if form is CompactWire else len(f'{{"{task.name}":"'.encode())
    assert wire.parse(text) == Parsed(label, start, words, complete=True)


@pytest.mark.parametrize("form", WIRES)
@given(answers())
def test_max_tokens_is_enough_even_at_a_token_a_byte(form: type[CompactWire | JsonWire], answer: LegalAnswer) -> None:
    task, keywords, label, words = answer
    wire = form(task, keywords)
    assert len(wire.example(label, words).encode()) < wire.max_tokens


@pytest.mark.parametrize("form", WIRES)
@given(answers())
def test_a_cut_answer_never_gives_a_label_that_it_does_not_hold(
    form: type[CompactWire | JsonWire], answer: LegalAnswer
) -> None:
    task, keywords, label, words = answer
    wire = form(task, keywords)
    text = wire.example(label, words)
    for cut in range(len(text)):
        parsed = wire.parse(text[:cut])
        # Without a closing mark, a compact answer cut to another whole label is that label.
        allowed = {None, label} | ({text[:cut].rstrip(" .。")} if form is CompactWire else set())
        assert parsed.label in allowed
        assert form is CompactWire or not parsed.complete
        assert set(parsed.keywords[:-1]) <= set(words)


@pytest.mark.parametrize("form", WIRES)
@given(st.text(st.characters(codec=None)), st.booleans())
def test_no_text_makes_parse_raise(form: type[CompactWire | JsonWire], text: str, keywords: bool) -> None:
    task = make_task(("好", "好评", "差"))
    for tail in (text, f'{text}{{"sentiment":"{text}', f'{{"sentiment":"好","keywords":["{text}', f"好|{text}"):
        parsed = form(task, keywords).parse(tail)
        assert parsed.label is None or parsed.label in task.label_names
        for word in parsed.keywords:
            word.encode()


@pytest.mark.parametrize("form", WIRES)
@pytest.mark.parametrize("text", ["positively", "not positive", "positive negative", "Positively|x", "", " ", "posit"])
def test_other_words_are_no_label(form: type[CompactWire | JsonWire], text: str) -> None:
    wire = form(load_task("sentiment"), keywords=True)
    assert wire.parse(text).label is None
    assert wire.parse(f'{{"sentiment":"{text}"}}').label is None


@pytest.mark.parametrize(
    ("text", "label", "start", "keywords"),
    [
        ("  negative|差", "negative", 2, ("差",)),
        ("\n\nnegative", "negative", 2, ()),
        ("negative\nBecause it says so, clearly.", "negative", 0, ()),
        ("negative\r\n|x", "negative", 0, ()),
        ("negative.|差，贵 , ,慢", "negative", 0, ("差", "贵", "慢")),
        ("negative |差\n不好", "negative", 0, ("差",)),
        ("negative|1,2,3,4,5,6,7", "negative", 0, ("1", "2", "3", "4", "5")),
    ],
)
def test_compact_answers_as_unconstrained_models_write_them(
    text: str, label: str, start: int, keywords: tuple[str, ...]
) -> None:
    parsed = CompactWire(load_task("sentiment"), keywords=True).parse(text)
    assert (parsed.label, parsed.label_start, parsed.keywords) == (label, start, keywords)


@pytest.mark.parametrize(
    ("text", "label", "keywords", "complete"),
    [
        ('```json\n{ "sentiment" : "negative" , "keywords" : [ "差" , "慢" ] }\n```', "negative", ("差", "慢"), True),
        ('{"keywords":["差"],"sentiment":"negative"}', "negative", ("差",), True),
        ('{"sentiment":"negative","keywords":["差"],"confidence":"high"}', "negative", ("差",), True),
        ('{"sentiment":"negative","reason":"\\"keywords\\":[x","keywords":["差"]}', "negative", ("差",), True),
        ('{"sentiment":"negative"}', "negative", (), True),
        ('{"sentiment":" negative."}', "negative", (), True),
        ('{"sentiment":"negative","keywords":["差","\\ud83d","\\x","慢"]}', "negative", ("差", "慢"), True),
        ('{"sentiment":"negative","keywords":["差"]', "negative", ("差",), False),
        ('{"sentiment":"negative","keywords":["差","慢', "negative", ("差",), False),
        ('{"sentiment":"nega', None, (), False),
        ('{"sentiment":null}', None, (), False),
        ("negative|差", "negative", ("差",), True),
        ("\ud83d{\"sentiment\":\"negative\"}", "negative", (), True),
    ],
)  # fmt: skip
def test_json_answers_as_unconstrained_models_write_them(
    text: str, label: str | None, keywords: tuple[str, ...], complete: bool
) -> None:
    parsed = JsonWire(load_task("sentiment"), keywords=True).parse(text)
    assert (parsed.label, parsed.keywords, parsed.complete) == (label, keywords, complete)


def test_json_cut_inside_a_longer_label_is_no_shorter_label() -> None:
    wire = JsonWire(make_task(("好", "好评", "差")), keywords=False)
    assert wire.parse('{"sentiment":"好').label is None
    assert wire.parse('{"sentiment":"好"').label == "好"
    assert wire.parse('{"sentiment":"差').label == "差"


@pytest.mark.parametrize("form", WIRES)
def test_keywords_that_were_not_asked_for_are_not_read(form: type[CompactWire | JsonWire]) -> None:
    wire: Wire = form(load_task("sentiment"), keywords=False)
    asked: Wire = form(load_task("sentiment"), keywords=True)
    assert wire.parse(asked.example("negative", ("差",))).keywords == ()


def test_a_thousand_spaces_cost_nothing() -> None:
    wire = JsonWire(load_task("sentiment"), keywords=True)
    assert wire.parse('{"sentiment":"negative","keywords":["差"' + " " * 200_000 + "x").keywords == ("差",)


@given(answers())
def test_the_regular_expression_takes_every_legal_answer(answer: LegalAnswer) -> None:
    task, keywords, label, words = answer
    wire = CompactWire(task, keywords)
    assert re.fullmatch(wire.regex, wire.example(label, words))
    if not any(char < " " for word in words for char in word):  # those no cleaned text holds
        assert re.fullmatch(JsonWire(task, keywords).regex, JsonWire(task, keywords).example(label, words))


@given(st.sampled_from(LABEL_SETS), st.booleans(), st.data())
def test_what_the_regular_expression_takes_is_an_answer(
    labels: tuple[str, ...], keywords: bool, data: st.DataObject
) -> None:
    wire = CompactWire(make_task(labels), keywords)
    text = data.draw(st.from_regex(wire.regex, fullmatch=True))
    parsed = wire.parse(text)
    label, _, rest = text.partition("|")
    assert parsed.label == label
    assert parsed.keywords == tuple(word.strip() for word in rest.split(",") if word.strip())


@given(st.sampled_from(LABEL_SETS), st.booleans(), st.data())
def test_what_the_regular_expression_for_json_takes_is_json(
    labels: tuple[str, ...], keywords: bool, data: st.DataObject
) -> None:
    """And without white space between its parts, in which a model could run away."""
    task = make_task(labels)
    wire = JsonWire(task, keywords)
    text = data.draw(st.from_regex(wire.regex, fullmatch=True))
    read = json.loads(text, strict=False)
    assert read[task.name] in labels
    if not any(char < " " for word in read.get("keywords", ()) for char in word):
        assert json.dumps(read, ensure_ascii=False, separators=(",", ":")) == text
    assert wire.parse(text).label == read[task.name]


@pytest.mark.parametrize("text", ["positively", "positive|", "positive|a,b,c,d,e,f", "positive|" + "x" * 17, "x|a"])
def test_the_regular_expression_refuses_what_is_no_answer(text: str) -> None:
    assert not re.fullmatch(CompactWire(load_task("sentiment"), keywords=True).regex, text)


@pytest.mark.parametrize("labels", LABEL_SETS)
@pytest.mark.parametrize("keywords", [True, False])
def test_the_regular_expression_escapes_only_metacharacters(labels: tuple[str, ...], keywords: bool) -> None:
    """Other engines' dialects (Rust, xgrammar) need not know an escaped space, dash or ampersand."""
    for wire in (CompactWire(make_task(labels), keywords), JsonWire(make_task(labels), keywords)):
        assert re.findall(r"\\[^.^$*+?{}\[\]()|\\nrt]", wire.regex) == []


@pytest.mark.parametrize("labels", LABEL_SETS)
def test_the_grammar_names_each_label_as_a_literal_without_escapes(labels: tuple[str, ...]) -> None:
    """GBNF's escapes are fewer than JSON's, so none may be needed."""
    root = CompactWire(make_task(labels), keywords=False).grammar
    assert root == "root ::= " + " | ".join(f'"{label}"' for label in labels) + "\n"


@given(answers())
def test_the_schema_describes_the_example(answer: LegalAnswer) -> None:
    task, keywords, label, words = answer
    wire = JsonWire(task, keywords)
    value, schema = json.loads(wire.example(label, words)), wire.schema
    assert list(value) == list(schema["properties"]) == schema["required"]
    assert value[task.name] in schema["properties"][task.name]["enum"]
    if keywords:
        assert len(value["keywords"]) <= schema["properties"]["keywords"]["maxItems"]
        limits = schema["properties"]["keywords"]["items"]
        assert all(limits["minLength"] <= len(word) <= limits["maxLength"] for word in value["keywords"])


def test_a_task_may_be_named_like_any_json_text() -> None:
    wire = JsonWire(make_task(("a", "b"), name="情感"), keywords=True)
    assert wire.parse(wire.example("b", ())).label == "b"
    assert wire.parse('{"sentiment":"b"}').label is None
