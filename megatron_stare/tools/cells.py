"""A notebook without a process: the code that brings a new cell to where earlier ones left off.

The earlier cells of a sample are run again in front of the new one, silently. They do again what
they did, since a run begins with the same seeds; so a notebook is a list of texts: it comes back
with the calls of a sample, outlives any process, and survives a cell that runs into a limit.
"""

from __future__ import annotations

from collections.abc import Sequence

_SCRIPT = """\
def _notebook(cells, last):
    import ast, linecache, os, sys, traceback

    def run(cell, name):
        linecache.cache[name] = (len(cell), None, f"{cell}\\n".splitlines(True), name)
        tree = ast.parse(cell, name)
        shown = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), globals())
        if shown is not None:
            value = eval(compile(ast.Expression(shown.value), name, "eval"), globals())
            if value is not None:
                print(repr(value))

    stdout, stderr = sys.stdout, sys.stderr
    for number, cell in enumerate(cells, start=1):
        sys.stdout = sys.stderr = open(os.devnull, "w")
        try:
            run(cell, f"cell {number}")
        except BaseException:
            pass
    sys.stdout, sys.stderr = stdout, stderr
    name = f"cell {len(cells) + 1}"
    try:
        run(last, name)
    except SystemExit:
        raise
    except BaseException as error:
        own = error.__traceback__
        while own is not None and own.tb_frame.f_code.co_filename != name:
            own = own.tb_next
        sys.stdout.flush()
        traceback.print_exception(type(error), error, own)
        sys.stderr.flush()
        raise SystemExit(1)

"""


def script_of(cells: Sequence[str], last: str) -> str:
    """Code that runs cells without a word, then the last one as a notebook does.

    The last prints the value of an expression at its end; what earlier ones raised, they raise
    again, unseen.
    """
    return f"{_SCRIPT}_notebook({list(cells)!r}, {last!r})\n"
