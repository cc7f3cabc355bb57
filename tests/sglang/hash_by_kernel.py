"""Prints what a server's GPU kernel makes of each tensor in a file: SGLANG_FILE TENSORS_FILE.

Runs in the servers' environment, in Triton's interpreter.
"""

import importlib.util
import sys

import torch
import triton

_TILE = 8192


def main() -> None:
    source, tensors = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("gpu_tensor_hash", source)
    sglang = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sglang)
    for tensor in torch.load(tensors):
        print(f"{hash_by_kernel(sglang, tensor):016x}")


def hash_by_kernel(sglang, tensor):
    """As `gpu_tensor_hash`, which asks for a GPU, calls its kernels."""
    data = tensor.reshape(-1).view(torch.uint8)
    words = torch.nn.functional.pad(data, (0, -data.numel() % 4)).view(torch.uint32)
    seed, num_tiles = 0x243F6A88, triton.cdiv(words.numel(), _TILE)
    hashes = torch.empty(num_tiles, dtype=torch.uint64)
    sglang.hash_tiles32_kernel_blocked[(num_tiles,)](
        words,
        hashes,
        words.numel(),
        seed1=seed & 0xFFFFFFFF,
        seed2=((seed * 0x9E3779B1) ^ 0xDEADBEEF) & 0xFFFFFFFF,
        FM_C1=sglang.FMIX32_C1,
        FM_C2=sglang.FMIX32_C2,
        POS_A=sglang.POS_C1,
        POS_B=sglang.POS_C2,
        TILE=_TILE,
        BLOCK=256,
        USE_CG=False,
    )
    total = torch.empty(1, dtype=torch.uint64)
    sglang.add_tree_reduce_u64_kernel[(1,)](hashes, total, num_tiles, CHUNK=16)
    return sglang._final_splitmix64(int(total.item()))


if __name__ == "__main__":
    main()
