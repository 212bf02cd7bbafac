"""The table of faults: what counts as harm, and where it is written."""

from __future__ import annotations

from tests.chaos.__main__ import BEGIN, END, Row, written_into
from tests.chaos.tally import HARM, Tally, table_of


def test_any_harm_is_seen_and_so_is_a_row_without_a_try() -> None:
    assert Tally(tries=1).is_good
    assert not Tally().is_good
    for count in HARM:
        tally = Tally(tries=1)
        tally.add(count, 0, "nothing")
        assert tally.is_good and not tally.notes
        tally.add(count, 2, "two")
        assert not tally.is_good and tally.notes


def test_a_row_plays_stories_until_there_were_enough_tries() -> None:
    total = Row("x", 10, lambda seed: Tally(tries=3, recovered=[float(seed)])).run(0.5)
    assert (total.tries, total.recovered) == (6, [0.0, 1.0])


def test_a_story_that_does_not_end_is_harm() -> None:
    def stuck(seed: int) -> Tally:
        raise AssertionError("the condition did not become true")

    assert Row("x", 1, stuck).run(1.0).lost == 1


def test_the_table_replaces_the_one_between_its_markers() -> None:
    table = table_of({"a fault": Tally(tries=1000, lost=1, recovered=[1.0, 2.0, 9.0])})
    assert table.splitlines()[2] == "| a fault | 1,000 | 1 | 0 | 0 | 0 | 0 | 2.0, 9.0 |"
    page = written_into(f"before\n{BEGIN}old\n{END}after\n", table, "today:")
    assert page == f"before\n{BEGIN}today:\n\n{table}\n{END}after\n"
