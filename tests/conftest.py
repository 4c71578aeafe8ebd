"""One thread per process: small networks run no slower, and a busy machine does not slow the suite tenfold."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"

# Started in the background of a shell, this process ignores SIGINT, and so would those that tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)
