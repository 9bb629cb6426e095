"""The `vlcap` command in a process of its own."""

import os
import subprocess
import sys


def vlcap(*arguments, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
        **options,
    )
