"""`python -m mralign` is the command `mralign`."""

from mralign.cli.entry import command

if __name__ == "__main__":
    command()
