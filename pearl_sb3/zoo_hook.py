"""
Choose PEARL's hyperparameters for ``rl_zoo3 train … -f pearl``.

PyTorch calls ``choose_config`` while it is being imported (entry-point group ``torch.backends`` in setup.cfg), in every
program of the environment; rl_zoo3 imports torch before it reads its command line. Hence the rules here: the standard library
only, nothing imported before the program is known to be rl_zoo3's ``train``, and never an error in anybody else's program.
"""

import os
import sys
from collections.abc import Mapping, Sequence

FOLDER = "pearl"
SWITCH = "PEARL_ZOO"


class NoPearlConfig(ValueError):
    """PEARL has no hyperparameters for the algorithm asked for."""


def choose_config() -> None:
    """
    Append ``--conf-file`` to the command line of rl_zoo3's ``train`` when its log folder is called ``pearl``.

    :raises SystemExit: if PEARL has no hyperparameters for that algorithm. Going on would file a NatureCNN agent under
        ``pearl``, which nobody would notice before the plots.
    """
    try:
        chosen = config_for(sys.argv, sys.orig_argv, os.environ)
    except NoPearlConfig as error:
        raise SystemExit(
            f"pearl_sb3: {error}. Take one of these, or give your own with -conf FILE, or another -f than '{FOLDER}', "
            f"or set {SWITCH}=off for rl_zoo3's own."
        ) from None
    except Exception as error:  # importing torch must go on, whatever is wrong here
        print(f"pearl_sb3: could not choose hyperparameters ({type(error).__name__}: {error})", file=sys.stderr)
        return
    if chosen is not None:
        sys.argv += ["--conf-file", chosen]
        print(
            f"pearl_sb3: hyperparameters from {chosen}, because the log folder is called '{FOLDER}' "
            f"(-conf FILE chooses others, {SWITCH}=off leaves rl_zoo3 alone)",
            flush=True,
        )


def config_for(argv: Sequence[str], orig_argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """
    Decide which hyperparameter file a command line should get from us.

    :param argv: ``sys.argv``
    :param orig_argv: ``sys.orig_argv``
    :param environ: Environment variables
    :return: Path of the file, or ``None`` to leave the program alone
    :raises NoPearlConfig: if it asks for PEARL with an algorithm that has no file
    """
    arguments = train_arguments(argv, orig_argv)
    if arguments is None or environ.get(SWITCH, "").strip().lower() in ("0", "off", "false", "no"):
        return None
    options = read_options(arguments)
    if options is None or options["conf_file"] is not None:
        return None
    if os.path.basename(os.path.normpath(options["log_folder"])) != FOLDER:
        return None
    return config_path(options["algo"])


def train_arguments(argv: Sequence[str], orig_argv: Sequence[str]) -> Sequence[str] | None:
    """
    Tell whether the program is rl_zoo3's ``train``.

    :param argv: ``sys.argv``
    :param orig_argv: ``sys.orig_argv``, which alone names the module while ``python -m`` looks for it
    :return: The arguments of ``train``, or ``None`` if this is another program
    """
    if not argv:
        return None
    program, rest = argv[0], argv[1:]
    if program == "-m":
        # both lists end in the same arguments, and the module stands before them: "-m NAME …" or "-mNAME …"
        module = orig_argv[-len(argv)].removeprefix("-m")
    else:
        folder, name = os.path.split(program)
        stem = name.partition(".")[0].removesuffix("-script")
        if stem == "rl_zoo3":
            module = "rl_zoo3.cli"
        elif name == "train.py" and (
            os.path.basename(folder) == "rl_zoo3" or os.path.isfile(os.path.join(folder, "rl_zoo3", "exp_manager.py"))
        ):
            # by its path (debuggers), or the script at the top of a checkout of the zoo
            module = "rl_zoo3.train"
        else:
            return None
    if module == "rl_zoo3.train":
        return rest
    if module == "rl_zoo3.cli" and rest[:1] == ["train"]:
        return rest[1:]
    return None


def read_options(arguments: Sequence[str]) -> dict[str, str] | None:
    """
    Read three of rl_zoo3's options, in any spelling argparse allows (``-fX``, ``--log-folder=X``, ``--log-f X``, …).

    :param arguments: Arguments of rl_zoo3's ``train``
    :return: ``log_folder``, ``algo`` and ``conf_file``, or ``None`` if argparse will refuse the arguments
    """
    import argparse  # only for rl_zoo3's train, which imports it anyway

    class Parser(argparse.ArgumentParser):
        def error(self, message: str):  # type: ignore[override]
            raise ValueError(message)

    parser = Parser(add_help=False)
    parser.add_argument("-f", "--log-folder", default="logs")
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("-conf", "--conf-file")
    try:
        return vars(parser.parse_known_args(list(arguments))[0])
    except ValueError:
        return None


def config_path(algo: str) -> str:
    """
    Find PEARL's hyperparameters for an algorithm, in a wheel as in an editable install.

    :param algo: rl_zoo3's name of it, e.g. "ppo"
    :return: Path of the YAML file
    :raises NoPearlConfig: if there is none
    """
    from importlib.resources import files

    folder = files("pearl_sb3.hyperparams")
    path = folder / f"{algo}.yml"
    if not path.is_file():
        algos = sorted(entry.name.removesuffix(".yml") for entry in folder.iterdir() if entry.name.endswith(".yml"))
        raise NoPearlConfig(f"PEARL has no hyperparameters for --algo {algo}, only for {', '.join(algos)}")
    return str(path)
