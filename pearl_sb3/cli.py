"""The ``pearl`` command. Each sub-command imports what it needs when it runs, so that ``pearl --help`` is immediate."""

import argparse
import sys
from collections.abc import Callable, Sequence
from types import TracebackType

from pearl_sb3 import __version__

OTHER_ENCODERS = """\
Any timm model works by its name. With a network, its weights are fetched on first use; without, run this where there is one:
  python -c "import timm; from timm.models import save_for_hf; \
save_for_hf(timm.create_model('vit_small_patch14_dinov2.lvd142m', pretrained=True), 'dinov2')"
and use the folder it makes as encoder "local-dir:dinov2". "hf-hub:user/model" and the path of a .safetensors file made by timm
or by `pearl pretrain` are encoders as well. To find names:
  python -c "import timm; print(*timm.list_pretrained('*dinov2*'), sep='\\n')\""""


def train(arguments: Sequence[str]) -> None:
    """
    :param arguments: Command line after ``pearl train``
    """
    from pearl_sb3 import zoo

    if {"-h", "--help"} & set(arguments):
        print(
            "Train a PEARL agent: rl_zoo3's `train` with PEARL's hyperparameters unless -conf names others, whatever the log "
            f"folder.\nDefaults other than rl_zoo3's: --env {zoo.GAME}, -f {zoo.FOLDER}. All flags are rl_zoo3's:\n"
        )
    zoo.train(arguments)


def enjoy(arguments: Sequence[str]) -> None:
    """
    :param arguments: Command line after ``pearl enjoy``
    """
    from pearl_sb3 import zoo

    if {"-h", "--help"} & set(arguments):
        print(
            "Watch a trained agent play: rl_zoo3's `enjoy`.\n"
            f"Defaults other than rl_zoo3's: --env {zoo.GAME}, -f {zoo.FOLDER}. All flags are rl_zoo3's:\n"
        )
    zoo.enjoy(arguments)


def encoders(arguments: Sequence[str]) -> None:
    """
    :param arguments: Command line after ``pearl encoders``
    """
    parser = argparse.ArgumentParser(
        prog="pearl encoders",
        description="List the encoders that work on this machine now, bundled or already fetched, and say how to get others.",
        epilog=OTHER_ENCODERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)

    from pearl_sb3.encoders.catalogue import list_encoders

    table = [("encoder", "source", "parameters", "licence", "")]
    for row in list_encoders():
        parameters = "" if row.parameters is None else f"{row.parameters / 1e6:.1f} M"
        table.append((row.name, row.kind, parameters, row.licence or "", row.note or ""))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"\n{OTHER_ENCODERS}")


def pretrain(arguments: Sequence[str]) -> int:
    """
    :param arguments: Command line after ``pearl pretrain``
    :return: Exit status
    """
    from pearl_sb3.pretraining import command

    parser = argparse.ArgumentParser(prog="pearl pretrain", description="Make an encoder from frames of random play.")
    command.add_arguments(parser)
    return command.main(parser.parse_args(arguments))


def probe(arguments: Sequence[str]) -> int:
    """
    :param arguments: Command line after ``pearl probe``
    :return: Exit status
    """
    from pearl_sb3.probing import command

    parser = argparse.ArgumentParser(
        prog="pearl probe", description="Measure how much of a game's hidden state a linear probe reads from an encoder."
    )
    command.add_arguments(parser)
    return command.main(parser.parse_args(arguments))


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int | None], str]] = {
    "train": (train, "train a PEARL agent (rl_zoo3's train, with PEARL's hyperparameters)"),
    "enjoy": (enjoy, "watch a trained agent play (rl_zoo3's enjoy)"),
    "encoders": (encoders, "list the encoders on this machine, and how to get others"),
    "probe": (probe, "measure how much of a game's state an encoder's tokens, or an agent's features, hold"),
    "pretrain": (pretrain, "make an encoder from frames of random play"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run ``pearl``.

    :param arguments: Command line after ``pearl``; ``None`` for this process's own
    :return: Exit status: 0, 2 after a user's error (one line on stderr), 130 when interrupted
    """
    parser = argparse.ArgumentParser(
        prog="pearl",
        description="Pretrained encoders and spatiotemporal attention for Stable-Baselines3 agents.",
        epilog="commands:\n" + "\n".join(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pearl_sb3 {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of those below; each has its own --help")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    options = parser.parse_args(arguments)
    try:
        return COMMANDS[options.command][0](options.arguments) or 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, RuntimeError, AssertionError) as error:
        if not _says_what_to_do(error.__traceback__):
            raise
        print(f"pearl {options.command}: {error}", file=sys.stderr)
        return 2


def _says_what_to_do(traceback: TracebackType | None) -> bool:
    """
    Tell an error written for the user from a defect, whose traceback is worth showing.

    :param traceback: Of the error
    :return: Whether this package or rl_zoo3 raised it, by itself or by a call of the standard library
    """
    raisers = []
    while traceback is not None:
        raisers.append(traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0])
        traceback = traceback.tb_next
    outside = [name for name in raisers if name not in sys.stdlib_module_names]
    return bool(outside) and outside[-1] in ("pearl_sb3", "rl_zoo3")


if __name__ == "__main__":
    sys.exit(main())
