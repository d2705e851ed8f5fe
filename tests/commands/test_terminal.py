"""The terminal: text from files is text on it, and a signal ends each command as it should."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import fpd.cli
from fpd.cli import main
from fpd.commands.terminal import Commands, PrintableFormatter, echo

HOSTILE = "\x1b[2J\x9b31m\x07nose\r\u202eeson"
ESCAPED = r"\x1b[2J\x9b31m\x07nose\r\u202eeson"
COMMANDS = Path(fpd.cli.__file__).parent / "commands"


def run_command(body: Any) -> Result:
    """Run a function as a command of a `Commands` group."""
    group = Commands("group")
    group.command("body")(body)
    return CliRunner().invoke(group, ["body"])


def test_what_is_printed_keeps_its_lines_and_shows_controls() -> None:
    result = run_command(lambda: echo(f"{HOSTILE}\nsecond"))
    assert result.output == f"{ESCAPED}\nsecond\n"


def test_error_messages_show_controls() -> None:
    def fail() -> None:
        raise click.ClickException(HOSTILE)

    result = run_command(fail)
    assert (result.exit_code, result.output) == (1, f"Error: {ESCAPED}\n")


def test_a_log_record_is_one_line_and_shows_controls() -> None:
    record = logging.LogRecord("fpd", logging.INFO, "", 0, "%s\nERROR", (HOSTILE,), None)
    assert PrintableFormatter("%(message)s").format(record) == ESCAPED + r"\nERROR"


def test_commands_print_by_no_other_way() -> None:
    """A `click.echo` or `print` would pass text from files on as it is."""
    for path in COMMANDS.rglob("*.py"):
        if path.name != "terminal.py":
            source = path.read_text("utf-8")
            assert "click.echo(" not in source and "print(" not in source.replace(
                "fingerprint(", ""
            ), path


def test_a_terminal_that_lacks_a_letter_is_no_error() -> None:
    code = (
        "import fpd.cli as c; c.main.command('x')(lambda: c.data.echo('\u00b1 \u8033')); "
        "c.main(['x'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert result.stdout == b"\xb1 \\u8033\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_where_nothing_looks_for_it_has_an_exit_status(number: int, status: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    result = run_command(lambda: signal.raise_signal(number))
    assert (result.exit_code, result.output) == (
        status,
        "stopped; finished work is kept, run the same command again\n",
    )
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_that_arrives_as_another_error_is_still_sigterm() -> None:
    """As out of an import or of a library that turns every exception into its own."""

    def fail() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise ImportError("cannot import torch") from None

    assert run_command(fail).exit_code == 75


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (MemoryError("Unable to allocate 30.0 GiB"), ["too little memory", "30.0 GiB", "batch"]),
        (RuntimeError("unable to write to file </torch_1>: No space"), ["/dev/shm", "workers=0"]),
        (OSError(24, "Too many open files"), ["ulimit -n"]),
    ],
)
def test_exhausted_resources_are_one_sentence(error: Exception, parts: list[str]) -> None:
    def fail() -> None:
        raise error

    result = run_command(fail)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert all(part in result.output for part in parts), result.output


def test_other_errors_stay_as_they_are() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    assert isinstance(run_command(fail).exception, RuntimeError)


@pytest.fixture(scope="module")
def finished(toy_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with a student."""
    work = Path(shutil.copytree(toy_work, tmp_path_factory.mktemp("terminal") / "work"))
    result = CliRunner().invoke(main, ["run", "student", "-w", str(work)])
    assert result.exit_code == 0, result.output
    return work


STAGES = {
    # What loads data or scores, where no loop of ours looks for signals.
    "check-data": ("fpd.stages.check_data.read_splits", []),
    "run teacher": ("fpd.stages.teacher.load_training", ["--set", "teacher.seed=5"]),
    "cache-heatmaps": ("fpd.stages.heatmaps.load", []),
    "run student": ("fpd.pipeline.training.distill.load_training_samples", ["--name", "new"]),
    "evaluate": ("fpd.stages.evaluate.predict", []),
    "export": ("fpd.stages.export.load_model", ["--format", "torch-export"]),
    "predict": ("fpd.stages.predict.trained_model", []),
    "profile": ("fpd.stages.profile.load_model", []),
    "sweep": ("fpd.stages.sweep.load_training_samples", ["x", "--grid", "student.alpha=0"]),
    "verify-cache": ("fpd.stages.verify.load_samples", []),
    "inspect-cache": ("fpd.stages.inspect.stored_layout", []),
    "merge-caches": ("fpd.stages.merge.open_storage", ["other.zarr"]),
}


@pytest.mark.parametrize("command", STAGES)
def test_sigterm_ends_each_command_alike_and_changes_nothing(
    command: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Path(shutil.copytree(finished, tmp_path / "work"))
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"never read")
    before = content_of(work)
    target, options = STAGES[command]
    monkeypatch.setattr(target, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    arguments = [*command.split(), "-w", str(work), *options]
    if command == "predict":
        arguments.append(str(photo))
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 75, result.output
    assert "stopped" in result.output and "same command" in result.output
    assert content_of(work) == before


def content_of(folder: Path) -> dict[str, bytes]:
    """All files but lock files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.5, 2.0, 3.5, 5.0, 8.0, 12.0])
def test_sigterm_at_any_time_of_all_stages_exits_75_and_the_same_command_finishes(
    toy_work: Path, tmp_path: Path, after_s: float
) -> None:
    """In a process of its own, with a loader process."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copyfile(toy_work / "recipe.json", work / "recipe.json")
    arguments = [sys.executable, "-m", "fpd", "run", "all", "-w", str(work)]
    arguments += ["--set", "loader.workers=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(2):
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        time.sleep(after_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # as schedulers do, loader processes included
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (75, 0), errors
        assert "Traceback" not in errors
    result = CliRunner().invoke(main, arguments[3:])
    assert result.exit_code == 0, result.output
    report = json.loads((work / "evaluation" / "report.json").read_text("utf-8"))
    assert set(report["models"]) == {"teacher", "student"}
    assert not list(work.rglob("*.tmp"))
    weights = "teacher/weights.safetensors"
    assert (work / weights).read_bytes() == (toy_work / weights).read_bytes()
