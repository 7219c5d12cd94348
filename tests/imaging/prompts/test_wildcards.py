"""Word lists as people have them: in any script and encoding, of any size, in nested folders."""

from __future__ import annotations

import os
import random
import unicodedata
from pathlib import Path

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.prompts.wildcards import Wildcards


def expand(folder: Path, text: str) -> str:
    return Wildcards(folder).expand(text, random.Random(0))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("größer\n".encode(), "größer"),
        ("größer\r\n".encode("latin-1"), "größer"),
        ("größer\r\n".encode("utf-16"), "größer"),
        ("猫\n".encode("utf-8-sig"), "猫"),
        ("красный\n".encode("utf-16-le"), "красный"),
    ],
)
def test_a_list_is_read_in_the_encoding_that_it_has(data: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "word.txt").write_bytes(data)
    assert expand(tmp_path, "a __word__") == f"a {word}"


def test_a_list_whose_encoding_cannot_be_told_is_named(tmp_path: Path) -> None:
    (tmp_path / "word.txt").write_bytes("красный".encode("cp1251"))
    with pytest.raises(
        ConfigError, match=r"wildcard __word__: .*word\.txt: its encoding cannot be told; save it as UTF-8"
    ):
        expand(tmp_path, "a __word__")


@pytest.mark.parametrize("name", ["цвет", "色", "größe", "mes couleurs", "a/b-c.d", "2girls"])
def test_a_list_is_called_in_any_script(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{unicodedata.normalize('NFD', name)}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("red")
    assert expand(tmp_path, f"a __{unicodedata.normalize('NFC', name)}__ ball") == "a red ball"


def test_lists_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.txt").write_text("__twice__ __twice__ and more")
    (tmp_path / "long.txt").write_text("x" * 15_000)
    for text in ("__twice__", "__long__ __long__"):
        with pytest.raises(ConfigError, match="more than 20000 characters"):
            expand(tmp_path, text)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "ring.txt").symlink_to(tmp_path / "ring.txt")
    for name, words in (
        ("pipe", "not a regular file"),
        ("folder", "cannot be read"),
        ("ring", "no ring.txt"),
        ("x/../pipe", "no x/"),
    ):
        with pytest.raises(ConfigError, match=words):
            expand(tmp_path, f"__{name}__")


def drawn(folder: Path | None, text: str, count: int = 200) -> set[str]:
    return {Wildcards(folder).expand(text, random.Random(seed)) for seed in range(count)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a {red|blue} ball", {"a red ball", "a blue ball"}),
        ("{a|b {c|d}}", {"a", "b c", "b d"}),
        ("{a|}", {"a", ""}),
        ("{0::a|b}", {"b"}),
        ("{2$$a|b}", {"a, b", "b, a"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{-1$$a|b}", {"a", "b"}),
        ("{9$$a|b}", {"a, b", "b, a"}),
        ("{2$$ | $$a|b}", {"a | b", "b | a"}),
        ("{2$$|$$a|b}", {"a|b", "b|a"}),
        ("${my-colour=red} ${my-colour} ${d-e}", {"red ${d-e}"}),
        ("{2$$a|a}", {"a, a"}),
        ("x { y {a|b}", {"x { y a", "x { y b"}),
        ("{word}", {"{word}"}),
        ("{word {a|b}}", {"{word a}", "{word b}"}),
        (r"\{a|b\}", {r"\{a|b\}"}),
        ("{~a|b}", {"a", "b"}),
        ("{@2$$a|b}", {"a, b", "b, a"}),
        ("${c={a|b}} x ${c}", {"x a", "x b"}),
        ("${c=!{a|b}} ${c}${c}", {"aa", "bb"}),
        ("${c={a|b}} ${c}${c}", {"aa", "bb", "ab", "ba"}),
        ("${c=a}${d=${c} b} ${d:z} ${ c }", {"a b a"}),
        ("${c:z} ${d} ${oc.env:HOME}", {"z ${d} ${oc.env:HOME}"}),
        ("${c=a} ${d:z} ${c:z}", {"z a"}),
        ("${c?=a}${c?=b} ${c}", {"a"}),
        ("${c=a}${c?=!{x|y}} ${c}", {"a"}),
        (
            "%{a photo of ..., sharp$${red|blue} ring}, x",
            {"a photo of red ring, sharp, x", "a photo of blue ring, sharp, x"},
        ),
        ("%{(…:1.2)$$ a }", {"(a:1.2)"}),
        ("%{%{b ...$$...}$$c}", {"b c"}),
        ("100%{a|b} %{c} %{d", {"100%a %{c} %{d", "100%b %{c} %{d"}),
        (r"\%{a ...$$b}", {r"\%{a ...$$b}"}),
        (r"\${c=a} ${c}", {r"\${c=a} ${c}"}),
        ("${c={a|b} ${c}", {"${c=a ${c}", "${c=b ${c}"}),
        ("a|b} {", {"a|b} {"}),
    ],
)
def test_choices_in_braces(text: str, expected: set[str]) -> None:
    assert drawn(None, text) == expected


def test_weights_make_options_likelier() -> None:
    lines = [Wildcards(None).expand("{3::a|b|0::c}", random.Random(seed)) for seed in range(400)]
    assert 260 < lines.count("a") < 340
    assert lines.count("a") + lines.count("b") == 400


def test_lists_have_weights_globs_and_several_at_once(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "birds.txt").write_text("robin\n0::dodo\n")
    (tmp_path / "animals" / "fish.txt").write_text("{big|small} carp\n")
    assert drawn(tmp_path, "__animals/birds__") == {"robin"}
    assert drawn(tmp_path, "__animals/*__") == {"robin", "big carp", "small carp"}
    assert drawn(tmp_path, "__*ish__") == {"big carp", "small carp"}
    assert drawn(tmp_path, "{__animals/birds__|cat}") == {"robin", "cat"}


def test_lists_in_yaml_and_json_are_called_by_their_keys(tmp_path: Path) -> None:
    (tmp_path / "zoo.yaml").write_text("animals:\n  birds: [robin, 2]\ncolours: [red]\n")
    (tmp_path / "moods.json").write_text('["calm"]')
    assert drawn(tmp_path, "__animals/birds__") == {"robin", "2"}
    assert drawn(tmp_path, "__zoo/animals/birds__") == {"robin", "2"}
    assert drawn(tmp_path, "__Animals/*__ __colours__ __moods__") == {"robin red calm", "2 red calm"}
    with pytest.raises(ConfigError, match=r"no colour\.txt in .*; did you mean colours"):
        expand(tmp_path, "__colour__")


def test_lists_are_found_where_the_extension_finds_them(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "all.txt").write_text("__birds__\n")
    (tmp_path / "animals" / "birds.txt").write_text("robin\n")
    (tmp_path / "animals" / "more.json").write_text('{"fish": ["carp"]}')
    for name in ("animals/all", "birds", "/animals/birds", "animals/birds/", "animals//birds"):
        assert drawn(tmp_path, f"__{name}__", 5) == {"robin"}
    for name in ("fish", "animals/fish", "animals/more/fish", "more/fish"):
        assert drawn(tmp_path, f"__{name}__", 5) == {"carp"}


def test_lines_are_tables_of_a_text_and_its_weight(tmp_path: Path) -> None:
    lines = "light:\n  - {weight: 0, text: mouse}\n  - {weight: 3, content: cat}\n  - {text: dog}\n  - {other: 1}\n"
    (tmp_path / "animals.yaml").write_text(lines)
    assert drawn(tmp_path, "__light__") == {"cat", "dog"}
    more = '{"few": [{"text": "ant", "weight": 1e-7}, {"text": "bee"}], "one": [{"text": "wasp", "weight": "1"}, {"weight": 2}]}'
    (tmp_path / "insects.json").write_text(more)
    assert drawn(tmp_path, "__few__ __one__") == {"bee wasp"}
    for weight in ("null", ".inf", "-1", "often"):
        (tmp_path / "animals.yaml").write_text(f"light: [{{text: mouse, weight: {weight}}}]")
        with pytest.raises(ConfigError, match=rf"animals.yaml: weight: {weight} is none; write one like 0.5"):
            expand(tmp_path, "__light__")


def test_a_list_in_a_table_is_as_likely_as_one_in_a_text(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "birds.txt").write_text("robin\n")
    (tmp_path / "zoo" / "fish.yaml").write_text("small: [carp]\n")
    (tmp_path / "zoo" / "moods.json").write_text('["calm"]')
    lists = Wildcards(tmp_path)
    lines = [lists.expand("__zoo/*__", random.Random(seed)) for seed in range(300)]
    assert all(80 < lines.count(word) < 120 for word in ("robin", "carp", "calm"))
    with pytest.raises(ConfigError, match=r"no zoo\.txt"):
        expand(tmp_path, "__zoo__")


def test_several_of_a_list_are_different(tmp_path: Path) -> None:
    (tmp_path / "colours.txt").write_text("red\nred\nred\nblue\n")
    assert drawn(tmp_path, "{2$$__colours__}") == {"red, blue", "blue, red"}
    for text in ("{2-$$__colours__}", "{2$$__{colours|colours}__}", "{2$$ __{1$$col}{ours|ours}__ }"):
        assert drawn(tmp_path, text) == {"red, blue", "blue, red"}
    assert drawn(tmp_path, "{3-$$a|b}") == {"a, b", "b, a"}


def test_choices_that_make_no_sense_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    for text, words in (
        ("{0::a|0::b}", "all options beside 'a' have weight 0"),
        ("{3-2$$a|b}", "takes at least 3 and at most 2"),
        (f"{{{'9' * 5000}$$a|b}}", "9{30,}... is more than 1000000; write a smaller number"),
        (f"{{{'9' * 400}::a|b}}", "9{30,}... is more than 1000000; write a smaller number"),
        ("{a|b}" * 600, "more than 500 choices"),
        ("__nothing*__", "bad.yaml: "),
        ("%{a$$b}", r"prompt: %{a\$\$...} has no place for what is behind \$\$; write ... there"),
    ):
        with pytest.raises(ConfigError, match=words):
            expand(tmp_path, text)


def test_variables_that_hold_themselves_are_refused() -> None:
    for text in ("${c=x ${c}} ${c}", "${c=${d}}${d=${c}} ${c}", "${c=${c}${c}} ${c}"):
        with pytest.raises(ConfigError, match="its variables refer to each other endlessly in"):
            drawn(None, text)


def test_what_is_too_deep_inside_each_other_is_refused() -> None:
    assert drawn(None, "${a=!" * 20 + "x" + "} ${a}" * 20) == {"x"}
    for text in (
        "${a=!" * 2000 + "x" + "}" * 2000,
        "%{..." * 1500 + "$$x}" * 1500,
        "%{...$$" * 1500 + "x" + "}" * 1500,
    ):
        with pytest.raises(ConfigError, match="more than 20 variables or texts around others inside each other"):
            drawn(None, text)


def test_a_list_s_variables_are_given_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "clothes.txt").write_text("a ${when:summer} shirt and ${when:summer} hat\n")
    assert drawn(tmp_path, "__clothes__") == {"a summer shirt and summer hat"}
    assert drawn(tmp_path, "__clothes(when=winter)__, __clothes( when = autumn )__") == {
        "a winter shirt and winter hat, a autumn shirt and autumn hat"
    }
    assert drawn(tmp_path, "${when=spring} __clothes__") == {"a spring shirt and spring hat"}
    assert drawn(tmp_path, "__clothes(winter)__") == {"__clothes(winter)__"}


def test_what_a_list_of_words_holds_is_words(tmp_path: Path) -> None:
    (tmp_path / "lists.yaml").write_text("answers: [no, 1.10, 1e3]\nhair: blonde\n")
    assert drawn(tmp_path, "__answers__") == {"no", "1.10", "1e3"}
    assert drawn(tmp_path, "__hair__ __lists/hair__") == {"blonde blonde"}


def test_lists_are_named_as_the_extension_and_windows_do(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "cat.txt").write_text("tabby\n")
    assert drawn(tmp_path, r"__animals\cat__ __~animals/cat__ __@animals/cat__") == {"tabby tabby tabby"}


def test_a_variable_s_default_may_hold_choices_and_others() -> None:
    assert drawn(None, "${c:{red|blue}} ball") == {"red ball", "blue ball"}
    assert drawn(None, "${d=sand}${c:${d} and ${e:{a|b}}}") == {"sand and a", "sand and b"}
    assert drawn(None, "${c:{red|blue} ball") == {"${c:red ball", "${c:blue ball"}


def test_a_list_is_given_variables_of_all_names(tmp_path: Path) -> None:
    (tmp_path / "season.txt").write_text("a ${in-it:mild} day\n")
    assert drawn(tmp_path, "__season__ __season(in-it=cold)__") == {"a mild day a cold day"}


def test_lines_of_a_drawing_are_no_list() -> None:
    assert drawn(None, "a __/__ b __//__") == {"a __/__ b __//__"}
