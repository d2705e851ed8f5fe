"""What every stage's command has: its options, and what it makes of them."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

    from ..pipeline.config.recipe import Recipe
    from ..pipeline.workdir import WorkDir

INTERRUPTED_EXIT = 130  # what shells report of a process that Ctrl-C ended
REQUEUE_EXIT = 75  # after SIGTERM: EX_TEMPFAIL of sysexits.h, "try again later"

Command = Callable[..., None]
Option = Callable[[Command], Command]


def with_options(*options: Option) -> Option:
    """A decorator that adds options to a command, in the order that its help has them."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


recipe_options = with_options(
    click.option(
        "-w",
        "--work",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("work/demo"),
        show_default=True,
        help="Work directory: its recipe, all stages' files.",
    ),
    click.option(
        "-r",
        "--recipe",
        metavar="NAME|FILE",
        help="Recipe: shipped, or a TOML file.  [default: the work directory's, else demo]",
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting, such as student.alpha=0.9. May be given several times.",
    ),
)
"""Which recipe is meant."""

run_options = with_options(
    recipe_options,
    click.option(
        "--store",
        metavar="PATH|URL",
        help="Where the heatmaps lie; s3://bucket/run.zarr, say.  [default: heatmaps.zarr in "
        "the work directory]",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1."),
)
"""The options that every stage has."""

passes_options = with_options(
    click.option(
        "--flip-test/--no-flip-test",
        "flip",
        default=None,
        help="Average each answer with its mirrored twin.  [default: the recipe's evaluation.flip_test]",
    ),
    click.option(
        "--scales",
        metavar="FACTORS",
        help="Average over crops of the box times each of 0.9,1,1.1, say.  [default: the "
        "recipe's evaluation.scales]",
    ),
)
"""How a model is asked: settings of the recipe, too (`passes_overrides`)."""


def passes_overrides(flip: bool | None, scales: str | None) -> tuple[str, ...]:
    """The options of `passes_options` as `--set` has them."""
    chosen = () if flip is None else (f"evaluation.flip_test={str(flip).lower()}",)
    return chosen if scales is None else (*chosen, f"evaluation.scales=[{scales}]")


cluster_options = with_options(
    click.option(
        "--workers",
        "count",
        type=click.IntRange(min=0),
        metavar="N",
        help="Share the work among N processes of a Dask cluster of its own, spread over this "
        "machine's GPUs; 0: one a GPU, or one a core where there is none.  [default: none, "
        "this process does it]",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Share it among the workers of a running Dask cluster: tcp://host:8786, say. "
        "--device is theirs.",
    ),
    click.option(
        "--scheduler-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The same, by the file that `dask scheduler --scheduler-file` writes.",
    ),
)
"""The options of commands that a Dask cluster may share."""


@contextmanager
def stage(
    options: dict[str, Any], *, writes: bool = True, together: bool = False
) -> Iterator[tuple[WorkDir, Recipe, torch.device]]:
    """What a stage needs, from the options; mistakes become one sentence, not a traceback.

    Args:
        writes: it may be the first in its work directory, and then fixes the recipe.
        together: processes that torchrun started can share it; the first one speaks for all.
    """
    from ..pipeline.runtime.device import choose_device, divide_cores, is_launched, launched_rank
    from ..pipeline.runtime.interrupt import Interrupted
    from ..pipeline.workdir import WorkDir

    if is_launched() and not together:
        raise click.ClickException(
            "torchrun shares `fpd run teacher` and `fpd run student` among processes; run this "
            "command without it"
        )
    first = launched_rank() == 0
    if not first:
        logging.getLogger("fpd").setLevel(logging.ERROR)
    try:
        device = choose_device(options["device"])
        work = WorkDir(options["work"])
        overrides = options["overrides"]
        if options["store"]:
            overrides += (f"store.location={json.dumps(options['store'])}",)
        recipe = work.recipe(options["recipe"], overrides)
        if writes and first:
            work.keep(recipe)
        divide_cores(recipe.loader.workers, device)
        yield work, recipe, device
    except ValueError as error:
        speaker = "" if first else f"process {launched_rank()}: "
        raise click.ClickException(speaker + _sentence(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"{error.filename or options['work']}: {error.strerror}; what is complete is kept, and "
            "the same command goes on once that is mended"
        ) from None
    except KeyboardInterrupt:  # where nothing waits for it, as in an evaluation
        if first:
            click.echo("stopped; what is complete is kept, run the same command again", err=True)
        raise SystemExit(INTERRUPTED_EXIT) from None
    except Interrupted as error:
        if first:
            click.echo(str(error), err=True)
        asked_to_end = error.signal == signal.SIGTERM
        raise SystemExit(REQUEUE_EXIT if asked_to_end else INTERRUPTED_EXIT) from None


def _sentence(error: ValueError) -> str:
    """The error's own message, without the traceback that PyTorch wraps around a loader's."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rstrip().rpartition("\n")[2].removeprefix("ValueError: ")
