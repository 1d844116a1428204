"""``python -m latentdb``: the command line."""

from latentdb.cli.main import main

if __name__ == "__main__":
    main(prog_name="latentdb")
