"""Data files: what is read, and what is wrong with those that are not."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posterior_lm.graph.graph import ParamSpec
from posterior_lm.lang.diagnostics import DataError, Diagnostic
from posterior_lm.target.rows import read_field, read_rows, typed_csv

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)


def rows_of(folder: Path, name: str, data: str | bytes) -> list[dict[str, object]]:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_rows(path)


def wrong(folder: Path, name: str, data: str | bytes) -> Diagnostic:
    with pytest.raises(DataError) as caught:
        rows_of(folder, name, data)
    (found,) = caught.value.diagnostics
    return found


def place(found: Diagnostic) -> tuple[int, int]:
    assert found.primary is not None
    return found.primary.span.source.position(found.primary.span.start)


@given(
    rows=st.lists(
        st.dictionaries(TEXT, VALUES | st.lists(VALUES, max_size=2), max_size=3), min_size=1, max_size=4
    )
)
def test_json_rows_come_back_as_they_were(
    rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    # ensure_ascii=False keeps line separators such as U+2028 inside their line.
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert rows_of(folder, "a.jsonl", lines) == rows
    assert rows_of(folder, "a.json", json.dumps(rows)) == rows


@given(
    names=st.lists(TEXT.map(str.strip).filter(bool), min_size=2, max_size=3, unique=True),
    fields=st.lists(st.lists(TEXT, min_size=3, max_size=3), min_size=1, max_size=3),
)
def test_csv_fields_come_back_as_they_were(
    names: list[str], fields: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([names, *(f[: len(names)] for f in fields)])
    found = rows_of(tmp_path_factory.mktemp("rows"), "a.csv", out.getvalue())
    assert found == [dict(zip(names, f, strict=False)) for f in fields]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n") == [{"a": "1", "b": "2"}]
    assert rows_of(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}') == [{"a": 1}]


@pytest.mark.parametrize(("name", "data"), [
    ("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.json", "[]"), ("a.json", ""), ("a.csv", ""),
    ("a.csv", "a,b\n"),
])  # fmt: skip
def test_no_rows(name: str, data: str, tmp_path: Path) -> None:
    assert wrong(tmp_path, name, data).code == "PLM604"


def test_not_utf8_names_the_byte_and_the_line(tmp_path: Path) -> None:
    found = wrong(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": "\xe9"}')
    assert found.code == "PLM605" and "byte 16 is 0xE9" in found.message and "line 2" in found.message


@pytest.mark.parametrize(("line", "column"), [
    ("{'a': 1}", 2),
    ('{"a": 1', 8),
    ('{"a": 1,}', 9),
    ('{"a": True}', 7),
    ('{"a" 1}', 6),
    ('{"a": 1} x', 10),
    ('{"a": NaN}', 7),
    ('{"NaN": "NaN", "b": [1, -Infinity]}', 25),
    ('{"a": 1e999}', 7),
    ('{"a": ' + "9" * 5000 + "}", 7),
    ('{"b": {"a": 1}, "a": 2, "a": 3}', 25),
    ('{"a": "tab\there"}', 11),
    ("[1, 2]", 1),
    ("3", 1),
])  # fmt: skip
def test_json_mistakes_stand_at_their_line_and_column(line: str, column: int, tmp_path: Path) -> None:
    found = wrong(tmp_path, "a.jsonl", '{"a": 1}\n' * 6 + line + '\n{"a": 1}\n')
    assert found.code == "PLM606" and "line 7" in found.message
    assert place(found) == (7, column)


def test_json_nested_too_deeply(tmp_path: Path) -> None:
    assert wrong(tmp_path, "a.jsonl", "[" * 200_000).code == "PLM606"


@pytest.mark.parametrize(("data", "where"), [('{"a": 1}', None), ('[{"a": 1}, 3]', "rows[1]")])
def test_a_json_file_is_a_list_of_objects(data: str, where: str | None, tmp_path: Path) -> None:
    found = wrong(tmp_path, "a.json", data)
    assert found.code == "PLM606" and (where is None or where in found.message)


@pytest.mark.parametrize(("data", "line"), [
    ("a,b\n1,2\n1,2,3\n", 3),
    ('a,b\n"x\ny",2\n\n1\n', 5),
    ("a,a\n1,2\n", 1),
    ("a,\n1,2\n", 1),
    ('a,b\n1,2\n1,"2\n', 3),
    ('a,b\n1,"2"x\n', 2),
    ("a,b\n1,x\ry\n", 2),
])  # fmt: skip
def test_csv_mistakes_stand_at_their_line(data: str, line: int, tmp_path: Path) -> None:
    found = wrong(tmp_path, "a.csv", data)
    assert found.code == "PLM607" and place(found)[0] == line


def test_long_csv_fields_are_read_and_the_limit_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit(1234)
    try:
        assert rows_of(tmp_path, "a.csv", "a\n" + "x" * 200_000)[0]["a"] == "x" * 200_000
        assert csv.field_size_limit() == 1234
    finally:
        csv.field_size_limit(before)


def test_unknown_kinds_and_files_that_are_not_there(tmp_path: Path) -> None:
    found = wrong(tmp_path, "a.jsnl", "")
    assert found.code == "PLM609" and found.help == "did you mean `.jsonl`?"
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "folder.csv", tmp_path, tmp_path / "none.csv", "nul\0l.csv"):
        with pytest.raises(DataError) as caught:
            read_rows(path)
        assert caught.value.diagnostics[0].code == "PLM801"


def test_csv_fields_are_read_by_the_declared_types() -> None:
    params = [ParamSpec(name, name) for name in ("text", "int", "real", "bool", "one_of", "table")]
    row = {
        "text": " 3",
        "int": " -7",
        "real": "1e-3",
        "bool": "True",
        "one_of": "3",
        "table": '[{"a": 1}]',
        "x": "4",
    }
    assert typed_csv([row], params) == [
        {"text": " 3", "int": -7, "real": 0.001, "bool": True, "one_of": "3", "table": [{"a": 1}], "x": "4"}
    ]


@pytest.mark.parametrize(("type_", "field"), [
    ("int", "1.5"), ("int", "1_0"), ("int", "\u0663"), ("int", ""), ("int", "9" * 5000), ("real", "nan"),
    ("real", "1e999"), ("real", "1_0.5"), ("bool", "1"), ("bool", "yes"), ("table", "[{'a': 1}]"),
    ("table", "[NaN]"),
])  # fmt: skip
def test_what_a_field_does_not_spell_stays_a_string_for_the_binder_to_refuse(type_: str, field: str) -> None:
    assert read_field(ParamSpec("p", type_), field) == field
