"""Text, YAML and JSON files that people send each other: plain data within limits, and text as it was written.

YAML is read as data of seven kinds (mappings, lists, text, numbers, true and false, null): no other tags, no dates, no
numbers to the base of 60, no key twice, and aliases only as long as what they stand for stays small
(https://en.wikipedia.org/wiki/Billion_laughs_attack). Prompts are full of what YAML takes for its own: where a value
is known to be text, it is read to the letter. JSON may have comments.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from bayes_merger.errors import ConfigError, one_line, printable
from bayes_merger.paths import open_regular
from bayes_merger.plain_json import LONGEST_NUMBER, parse_json, with_whole_text

LARGEST = 4 << 20
"""Bytes of a text file."""

LARGEST_YAML = 128 << 10
"""Characters of YAML; the parser needs seconds for as many."""

MOST_NODES = 50_000
"""Values in a document, with every alias written out."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_COMMENT = re.compile(r'("(?:\\.|[^"\\])*(?:"|\\?\Z))|//[^\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)
"""What may stand in JSON that people have edited: a text, which stays, or a comment; what is begun always matches, so
that no text is read twice."""

_ODD_LINE_ENDS = dict.fromkeys(map(ord, "\x85\u2028\u2029"), " ")
"""Line ends to YAML 1.1 alone; they come with what is copied from web pages."""

_MOST_TEXTS = 500  # lines of a file that are looked at again, one by one

# In Western text, letters beyond ASCII stand alone or in pairs among others; in any other 8-bit encoding they do not.
_NOT_WESTERN = re.compile(
    rb"[\xc0-\xff]{3}"
    rb"|(?<![A-Za-z])[\xc0-\xff]{2}(?![A-Za-z])"
    rb"|[^\x00-\x7f\x85\x91-\x94\x96\x97\xa0\xa7\xab\xb0\xbb\xbf-\xff]"
)


def read_text(path: Path, *, largest: int = LARGEST) -> str:
    """What is in a text file, in UTF-8, in UTF-16 or 32 as their marks say, or in a Western 8-bit encoding.

    Args:
        path: of a regular file.
        largest: bytes it may have.

    Raises:
        ConfigError: it cannot be read, is no regular file, is too large, or its encoding cannot be told. The text does
            not name the file.
    """
    try:
        with open_regular(path) as file:
            data = file.read(largest + 1)
    except FileNotFoundError:
        raise ConfigError("no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > largest:
        raise ConfigError(f"has more than {largest >> 10} KiB, too much for a file of its kind")
    return _decoded(data)


def _decoded(data: bytes) -> str:
    encoding, mark = next(((name, mark) for mark, name in _BOMS if data.startswith(mark)), ("utf-8", b""))
    if not mark and b"\0" in data:  # at least of its line ends and spaces, one byte of two is zero
        encoding = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8" or mark or _NOT_WESTERN.search(data):
            raise ConfigError("its encoding cannot be told; save it as UTF-8") from None
        return data.decode("cp1252", "replace")


def read_document(
    path: Path,
    *,
    text_of: Collection[str] = (),
    names_of: Collection[str] = (),
    words: bool = False,
    largest: int = LARGEST,
) -> Any:
    """What is in a YAML file, or in a JSON file if it is called so.

    Args:
        path: of the file.
        text_of: keys whose values are text to the letter: ``prompt: 1``, ``prompt: yes`` and ``prompt: {a|b}``.
        names_of: keys whose values are text where they are no tables: ``b: 1`` is a name, ``b: {file: B}`` is none.
        words: all values are text: ``[no, 1.10]``.
        largest: bytes it may have.

    Raises:
        ConfigError: see :func:`read_text` and :func:`parse_document`. The text does not name the file.
    """
    text = read_text(path, largest=largest)
    if path.suffix.lower() != ".json":
        return parse_document(text, text_of=text_of, names_of=names_of, words=words)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ConfigError(f"is not JSON ({one_line(error)})") from None


def parse_document(
    text: str, *, text_of: Collection[str] = (), names_of: Collection[str] = (), words: bool = False
) -> Any:
    """YAML or JSON as plain data; the keys are those of `read_document`.

    Raises:
        ConfigError: it is neither, or beyond the limits of this module.
    """
    if text.lstrip()[:1] in ("{", "["):
        for written in (text, _COMMENT.sub(lambda found: found[1] or "", text)):
            with suppress(json.JSONDecodeError):  # YAML in brackets
                return parse_json(written)
    if len(text) > LARGEST_YAML:
        raise ConfigError(f"has more than {LARGEST_YAML >> 10} KiB of YAML, too much for a file of its kind")
    text = text.translate(_ODD_LINE_ENDS)
    texts = {**dict.fromkeys(names_of, True), **dict.fromkeys(text_of, False)}
    if words:
        return _parse_yaml(text, texts, _WordLoader)
    try:
        return _parse_yaml(text, texts)
    except ConfigError:
        quoted = _quoted(text, text_of)
        if quoted != text:
            with suppress(ConfigError):  # what is wrong is elsewhere
                return _parse_yaml(quoted, texts)
        raise


_Texts = Mapping[str, bool]  # keys whose values are text -> whether they may be tables and lists as well


def _parse_yaml(text: str, texts: _Texts, kind: type[yaml.SafeLoader] | None = None) -> Any:
    try:
        return with_whole_text(_yaml(text, texts, kind or _Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = one_line(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{where}not valid YAML ({printable(what)})") from None
    except RecursionError:
        raise ConfigError("is nested too deeply") from None
    except (ValueError, TypeError, OverflowError, LookupError) as error:
        raise ConfigError(f"not valid YAML ({printable(one_line(error))})") from None


class _Loader(yaml.SafeLoader):
    """Seven kinds of data, written as in YAML 1.2 but for the truth values, of which 1.1 has more."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  as in the base class


class _WordLoader(yaml.SafeLoader):
    """Texts, but for what is empty."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  as in the base class


def _quoted(text: str, text_of: Collection[str]) -> str:
    """YAML with quotes around what is text and would be read as something else, in lines like ``prompt: {a|b}, c``."""
    keys = "|".join(map(re.escape, sorted(text_of)))
    line = re.compile(rf"^([ ]*(?:- )?(?:{keys})[ ]*:[ \t]+)(\S.*)$", re.MULTILINE)
    if not keys or len(line.findall(text)) > _MOST_TEXTS:
        return text
    return line.sub(lambda found: found[1] + _as_text(found[2].rstrip()), text)


def _as_text(value: str) -> str:
    if re.fullmatch(r"[|>][-+1-9]*(?:\s+#.*)?", value):  # the text is in the lines below
        return value
    with suppress(yaml.YAMLError, RecursionError):
        found = yaml.compose(f"text: {value}", _Loader)
        read = found.value[0][1] if isinstance(found, yaml.MappingNode) else None
        if isinstance(read, yaml.ScalarNode) and read.tag.startswith(_TAG):
            return value
    whole = re.fullmatch(r'"((?:[^"\\]|\\.)*)"(?:\s+#.*)?', value)  # a backslash in it means nothing to YAML, as in \(
    letters = whole[1].replace('\\"', '"') if whole else re.sub(r"\s+#.*", "", value)
    return "'" + letters.replace("'", "''") + "'"


_TAG = "tag:yaml.org,2002:"
_KINDS = tuple(_TAG + kind for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge"))
_IMPLICIT: tuple[tuple[str, str, str], ...] = (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", rf"[-+]?(?:0|[1-9][0-9]{{0,{LONGEST_NUMBER - 1}}})", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN)",
     "-+0123456789."),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("merge", r"<<", "<"),
)  # fmt: skip
for _kind, _pattern, _first in _IMPLICIT:
    # A float takes time with the square of its digits; nobody writes more than a few
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?=.{{0,60}}\Z)(?:{_pattern})\Z"), list(_first))
_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"\Z"), [""])
_WordLoader.add_implicit_resolver(_TAG + "null", re.compile(r"\Z"), [""])
_WordLoader.add_implicit_resolver(_TAG + "merge", re.compile(r"<<\Z"), ["<"])


def _yaml(text: str, texts: _Texts, kind: type[yaml.SafeLoader]) -> Any:
    loader = kind(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _size(root, {}, texts) > MOST_NODES:
            raise ConfigError("stands for more values than any such file has; write out what its aliases (*) repeat")
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int], texts: _Texts) -> int:
    """How many values a node stands for, with every alias written out; on the way its kinds and keys are checked."""
    if id(node) in known:
        if not known[id(node)]:
            raise ConfigError("a value of it contains itself")
        return known[id(node)]
    if node.tag not in _KINDS:
        raise ConfigError(f"line {node.start_mark.line + 1}: {printable(str(node.tag))} is no plain data")
    known[id(node)] = 0  # while inside it
    size = 1
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if key.value in keys and key.tag != _TAG + "merge":
                where = f"line {key.start_mark.line + 1}: "
                raise ConfigError(f"{where}'{printable(str(key.value))}' is given twice; remove one")
            if isinstance(key, yaml.ScalarNode):
                keys.add(key.value)
                if key.tag != _TAG + "merge":
                    key.tag = _TAG + "str"  # a name, as in JSON: no and 1 are names too
                if key.value in texts:
                    _make_text(key, value, or_table=texts[key.value])
            size += _size(key, known, texts) + _size(value, known, texts)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_size(item, known, texts) for item in node.value)
    known[id(node)] = min(size, MOST_NODES + 1)
    return known[id(node)]


def _make_text(key: yaml.ScalarNode, value: yaml.ScalarNode | yaml.CollectionNode, *, or_table: bool) -> None:
    if isinstance(value, yaml.ScalarNode):
        if value.tag in _KINDS and value.tag != _TAG + "null":
            value.tag = _TAG + "str"
    elif not or_table and value.flow_style and not _holds_quotes(value.start_mark):
        raise ConfigError(f"line {key.start_mark.line + 1}: the {key.value} is no text; put it into quotes")


def _holds_quotes(mark: Any) -> bool:
    """Whether brackets begin with a quoted text, as lists of texts do and prompts do not."""
    return mark.buffer[mark.pointer + 1] in "\"'"


def files_below(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """The files below a folder that have one of the suffixes, by name; what may not be entered is left out."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        paths = (Path(place) / name for name in sorted(names) if Path(name).suffix.lower() in suffixes)
        yield from (path for path in paths if os.path.exists(path))  # noqa: PTH110  Path's raises where it may not look
