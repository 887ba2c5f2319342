"""mralign: align how a reasoning model thinks, so that a right thought ends in a right answer."""

__version__ = "0.1.0"
