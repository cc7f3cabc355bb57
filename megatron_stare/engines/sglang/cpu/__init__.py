"""What servers on a CPU find on PYTHONPATH, and no others: see `sgl_kernel`."""
