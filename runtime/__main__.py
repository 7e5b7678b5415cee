"""`kokanee`: one word a job; errors in one line on standard error."""

import importlib
import sys
from typing import Any

import click

from kokanee import __version__

# Each command is `command` in the module of its name, loaded when it is called: `kokanee --help`
# and a mistyped command need neither NumPy nor ONNX Runtime.
COMMANDS = {
    "ask": "Answer a question about a sound file.",
    "transcribe": "Write down what is said in a recording of up to four hours.",
    "listen": "Answer a microphone while it listens.",
    "demo": "Answer about three bundled recordings.",
    "build": "Make a bundle and keep it.",
    "quantize": "Store a bundle's model in other schemes, and compare them.",
    "inspect": "Show what is in a bundle.",
    "trace": "Write down every array between samples and answer.",
    "eval": "Measure how well a bundle hears.",
    "bench": "Measure latency, memory and quality, beside alternatives.",
    "plan": "Say whether a model fits a machine, and how fast it would be.",
    "doctor": "Say what is installed, what is missing and what mends it.",
}

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            command: click.Command = importlib.import_module(f".{cmd_name}", __package__).command
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{error.name} is not installed; `kokanee doctor` says what mends it"
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='Start with:  kokanee ask recording.wav "What do you hear?"',
)
@click.version_option(__version__, prog_name="kokanee")
def cli() -> None:
    """Ask questions about sounds, on this machine."""


def main(args: list[str] | None = None) -> None:
    """Runs a command and leaves with its exit code: 0, 1 for an error, 2 for a misused option."""
    try:
        code: Any = cli.main(args, prog_name="kokanee", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        code = _stopped()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Exception as error:
        code = _stopped() if _after_interrupt(error) else _complain(error)
    sys.exit(code)


def _stopped() -> int:
    click.echo("kokanee: stopped", err=True)  # click has ended the line
    return INTERRUPTED


def _after_interrupt(error: BaseException) -> bool:
    """Whether this came up while cleaning up behind a Ctrl-C, which is then what happened."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__context__
    return seen is not None


def _complain(error: Exception) -> int:
    """One line for what may go wrong on a sound machine; a bug keeps its traceback."""
    # Imported here: an error of the engine has loaded it already, nothing else needs it.
    from kokanee.engine.errors import KokaneeError

    match error:
        case KokaneeError():
            what = str(error)
        case MemoryError():
            what = "not enough memory"
        case OSError():
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        case _:
            raise error
    click.echo(f"kokanee: {' '.join(what.split())}", err=True)
    return 1


if __name__ == "__main__":
    main()
