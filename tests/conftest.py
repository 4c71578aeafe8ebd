"""One thread per process: small networks run no slower, and a busy machine does not slow the suite tenfold."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
