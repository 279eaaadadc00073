"""What holds for all tests."""

import os
import signal

import torch

# Tiny matrices: a second thread only waits (one test took 51 s with two, 0.8 s with one). Programs that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# What a shell starts in the background ignores Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
