"""The operations of a BAGEL forward pass, one to a file; each has a plain torch twin in `kernels.reference`.

| op | file |
|---|---|
| `rms_norm` | rms_norm.py |
| `silu_mul` | silu_mul.py |
| `linear`, `fp8_linear`, `fp8_product` | linear.py |
| `quantize_rows` | quantize.py |
| `rms_norm_to_fp8`, `add_rms_norm_to_fp8` | norm_to_fp8.py |
| `silu_mul_to_fp8` | silu_mul_to_fp8.py |
| `qk_norm_rope` | qk_norm_rope.py |
| `write_pages`, `copy_pages` | pages.py, into and within the pages of kv_pages.py |
| `interleaved_attention` | attention.py, over the plan of plan.py |
| `guided_velocity`, `take_euler_steps` | guidance.py |
| `begin_draws`, `sample_tokens` | sampling.py |
| `upload_tensor` | upload.py |
| `begin_reading`, `read_together` | readback.py |

Import an op from its file: this package itself imports nothing, so that whoever only plans a batch pays for no kernel.
"""
