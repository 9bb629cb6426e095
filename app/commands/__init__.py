"""The commands of `vlcap`, one file per group. app/cli.py assembles them.

Each command imports the packages it uses when it runs, so that `vlcap --help` answers at once.
"""
