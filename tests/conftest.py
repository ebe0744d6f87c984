"""Settings of every test: one thread of torch a process, so that parallel workers do not fight for the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Tests never reach the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Wide enough that messages are not wrapped, and without colours.
os.environ["COLUMNS"] = "200"
os.environ["NO_COLOR"] = "1"
os.environ["TERM"] = "dumb"
