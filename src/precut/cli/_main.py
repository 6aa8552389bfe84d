"""The command ``precut``: which command runs, and what a failure looks like."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from precut.cli._parser import Parser
from precut.errors import PrecutError, unknown

__all__ = ["COMMANDS", "main"]

# The help text stands here so that `precut --help` loads no command.
COMMANDS = {
    "demo": "train four networks on a bundled sample and compare them (about 2 minutes)",
    "train": "train one network, dense or sparse, into runs/<name>/",
    "eval": "loss and accuracy of a saved model",
    "summary": "parameters and multiply-adds of a model or a saved model, beside dense",
    "bench": "precut's engine against every other engine that is installed, in turns",
    "prune": "choose a network's weights before training: synflow, snip, magnitude and others",
    "design": "networks of a wanted NN-Mass within budgets, without training",
    "export": "a saved model as ONNX or as a file for libprecut, checked against torch",
    "list": "the names that other commands take: models, supports, data, recipes, claims, kernels",
    "checks": "what this machine and this installation offer",
    "profile": "measure saved models here: time, accuracy, the frontier; record traces under load",
    "replay": "judge policies for deadlines on a recorded or made trace",
    "search": "grow a family of networks, train and time them, keep what nothing beats",
    "reproduce": "work through the training runs of a claim and show their results",
}
_USAGE = 2  # exit code of everything that the user can put right


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 1 (the system failed), 2 (what was asked cannot be done), or
    128 + the signal's number.

    A failure is one line on standard error.

    Args:
        argv: the words behind ``precut``; by default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has a sign for plus-minus
    try:
        return _run(words)
    except PrecutError as error:
        text = str(error)
        for option in ("overwrite", "resume"):  # as the functions below spell it
            text = text.replace(f"{option}=True", f"--{option}")
        return _fail(f"precut: error: {text}", _USAGE)
    except BrokenPipeError:
        # The reader (head, less) has gone. What is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt as stop:  # TrainingInterrupted is one, and knows its signal
        return _fail(f"precut: {str(stop) or 'stopped'}", 128 + int(getattr(stop, "signal", 2)))
    except OSError as error:
        where = "" if error.filename is None else f": {error.filename}"
        return _fail(f"precut: error: {error.strerror or error}{where}; check the path and the disk", 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        return _fail("precut: error: there is not enough memory for this; take a smaller batch or smaller images", 1)


def _fail(text: str, code: int) -> int:
    print(" ".join(text.split()), file=sys.stderr)
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, rest = words[0], words[1:]
    if name == "--version":
        print(f"precut {_package().__version__}")
        return 0
    if name not in COMMANDS:
        kind = "option of precut" if name.startswith("-") else "command"
        raise unknown(kind, name, ["--help", "--version"] if name.startswith("-") else COMMANDS, "precut --help")
    command = importlib.import_module(f"precut.cli._{name}")
    parser = Parser(prog=f"precut {name}", description=command.__doc__)
    command.configure(parser)
    parser.add_argument("--json", action="store_true", help="print JSON on standard output, and nothing else there")
    arguments = parser.parse(rest)
    if arguments is None:
        return 0
    arguments.words = rest
    command.run(arguments)
    sys.stdout.flush()  # a reader that has gone is told here, where it is caught
    return 0


def _package() -> ModuleType:
    """precut itself, without an import of the top floor."""
    return sys.modules["precut"]


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items()]
    first = (_package().__doc__ or "").splitlines()[0]
    return "\n".join(
        [
            first,
            "",
            "usage: precut COMMAND [OPTION ...]",
            "",
            *lines,
            "",
            "precut COMMAND --help tells a command's options; --json, with every command, prints JSON.",
        ]
    )
