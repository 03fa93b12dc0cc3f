"""`python -m pearl_sb3.pretraining` does what `pearl pretrain` does."""

import argparse
import sys

from pearl_sb3.pretraining.command import add_arguments, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pearl_sb3.pretraining", description="Pretrain an encoder on games.")
    add_arguments(parser)
    sys.exit(main(parser.parse_args()))
