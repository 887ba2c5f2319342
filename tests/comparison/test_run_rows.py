"""The table of runs survives a kill in the middle of a line, and is read back as it was written."""

from measured_rows import row

from mralign.comparison.run_rows import append, read_rows


def test_rows_come_back_as_they_were_to_five_digits(tmp_path):
    file = tmp_path / "runs.csv"
    rows = [row(acc=0.123456, split="test", kl=1.5, steps=8), row("base", rate=0.0, epochs=0, ece=None)]
    append(file, rows[:1])
    append(file, rows[1:])
    first, second = read_rows(file)
    assert (first.acc, first.kl, first.steps, first.seconds) == (0.12346, 1.5, 8, None)
    assert second == rows[1]
    assert read_rows(tmp_path / "none.csv") == []


def test_a_line_that_a_kill_cut_is_left_out_and_written_over(tmp_path):
    file = tmp_path / "runs.csv"
    append(file, [row(), row(seed=1)])
    whole = file.read_bytes()
    for kept in range(len(whole) - 20, len(whole)):
        file.write_bytes(whole[:kept])
        assert read_rows(file) == [row()]
    append(file, [row(seed=2)])
    assert read_rows(file) == [row(), row(seed=2)]


def test_of_rows_with_one_key_the_last_counts(tmp_path):
    file = tmp_path / "runs.csv"
    append(file, [row(acc=0.1), row(acc=0.2), row(acc=0.3, mark="other")])
    assert [one.acc for one in read_rows(file)] == [0.2, 0.3]
