"""The tables that cross a door between rooms."""
