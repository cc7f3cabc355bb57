"""`megatron-stare completion`: what bash and zsh need to complete commands, options and keys."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
from collections.abc import Iterator

from megatron_stare import commands
from megatron_stare.config.kinds import KINDS
from megatron_stare.config.loops import LOOPS
from megatron_stare.config_io import describe

_SCRIPT = """\
# megatron-stare in bash and zsh: source <(megatron-stare completion)
_megatron_stare() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words
    case "$COMP_CWORD/${{COMP_WORDS[1]}}" in
        1/*) words="{commands}" ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [[ ${{COMPREPLY[0]}} != *= ]] || compopt -o nospace 2>/dev/null
}}
[ -z "$ZSH_VERSION" ] || {{ autoload -U +X bashcompinit && bashcompinit; }}
complete -o default -F _megatron_stare megatron-stare
"""
_CASE = "        */{name}) words={words!r} ;;"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """`completion`."""
    command.set_defaults(run=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    print(script(), end="")
    return 0


def script() -> str:
    """Shell code with every command, option and key in it, so that completing starts nothing."""
    words = dict(_words())
    cases = (_CASE.format(name=name, words=" ".join(them)) for name, them in words.items())
    return _SCRIPT.format(commands=" ".join(words), cases="\n".join(cases))


def _words() -> Iterator[tuple[str, list[str]]]:
    """What may stand behind each command: options, and `section.key=` of what it takes."""
    for module in pkgutil.iter_modules(commands.__path__):
        add = getattr(
            importlib.import_module(f"{commands.__name__}.{module.name}"), "add_arguments", None
        )
        if add is None:
            continue
        command = argparse.ArgumentParser(conflict_handler="resolve")
        add(command)
        usage = command.format_usage()
        kinds = [KINDS[module.name]] if module.name in KINDS else [*LOOPS.values()]
        keys = {f"{key}=": None for kind in kinds for key, *_ in describe(kind)}
        takes_keys = "section.key=value" in usage
        yield module.name, [*re.findall(r"--[\w-]+", usage), *(keys if takes_keys else ())]
