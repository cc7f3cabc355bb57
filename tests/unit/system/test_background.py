"""One piece of work at a time in another thread."""

import threading

import pytest

from megatron_stare.system.background import Background


def test_work_goes_on_while_its_result_is_not_needed():
    begun, go_on = threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        go_on.wait()
        return 7

    background = Background[int]()
    background.start(work)
    assert begun.wait(10)
    assert background.is_used
    go_on.set()
    assert background.result() == 7
    assert not background.is_used
    background.stop(lambda: None)


def test_an_error_is_raised_where_the_result_is_taken():
    background = Background[int]()
    background.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        background.result()
    background.stop(lambda: None)


def test_work_that_nobody_waits_for_is_cancelled_until_it_ends():
    """The first time may come too early: before there is anything to cancel."""
    background, calls, is_cancelled = Background[bool](), [], threading.Event()

    def cancel() -> None:
        calls.append(1)
        if len(calls) == 2:
            is_cancelled.set()

    background.start(lambda: is_cancelled.wait(30))
    background.stop(cancel)
    assert len(calls) == 2
