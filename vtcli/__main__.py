"""`vt` and `python -m vtcli`."""

import gc
import os
import signal
import sys
from types import FrameType

from vtcli.runtime.memory import keep_freed_memory_when_loaded

EXIT_INTERRUPTED = 130  # as in vtcli.errors, which is not imported yet when it is needed
WAIT_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def main() -> None:
    """Run the command line and leave with its exit code."""
    # A caller that ignores the signal, such as nohup, is obeyed.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _leave_at_once)
    let_waiting_threads_sleep()
    keep_freed_memory_when_loaded()
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")  # frames are resized in threads of our own
    from vtcli.cli import run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        _leave_at_once(signal.SIGINT, None)
    finally:
        # The interpreter's last collection would visit every object of PyTorch, which takes longer
        # than a second on a busy machine.
        gc.freeze()
    if interruptible:
        signal.signal(signal.SIGINT, _leave_at_once)
    sys.exit(code)


def let_waiting_threads_sleep() -> None:
    """Threads of PyTorch that wait for each other soon sleep, unless the environment decides.

    By default they spin for milliseconds, which takes the core from the thread that they wait for
    where other processes run. The number is read when PyTorch is loaded.
    """
    if not any(name in os.environ for name in WAIT_POLICIES):
        os.environ["GOMP_SPINCOUNT"] = "3000"


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    """While the command line is imported, and when it is done, Ctrl-C prints no traceback."""
    os.write(2, b"vt: error: interrupted\n")
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
