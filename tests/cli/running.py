"""Run a command in this process, and take what it prints."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from latentdb.cli.main import main


def run(*arguments: object, code: int = 0) -> Result:
    """The result of a command that exits with this code."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments: object) -> Any:
    """What a command prints with --json: one document, nothing else."""
    return json.loads(run(*arguments, "--json").stdout)


def run_error(*arguments: object, code: int = 1) -> str:
    """The error of a command: one line on stderr, nothing on stdout, no traceback."""
    result = run(*arguments, code=code)
    lines = result.stderr.splitlines()
    assert result.stdout == ""
    if code == 1:
        assert len(lines) == 1
        assert lines[0].startswith("Error: ")
    return lines[-1]
