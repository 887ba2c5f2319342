"""The command `mralign`."""
