"""`fpd config`: which recipes and settings there are, and where a recipe's values come from."""

from __future__ import annotations

from pathlib import Path

import click

from ..pipeline.runtime.text import printable
from .options import recipe_options
from .terminal import echo


@click.group(invoke_without_command=True)
@click.pass_context
def config(context: click.Context) -> None:
    """List the recipes and all settings, with defaults and descriptions.

    \b
    fpd config
    fpd config show -r lsp --set student.epochs=20
    """
    if context.invoked_subcommand is None:
        from .summaries.config import describe_settings

        echo(describe_settings())


@config.command()
@recipe_options
def show(work: Path | None, recipe: str | None, overrides: tuple[str, ...]) -> None:
    """Print a recipe, and where each value comes from.

    The output is a TOML file with all settings: of the recipe that -r names, else of the work
    directory.

    \b
    fpd config show -r lsp
    fpd config show -w work/lsp --set student.alpha=0.9
    """
    from ..pipeline.config.origins import trace_kept, trace_recipe
    from ..pipeline.workdir import WorkDir
    from .options import work_directory
    from .summaries.config import describe_recipe

    try:
        if recipe is not None:
            traced = trace_recipe(recipe, overrides)
        else:
            directory = WorkDir(work_directory(work, recipe, writes=False))
            directory.recipe(None, overrides)  # says what is missing or wrong
            traced = trace_kept(directory.read_kept(), str(directory.kept_recipe), overrides)
    except ValueError as error:
        raise click.ClickException(printable(str(error))) from None
    echo(describe_recipe(traced))
