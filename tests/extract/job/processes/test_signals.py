"""Stop signals in the process that gets them; what ends it is in test_hanging_reads.py."""

import os
import signal
import threading
import time

import pytest

from extract.job.processes.signals import STOP_SIGNALS, Stopped, stop_on_signals, stoppable


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_interrupts_what_may_be_dropped(number: signal.Signals) -> None:
    def work() -> None:
        with stoppable(lambda: "listing images"):
            os.kill(os.getpid(), number)
            time.sleep(10)

    began = time.monotonic()
    with stop_on_signals() as stop:
        with pytest.raises(Stopped, match="listing images"):
            work()
        assert stop()
        assert stop.signal == number
        assert stop.exit_code == (130 if number == signal.SIGINT else 75)
        with pytest.raises(Stopped, match="building"), stoppable(lambda: "building"):
            pytest.fail("a stop that came before was not seen")
    assert time.monotonic() - began < 5


def test_a_wake_up_that_was_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that comes between the check for signals and the system call that waits."""
    lost: list[int] = []
    send = signal.pthread_kill

    def lose_the_first(thread: int, number: int) -> None:
        if lost:
            send(thread, number)
        lost.append(number)

    def read() -> None:
        with stoppable(lambda: "reading"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    monkeypatch.setattr(signal, "pthread_kill", lose_the_first)
    began = time.monotonic()
    with stop_on_signals(), pytest.raises(Stopped):
        read()
    assert time.monotonic() - began < 5
    assert len(lost) > 1


def test_other_work_goes_on_and_asks() -> None:
    """The signal of a batch system to the process and to its group is one request; a second one would end this test."""
    with stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + 5
        while not stop():
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)


def test_afterwards_all_is_as_before() -> None:
    def state() -> list[object]:
        handlers = [signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGURG)]
        return [*handlers, signal.pthread_sigmask(signal.SIG_BLOCK, [])]

    before, threads = state(), {*threading.enumerate()}
    with stop_on_signals():
        assert state() != before
        assert {*threading.enumerate()} - threads
    assert state() == before
    assert {*threading.enumerate()} <= threads  # other tests' may have ended meanwhile
    with stoppable(lambda: "nothing"):
        pass


def test_other_threads_are_left_alone() -> None:
    passed: list[bool] = []

    def work() -> None:
        with stoppable(lambda: "copying"):
            passed.append(True)

    with stop_on_signals() as stop:
        stop.note(signal.SIGTERM)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert passed == [True]
