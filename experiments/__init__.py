"""The experiment system around `supjax`: networks, data, training runs and reports."""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A command that is still being imported: Ctrl-C ends it as it ends other programs, without a
    # traceback of the imports. `experiments.stopping` says what it means later on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
