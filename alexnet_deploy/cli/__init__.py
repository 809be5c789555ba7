"""The command line: one light module a command, each loaded only when it is called."""
