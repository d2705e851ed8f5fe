"""The batch scripts of docs/slurm start what docs/cluster.md says, with stand-ins for SLURM."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "docs" / "slurm"

STAND_INS = {
    "dask": 'if [ "$1" = scheduler ]; then echo "{}" > "$3"; fi\n',
    "srun": 'exec "$@"\n',
    # -w WORK --scheduler-file FILE: waits for the file, as the command does, up to 20 s.
    "fpd": (
        'for i in $(seq 200); do\n  [ -s "$5" ] && echo "$@" && exit 0\n  sleep 0.1\ndone\nexit 1\n'
    ),
}
"""Programs by name, as bash scripts."""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def test_the_work_directory_of_cache_heatmaps_may_be_new(tmp_path: Path) -> None:
    """The scheduler writes its file there before the command makes the directory."""
    for name, text in STAND_INS.items():
        program = tmp_path / name
        program.write_text(f"#!/usr/bin/env bash\n{text}")
        program.chmod(0o755)
    work = tmp_path / "work" / "new"
    done = subprocess.run(
        ["bash", SCRIPTS / "cache-heatmaps.sbatch", work, "-r", "lsp"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    file = work / "scheduler-7.json"
    assert done.stdout.split() == (
        f"cache-heatmaps -w {work} --scheduler-file {file} -r lsp".split()
    )
    assert not file.exists()  # removed at the end
