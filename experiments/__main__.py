"""Print the commands of this package and what they do."""

import sys

from experiments import registry

if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["-h"], ["--help"]):
        sys.exit(f"error: got {' '.join(sys.argv[1:])}, expected no arguments; a command is python -m experiments.NAME")
    commands = registry.commands()
    width = max(map(len, commands))
    print("python -m experiments.NAME [--help], where NAME is one of\n")
    for name, description in commands.items():
        print(f"  {name:{width}}  {description}")
