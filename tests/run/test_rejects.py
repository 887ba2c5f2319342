"""Rejects as a table, their count, and the limit that fails a stage."""

import pytest

from mralign.rows import Polarity, from_table
from mralign.rows.schema import REJECTS
from mralign.run.rejects import Reject, check_limit, count_reasons, is_passing, to_table


def test_rejects_become_rows_that_keep_every_text():
    first = Reject("d/1", "odd", "why", '{"a": "é"}', dataset="d", polarity=Polarity.NEGATIVE, role="judge")
    table = to_table([first, Reject("d/2", "bare")])
    assert table.schema == REJECTS
    known = {"dataset": "d", "polarity": -1, "role": "judge"}
    unknown = {"dataset": "", "polarity": None, "role": ""}
    assert table.to_pylist() == [
        {"row_id": "d/1", "reason": "odd", "detail": "why", "raw": '{"a": "é"}', **known},
        {"row_id": "d/2", "reason": "bare", "detail": "", "raw": "", **unknown},
    ]
    assert from_table(table, Reject) == [first, Reject("d/2", "bare")]
    assert to_table([]).num_rows == 0
    assert to_table([]).schema == REJECTS


def test_half_a_character_does_not_keep_a_reject_from_being_stored():
    table = to_table([Reject("d/\ud83d", "odd", "x\udc00y", "whole 😀 half \ud83d end", dataset="\ud83d")])
    assert from_table(table, Reject) == [Reject("d/?", "odd", "x?y", "whole 😀 half ? end", dataset="?")]


def test_reasons_are_counted_most_frequent_first():
    table = to_table([Reject(str(i), reason) for i, reason in enumerate("bacaca")])
    assert list(count_reasons([table]).counts.items()) == [("a", 3), ("c", 2), ("b", 1)]
    assert count_reasons([to_table([])]).counts == {}


def check(rejected, *, rows_in, limit):
    reasons = {"odd": rejected - 1, "long": 1} if rejected else {}
    check_limit(stage="questions", reasons=reasons, rows_in=rows_in, limit=limit, path="/run/questions/f/rejects")


@pytest.mark.parametrize(("rejected", "rows_in", "limit"), [(2, 10, 0.2), (0, 0, 0.0), (10, 10, 1.0), (0, 5, 0.0)])
def test_a_share_up_to_the_limit_passes(rejected, rows_in, limit):
    check(rejected, rows_in=rows_in, limit=limit)


@pytest.mark.parametrize(("rejected", "rows_in", "limit"), [(3, 10, 0.2), (1, 0, 1.0), (1, 1000, 0.0)])
def test_a_share_above_the_limit_fails(rejected, rows_in, limit):
    with pytest.raises(ValueError, match=f"{rejected} of {rows_in} rows were rejected"):
        check(rejected, rows_in=rows_in, limit=limit)


def test_the_message_names_stage_share_limit_reasons_place_and_remedy():
    with pytest.raises(ValueError, match="stage questions") as error:
        check(3, rows_in=8, limit=0.25)
    text = str(error.value)
    for part in ("37.5%", "25.0%", "'odd': 2", "'long': 1", "/run/questions/f/rejects", "run.reject_limit"):
        assert part in text


def test_what_an_endpoint_may_mend_passes_and_what_the_row_is_stays():
    passing = ["rate_limited", "server_error", "timeout", "connection", "malformed_reply", "usage_missing"]
    assert all(map(is_passing, [*passing, "http_400", "http_404"]))
    assert not any(map(is_passing, ["refused", "truncated", "prompt_too_long", "engine_error", "no_json", "http", ""]))


def test_what_may_pass_does_not_count_as_rejected():
    reasons = {"rate_limited": 9, "http_400": 1, "odd": 2}
    check_limit(stage="s", reasons=reasons, rows_in=20, limit=0.1, path="/run/rejects")
    with pytest.raises(ValueError, match=r"2 of 20 rows .*Reasons: \{'odd': 2\}"):
        check_limit(stage="s", reasons=reasons, rows_in=20, limit=0.09, path="/run/rejects")
