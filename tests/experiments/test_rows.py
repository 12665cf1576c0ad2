from __future__ import annotations

from experiments.rows import append_line, read_lines


def test_a_torn_line_is_passed_over_and_replaced(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_lines(path) == []
    append_line(path, {"a": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:4])
    assert read_lines(path) == [{"a": 1}]
    append_line(path, {"b": 2})
    assert path.read_text() == '{"a": 1}\n{"b": 2}\n'
