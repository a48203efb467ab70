"""The command line: `main` parses what all commands share, each command is a module of its own."""
