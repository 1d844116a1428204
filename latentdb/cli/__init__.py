"""The command line: every command parses, makes one call of the facade, and prints."""
