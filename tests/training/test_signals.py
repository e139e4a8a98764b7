"""Signals that ask for a stop."""

import os
import signal

import pytest

from utils.cli import Stopped
from utils.training.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_does_not_interrupt(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        assert signals.received == number
    assert signal.getsignal(number) == before
    with pytest.raises(Stopped) as stopped:
        signals.leave()
    assert stopped.value.exit_status == 128 + number
