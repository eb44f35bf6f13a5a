"""Ctrl-C, SIGTERM and a closed terminal: all begin one clean stop."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked to stop. A BaseException, so that no `except Exception` on the way swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopSignals:
    """As a context manager: the first signal raises Stopped, once; later ones only say that the stop is under way.

    Whoever begins to stop for another reason sets `stopping`. So cleaning up is never interrupted, not by a second Ctrl-C either.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._old: dict[signal.Signals, object] = {}
        self.stopping = False

    def __enter__(self) -> "StopSignals":
        for signum in _ALL:
            # Ignored from outside: a hang-up stays so (nohup). SIGINT and SIGTERM are handled all the same, as in every process of
            # ours: a program that is started in the background of a script would otherwise stop by SIGTERM only.
            if signum is not signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
                self._old[signum] = signal.signal(signum, self._received)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]  # what signal.signal returned, it takes

    def _received(self, signum: int, frame: FrameType | None) -> None:
        if self.stopping:
            self._say("already stopping ...")
            return
        self.stopping = True
        raise Stopped(signum)
