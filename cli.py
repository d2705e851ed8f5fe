"""The command line: what `fpd` answers to. The commands themselves are in `commands/`.

Everything heavy is imported inside the commands, so that `fpd --help` answers at once.
"""

from __future__ import annotations

import logging

import click

from .commands import data, deployment, evaluation, heatmaps, sweeping, training


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fpd")
def main() -> None:
    """Fast pose distillation: the teacher runs once, students train on its cached heatmaps.

    \b
    fpd demo                              all four stages on drawn people
    fpd run all -r lsp -w work/lsp --set data.root=datasets
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("fpd").setLevel(logging.INFO)


for command in (
    data.check_data,
    training.run,
    heatmaps.cache_heatmaps,
    heatmaps.inspect_cache,
    heatmaps.merge_caches,
    heatmaps.verify_cache,
    evaluation.evaluate,
    deployment.predict,
    deployment.export,
    deployment.profile,
    sweeping.sweep,
    training.demo,
):
    main.add_command(command)
