"""The entry point of `fpd`; its commands are in `commands/`.

Heavy packages are imported inside the commands, so that `fpd --help` is instant.
"""

from __future__ import annotations

import click

from .commands import cache, config, data, deploy, distill, evaluate, sweep, train
from .commands.terminal import Commands, set_up_logging


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fast-pose-distillation")
def main() -> None:
    """Fast pose distillation: run the teacher once, train students on its cached heatmaps.

    \b
    fpd demo                              all four stages on synthetic people
    fpd run all -r lsp -w work/lsp --set data.root=datasets
    fpd distill photos/ --teacher pose.onnx -o student.onnx
    """
    set_up_logging()


for command in (
    config.config,
    distill.distill,
    data.check_data,
    train.run,
    cache.cache_heatmaps,
    cache.inspect_cache,
    cache.merge_caches,
    cache.verify_cache,
    evaluate.evaluate,
    deploy.predict,
    deploy.export,
    deploy.profile,
    sweep.sweep,
    train.demo,
):
    main.add_command(command)
