"""Options that several commands share, and `stage`, which turns them into a stage's arguments."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..pipeline.runtime.launch import is_launched, launched_rank
from .terminal import echo, errors_as_messages

if TYPE_CHECKING:
    import torch

    from ..pipeline.config.recipe import Recipe
    from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

DEMO = Path("work/demo")
"""The work directory of `fpd demo`, and of the commands after it that name none."""

Command = Callable[..., None]
Option = Callable[[Command], Command]


def with_options(*options: Option) -> Option:
    """A decorator that adds options to a command; its help lists them in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


settings_options = with_options(
    click.option(
        "-r",
        "--recipe",
        metavar="NAME|FILE",
        help="Recipe: the name of a shipped one, such as lsp, or a TOML file. A new work directory "
        "needs it.  [default: the work directory's recipe]",
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting of the recipe, such as student.alpha=0.9; null leaves it not set. "
        "Repeatable.",
    ),
)
"""The options that choose recipe and settings."""

recipe_options = with_options(
    click.option(
        "-w",
        "--work",
        type=click.Path(file_okay=False, path_type=Path),
        help="Work directory, which holds the recipe and the files of all stages.  [default: "
        "work/demo, once `fpd demo` has made it]",
    ),
    settings_options,
)
"""The options that choose work directory and recipe."""

place_options = with_options(
    click.option(
        "--store",
        metavar="PATH|URL",
        help="Location of the heatmap store, such as s3://bucket/run.zarr.  [default: "
        "heatmaps.zarr in the work directory]",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or cuda:1."),
)
"""The options that choose where the store is, and where networks run."""

run_options = with_options(recipe_options, place_options)
"""The options that every stage has."""

cache_options = with_options(
    click.option(
        "--cache-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Keep shards of a remote store in this folder, on a local disk. Several commands can "
        "share it.  [default: the recipe's loader.cache_dir]",
    ),
    click.option(
        "--cache-size",
        metavar="SIZE",
        help="Largest size of that folder, such as 50GB or 1.5TiB.  [default: the recipe's "
        "loader.cache_size]",
    ),
)
"""The local cache of a remote store, which the recipe's `loader` section sets too."""

json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the report to FILE, such as report.json, in full precision.",
)
"""The option of commands that print a report; their stage writes the file."""

code_option = click.option(
    "--allow-code",
    is_flag=True,
    help="Run teachers that the recipe names as package.module:factory: code from that module, "
    "with your rights (docs/security.md).",
)
"""The option of commands that may run the recipe's external teachers."""

callback_option = click.option(
    "--callback",
    "callbacks",
    multiple=True,
    metavar="NAME",
    help="What watches the training: csv, wandb, or package.module:factory of your own, whose code "
    "then runs (docs/monitoring.md). Repeatable.",
)
"""The option of commands that train; recipes cannot name callbacks."""

passes_options = with_options(
    click.option(
        "--flip-test/--no-flip-test",
        "flip",
        default=None,
        help="Average the output with that on the flipped crop, flipped back.  [default: the "
        "recipe's evaluation.flip_test]",
    ),
    click.option(
        "--scales",
        metavar="FACTORS",
        help="Average over crops of the person's box times each factor, such as 0.9,1,1.1.  "
        "[default: the recipe's evaluation.scales]",
    ),
)
"""Test-time augmentation, which the recipe's `evaluation` section sets too (`passes_overrides`)."""


def passes_overrides(flip: bool | None, scales: str | None) -> tuple[str, ...]:
    """The values of `passes_options` in the form of `--set`."""
    overrides = () if flip is None else (f"evaluation.flip_test={str(flip).lower()}",)
    return overrides if scales is None else (*overrides, f"evaluation.scales=[{scales}]")


cluster_options = with_options(
    click.option(
        "--workers",
        "count",
        type=click.IntRange(min=0),
        metavar="N",
        help="Start a Dask cluster of N processes, spread over this machine's GPUs, and share the "
        "work among them; 0: one process a GPU, or one a core if there is no GPU.  [default: no "
        "cluster]",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Share the work among the workers of a running Dask cluster, such as tcp://host:8786. "
        "--device is a device of the workers.",
    ),
    click.option(
        "--scheduler-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="As --scheduler, with the file that `dask scheduler --scheduler-file` writes.",
    ),
)
"""The options of commands that a Dask cluster can share."""


@contextmanager
def stage(
    options: dict[str, Any],
    *,
    writes: bool = True,
    distributed: bool = False,
    default_recipe: str | None = None,
    needs_recipe: bool = True,
) -> Iterator[tuple[WorkDir, Recipe, torch.device]]:
    """A stage's work directory, recipe and device; errors become one message, without traceback.

    Args:
        options: the values of `run_options`.
        writes: the stage may be the first in its work directory, and then writes its recipe there.
        default_recipe: the recipe of a command without `-r`; None: the work directory's own.
        needs_recipe: the stage needs a recipe, named or in the work directory; if it does not, and
            there is none, the settings have their defaults.
        distributed: processes that torchrun started can share the stage; the first process prints.
    """
    from ..pipeline.workdir import WorkDir

    if is_launched() and not distributed:
        raise click.ClickException(
            "torchrun is for `fpd run teacher` and `fpd run student`: run this command without it"
        )
    is_first = launched_rank() == 0
    if not is_first:
        log.setLevel(logging.ERROR)
    with errors_as_messages(options["work"] or DEMO):
        work = WorkDir(
            options["work"] or DEMO
            if default_recipe is not None  # `fpd demo` makes it
            else work_directory(options["work"], options["recipe"], writes=writes)
        )
        overrides = _overrides(options)
        recipe = work.recipe(
            options["recipe"],
            overrides,
            default=default_recipe,
            stored=_stored_recipe(work, options),
            location=options["store"],
            required=needs_recipe,
        )
        # Imported here: PyTorch takes seconds, and a misspelled setting is refused before.
        from ..pipeline.runtime.device import choose_device, divide_cores

        device = choose_device(options["device"])
        name = options["recipe"] or default_recipe
        if is_first and name is not None:
            for line in work.changes(recipe, overrides, name):
                echo(line, err=True)
        if writes and is_first:
            keep_recipe(work, recipe, name or f"in {options['store']}")
        divide_cores(recipe.loader.workers, device)
        yield work, recipe, device


def keep_recipe(work: WorkDir, recipe: Recipe, name: str) -> None:
    """Keep the recipe of the first command in a new work directory, and say so.

    Args:
        name: the recipe's, for the message.
    """
    if work.keep(recipe):
        echo(f"{work.root} is new: it gets the recipe {name}, kept in {work.kept_recipe.name}")


def work_directory(given: Path | None, recipe: str | None, *, writes: bool) -> Path:
    """The work directory: the one that is named, else the demo's if it exists.

    A command that starts a run must name it: its files would get in among the demo's.

    Args:
        given, recipe: as given to `-w` and `-r`.
        writes: the command may start a run.

    Raises:
        ValueError: it has to be named.
    """
    if given is not None:
        return given
    if recipe is None and not DEMO.is_dir():
        raise ValueError(
            f"no work directory is named, and there is no {DEMO}: name one with -w, such as "
            f"-w work/lsp, or run `fpd demo`, which makes {DEMO}"
        )
    if recipe is not None and writes:
        raise ValueError(
            f"-r {recipe} starts a run: name its work directory with -w, such as "
            f"-w work/{Path(recipe).stem}"
        )
    return DEMO


def _overrides(options: dict[str, Any]) -> tuple[str, ...]:
    """`--set`, and in its form `--store` and, where a command has them, `cache_options`."""
    given = {
        "store.location": options["store"] or None,
        "loader.cache_dir": options.get("cache_dir"),
        "loader.cache_size": options.get("cache_size"),
    }
    chosen = {key: str(value) for key, value in given.items() if value is not None}
    return (*options["overrides"], *(f"{key}={json.dumps(v)}" for key, v in chosen.items()))


def _stored_recipe(work: WorkDir, options: dict[str, Any]) -> dict[str, Any] | None:
    """The settings in the store that a command names, where they are the recipe to start from."""
    if not options["store"] or options["recipe"] or work.kept_recipe.is_file():
        return None
    from ..pipeline.store.dataset import stored_recipe

    return stored_recipe(options["store"])
