from __future__ import annotations

from experiments.rows import read_lines


def test_a_torn_line_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_lines(path) == []
    path.write_text('{"a": 1}\n{"a"')
    assert read_lines(path) == [{"a": 1}]
