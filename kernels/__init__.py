"""The operations of a BAGEL forward pass and of drawing from it.

| op | file |
|---|---|
| `rms_norm`, `add_rms_norm` | rms_norm.py |
| `silu_mul` | silu_mul.py |
| `linear`, `fp8_linear`, `fp8_product` | linear.py |
| `quantize_rows` | quantize.py, into the rows of fp8.py |
| `rms_norm_to_fp8`, `add_rms_norm_to_fp8` | norm_to_fp8.py |
| `silu_mul_to_fp8` | silu_mul_to_fp8.py |
| `qk_norm_rope` | qk_norm_rope.py |
| `rotate_and_keep` | heads.py |
| `write_pages`, `copy_pages` | pages.py, into and within the pages of kv_pages.py |
| `interleaved_attention` | attention.py, over the plan of plan.py |
| `picture_attention` | picture_attention.py |
| `project_experts`, `finish_layer` | expert.py: several of the above in one call; a whole stack of layers in expert_layers.py |
| `guided_velocity`, `take_euler_steps` | guidance.py |
| `begin_draws`, `sample_tokens` | sampling.py |
| `upload_tensor` | upload.py |
| `begin_reading`, `read_together` | readback.py |

An op's file chooses how it is computed: in C on a CPU (native_kernels.py and native/), in Triton on a GPU (`…_triton.py`), else in torch.
What the single ops mean is written out in `kernels.reference`.

Import an op from its file: this package itself imports nothing, so that whoever only plans a batch pays for no kernel.
"""
