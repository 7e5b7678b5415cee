"""Two random layers of LLaMA -> a GPTQ folder and what GPTQModel makes of it; see README.md."""

import sys
from pathlib import Path

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig  # type: ignore[import-not-found]
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

work, here = Path(sys.argv[1]), Path(__file__).parent
config = LlamaConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    vocab_size=256,
    max_position_embeddings=128,
    tie_word_embeddings=False,
)
torch.manual_seed(0)
model = LlamaForCausalLM(config).to(torch.float16)
with torch.no_grad():
    for weight in model.parameters():
        if weight.ndim == 2:  # rows off zero, so that some groups' zero is the code 0
            rows = 0.05 * torch.randn(weight.shape[0], 1)
            weight.copy_(0.05 * torch.randn(weight.shape) + rows)
model.save_pretrained(work / "float")
words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(256)}, unk_token="t0"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(
    tokenizer_object=words, unk_token="t0", pad_token="t1", eos_token="t2", bos_token="t3"
).save_pretrained(work / "float")

settings = QuantizeConfig(
    bits=4, group_size=32, sym=False, desc_act=True, act_group_aware=False, format="gptq"
)
ids = torch.randint(4, 256, (32, 100), generator=torch.Generator().manual_seed(1))
quantizing = GPTQModel.load(str(work / "float"), settings)
quantizing.quantize([" ".join(f"t{i}" for i in line) for line in ids.tolist()], batch_size=1)
quantizing.save(str(work / "gptq"))
for name in ("model.safetensors", "config.json", "quantize_config.json"):
    (here / name).write_bytes((work / "gptq" / name).read_bytes())

loaded = GPTQModel.load(
    str(work / "gptq"), backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16
)
np.savez_compressed(
    here / "dequantized.npz",
    **{
        f"{name}.weight": module.dequantize_weight().T.numpy()
        for name, module in loaded.model.named_modules()
        if name.startswith("model.layers.1.") and hasattr(module, "qweight")
    },
)
