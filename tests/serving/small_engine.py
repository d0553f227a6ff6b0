"""A model and a cache so small that it is soon full; for the tests of the engine of transformers."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

NO_END = GenerationConfig(max_new_tokens=20, eos_token_id=-1, do_sample=False)
SMALL = {
    "num_blocks": 40, "page_size": 16, "max_batch_tokens": 128, "max_requests_per_batch": 32, "use_cuda_graph": False,
    "use_async_batching": False, "auto_switch_to_flash": False,
}  # fmt: skip
CAPACITY = 640
NAMES = ("fifo", "aggressive:watermark=1.0", "conservative", "past-future:rho=0.03", "peak-with-cap", "peak-with-mean")
REQUESTS = 24


def tiny(dtype=torch.float64):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype).eval()
    model.set_attn_implementation("sdpa")
    return model
