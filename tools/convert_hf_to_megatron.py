"""A Hugging Face folder becomes a Megatron-Core checkpoint.

    python tools/convert_hf_to_megatron.py SRC DST [OPTIONS]

The script of `megatron-stare convert hf-to-megatron`; `--help` has the options.
"""

import sys

from megatron_stare.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "hf-to-megatron", *sys.argv[1:]]))
