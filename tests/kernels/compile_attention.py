"""Compile the attention kernel for a GPU that need not be here and print what the machine code holds, as one JSON line a tile.

Run in its own process, with TRITON_INTERPRET=0: `python compile_attention.py 90 bf16 128`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.attention_triton import DECODE_TILE, LONG_TILE, SHORT_TILE, TileShape, attention_kernel

POINTERS = {"q_ptr": "", "k_ptr": "", "v_ptr": "", "k_pages_ptr": "", "v_pages_ptr": "", "out_ptr": ""}
INT_POINTERS = ("qo_indptr", "token_index", "kv_end_ptr", "past_len_ptr", "kv_indptr", "kv_indices")
BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"


def compile_tile(tile: TileShape, capability: int, dtype: str, head_dim: int) -> dict[str, int]:
    """Compile for ``sm_{capability}`` with a group of 7 (BAGEL-7B) and pages of 16; return registers, stack, spills and instructions."""
    constants = {"PAGE": 16, "GROUP": 7, "QUERIES": tile.rows // 7, "HEAD_DIM": head_dim}
    constants |= {"BLOCK_M": tile.rows, "BLOCK_N": tile.keys, "BLOCK_D": triton.next_power_of_2(head_dim), "UPCAST": False}
    signature: dict[str, str] = {}
    for name in attention_kernel.arg_names:
        scalar = "constexpr" if name in constants else "fp32" if name == "scale" else "i32"
        signature[name] = f"*{dtype}" if name in POINTERS else "*i32" if name in INT_POINTERS else scalar
    index = {name: i for i, name in enumerate(attention_kernel.arg_names)}
    divisible = [i for name, i in index.items() if name in POINTERS or name in INT_POINTERS or name.startswith("stride_")]
    source = ASTSource(
        fn=attention_kernel,
        signature=signature,
        constexprs={(index[name],): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in divisible},
    )
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return {"rows": tile.rows, "keys": tile.keys, "shared": compiled.metadata.shared, **inspect(compiled.asm["cubin"])}


def inspect(cubin: bytes) -> dict[str, int]:
    """Count what decides whether a kernel is sound: registers, stack bytes, spill instructions, matrix instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([BINARIES / "cuobjdump", "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
        sass = subprocess.run([BINARIES / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout)
    assert found is not None
    return {
        "registers": int(found[1]),
        "stack": int(found[2]),
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        "warpgroup_mma": sass.count("HGMMA"),
        "warp_mma": len(re.findall(r"\bHMMA\b", sass)),
    }


if __name__ == "__main__":
    for shape in (DECODE_TILE, SHORT_TILE, LONG_TILE):
        print(json.dumps(compile_tile(shape, int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
