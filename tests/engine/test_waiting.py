"""The queue says who is next as if it had looked at everybody."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from server.engine.fairness import PATIENCE_STEPS, Shares
from server.engine.segments import TextTokens
from server.engine.sequence import Lane, Sequence
from server.engine.waiting import MAX_OVERTAKEN, Waiting
from server.messages import OutputMode
from tests.engine.fakes import make_request

SEEN_BEFORE = st.sampled_from([0, 0, 0, MAX_OVERTAKEN - 1])


@st.composite
def crowds(draw: st.DrawFn) -> list[Sequence]:
    """Sequences of a few tenants; some have been preempted, or overtaken almost too often."""
    crowd = []
    for number in range(draw(st.integers(1, 12))):
        mode = draw(st.sampled_from([OutputMode.TEXT, OutputMode.IMAGE]))
        request = replace(make_request(f"r{number}", mode=mode), tenant=draw(st.sampled_from("abc")), priority=draw(st.integers(0, 1)))
        sequence = Sequence(number, request, [TextTokens(1, (7,) * draw(st.integers(1, 5)))])
        sequence.num_preemptions = draw(st.sampled_from([0] * 9 + [1]))
        sequence.last_served_step = draw(st.integers(0, 50)) if sequence.num_preemptions else -1
        sequence.times_overtaken = draw(SEEN_BEFORE)
        crowd.append(sequence)
    return crowd


def chosen_by_looking_at_all(waiting: list[Sequence], shares: Shares, step: int) -> Sequence:
    """The rule in plain words: the preempted, then whoever has been overtaken too often, then by fairness."""
    first = min(waiting, key=lambda other: (not other.num_preemptions, other.times_overtaken < MAX_OVERTAKEN, other.sequence_id))
    if first.num_preemptions or first.times_overtaken >= MAX_OVERTAKEN:
        return first
    return shares.order(waiting, step)[0]


@given(crowds(), st.lists(st.tuples(st.integers(0, 11), st.floats(0.0, 3.0)), max_size=12), st.integers(0, 2 * PATIENCE_STEPS))
def test_next_is_whoever_the_rule_names(crowd: list[Sequence], had: list[tuple[int, float]], step: int) -> None:
    shares, waiting = Shares(), Waiting()
    for sequence in crowd:
        shares.arrive(sequence)
        waiting.add(sequence)
    shares.note_step(0.1)
    for number, seconds in had:
        crowd[number % len(crowd)].unpaid_s += seconds
    shares.settle(crowd)
    while waiting:
        assert [waiting.num_asking(lane) for lane in Lane] == [sum(other.asked_for is lane for other in waiting) for lane in Lane]
        others = list(waiting)
        expected = chosen_by_looking_at_all(others, shares, step)
        assert waiting.next(shares, step) is expected
        before = {other.sequence_id: other.times_overtaken for other in others}
        waiting.let_in(expected)
        for other in waiting:
            assert other.times_overtaken == before[other.sequence_id] + (other.sequence_id < expected.sequence_id)


def test_whoever_leaves_the_queue_is_not_asked_for() -> None:
    shares, waiting = Shares(), Waiting()
    short, long = (Sequence(number, make_request(f"r{number}"), [TextTokens(1, (7,) * length)]) for number, length in ((0, 1), (1, 9)))
    for sequence in (short, long):
        shares.arrive(sequence)
        waiting.add(sequence)

    waiting.remove(short)
    waiting.remove(short)

    assert list(waiting) == [long] and waiting.next(shares, 0) is long
