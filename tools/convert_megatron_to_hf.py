"""A Megatron-Core checkpoint becomes a Hugging Face folder.

    python tools/convert_megatron_to_hf.py SRC DST [OPTIONS]

The script of `megatron-stare convert megatron-to-hf`; `--help` has the options.
"""

import sys

from megatron_stare.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "megatron-to-hf", *sys.argv[1:]]))
