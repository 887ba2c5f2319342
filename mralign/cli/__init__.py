"""The command `mralign`: one file a command, and what the commands share."""
