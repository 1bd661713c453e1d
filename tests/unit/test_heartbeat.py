"""The heartbeat: a call that is repeated while the body runs."""

import threading
import time

import pytest
from media_worker.heartbeat import Heartbeat


class Beats:
    """Counts calls, and ends after some of them."""

    def __init__(self, last: int | None = None) -> None:
        self.count = 0
        self.reached = threading.Event()
        self._last = last

    def __call__(self) -> bool:
        self.count += 1
        if self.count >= 3:
            self.reached.set()
        return self.count != self._last


def test_it_beats_while_the_body_runs() -> None:
    """Again and again, and not after the body has ended."""
    beats = Beats()
    with Heartbeat(0.005, beats):
        assert beats.reached.wait(5)
    ended = beats.count
    time.sleep(0.05)
    assert beats.count == ended


def test_it_does_not_beat_at_once() -> None:
    """A short body needs no beat."""
    beats = Beats()
    with Heartbeat(60, beats):
        pass
    assert beats.count == 0


def test_a_beat_can_end_it() -> None:
    """The lease is lost: there is nothing to renew any more."""
    beats = Beats(last=3)
    with Heartbeat(0.005, beats):
        assert beats.reached.wait(5)
        time.sleep(0.05)
    assert beats.count == 3


def test_the_end_of_the_body_waits_for_a_running_beat() -> None:
    """A renewal that is on its way must not arrive after the release."""
    begun, finished = threading.Event(), threading.Event()

    def beat() -> bool:
        begun.set()
        time.sleep(0.1)
        finished.set()
        return True

    with Heartbeat(0.001, beat):
        assert begun.wait(5)
    assert finished.is_set()


def test_an_error_of_the_body_ends_it_too() -> None:
    """And is raised unchanged."""
    beats = Beats()
    with pytest.raises(KeyError, match="broken"), Heartbeat(0.005, beats):
        raise KeyError("broken")
    ended = beats.count
    time.sleep(0.05)
    assert beats.count == ended
