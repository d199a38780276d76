"""One command with its subcommands."""
