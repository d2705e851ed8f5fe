"""Cache heatmaps with workers in SLURM jobs, as many as there is work for: docs/cluster.md.

pip install dask-jobqueue
python docs/slurm/jobqueue.py 16 -w work/lsp [more options of cache-heatmaps]
"""

import subprocess
import sys

from dask_jobqueue import SLURMCluster

max_jobs, options = int(sys.argv[1]), sys.argv[2:]
cluster = SLURMCluster(
    cores=1,
    processes=1,
    memory="4GB",
    walltime="01:00:00",
    # On GPUs (not tested): job_extra_directives=["--gres=gpu:1"].
    # Workers leave before SLURM ends their jobs, at different times, and lose no work.
    worker_extra_args=["--lifetime", "55m", "--lifetime-stagger", "4m"],
    scheduler_options={"dashboard_address": "127.0.0.1:0"},
)
cluster.adapt(minimum=0, maximum_jobs=max_jobs)
command = ["fpd", "cache-heatmaps", *options, "--scheduler", cluster.scheduler_address]
with cluster:
    sys.exit(subprocess.run(command).returncode)
