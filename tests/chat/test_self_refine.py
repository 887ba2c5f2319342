from mralign.chat.self_refine import Refinement, first_id, is_turn, last_answers, requests_of_turn
from mralign.rows import Generation

TEXTS = Refinement(2, feedback="Q: {question} A: {answer}", revise="{question} | {answer} | {feedback}")
PROMPT = "Short, please: {question}"


def row(answer, *, turn="", question="q/1", draw=0, invalid=None, mode="on"):
    behind = f"/{turn}" if turn else ""
    return Generation(
        row_id=f"{question}/{mode}/{draw}{behind}",
        question_id=question,
        dataset="d",
        question="Who wrote {answer}?",
        answers=["Ada"],
        mode=f"{mode}{behind}",
        draw=draw,
        seed=0,
        prompt_token_ids=[],
        token_ids=[],
        completion_tokens=0,
        text=answer,
        finish_reason="stop",
        thought_start=-1,
        thought_end=-1,
        answer=None if invalid else answer,
        thought_tokens=0,
        invalid=invalid,
    )


def ask(turn, *rows):
    return requests_of_turn(
        turn, rows=rows, refinement=TEXTS, prompt_of=lambda dataset: {"d": PROMPT}[dataset], seed_of=len
    )


def test_the_turns_are_feedback_and_revision_in_turn():
    assert TEXTS.turns == ("feedback-1", "revise-1", "feedback-2", "revise-2")


def test_feedback_shows_the_answer_and_a_place_name_in_a_text_is_text():
    (request,) = ask("feedback-1", row("{feedback} Bob"))
    assert request.message == "Q: Who wrote {answer}? A: {feedback} Bob"
    assert request.inserted == "{feedback} Bob"
    assert (request.row_id, request.mode, request.draw) == ("q/1/on/0/feedback-1", "on/feedback-1", 0)
    assert (request.question_id, request.answers) == ("q/1", ["Ada"])
    assert request.seed == len("q/1/on/0/feedback-1")  # what `seed_of` gives of the row_id


def test_a_revision_shows_the_question_as_it_was_asked_first():
    (request,) = ask("revise-1", row("Bob"), row("It was Ada.", turn="feedback-1"))
    assert request.message == "Short, please: Who wrote {answer}? | Bob | It was Ada."
    assert request.row_id == "q/1/on/0/revise-1"


def test_a_second_round_stands_on_the_first_revision():
    way = [row("Bob"), row("No.", turn="feedback-1"), row("Ada", turn="revise-1")]
    (request,) = ask("feedback-2", *way)
    assert request.message == "Q: Who wrote {answer}? A: Ada"
    (request,) = ask("revise-2", *way, row("Yes.", turn="feedback-2"))
    assert request.message.endswith("| Ada | Yes.")


def test_a_turn_that_cannot_be_judged_ends_the_way():
    assert ask("feedback-1", row("x", invalid="truncated")) == []
    assert ask("revise-1", row("Bob"), row("x", turn="feedback-1", invalid="truncated")) == []
    assert ask("feedback-2", row("Bob"), row("No.", turn="feedback-1")) == []  # its revision was refused
    assert ask("feedback-1", row("Bob", mode="off")) == []


def test_an_empty_turn_ends_the_way():
    assert ask("feedback-1", row("")) == []
    assert ask("revise-1", row("Bob"), row("", turn="feedback-1")) == []


def test_draws_and_questions_go_their_own_ways():
    rows = [row("a"), row("b", draw=1), row("c", question="q/2"), row("fine", turn="feedback-1", draw=1)]
    assert [r.row_id for r in ask("feedback-1", *rows)] == [
        f"{q}/feedback-1" for q in ("q/1/on/0", "q/1/on/1", "q/2/on/0")
    ]
    assert [r.row_id for r in ask("revise-1", *rows)] == ["q/1/on/1/revise-1"]


def test_the_last_revision_is_the_answer_even_where_it_broke_off():
    first, second = row("Bob"), row("Ada", question="q/2")
    revised = row("x", turn="revise-1", invalid="truncated")
    rows = [
        revised,
        row("f", turn="feedback-1"),
        first,
        second,
        row("f", turn="feedback-1", question="q/2"),
        row("off", mode="off"),
    ]
    assert last_answers([vars(one) for one in rows]) == [vars(revised), vars(second)]
    tenth = row("ten", turn="revise-10")
    ninth = row("nine", turn="revise-9")
    assert last_answers([vars(tenth), vars(ninth)]) == [vars(tenth)]


def test_ids_and_modes_of_turns():
    assert first_id("a/b/on/0/revise-12") == first_id("a/b/on/0") == "a/b/on/0"
    assert is_turn("q/on/0/feedback-1") and not is_turn("q/feedback-1/on/0")
