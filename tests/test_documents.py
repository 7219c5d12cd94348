"""YAML, JSON and text as people send them: hostile ones cost nothing and get one line."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import yaml

from bayes_merger.documents import parse_document, read_document, read_text
from bayes_merger.errors import ConfigError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)
MERGES = "m0: &m0 {k: 1}\n" + "".join(
    f"m{level}: &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 9)}]}}\n" for level in range(1, 10)
)

REFUSED = {
    "aliases of aliases": (BOMB, "more values than"),
    "merges of merges": (MERGES, "more values than"),
    "an alias inside itself": ("a: &a {b: *a}", "contains itself"),
    "a key twice": ("prompt: a\nprompt: b", "line 2: 'prompt' is given twice"),
    "a key twice in JSON": ('{"a": 1, "a": 2}', "'a' is given twice"),
    "a name of Python's": ("a: !!python/object/apply:os.system [touch hacked]", "is no plain data"),
    "bytes": ("a: !!binary aGk=", "is no plain data"),
    "half of a character": ('a: "\\ud800"', "half of a character"),
    "half of a character in JSON": ('{"a": "\\udfff"}', "half of a character"),
    "deep brackets": ("[" * 100_000, "nested too deeply"),
    "deep JSON": ('{"a":' * 100_000, "KiB|nested too deeply"),
    "a list as a key": ("? [a, b]\n: c", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "a number that is none": ("a: !!int x", "not valid YAML"),
    "a number without digits": ("a: !!int ''", "not valid YAML"),
    "an open bracket": ("a: [", "line 1: not valid YAML"),
    "a text of quotes without an end": ('["' + '\\"' * 70_000 + "\\", "128 KiB of YAML"),
    "too much": ("a: " + "x" * 200_000, "128 KiB of YAML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_document_is_one_short_line(case: str) -> None:
    text, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words) as caught:
        parse_document(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: " + "9" * 100_000, "9" * 100_000),
        ("a: 190:20:30", "190:20:30"),
        ("a: 2020-01-01", "2020-01-01"),
        ("a: 0123", "0123"),
        ("a: 1e5", 100_000.0),
        ("a: .5", 0.5),
        ("a: -3", -3),
        ("a: no", False),
        ("a: ~", None),
        ("a:", None),
        ("a: ${oc.env:HOME}", "${oc.env:HOME}"),
        ('{"a": "\\ud83d\\ude00"}', "\N{GRINNING FACE}"),
        ('{\n\t"a": null\n}', None),
        ("{a: 1}", 1),
        ("base: &b {a: 1}\n<<: *b", 1),
    ],
)
def test_values_are_what_they_look_like(text: str, value: object) -> None:
    assert parse_document(text)["a"] == value


def test_text_is_text_to_the_letter() -> None:
    text = "prompt: 1\nmood: yes\ndate: 2020-01-01\nnone: null\nsteps: 20\n"
    read = parse_document(text, text_of=("prompt", "mood", "date", "none"))
    assert read == {"prompt": "1", "mood": "yes", "date": "2020-01-01", "none": None, "steps": 20}


@pytest.mark.parametrize(
    "text",
    [
        "{red|blue} ring, [dark:light:0.5]",
        "{red|blue}",
        "[dark]",
        "masterpiece: 1.2, best",
        "@artist, a cat",
        "*stars* and stripes",
        "100%: `all`",
        "%a",
        "- a ? b",
        '"a" and "b"',
        "'a' and it's b",
        "!wow a cat",
    ],
)
def test_what_yaml_takes_for_its_own_is_text_where_text_is_meant(text: str) -> None:
    read = parse_document(f"one:\n  prompt: {text}\r\n  steps: 20\n", text_of=("prompt",))
    assert read == {"one": {"prompt": text, "steps": 20}}


def test_quotes_and_blocks_stay_what_they_are_beside_a_line_that_is_no_yaml() -> None:
    text = """one: {a|b}, c
two: 'it''s'
three: |
  a
  b
four: "a \\(b\\), \\"c\\""
five: "tab\\t"
"""
    read = parse_document(text, text_of=("one", "two", "three", "four", "five"))
    assert list(read.values()) == ["{a|b}, c", "it's", "a\nb\n", 'a \\(b\\), "c"', "tab\t"]
    with pytest.raises(ConfigError, match="line 3: not valid YAML"):
        parse_document("prompt: a\nsteps: [\n", text_of=("prompt",))


def test_a_comment_behind_a_prompt_is_none_of_it() -> None:
    text = 'one: {a|b}, c  # mine\ntwo: "a \\(b\\) #1" # yours\nthree: a#b {c}, %d\n'
    read = parse_document(text, text_of=("one", "two", "three"))
    assert read == {"one": "{a|b}, c", "two": "a \\(b\\) #1", "three": "a#b {c}, %d"}


def test_a_name_may_be_a_table_as_well() -> None:
    text = "models: {a: 007, b: {file: B, to: yes}}\nc:\n  b: {file: 1}\n"
    read = parse_document(text, names_of=("a", "b", "file"))
    assert read == {"models": {"a": "007", "b": {"file": "B", "to": True}}, "c": {"b": {"file": "1"}}}


def test_a_list_of_texts_is_no_text() -> None:
    assert parse_document('prompt: ["a", "b"]', text_of=("prompt",)) == {"prompt": ["a", "b"]}


def test_line_ends_of_web_pages_are_spaces() -> None:
    assert parse_document("a: b\u2028c\x85d\nsteps: 2") == {"a": "b c d", "steps": 2}


def test_json_may_have_comments() -> None:
    text = """{"a": "http://x/*y*/", // one
    /* two
    */ "b": 2, "c": "\\"//"}"""
    assert parse_document(text) == {"a": "http://x/*y*/", "b": 2, "c": '"//'}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("größer".encode(), "größer"),
        (b"\xef\xbb\xbfa", "a"),
        ("猫".encode("utf-16"), "猫"),
        ("猫".encode("utf-32"), "猫"),
        ("red\nblue".encode("utf-16-le"), "red\nblue"),
        ("naïvement créée à la “mode”".encode("cp1252"), "naïvement créée à la “mode”"),
        ("красный\nкот\n".encode("utf-16-be"), "красный\nкот\n"),
        (b"", ""),
    ],
)
def test_text_is_read_in_the_encoding_that_it_has(data: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(data)
    assert read_text(tmp_path / "x.txt") == text


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "gbk", "shift-jis", "euc-kr"])
def test_an_encoding_that_cannot_be_told_is_not_guessed(encoding: str, tmp_path: Path) -> None:
    words = {"gbk": "红色的猫", "shift-jis": "赤い猫", "euc-kr": "빨간 고양이"}.get(encoding, "красный кот")
    (tmp_path / "x.txt").write_bytes(words.encode(encoding))
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        read_text(tmp_path / "x.txt")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    for name, words in (
        ("pipe", "not a regular file"),
        ("ring", "cannot be read"),
        ("gone", "no such file"),
        (".", "cannot be read|regular"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_text(tmp_path / name)
    (tmp_path / "large").write_bytes(b"x" * 2000)
    with pytest.raises(ConfigError, match="more than 1 KiB"):
        read_text(tmp_path / "large", largest=1024)


def mutant(rng: random.Random, text: str) -> str:
    letters = list(text)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(letters) + 1)
        piece = rng.choice(['"', "'", "[", "{", "&a ", "*a ", "!!int ", ": ", "- ", "\n", "\t", "\\ud800", "\x00", "9" * 50, "${", "<<: ", "#", "%", "|", ">", "? "])  # fmt: skip
        letters[at : at + rng.randint(0, 3)] = piece
    return "".join(letters)


def fuzz(rounds: int) -> None:
    rng = random.Random(0)
    seeds = [
        "prompt: a cat\nsteps: 20\nx: {a: [1, 2.5, null], b: &b yes}\nc: *b\n",
        '{"prompt": "a", "n": [1, {"b": null}]}',
    ]
    for _ in range(rounds):
        text = mutant(rng, rng.choice(seeds))
        said = ""
        try:
            yaml.safe_dump(parse_document(text, text_of=("prompt",))).encode()
        except ConfigError as error:
            said = str(error)
        assert said.isprintable(), text
        assert len(said) < 400, text


def test_a_mutant_is_read_or_refused_in_one_line() -> None:
    fuzz(500)


@pytest.mark.slow
def test_many_mutants_are_read_or_refused_in_one_line() -> None:
    fuzz(50_000)


def test_a_file_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text('{"a": 1}')
    assert read_document(tmp_path / "x.yaml") == {"a": 1}


def test_keys_are_names_whatever_they_look_like() -> None:
    text = "no: 1\n1: 2\n2.50: 3\nnull: 4\n~: 5\n"
    assert parse_document(text) == {"no": 1, "1": 2, "2.50": 3, "null": 4, "~": 5}
