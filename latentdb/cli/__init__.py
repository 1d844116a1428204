"""The command line: every command parses its arguments, calls the facade once, prints the result.

main         the group of commands, errors as one line and an exit code
options      options and arguments that several commands share, and their types
console      progress and warnings on stderr; results as text or JSON on stdout
train        train, model
index        index
query        query
decode       decode, blend, average, interpolate
maintenance  info, delete, compact, verify, optimize
exchange     export, import

Heavy imports are inside the commands: `latentdb --help` loads none of them.
"""
