from openmoat.ike.config import Count, IkeConfig
from openmoat.ike.context import Timer
from openmoat.ike.events import Answer, AskPath, AskSpis, DownReason, IkeSaDown, Paths, Spis, Unanswerable
from openmoat.ike.news import HandshakeDone
from unit.ike.parts import make_context


def test_an_answer_goes_to_who_asked_once_and_another_is_counted() -> None:
    context, heard = make_context(), list[Answer]()
    ticket = context.ask(lambda t: AskPath(t, "office", 0), heard.append)
    answer = Paths(ticket, ())
    context.deliver(answer)
    context.deliver(answer)
    assert heard == [answer]
    assert context.counts[Count.LATE_ANSWER] == 1
    assert context.open_questions == 0


def test_a_question_has_a_deadline_after_which_it_is_unanswerable() -> None:
    context, heard = make_context(), list[Answer]()
    context.now = 100.0
    ticket = context.ask(lambda t: AskPath(t, "office", 0), heard.append)
    assert context.timers.deadline((Timer.QUESTION, ticket)) == 100.0 + context.config.question_life
    context.give_up(ticket)
    assert isinstance(heard[0], Unanswerable)
    assert context.timers.next() is None


def test_an_answered_or_forgotten_question_has_no_deadline_any_more() -> None:
    context = make_context()
    answered = context.ask(lambda t: AskPath(t, "office", 0), lambda answer: None)
    forgotten = context.ask(lambda t: AskPath(t, "office", 0), lambda answer: None)
    context.deliver(Paths(answered, ()))
    context.forget(forgotten)
    assert context.timers.next() is None


def test_the_stock_of_spis_is_refilled_at_half_and_asked_for_again_where_no_answer_came() -> None:
    context = make_context(IkeConfig(spi_stock=4))
    context.refill_spis()
    (question,) = context.outputs
    assert isinstance(question, AskSpis)
    context.give_up(question.ticket)
    assert context.take_spi() is None
    again = context.outputs[-1]
    assert isinstance(again, AskSpis)
    context.deliver(Spis(again.ticket, (7, 8, 9, 10)))
    assert [context.take_spi() for _ in range(2)] == [7, 8]
    context.return_spi(7)
    assert [context.take_spi() for _ in range(3)] == [9, 10, 7]


def test_news_is_told_to_everybody_unless_it_is_of_the_core_alone() -> None:
    context = make_context()
    down = IkeSaDown(1, "office", None, DownReason.ASKED)
    context.report(down)
    context.report(HandshakeDone(1))
    assert list(context.outputs) == [down]
    assert list(context.news) == [down, HandshakeDone(1)]
