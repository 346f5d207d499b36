"""Print the commands of this package and what they do."""

from experiments import registry

if __name__ == "__main__":
    commands = registry.commands()
    width = max(map(len, commands))
    print("python -m experiments.NAME [--help], where NAME is one of\n")
    for name, description in commands.items():
        print(f"  {name:{width}}  {description}")
