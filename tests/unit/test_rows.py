"""Data files: what is read, and what is wrong with those that are not."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import posterior_lm
from posterior_lm.api.tables import records
from posterior_lm.cli.given import Case
from posterior_lm.graph.graph import ParamSpec
from posterior_lm.lang.diagnostics import DataError, Diagnostic
from posterior_lm.target.rows import read_field, read_rows, stream_rows, typed_csv
from tests.cli import plm

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)


def read(folder: Path, name: str, data: str | bytes) -> list[dict[str, object]]:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_rows(path)


def wrong(folder: Path, name: str, data: str | bytes) -> Diagnostic:
    with pytest.raises(DataError) as caught:
        read(folder, name, data)
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
    assert read(folder, "a.jsonl", lines) == rows
    assert read(folder, "a.json", json.dumps(rows)) == rows


@given(
    names=st.lists(TEXT.map(str.strip).filter(bool), min_size=2, max_size=3, unique=True),
    fields=st.lists(st.lists(TEXT, min_size=3, max_size=3), min_size=1, max_size=3),
)
def test_csv_fields_come_back_as_they_were(
    names: list[str], fields: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([names, *(f[: len(names)] for f in fields)])
    found = read(tmp_path_factory.mktemp("rows"), "a.csv", out.getvalue())
    assert found == [dict(zip(names, f, strict=False)) for f in fields]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n") == [{"a": "1", "b": "2"}]
    assert read(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}') == [{"a": 1}]


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
        assert read(tmp_path, "a.csv", "a\n" + "x" * 200_000)[0]["a"] == "x" * 200_000
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
    assert list(typed_csv([row], params)) == [
        {"text": " 3", "int": -7, "real": 0.001, "bool": True, "one_of": "3", "table": [{"a": 1}], "x": "4"}
    ]


@pytest.mark.parametrize(("type_", "field"), [
    ("int", "1.5"), ("int", "1_0"), ("int", "\u0663"), ("int", ""), ("int", "9" * 5000), ("real", "nan"),
    ("real", "1e999"), ("real", "1_0.5"), ("bool", "1"), ("bool", "yes"), ("table", "[{'a': 1}]"),
    ("table", "[NaN]"),
])  # fmt: skip
def test_what_a_field_does_not_spell_stays_a_string_for_the_binder_to_refuse(type_: str, field: str) -> None:
    assert read_field(ParamSpec("p", type_), field) == field


def test_an_empty_field_is_the_default_of_what_is_no_text(tmp_path: Path) -> None:
    params = (
        ParamSpec("n", "int", default=3, required=False),
        ParamSpec("m", "int"),
        ParamSpec("t", "text", default="x", required=False),
    )
    path = tmp_path / "r.csv"
    path.write_text("n,m,t\n,,\n1,2,a\n")
    assert read_rows(path, params) == [{"m": "", "t": ""}, {"n": 1, "m": 2, "t": "a"}]


@pytest.mark.parametrize(
    ("cell", "help"), [("", "default"), ("3.0", "write 3"), ("-7.", "write -7"), ("x", "whole number")]
)
def test_a_field_that_is_no_int_gets_advice_for_csv(cell: str, help: str, tmp_path: Path) -> None:
    (tmp_path / "p.plm").write_text("program p(m: int) { latent n: int(0..1) ~ uniform() factor m * n }")
    (tmp_path / "r.csv").write_text(
        f"m,k\n{cell},1\n".replace(",k", "").replace(",1", "") if cell else 'm\n""\n'
    )
    result = plm("run", tmp_path / "p.plm", "--data", tmp_path / "r.csv")
    assert result.exit_code == 1 and help in result.stderr.partition("help: ")[2], result.stderr


def test_columns_are_separated_by_commas(tmp_path: Path) -> None:
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        found = wrong(tmp_path, "r.csv", f"a{sign}b\n1{sign}2\n")
        assert found.code == "PLM607" and name in found.primary.text and "commas" in (found.help or "")


def test_each_row_has_a_seed_of_its_own(tmp_path: Path) -> None:
    """Made of its number alone: whatever other rows there are, and that of row 0 is the one that was asked for."""
    seeds = [Case(row, {}, {}).seed(7) for row in range(1000)]
    assert seeds[0] == 7 == Case(None, {}, {}).seed(7) and len(set(seeds)) == 1000
    assert Case(3, {}, {}).seed(7) == seeds[3] != Case(3, {}, {}).seed(8) and max(seeds) < 1 << 53
    (tmp_path / "p.plm").write_text("program p(x: int(0..3)) { latent z: int(0..999) ~ poisson(100 + x) }")
    (tmp_path / "rows.jsonl").write_text('{"x": 0}\n{"x": 0}\n')
    asked = (
        "run",
        tmp_path / "p.plm",
        "--data",
        tmp_path / "rows.jsonl",
        "--method",
        "importance",
        "-n",
        20,
        "--format",
        "jsonl",
    )
    first, second = (json.loads(line) for line in plm(*asked).stdout.splitlines())
    assert first["draws"] != second["draws"] and second["seed"] == Case(1, {}, {}).seed(0)
    assert json.loads(plm(*asked, "--row", 1).stdout)["draws"] == second["draws"]


PARAMS = (ParamSpec("x", "int"), ParamSpec("y", "real", default=2.0, required=False))


def test_rows_of_a_file_are_read_as_they_are_needed(tmp_path: Path) -> None:
    """A mistake in a late line is found when it is reached, at its place in the file."""
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"x": 2}\nwrong\n')
    (tmp_path / "a.csv").write_text("x,y\n1,\n2,0.5\n3\n")
    for name, line, first in (("a.jsonl", 4, {"x": 1}), ("a.csv", 4, {"x": 1})):
        rows = stream_rows(tmp_path / name, PARAMS)
        assert [next(rows), next(rows)["x"]] == [first, 2]
        with pytest.raises(DataError) as caught:
            next(rows)
        assert place(caught.value.diagnostics[0]) == (line, 1)


def test_parquet_rows_leave_out_what_is_null(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the package pyarrow is absent")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"x": 1, "t": [{"a": "b"}]}, {"x": 2, "y": 0.5, "t": None}]
    parquet.write_table(arrow.Table.from_pylist(rows, arrow.schema([("x", arrow.int64()), ("y", arrow.float64()),
        ("t", arrow.list_(arrow.struct([("a", arrow.string())])))])), tmp_path / "a.parquet")  # fmt: skip
    assert read_rows(tmp_path / "a.parquet") == [{"x": 1, "t": [{"a": "b"}]}, {"x": 2, "y": 0.5}]
    (tmp_path / "b.parquet").write_text("x\n1\n")
    for name, code in (("b.parquet", "PLM613"), ("none.parquet", "PLM801")):
        with pytest.raises(DataError) as caught:
            read_rows(tmp_path / name)
        assert caught.value.diagnostics[0].code == code


class Dataset:
    """What one of Hugging Face has: columns with names, and rows with None where one has no value."""

    column_names = ("x", "y")

    def to_list(self) -> list[dict[str, object]]:
        return [{"x": 1, "y": None}, {"x": 2, "y": 0.5}]


def test_what_a_frame_or_a_dataset_has_no_value_for_is_left_out() -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"x": 1}, {"x": 2, "y": 0.5}]
    frame = pandas.DataFrame({"x": [1, 2], "y": [float("nan"), 0.5]})
    assert records(frame) == records(Dataset()) == rows
    query = posterior_lm.loads(
        "program p(x: int(0..9), y: real = 2.0) { latent z: int(0..99) ~ poisson(x + y) }"
    )
    expected = [query.given(row).draw().log_evidence for row in rows]
    for many in (frame, Dataset(), rows):
        assert [posterior.log_evidence for posterior in query.draw_rows(many)] == expected


def test_a_column_whose_name_is_no_text_is_unknown() -> None:
    query = posterior_lm.loads("program p(x: int(0..9)) { latent z: int(0..1) ~ uniform() }")
    with pytest.raises(DataError) as caught:
        query.draw_rows([{"x": 1}, {"x": 1, 0: 1}])
    assert [d.where for d in caught.value.diagnostics] == ["rows[1].0"]
