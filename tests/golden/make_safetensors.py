#!/usr/bin/env python3
"""Writes mixed.safetensors beside this script: a small file of the safetensors library itself (0.5 and later), several types.

Needs numpy, torch and safetensors. Element i of each tensor is i (booleans: i odd).
"""
import pathlib
import torch
from safetensors.torch import save_file

tensors = {name: torch.arange(6, dtype=torch.float32).reshape(2, 3).to(dtype)
           for name, dtype in {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64,
                               "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8}.items()}
tensors["bool"] = torch.tensor([False, True, False])
tensors["scalar"] = torch.tensor(7.0)
tensors["empty"] = torch.zeros(0, 4)
save_file(tensors, pathlib.Path(__file__).with_name("mixed.safetensors"), metadata={"format": "pt", "naïve": "grüße\n"})
