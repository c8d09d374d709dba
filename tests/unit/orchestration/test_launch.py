"""The launcher, as far as it goes without Ray."""

import subprocess
import sys

# Starts a process, as Ray does, while another thread imports what resolving a config does.
FORK_WHILE_IMPORTING = """
import os, subprocess, threading, time
import distcnn.orchestration.launch
os.register_at_fork(before=lambda: time.sleep(0.4))
def import_in_the_middle():
    time.sleep(0.2)
    import concurrent.futures.thread
thread = threading.Thread(target=import_in_the_middle)
thread.start()
subprocess.run(["true"], preexec_fn=lambda: None, check=True)
thread.join()
"""


def test_ray_may_start_processes_while_a_thread_imports() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FORK_WHILE_IMPORTING], capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
