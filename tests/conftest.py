"""One thread per process: small networks run no slower, and a busy machine does not slow the suite tenfold."""

import os
import signal

from traj.pipeline.threads import wait_briefly

os.environ["OMP_NUM_THREADS"] = "1"
wait_briefly()  # for tests and their subprocesses that ask for more

# Started in the background of a shell, this process ignores SIGINT, and so would those that tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)
